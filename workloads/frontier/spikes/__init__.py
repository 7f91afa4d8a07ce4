"""Networks whose units say yes or no: spikes over time, and binary weights; their gradients are those of stand-ins."""

"""Networks that write answers and learn from rewards: what a policy gradient finds, and what demonstrations add."""

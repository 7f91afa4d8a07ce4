"""What tuning says of single hyperparameters: how wide good values are, and whether tuned ones lie at an edge."""

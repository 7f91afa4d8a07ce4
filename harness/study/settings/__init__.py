"""What is known of the hyperparameters of submissions beside their rows."""

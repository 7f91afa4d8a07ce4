"""What is written down: tables, W&B, noise floor, imported logs."""

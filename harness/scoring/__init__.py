"""From tables of trials to scores: pure functions, pandas in, pandas out."""

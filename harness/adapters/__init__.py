"""Submissions of other kinds behind the same `train(trial, hp)`: optimizer classes, and importers of foreign logs."""

"""A table of people with few positives, judged by F1."""

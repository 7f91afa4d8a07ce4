"""Logs of other benchmarks and of plain training scripts, read into rows of the two tables."""

"""Streams of tasks under the referee: which stage a trial is in, and what is said of earlier ones."""

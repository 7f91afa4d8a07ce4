"""What a training algorithm found: readouts of weights that were kept. Nothing here is scored, and nothing is timed."""

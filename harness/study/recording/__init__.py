"""What is kept and shown of a trial while it runs: its journal and checkpoints, its rows, a line on the console."""

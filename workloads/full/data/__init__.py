"""Readers of published files and the transforms of their examples, for the workloads of this room."""

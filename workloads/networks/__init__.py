"""Architectures and how their weights are drawn."""

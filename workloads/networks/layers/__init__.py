"""Layers that networks are made of, each kind in a file."""

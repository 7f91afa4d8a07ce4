"""Losses, metrics and their statistics."""

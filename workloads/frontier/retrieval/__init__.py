"""Texts that are to be found by their translations."""

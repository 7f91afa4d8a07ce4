"""Readers of published image files and what is done to images before a network sees them."""

"""Readers of published texts and tokens, and how they become rows of a batch."""

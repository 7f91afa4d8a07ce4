"""Decisions that are learned from records, and judged by what they would bring."""

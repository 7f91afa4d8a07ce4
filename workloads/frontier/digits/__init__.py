"""Digits that have labels on one ground, and are asked for on another."""

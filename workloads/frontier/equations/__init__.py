"""Differential equations whose solutions are known, solved by training a network."""

"""Readers, solvers and generators of data."""

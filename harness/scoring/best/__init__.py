"""Boards that rank by how far trials come within their budget, not by when they reach a target."""

"""Commands about the boards that are committed with the repository."""

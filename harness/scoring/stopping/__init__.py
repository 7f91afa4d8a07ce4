"""Which trials can be stopped early, what that saves, and what it does to a board."""

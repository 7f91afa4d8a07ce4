"""What keeps a trainer in, and the one split that it is given. Knows nothing of the course of a trial."""

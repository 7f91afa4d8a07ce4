"""Facts that are learned in one direction and asked for in the other."""

"""Whether two boards rank alike: which of their submissions are the same method, and how well their orders agree."""

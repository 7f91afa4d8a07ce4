"""Which unit of time repeats: the same trial again and again, quiet, disturbed and on two threads."""

"""Whether a recorded row can be true: by itself, against what is here now, and by running its trial again."""

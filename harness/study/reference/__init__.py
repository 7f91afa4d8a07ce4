"""Reference boards: what belongs on them, what is there, and what has run since."""

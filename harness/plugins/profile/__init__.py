"""Where the time of a step goes, and what it holds: for authors, never while a clock runs."""

"""`make agreement`: what recorded rows say beyond a ranking."""

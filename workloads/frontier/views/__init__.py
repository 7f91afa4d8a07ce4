"""Photographs of clothes without labels, in views that should be known again; what is judged is what they are of."""

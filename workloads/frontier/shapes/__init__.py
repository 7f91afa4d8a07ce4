"""Simple shapes: found in noisy scenes, squeezed through few numbers as pictures, and as clouds of points."""

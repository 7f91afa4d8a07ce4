"""Data that are solutions of equations, solved for on this machine."""

"""Denoisers whose best possible form is known."""

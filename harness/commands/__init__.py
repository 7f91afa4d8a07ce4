"""One file for each make target."""

"""What the papers behind submissions/ claim, tested by the smallest experiments here that can; `make claims`."""

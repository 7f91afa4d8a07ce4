"""Which pixels a network's answer is said to come from, where it is known which ones say anything."""

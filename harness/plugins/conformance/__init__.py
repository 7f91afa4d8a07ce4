"""Whether a submission keeps the contract: its files, and what its training does on tiny problems."""

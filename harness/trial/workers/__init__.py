"""Simulated workers: shards of the training set, flat weights, gossip, and a ledger. One process, the honest clock."""

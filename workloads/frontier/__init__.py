"""Workloads beyond AlgoPerf's families: what papers ask of training algorithms, on small data with known answers."""

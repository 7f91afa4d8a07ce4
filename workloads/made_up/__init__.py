"""Workloads whose data are made up: to see that a trial runs where the true data cannot be had. Nothing is learned."""

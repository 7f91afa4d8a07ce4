"""Networks that no smaller workload shares."""

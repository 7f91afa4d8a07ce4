"""The machine that studies run on: its names, its limits, and its speed on a workload."""

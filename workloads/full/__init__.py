"""Workloads at the size of AlgoPerf; their data are prepared on the disk by make data."""

"""Workloads of the CPU tier with another loss: data and network are those of the one that each is named after."""

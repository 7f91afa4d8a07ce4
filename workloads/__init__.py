"""The workloads: one file or folder per data-and-model family, each behind `harness.api.Workload`."""

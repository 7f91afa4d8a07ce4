"""Whether a submission is as fast on the twin of a workload as on the workload: its trials, and what they say."""

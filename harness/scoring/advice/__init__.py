"""What to use: the best submission by family of workloads, tuning effort, memory and budget, as far as rows can say."""

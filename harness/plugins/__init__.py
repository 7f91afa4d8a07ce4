"""What is brought in by name: workloads, submissions, search spaces, data files."""

"""What tells a submission that knows its workloads from one that does not: twins of workloads, a look at sources."""

"""The open division: a submission's own network, judged by what it says of held-out inputs in a process of its own."""

"""From what is asked for to trials: jobs, points, budgets, pruning, rows, progress."""

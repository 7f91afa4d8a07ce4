"""What update rules share: multi-tensor steps, schedules, averages, matrices, and the loop around them."""

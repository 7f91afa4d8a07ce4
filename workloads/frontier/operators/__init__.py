"""Operators: from functions to functions, on grids, whose answers a solver or a closed form knows."""

"""Streams of tasks: what comes in one stage does not come again, and all stages are judged to the end."""

"""Where newcomers stand on a reference board, in words: a line for each, below what is said of the board."""

from __future__ import annotations

import math

from harness.scoring.placing.fit import Fit
from harness.scoring.placing.placing import HERE, NotPlaced, Placed


def fit_line(fit: Fit) -> str:
    """What newcomers are placed on, and how."""
    entries, workloads = len(fit.entries), len(fit.workloads)
    run = f"its {workloads} workloads" if workloads == fit.of_board else f"{workloads} of its {fit.of_board} workloads"
    if workloads < fit.of_board:
        run += f" ({', '.join(fit.workloads)})"
    return (
        f"on the reference board {fit.name}: {entries} submission{'s' if entries > 1 else ''} on "
        f"{' and '.join(fit.devices)}, {run}, in reference steps, as machines differ"
    )


def placed_line(placed: Placed | NotPlaced, baseline: str) -> str:
    """`my_rule: place 7 to 10 of 52, tier 2; 1.14 times nadamw (1.05 to 1.24); loses on mri_unet`."""
    if isinstance(placed, NotPlaced):
        return f"{placed.submission}: not placed, as {placed.reason}"
    name = placed.submission if placed.twin is None else f"{placed.submission}{HERE}"
    parts = [f"place {_range(placed.low, placed.high)} of {placed.of}"]
    if placed.tier is not None:
        parts[0] += f", tier {placed.tier}"
    if not math.isnan(placed.speed):
        parts.append(f"{placed.speed:.2f} times {baseline}")
        if not math.isnan(placed.speed_low):
            parts[-1] += f" ({placed.speed_low:.2f} to {placed.speed_high:.2f})"
    lost = [*placed.loses, *(f"{workload} (missed)" for workload in placed.misses)]
    if lost:
        parts.append(f"loses on {', '.join(lost)}")
    if placed.not_run:
        parts.append(f"not run on {', '.join(placed.not_run)}: counted as missed")
    if placed.twin is not None:
        parts.append(f"the board's own {placed.submission}: place {_range(*placed.twin)}")
    if not placed.is_known:
        parts.append("single studies show no interval")
    return f"{name}: {'; '.join(parts)}"


def _range(low: int, high: int) -> str:
    return str(low) if low == high else f"{low} to {high}"

"""How often the intervals of `make agreement` hold what they are of; prints one line per design.

Two boards with known truth are drawn again and again: what a submission is good for on each, how it fares on each
workload, the luck of its studies. Arguments: `repetitions=60`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.coverage import RULES, World, times_table
from harness import command_line
from harness.scoring.agreement.tau import agreement, tau_b
from harness.scoring.profiles import exact_area
from harness.scoring.score import Scoring, score_times

Floats = NDArray[np.float64]
_STUDIES = 3
_SKILL = 0.3
_NOISE = 0.1
_RESAMPLES = 300
_TRUTHS = 60
_TRUTHS_OF_OTHERS = 1_000


@dataclass(frozen=True)
class Design:
    """Standard deviations on the log scale: of skills `_SKILL`, of submissions from workload to workload `of_workload`.

    `correlation`: of the skills on the two boards.
    """

    submissions: int
    workloads: tuple[int, int]
    correlation: float
    of_workload: float = 0.3

    def skills(self, rng: np.random.Generator) -> Floats:
        """Shape: [2, submissions]."""
        covariance = [[1.0, self.correlation], [self.correlation, 1.0]]
        return np.asarray(_SKILL * rng.multivariate_normal([0.0, 0.0], covariance, self.submissions).T)

    def log_means(self, skill: Floats, workloads: int, rng: np.random.Generator) -> Floats:
        """Log seconds on workloads of one kind. Shape: [submissions, workloads]."""
        return np.asarray(skill[:, None] + self.of_workload * rng.standard_normal((self.submissions, workloads)))


DESIGNS = [
    Design(8, (8, 8), 0.8),
    Design(11, (3, 5), 0.8),
    Design(20, (8, 8), 0.9, of_workload=0.2),
    Design(8, (8, 8), 0.0),
    Design(5, (8, 8), 0.8),
    Design(30, (13, 8), 0.8),
]


def main(arguments: Sequence[str]) -> int:
    """Print the coverage of every design. Raises ConfigError for other arguments."""
    given = command_line.options(arguments, ["repetitions"])
    repetitions = command_line.whole_number(given, "repetitions", 60)
    for design in DESIGNS:
        held, held_others, width, width_others = coverage(design, repetitions)
        what = f"{design.submissions} submissions, {' and '.join(map(str, design.workloads))} workloads"
        these, others = f"{held:.2f} (width {width:.2f})", f"{held_others:.2f} ({width_others:.2f})"
        print(f"{what}, correlation {design.correlation}: these {these}, others {others}", flush=True)
    return 0


def coverage(design: Design, repetitions: int) -> tuple[float, float, float, float]:
    """Share of intervals that hold the mean tau of such boards, of these submissions and of others; mean widths."""
    rng = np.random.default_rng(0)
    of_others = np.nanmean([_tau(design, design.skills(rng), rng) for _ in range(_TRUTHS_OF_OTHERS)])
    rows = []
    for _ in range(repetitions):
        skills = design.skills(rng)
        truth = np.nanmean([_tau(design, skills, rng) for _ in range(_TRUTHS)])
        boards = [
            _board(design.log_means(skill, count, rng), name, rng)
            for skill, count, name in zip(skills, design.workloads, "ab", strict=True)
        ]
        found = agreement(*boards, resamples=_RESAMPLES)
        rows.append(
            [
                float(found.low <= truth <= found.high),
                float(found.low_others <= of_others <= found.high_others),
                found.high - found.low,
                found.high_others - found.low_others,
            ]
        )
    held, held_others, width, width_others = np.mean(rows, axis=0).tolist()
    return held, held_others, width, width_others


def _tau(design: Design, skills: Floats, rng: np.random.Generator) -> float:
    """Tau of one more pair of boards; a median of studies has about the noise of their mean."""
    scores = []
    for skill, count in zip(skills, design.workloads, strict=True):
        logs = design.log_means(skill, count, rng)
        logs = logs + _NOISE / np.sqrt(_STUDIES) * rng.standard_normal(logs.shape)
        scores.append(exact_area(np.exp(logs - logs.min(axis=0))))
    return float(tau_b(*scores))


def _board(log_means: Floats, name: str, rng: np.random.Generator) -> Scoring:
    world = World(log_means, np.full(log_means.shape, _NOISE), studies=_STUDIES, trials=1)
    table = times_table(world, world.draw(rng)[0])
    table["workload"] = name + table["workload"]
    table["trial_id"] = name + table["trial_id"].astype(str)
    return score_times(table, RULES)


if __name__ == "__main__":
    sys.exit(command_line.run(main))

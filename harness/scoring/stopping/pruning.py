"""When a trial or a study can no longer change a score: exact rules as pure functions, for live runs and for replay.

Each takes what is known so far and may only ever be wrong on the careful side. Why they are exact: docs/pruning.md.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence

from harness.api import FAILED, ConfigError
from harness.scoring.rules import ScoringRules


def best_of_study(times: Iterable[float]) -> float:
    """Rule (a): charged seconds that a further trial of a study may take; infinite while no trial has hit.

    `times`: time to target of the study's trials so far. A trial that has passed the result without a hit cannot be
    the fastest any more. Exact where the fastest trial stands for its study (`study_trial` is `fastest`).
    """
    return min(times, default=math.inf)


def settled_time(times: Iterable[float], statuses: Iterable[str]) -> float | None:
    """Time to target of a finished study as rule (b) may count on it; None where it is open.

    That is where no trial has hit and one has failed: it may be run again, and hit then. `times`, `statuses`: of all
    its trials.
    """
    best = min(times)
    return None if math.isinf(best) and any(status in FAILED for status in statuses) else best


def median_is_lost(study_times: Sequence[float], studies: int) -> bool:
    """Rule (b): True where the median over `studies` is infinite whatever the studies still to run will give.

    `study_times`: as from `settled_time`; infinite where the study missed, or where all its trials were stopped by
    `board_limit`. Two misses of four are enough: the median of an even number is the mean of the two in the middle.
    """
    missed = sum(math.isinf(seconds) for seconds in study_times)
    return 2 * missed >= studies


def median_bound(study_times: Sequence[float], studies: int) -> float:
    """The median over `studies` if every study still to run misses: the true one is never above it.

    Infinite until more than half of the studies have hit. More study times than `studies` are all counted.
    """
    missing = max(0, studies - len(study_times))
    return statistics.median([*study_times, *[math.inf] * missing]) if study_times else math.inf


def board_limit(study_times_by_submission: Iterable[Sequence[float]], *, studies: int, tau_max: float) -> float:
    """Rule (c): charged seconds beyond which a hit earns nothing, given what others have on that workload.

    `study_times_by_submission`: the study times known so far, one sequence for each submission on the board. It is
    `tau_max` times the best median; twice that where `studies` is even, because a median is then the mean of two study
    times, and a fast one can bring a slow one back within `tau_max`. A hit at the limit itself still counts. Exact
    under rules that `refuse_board_limit` lets pass.
    """
    best = min((median_bound(times, studies) for times in study_times_by_submission), default=math.inf)
    return tau_max * best * (1 if studies % 2 else 2)


def board_objection(rules: ScoringRules, workload: str) -> str | None:
    """Why rule (c) could change a score on a workload under these rules; None where it cannot.

    For a held-out variant it cannot where the board is of submissions that reach the base workload alone.
    """
    if rules.study_trial != "fastest":
        return "a study is not as fast as its fastest trial, so stopping a slow trial can make it faster"
    if rules.trials_without_evaluations != "missed":
        return "trials without evaluations leave the median, which is then over an unknown number of studies"
    if workload in rules.held_out.values():
        return "a miss there takes a submission's time on the held-out variant out of the comparison"
    return None


def refuse_board_limit(rules: ScoringRules, workload: str) -> None:
    """Raise ConfigError where rule (c) could change a score: `board_limit` must not be used there."""
    objection = board_objection(rules, workload)
    if objection is not None:
        raise ConfigError(
            f"pruning.reference=board under scoring rules {rules.name} {rules.reading}: {objection}. Use the exact "
            "rules within a submission alone: pruning.reference=study."
        )

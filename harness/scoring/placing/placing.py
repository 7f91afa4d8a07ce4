"""Newcomers on a board: each is ranked together with the board's entries, in reference steps, and with nobody else."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from harness.scoring.clock.machines import RELATIVE
from harness.scoring.clock.units import in_unit
from harness.scoring.comparison import compare_by_workload
from harness.scoring.placing.fit import Fit, of_one_machine, some
from harness.scoring.rules import ScoringRules
from harness.scoring.score import Scoring, score_tables
from harness.scoring.selection import Selection, with_evaluations
from harness.scoring.uncertainty import bootstrap

HERE = " (here)"
"""What the name of a newcomer ends with where an entry of the board has the same."""

_FEW_WORKLOADS = 4

# A hundred of them lie beyond each end of an interval of places.
_RESAMPLES = 2000


@dataclass(frozen=True)
class Placed:
    """Where a newcomer stands among `of` submissions, itself included: from place `low` to `high`.

    `speed`, `speed_low`, `speed_high`: times the baseline's; NaN without one. `loses`: workloads on which it is slower
    than the baseline beyond chance; `misses`: whose target its median study does not reach; `not_run`: on which it has
    no rows, though others who are placed have. `twin`: first and last place of the board's own entry of this name,
    where there is one. Where single studies show no interval, `is_known` is False, both places are that of the score,
    and there is no tier.
    """

    submission: str
    low: int
    high: int
    of: int
    tier: int | None
    speed: float
    speed_low: float
    speed_high: float
    loses: list[str]
    misses: list[str]
    not_run: list[str]
    twin: tuple[int, int] | None
    is_known: bool


@dataclass(frozen=True)
class NotPlaced:
    """A submission that is not placed, and why."""

    submission: str
    reason: str


def place_all(
    fit: Fit, board_evaluations: pd.DataFrame, rows: Selection, evaluations: pd.DataFrame, rules: ScoringRules
) -> tuple[list[Placed | NotPlaced], list[str]]:
    """Every submission of the selected rows on the board but its own, and what is to be said of these, a line each.

    `rows`, `evaluations`: in seconds, as recorded. Raises DataError where the board itself cannot be scored.
    """
    rules = rules.with_reading(unit=RELATIVE)
    board, board_seen = _in_steps(Selection(fit.board, rows.combination), board_evaluations)
    # The same trial has the same id on all machines of a kind; the same row was run at the same time, too.
    on_it = set(zip(fit.board["trial_id"], fit.board["started_at"], strict=True))
    taken = rows.trials[rows.trials["workload"].isin(fit.workloads)]
    newcomers = replace(rows, trials=of_one_machine(taken.reset_index(drop=True)), notes=[])
    placed: list[Placed | NotPlaced] = []
    notes: list[str] = []
    own_of_board: list[str] = []
    for submission, own in newcomers.trials.groupby("submission", observed=True, sort=True):
        name = str(submission)
        if not on_it.isdisjoint(zip(own["trial_id"], own["started_at"], strict=True)):
            own_of_board.append(name)
            continue
        if reason := _without_clock(own):
            placed.append(NotPlaced(name, reason))
            continue
        read, seen = _in_steps(replace(newcomers, trials=own.reset_index(drop=True)), evaluations)
        notes += [f"{name}: {note}" for note in read.notes]
        placed.append(_place(name, read.trials, seen, board.trials, board_seen, rules))
    if placed:
        notes += _rough(board.trials, newcomers.trials, fit)
    if own_of_board:
        notes.append(f"not placed, as their rows are the board's own: {some(own_of_board)}")
    return placed, notes


def _rough(board: pd.DataFrame, newcomers: pd.DataFrame, fit: Fit) -> list[str]:
    """Where places hold in another share of cases than is said, in words; by how much is in docs/scoring.md."""
    notes = []
    if len(fit.workloads) < _FEW_WORKLOADS:
        notes.append(f"places are rough: on fewer than {_FEW_WORKLOADS} workloads they hold in less than 95 % of cases")
    if not set(newcomers["machine"]) <= set(board["machine"]):
        notes.append(
            "made on another machine than the board: processors of other kinds are not equally fast at what methods do "
            "(docs/machines.md), which places do not count in"
        )
    if any((rows["status"] != "reached").any() for rows in (board, newcomers)):
        notes.append("some trials miss, so that places are wider than 95 % of cases need")
    return notes


def _without_clock(trials: pd.DataFrame) -> str:
    """Why a newcomer has no time in reference steps; empty where it has."""
    measured = trials[["reference_step_seconds_before", "reference_step_seconds_after", "reference_step_seconds"]]
    bare = measured.isna().all(axis=1)
    if not bare.any():
        return ""
    return f"{int(bare.sum())} of {len(trials)} trials do not say what a step of the reference took"


def _in_steps(rows: Selection, evaluations: pd.DataFrame) -> tuple[Selection, pd.DataFrame]:
    seen = evaluations[evaluations["trial_id"].isin(rows.trials["trial_id"])]
    return in_unit(with_evaluations(rows, seen), seen, RELATIVE)


def _place(
    submission: str,
    trials: pd.DataFrame,
    seen: pd.DataFrame,
    board: pd.DataFrame,
    board_seen: pd.DataFrame,
    rules: ScoringRules,
) -> Placed:
    is_taken = submission in set(board["submission"])
    name = f"{submission}{HERE}" if is_taken else submission
    # Ids of their own, as the board may have the same trial, run at another time.
    trials, seen = (table.assign(trial_id=HERE + table["trial_id"].astype(str)) for table in (trials, seen))
    rows = pd.concat([board, trials.assign(submission=name)], ignore_index=True)
    scoring = score_tables(rows, pd.concat([board_seen, seen], ignore_index=True), rules)
    asked = [name, submission] if is_taken else [name]
    baseline = rules.baseline if rules.baseline in scoring.seconds.index else None
    found = bootstrap(scoring, resamples=_RESAMPLES, reference=baseline, places_of=asked)
    places = found.places if found.is_known else _by_score(scoring, asked)

    def place_of(entry: str) -> tuple[int, int]:
        return int(places["low"][entry]), int(places["high"][entry])

    speeds = found.speedups
    speed = [float(speeds[end][name]) if baseline is not None else math.nan for end in ("speedup", "low", "high")]
    seconds = scoring.seconds.T[name]
    misses = [str(workload) for workload in scoring.ratios.columns if np.isinf(seconds[workload])]
    not_run = [str(workload) for workload in scoring.ratios.columns if np.isnan(seconds[workload])]
    low, high = place_of(name)
    return Placed(
        submission,
        low,
        high,
        of=len(scoring.seconds),
        tier=int(found.scores["tier"][name]) if found.is_known else None,
        speed=speed[0],
        speed_low=speed[1],
        speed_high=speed[2],
        loses=[workload for workload in _lost(scoring, name, baseline) if workload not in (*misses, *not_run)],
        misses=misses,
        not_run=not_run,
        twin=place_of(submission) if is_taken else None,
        is_known=found.is_known,
    )


def _by_score(scoring: Scoring, names: list[str]) -> pd.DataFrame:
    rank = scoring.scores["rank"].reindex(names)
    return pd.DataFrame({"low": rank, "high": rank})


def _lost(scoring: Scoring, submission: str, baseline: str | None) -> Iterator[str]:
    """The workloads on which it is slower than the baseline, beyond chance."""
    if baseline is None:
        return
    for one in compare_by_workload(scoring, submission, baseline).to_dict("records"):
        if one["is_different"] and one["speedup"] < 1.0:
            yield str(one["workload"])

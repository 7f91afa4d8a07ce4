"""Where each rule would have stopped recorded trials: the rules of `pruning`, applied after the fact.

A `stop` is the charged seconds at which a trial would have been stopped: infinite where it would not, `NOT_RUN` where
it would not have been started. What that does to hours and boards is in `replay`.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from harness.api import TrialStatus
from harness.scoring.checks import check_columns
from harness.scoring.rules import ScoringRules
from harness.scoring.score import Scoring, score_tables
from harness.scoring.stopping.pruning import (
    best_of_study,
    board_limit,
    board_objection,
    median_is_lost,
    settled_time,
)
from harness.scoring.times import CELL, STUDY, study_times

NOT_RUN = -math.inf
REPLAY_COLUMNS = ["hyperparameters"]
"""What replay reads of the trials table, beside what scoring and selection read."""


@dataclass(frozen=True)
class Recorded:
    """Recorded rows and what they score without pruning: where every replay starts. Made by `recorded`."""

    trials: pd.DataFrame
    evaluations: pd.DataFrame
    scoring: Scoring

    @property
    def rules(self) -> ScoringRules:
        """The rules that the rows are scored by."""
        return self.scoring.rules

    @property
    def times(self) -> pd.DataFrame:
        """The trials with what their evaluations say about the target, in the order of `trials`."""
        return self.scoring.times


@dataclass(frozen=True)
class Pruning:
    """Which rules are on, and how the trials of a study take turns. Studies always run one after another.

    `order`: `in_order` of their numbers; `fast_points_first`: hyperparameters that were fast in earlier studies first;
    `side_by_side`: all at once, on machines that are alike. `board`: the limit of rule (c) from the submissions that
    started earlier (`growing`), or from all others (`full`), as a newcomer would meet it.
    """

    best_of_study: bool = True
    lost_median: bool = False
    board: str | None = None
    order: str = "in_order"
    full_studies_only: bool = True


def recorded(trials: pd.DataFrame, evaluations: pd.DataFrame, rules: ScoringRules) -> Recorded:
    """Rows ready for replay. Raises DataError where they cannot be scored or a column is missing."""
    check_columns("trials", trials, [*REPLAY_COLUMNS, "started_at"])
    trials = trials.reset_index(drop=True)
    return Recorded(trials, evaluations, score_tables(trials, evaluations, rules))


def stops(rows: Recorded, pruning: Pruning, *, before: pd.Series | None = None) -> pd.Series:
    """Where the rules that are on would have stopped each trial, in the order of `rows.trials`.

    `before`: stops by something else, which these rules then see the outcome of.
    """
    stop = pd.Series(math.inf, rows.trials.index) if before is None else before
    if pruning.board is not None:
        stop = _earliest(stop, _board_stops(rows, is_growing=pruning.board == "growing"))
    times = rows.times["time_to_target"]
    is_seen = times <= stop
    seen = rows.times.assign(
        time_to_target=times.where(is_seen, math.inf),
        evaluation_to_target=rows.times["evaluation_to_target"].where(is_seen, math.inf),
    )
    if pruning.best_of_study:
        stop = _earliest(stop, _study_stops(rows, seen, pruning))
    if pruning.lost_median:
        # A trial that is stopped before it fails has not failed.
        statuses = rows.trials["status"].where(rows.trials["charged_seconds"] <= stop, TrialStatus.PRUNED)
        stop = stop.mask(_is_in_lost_study(rows, seen, statuses), NOT_RUN)
    return stop


def halving_stops(rows: Recorded, *, keep: int = 2, share: float = 0.5) -> pd.Series:
    """Successive halving: after `share` of the budget only the `keep` trials of each study go on that look best.

    They are compared by their best validation value until then. It is no exact rule.
    """
    trials = rows.trials
    half = share * trials["max_runtime"]
    owner = pd.Index(trials["trial_id"]).get_indexer(pd.Index(rows.evaluations["trial_id"]))
    sign = np.where(trials["target_goal"] == "min", 1.0, -1.0)
    values = pd.DataFrame({"owner": owner, "value": rows.evaluations["validation"].to_numpy(float) * sign[owner]})
    early = rows.evaluations["charged_seconds"].to_numpy() <= half.to_numpy()[owner]
    best = values[early].groupby("owner")["value"].min().reindex(trials.index).fillna(math.inf)
    place = trials.assign(best=best).sort_values([*STUDY, "best", "trial"]).groupby(STUDY, observed=True).cumcount()
    return half.where(place.reindex(trials.index) >= keep, math.inf)


def board_objections(rows: Recorded) -> dict[str, str]:
    """The workloads on which rule (c) is not used, and why."""
    found = {name: board_objection(rows.rules, name) for name in sorted(rows.trials["workload"].unique())}
    return {name: objection for name, objection in found.items() if objection is not None}


def full_studies(rows: Recorded) -> pd.Series:
    """True for trials of studies in which as many trials have evaluations as the rules ask for (or the largest has)."""
    counts = (rows.times["evaluations"] > 0).groupby([rows.times[name] for name in STUDY], observed=True)
    alive = counts.transform("sum")
    return alive >= (rows.rules.trials or alive.max())


def _earliest(one: pd.Series, other: pd.Series) -> pd.Series:
    return one.where(one <= other, other)


def _study_stops(rows: Recorded, seen: pd.DataFrame, pruning: Pruning) -> pd.Series:
    """Rule (a). Under `first_evaluation` it counts evaluations: a slow trial with few of them stands for its study."""
    by_seconds = rows.rules.study_trial == "fastest"
    key = "time_to_target" if by_seconds else "evaluation_to_target"
    limit = pd.Series(math.inf, rows.trials.index)
    pruned = full_studies(rows) if pruning.full_studies_only else pd.Series(True, rows.trials.index)
    points = rows.trials["hyperparameters"].to_dict()
    for _, cell in seen.sort_values(["study", "trial"]).groupby(CELL, observed=True):
        known: dict[str, float] = {}  # hyperparameters -> where their last trial stood among those of its study
        for _, study in cell.groupby("study"):
            turns = _turns(study, known) if pruning.order == "fast_points_first" else list(study.index)
            values = study[key].loc[turns].astype(float).tolist()
            for turn, trial in enumerate(turns):
                if pruned[trial]:
                    others = values if pruning.order == "side_by_side" else values[:turn]
                    limit[trial] = best_of_study(others)
                if values[turn] <= limit[trial] and math.isfinite(values[turn]):
                    known[points[trial]] = values[turn]
    return limit if by_seconds else _seconds_of_evaluation(rows, limit)


def _turns(study: pd.DataFrame, known: Mapping[str, float]) -> list[int]:
    place = study["hyperparameters"].map(lambda point: known.get(point, math.inf))
    return list(place.sort_values(kind="stable").index)


def _seconds_of_evaluation(rows: Recorded, number: pd.Series) -> pd.Series:
    """Charged seconds of the evaluation with this number in each trial; infinite where it never came so far."""
    wanted = pd.DataFrame({"trial_id": rows.trials["trial_id"], "evaluation": number})
    seconds = rows.evaluations[["trial_id", "evaluation", "charged_seconds"]].astype({"evaluation": float})
    found = wanted.merge(seconds, how="left", on=["trial_id", "evaluation"])["charged_seconds"]
    return found.fillna(math.inf).set_axis(rows.trials.index)


def _is_in_lost_study(rows: Recorded, seen: pd.DataFrame, statuses: pd.Series) -> pd.Series:
    """Rule (b): True for trials of studies that come after those with which the median was lost."""
    lost = pd.Series(False, rows.trials.index)
    planned = rows.rules.studies or int(rows.trials.groupby(CELL, observed=True)["study"].nunique().max())
    by_cell = _study_times(seen, rows.rules)
    for cell, trials in rows.trials.groupby(CELL, observed=True):
        numbers = sorted(trials["study"].unique())
        endings = statuses[trials.index].groupby(trials["study"]).agg(list)
        times = {
            number: settled
            for number, seconds in by_cell.get(cell, {}).items()
            if (settled := settled_time([seconds], endings[number])) is not None
        }
        for position, number in enumerate(numbers):
            finished = [times[earlier] for earlier in numbers[:position] if earlier in times]
            if median_is_lost(finished, max(planned, len(numbers))):
                lost[trials.index[trials["study"] == number]] = True
    return lost


def _board_stops(rows: Recorded, *, is_growing: bool) -> pd.Series:
    """Rule (c), on the workloads where it is exact."""
    stop = pd.Series(math.inf, rows.trials.index)
    by_cell = {cell: list(times.values()) for cell, times in _study_times(rows.times, rows.rules).items()}
    starts = rows.trials.groupby("submission")["started_at"].min()
    order = list(starts.sort_index().sort_values(kind="stable").index)
    objections = board_objections(rows)
    for (workload,), trials in rows.trials.groupby(["workload"], observed=True):
        if workload in objections:
            continue
        known: dict[str, Sequence[float]] = {name: by_cell.get((workload, name), []) for name in order}
        base = rows.rules.held_out.get(str(workload))
        known = {name: times for name, times in known.items() if base is None or _reaches(by_cell.get((base, name)))}
        for position, name in enumerate(order):
            others = order[:position] if is_growing else [other for other in order if other != name]
            own = by_cell.get((workload, name), [])
            board = [known[other] for other in others if other in known]
            limit = board_limit(board, studies=max(1, len(own)), tau_max=rows.rules.tau_max)
            stop[trials.index[trials["submission"] == name]] = limit
            if is_growing and name in known:
                known[name] = [seconds if seconds <= limit else math.inf for seconds in own]
    return stop


def _reaches(study_times: Sequence[float] | None) -> bool:
    return bool(study_times) and math.isfinite(statistics.median(study_times or ()))


def _study_times(times: pd.DataFrame, rules: ScoringRules) -> dict[Any, dict[int, float]]:
    """(workload, submission) -> study -> time to target, of the studies that count."""
    counted = times[times["evaluations"] > 0] if rules.trials_without_evaluations == "left_out" else times
    studies = study_times(counted, study_trial=rules.study_trial)
    found: dict[Any, dict[int, float]] = {}
    for workload, submission, study, seconds in studies[[*STUDY, "time_to_target"]].itertuples(index=False, name=None):
        found.setdefault((workload, submission), {})[study] = seconds
    return found

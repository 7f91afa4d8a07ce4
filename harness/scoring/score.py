"""From times to scores under one set of rules: gating, ratios, area under the profile, ranks.

`Scoring` is what every board shows. The array functions take any number of leading dimensions, so that the
uncertainty module scores thousands of resamples in one call.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from harness.api import ConfigError, DataError
from harness.scoring.best.values import best_values, errors_on_test
from harness.scoring.checks import check_comparable
from harness.scoring.profiles import exact_area, trapezoid_area
from harness.scoring.rules import ScoringRules
from harness.scoring.times import study_times, time_matrix, trial_times, workload_times

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Scoring:
    """Everything that one set of rules says about one set of rows.

    `times`: trials with their time to target. `studies`: one row per study. `cells`: one row per workload and
    submission, with time and steps to target. `seconds`, `steps`: submission x workload, variants too.
    `ratios`: submission x scored workload, after gating. `scores`: one row per submission, best first.
    Under rules whose measure is `best_value` a time is an error, and cells have their `test_error`
    (`harness.scoring.best`).
    """

    rules: ScoringRules
    times: pd.DataFrame
    studies: pd.DataFrame
    cells: pd.DataFrame
    seconds: pd.DataFrame
    steps: pd.DataFrame
    ratios: pd.DataFrame
    scores: pd.DataFrame


def score_tables(trials: pd.DataFrame, evaluations: pd.DataFrame, rules: ScoringRules) -> Scoring:
    """Score the two tables. Raises DataError where they cannot be scored, ConfigError where the rules name no row."""
    if trials.empty:
        raise DataError("trials: no rows to score. Run make bench first, or choose other rows.")
    check_comparable(trials)
    of_trials = best_values if rules.measure == "best_value" else trial_times
    return score_times(of_trials(trials, evaluations, enforce_budget=rules.enforce_budget), rules)


def score_times(times: pd.DataFrame, rules: ScoringRules) -> Scoring:
    """Score trials whose time to target is known: as from `trial_times`, or with columns of one's own."""
    counted = times[times["evaluations"] > 0] if rules.trials_without_evaluations == "left_out" else times
    studies = study_times(counted, study_trial=rules.study_trial)
    by_steps = study_times(counted, study_trial=rules.study_trial, value="steps_to_target")
    studies["steps_to_target"] = by_steps["steps_to_target"]
    cells = workload_times(studies)
    cells["steps_to_target"] = workload_times(by_steps, value="steps_to_target")["steps_to_target"]
    if rules.measure == "best_value":
        cells["test_error"] = errors_on_test(cells, studies, times)
    cells = _with_left_out(cells, times)
    cells["status"] = cell_status(times, cells)
    seconds, steps = time_matrix(cells), time_matrix(cells, value="steps_to_target")
    ratio = gated_ratios(seconds, rules)
    scores = rank(area(ratio, rules))
    scores["steps_score"] = area(gated_ratios(steps, rules), rules)
    ran = seconds.reindex(columns=ratio.columns)
    scores["workloads_reached"] = np.isfinite(ran.fillna(np.inf)).sum(axis=1)
    scores["workloads_run"] = ran.notna().sum(axis=1)
    return Scoring(rules, times, studies, cells, seconds, steps, ratio, scores)


def score_seconds(times: pd.DataFrame, rules: ScoringRules) -> Scoring:
    """The same of times alone, for what compares many groupings of the same trials: no steps, no words for misses."""
    studies = study_times(times, study_trial=rules.study_trial)
    cells = workload_times(studies)
    seconds = time_matrix(cells)
    ratio = gated_ratios(seconds, rules)
    return Scoring(rules, times, studies, cells, seconds, seconds * np.nan, ratio, rank(area(ratio, rules)))


def scored_workloads(matrix: pd.DataFrame, rules: ScoringRules) -> list[str]:
    """The workloads that the score averages over. Raises ConfigError where none of them is in the matrix."""
    if not rules.workloads:
        bases = [workload for workload in matrix.columns if workload not in rules.held_out]
        return [workload for workload in bases if workload not in rules.smoke] or bases
    if not set(rules.workloads) & set(matrix.columns):
        raise ConfigError(
            f"scoring rules {rules.name}: none of its workloads is among the rows ({', '.join(matrix.columns)}). "
            "Choose other rows or other rules."
        )
    return list(rules.workloads)


def gated_ratios(matrix: pd.DataFrame, rules: ScoringRules) -> pd.DataFrame:
    """Ratios to the fastest after gating by held-out variants. Shape: submission x scored workload."""
    workloads = scored_workloads(matrix, rules)
    wanted = list(dict.fromkeys([*workloads, *matrix.columns]))
    times = matrix.reindex(columns=wanted).fillna(np.inf)
    values = gated_ratio_array(times.to_numpy(), wanted, workloads, rules)
    return pd.DataFrame(values, times.index, pd.Index(workloads, name="workload"))


def gated_ratio_array(times: Floats, columns: list[str], workloads: list[str], rules: ScoringRules) -> Floats:
    """Ratios to the fastest. Shapes: [..., submissions, columns] -> [..., submissions, workloads].

    A variant counts only for submissions that reach its base workload; then a time above `tau_max` times the fastest
    of its column is a miss; then a missed variant makes its base workload a miss.
    """
    place = {name: position for position, name in enumerate(columns)}
    pairs = [(place[variant], place[base]) for variant, base in rules.held_out.items() if {variant, base} <= set(place)]
    times = np.array(times, dtype=float)
    for variant, base in pairs:
        times[..., variant] = np.where(np.isfinite(times[..., base]), times[..., variant], np.inf)
    with np.errstate(invalid="ignore"):
        times[times > rules.tau_max * times.min(axis=-2, keepdims=True)] = np.inf
    for variant, base in pairs:
        times[..., base] = np.where(np.isfinite(times[..., variant]), times[..., base], np.inf)
    times = times[..., [place[workload] for workload in workloads]]
    with np.errstate(invalid="ignore"):
        quotients: Floats = np.where(np.isfinite(times), times / times.min(axis=-2, keepdims=True), np.inf)
    return quotients


def area_array(ratio: Floats, rules: ScoringRules) -> Floats:
    """Score of each row of ratios. Shapes: [..., workloads] -> [...]."""
    if rules.area == "trapezoid":
        return trapezoid_area(ratio, rules.tau_max, rules.trapezoid_points)
    return exact_area(ratio, rules.tau_max)


def area(ratio: pd.DataFrame, rules: ScoringRules) -> pd.Series:
    """Score of each submission from its ratios."""
    return pd.Series(area_array(ratio.to_numpy(), rules), ratio.index, name="score")


def rank(scores: pd.Series) -> pd.DataFrame:
    """Columns `score` and `rank` (1 is best, equal scores share a rank), best first, ties by name."""
    table = scores.to_frame("score")
    # Areas that differ by rounding alone are the same score.
    table["rank"] = table["score"].round(12).rank(ascending=False, method="min").astype(int)
    table.index.name = "submission"
    return table.sort_index().sort_values("rank", kind="stable")


def frozen_score(matrix: pd.DataFrame, reference: pd.Series, *, tau_max: float = 4.0) -> pd.Series:
    """Area under the profile against fixed reference times (seconds by workload): no entry changes another's score.

    A time below the reference counts as the reference. Workloads are those of `reference`; one that a submission has
    not run is a miss. Raises ConfigError where a reference time is missing or not a positive number of seconds.
    """
    wrong = reference[~(np.isfinite(reference) & (reference > 0))]
    if len(wrong):
        raise ConfigError(
            f"reference times: {wrong.index[0]} has {wrong.iloc[0]}. Give each workload a positive number of seconds."
        )
    times = matrix.reindex(columns=reference.index).fillna(np.inf)
    values = exact_area(times.to_numpy() / reference.to_numpy(dtype=float), tau_max)
    return pd.Series(values, matrix.index, name="frozen_score")


def leave_one_out(matrix: pd.DataFrame, rules: ScoringRules) -> pd.DataFrame:
    """How the table changes when an entry is absent: one row per absent and remaining submission.

    Columns: `absent`, `submission`, `score`, `rank`, `full_rank`: the rank among those that remain, in the full table.
    """
    full = area(gated_ratios(matrix, rules), rules)
    rows = []
    for absent in matrix.index:
        rest = rank(area(gated_ratios(matrix.drop(index=absent), rules), rules)) if len(matrix) > 1 else None
        if rest is None:
            continue
        rest["full_rank"] = rank(full.drop(absent))["rank"]
        rest.insert(0, "absent", absent)
        rows.append(rest.reset_index())
    columns = ["absent", "submission", "score", "rank", "full_rank"]
    return pd.concat(rows, ignore_index=True)[columns] if rows else pd.DataFrame(columns=columns)


def cell_status(times: pd.DataFrame, cells: pd.DataFrame) -> pd.Series:
    """What to call each cell: `reached`, or how most of its trials that missed have ended (ties by name)."""
    missed = times[~np.isfinite(times["time_to_target"])]
    # Imported trials may have reached their target after the budget had ended.
    late = missed["status"] == "reached"
    missed = missed.assign(status=missed["status"].astype(str).mask(late, "out_of_budget"))
    # A pruned trial says only that another one was faster; the word of a miss is what the others died of.
    ended = missed.assign(is_pruned=missed["status"] == "pruned")
    counts = ended.groupby(["workload", "submission", "is_pruned", "status"], observed=True).size().rename("n")
    order = counts.reset_index().sort_values(["is_pruned", "n", "status"], ascending=[True, False, True])
    word = order.drop_duplicates(["workload", "submission"]).set_index(["workload", "submission"])["status"]
    keys = pd.MultiIndex.from_frame(cells[["workload", "submission"]])
    words = pd.Series(word.reindex(keys).to_numpy(), cells.index)
    return words.mask(np.isfinite(cells["time_to_target"]), "reached").rename("status")


def _with_left_out(cells: pd.DataFrame, times: pd.DataFrame) -> pd.DataFrame:
    """The cells, and those of which no trial was counted as misses: they must not drop out of the tables."""
    run = times[["workload", "submission"]].drop_duplicates()
    every = run.merge(cells, how="left").sort_values(["workload", "submission"], ignore_index=True)
    missed = ["time_to_target", "steps_to_target"]
    counts = ["studies", "studies_reached", "trials", "trials_reached"]
    every[missed] = every[missed].fillna(np.inf)
    every[counts] = every[counts].fillna(0).astype(int)
    return every

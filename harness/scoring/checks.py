"""What a table must hold before anything is computed from it. Each failure is one DataError that names the column."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from harness.api import DataError

TRIAL_COLUMNS = [
    "workload",
    "submission",
    "trial_id",
    "study",
    "trial",
    "status",
    "target_goal",
    "target_validation",
    "max_runtime",
    "charged_seconds",
]
"""What scoring reads of the trials table."""

EVALUATION_COLUMNS = ["trial_id", "evaluation", "step", "examples", "charged_seconds", "stages_left", "validation"]
"""What scoring reads of the evaluations table."""

COMBINATION = [
    *("ruleset", "ruleset_version", "division"),
    *("hardware", "hardware_fingerprint", "unofficial", "sandboxed"),
]
"""Rows that differ in one of these are never ranked together."""

OURS = "timetrial"
"""The source of rows that were raced here; others were imported from logs."""

_MAY_HAVE_NO_VALUE = ("diverged", "crashed")


def check_columns(table: str, frame: pd.DataFrame, columns: list[str]) -> None:
    """Raise DataError that names the first of `columns` that `frame` lacks."""
    missing = [column for column in columns if column not in frame.columns]
    if missing:
        raise DataError(f"{table}: column {missing[0]!r} is missing. Is this a table of this project?")


def check_trials(trials: pd.DataFrame) -> None:
    """Raise DataError where the trials table lacks a column, holds a trial twice, or a target or goal that is none."""
    check_columns("trials", trials, TRIAL_COLUMNS)
    _check_rows("trials", "trial_id", trials, trials["trial_id"].duplicated().to_numpy(), "there twice")
    _check_rows("trials", "target_validation", trials, ~np.isfinite(trials["target_validation"]), "not a number")
    _check_rows("trials", "target_goal", trials, ~trials["target_goal"].isin(["min", "max"]), "neither min nor max")
    _check_rows("trials", "max_runtime", trials, ~(trials["max_runtime"] > 0), "not a positive number of seconds")


def check_evaluations(trials: pd.DataFrame, evaluations: pd.DataFrame) -> NDArray[np.intp]:
    """Position in `trials` of each evaluation's trial. Shape: [evaluations].

    Raises DataError where a column is missing, an evaluation has no trial, or a time or metric is not a number.
    """
    check_columns("evaluations", evaluations, EVALUATION_COLUMNS)
    owner = _positions(pd.Index(trials["trial_id"]), evaluations["trial_id"])
    _check_rows("evaluations", "trial_id", evaluations, owner < 0, "of a trial that is not in the trials table")
    seconds = evaluations["charged_seconds"].to_numpy(dtype=float)
    where: dict[str, Any] = {"trials": trials, "owner": owner}
    _check_rows("evaluations", "charged_seconds", evaluations, ~np.isfinite(seconds), "not a number", **where)
    may_lack = trials["status"].isin(_MAY_HAVE_NO_VALUE).to_numpy()
    if "source" in trials.columns:
        # A trial of others may go on after its target, and write down an evaluation that gave nothing.
        may_lack = may_lack | (trials["source"] != OURS).to_numpy()
    lacks = np.isnan(evaluations["validation"].to_numpy(dtype=float))
    if lacks.any():
        lacks[lacks] = ~may_lack[owner[lacks]]
        what = "not a number in a trial that has neither diverged nor crashed"
        _check_rows("evaluations", "validation", evaluations, lacks, what, **where)
    return owner


def check_comparable(trials: pd.DataFrame) -> None:
    """Raise DataError where rows that must never be ranked together are: of several rulesets, hardware, by steps."""
    for column in COMBINATION:
        kinds = sorted({str(value) for value in trials[column].unique()}) if column in trials.columns else []
        if len(kinds) > 1:
            raise DataError(
                f"trials: column {column!r}: rows of {len(kinds)} kinds ({', '.join(kinds[:4])}) are never ranked "
                "together. Choose one of them first."
            )
    if "evaluate_every_steps" in trials.columns:
        by_steps = trials["evaluate_every_steps"].notna()
        _check_rows("trials", "evaluate_every_steps", trials, by_steps, "set: development runs are never ranked")


def _positions(trial_ids: pd.Index, of: pd.Series) -> NDArray[np.intp]:
    if isinstance(of.dtype, pd.CategoricalDtype):
        # One look-up per trial instead of one per evaluation.
        return trial_ids.get_indexer(pd.Index(of.cat.categories))[of.cat.codes.to_numpy()]
    return trial_ids.get_indexer(pd.Index(of))


def _check_rows(
    table: str,
    column: str,
    frame: pd.DataFrame,
    bad: NDArray[np.bool_] | pd.Series,
    what: str,
    *,
    trials: pd.DataFrame | None = None,
    owner: NDArray[np.intp] | None = None,
) -> None:
    """Raise DataError where a row is bad, with the folder of its trial: a row of `trials`, or of `frame` itself."""
    wrong = np.flatnonzero(np.asarray(bad))
    if not len(wrong):
        return
    value = frame[column].iloc[wrong[0]]
    of = frame.iloc[wrong[0]] if trials is None or owner is None else trials.iloc[owner[wrong[0]]]
    place = f"{table}/workload={of['workload']}/submission={of['submission']}" if "workload" in of.index else table
    others = f", and {len(wrong) - 1} more rows" if len(wrong) > 1 else ""
    raise DataError(
        f"{place}: column {column!r}: {value} is {what} (trial {of['trial_id']}{others}). "
        "Move the files of that trial away and run it again."
    )

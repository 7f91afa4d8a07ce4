"""Times in another unit than charged seconds: reference steps, or CPU seconds. What a trial took is divided by its own
pace, so that machines and moments of another speed can be compared. Nothing is scored here.
"""

from __future__ import annotations

from dataclasses import replace

import pandas as pd

from harness.api import DataError
from harness.scoring.checks import check_columns
from harness.scoring.clock.disturbance import AROUND, pace_around
from harness.scoring.selection import Selection
from harness.scoring.times import STUDY

UNITS = {"seconds": "seconds", "cpu_seconds": "CPU seconds", "reference_steps": "reference steps"}
"""The units that a board can be read in, and what each is called."""

UNIT_COLUMNS = ["cpu_seconds", "charged_seconds", "max_runtime", "reference_step_seconds", *AROUND]
"""What is read of the trials table here."""

_NAMED_AT_MOST = 4
_OF_A_TRIAL = ("max_runtime", "eval_period", "charged_seconds", "time_to_target")


def rates(trials: pd.DataFrame, unit: str) -> pd.Series:
    """How many of `unit` a charged second of each trial is; NaN where its row does not say.

    Reference steps: one over the seconds that one took around the trial, the geometric mean of before and after; where
    neither was measured, those that its budget is made of. CPU seconds: the share of its charged seconds that its
    processes ran, which is exact for a trial that ended at its target.
    """
    check_columns("trials", trials, UNIT_COLUMNS)
    if unit == "seconds":
        return pd.Series(1.0, trials.index)
    if unit == "cpu_seconds":
        charged = trials["charged_seconds"].astype(float)
        share: pd.Series = trials["cpu_seconds"].astype(float) / charged.where(charged > 0)
        return share.where(share > 0)
    found: pd.Series = 1.0 / pace_around(trials).fillna(trials["reference_step_seconds"].astype(float))
    return found


def in_unit(selection: Selection, evaluations: pd.DataFrame, unit: str) -> tuple[Selection, pd.DataFrame]:
    """The selected trials and their evaluations with every charged second turned into `unit`, budgets too.

    Column added: `units_per_second`, what that was multiplied by.

    A trial that missed and does not know its own pace has the median one of its workload. One that reached the target
    is left out with its whole study, since what remains of that could look slower than it was; so is a submission whose
    hits all lack the unit. Notes say whose. Raises DataError where no row is left.
    """
    if unit == "seconds":
        return selection, evaluations
    trials, notes = selection.trials, list(selection.notes)
    rate = _known_rates(trials, unit)
    known = rate.notna()
    if not known.any():
        raise DataError(
            f"trials: {lacking_note(trials, unit)}. Use unit=seconds, or choose other rows by ruleset=, division= or "
            "hardware=."
        )
    if not known.all():
        without = trials.loc[~known, "submission"].value_counts(sort=False).sort_index()
        counts = [f"{count} trial{'s' if count > 1 else ''} of {name}" for name, count in without.items()]
        notes.append(
            f"left out, as their rows do not say what they took in {UNITS[unit]}: {_few(counts)}"
            + (f"; not on this board: {_few(names)}" if (names := lacking(trials, unit)) else "")
        )
    ran = trials[known & (trials["charged_seconds"] > 0)]
    if unit == "reference_steps" and (bare := int(ran[list(AROUND)].isna().all(axis=1).sum())):
        notes.append(
            f"{bare} of {len(ran)} trials have no measurement of the reference around them: "
            "what their budget is made of stands for it"
        )
    if (trials["status"] == "pruned").any():
        notes.append(f"trials were pruned by seconds: in {UNITS[unit]} some of these might have been the fastest")
    rows, rate = trials[known].reset_index(drop=True), rate[known].reset_index(drop=True)
    changed = {name: rows[name] * rate for name in _OF_A_TRIAL if name in rows.columns}
    rows = rows.assign(**changed, units_per_second=rate)
    of_trial = pd.Series(rate.to_numpy(), pd.Index(rows["trial_id"]))
    seen = evaluations[evaluations["trial_id"].isin(rows["trial_id"])]
    seen = seen.assign(charged_seconds=seen["charged_seconds"] * seen["trial_id"].map(of_trial).astype(float))
    return replace(selection, trials=rows, notes=notes), seen


def lacking(trials: pd.DataFrame, unit: str) -> list[str]:
    """The submissions that no board in this unit can show, as none of their rows says what it took in it."""
    known = _known_rates(trials, unit).notna().groupby(trials["submission"], observed=True).any()
    return sorted(str(name) for name in known.index[~known])


def lacks_unit(trials: pd.DataFrame, unit: str) -> bool:
    """True where that is so of every submission, so that there is no board."""
    return len(lacking(trials, unit)) == trials["submission"].nunique()


def lacking_note(trials: pd.DataFrame, unit: str) -> str:
    """The line that names these."""
    names = lacking(trials, unit)
    return f"no row says what it took in {UNITS[unit]} ({_few(names)})" if names else ""


def _known_rates(trials: pd.DataFrame, unit: str) -> pd.Series:
    """`rates`, those of misses made up for; NaN for each trial that must be left out."""
    rate = rates(trials, unit)
    if unit == "seconds":
        return rate
    missed = trials["status"] != "reached"
    is_silent_hit = rate.isna() & ~missed
    spoils_study = is_silent_hit.groupby([trials[name] for name in STUDY], observed=True).transform("any")
    of_submission = trials["submission"]
    says_nothing = rate.isna().groupby(of_submission, observed=True).transform("all")
    spoils_all = says_nothing & is_silent_hit.groupby(of_submission, observed=True).transform("any")
    usual = rate.groupby(trials["workload"], observed=True).transform("median")
    return rate.where(rate.notna() | ~missed, usual).mask(spoils_study | spoils_all)


def _few(words: list[str]) -> str:
    more = f" and {len(words) - _NAMED_AT_MOST} more" if len(words) > _NAMED_AT_MOST else ""
    return ", ".join(words[:_NAMED_AT_MOST]) + more

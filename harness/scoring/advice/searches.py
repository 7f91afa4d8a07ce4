"""Trials regrouped into searches: what so many trials, or another budget, would have given.

A search is what tunes once: a study by another number of trials. Budgets are shares of the one that was recorded.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from harness.scoring.times import CELL, STUDY, started

TRIALS = (1, 5, 15)
"""How many trials of a search space answers are given for: no tuning, a study of this project, and all three."""

_AT_TARGET = ("time_to_target", "steps_to_target", "examples_to_target", "evaluation_to_target")


@dataclass(frozen=True)
class Effort:
    """How much tuning a search is: so many `trials`, of the search space or of the defaults alone."""

    trials: int
    is_tuned: bool

    @property
    def name(self) -> str:
        """In words: `defaults`, `5 trials`."""
        if not self.is_tuned:
            return "defaults"
        return "1 trial" if self.trials == 1 else f"{self.trials} trials"


def efforts(*, is_tuned: bool) -> list[Effort]:
    """The efforts that rows of a ruleset can be asked about, the least first."""
    return [Effort(trials, True) for trials in TRIALS] if is_tuned else [Effort(1, False)]


def is_tuned(times: pd.DataFrame) -> bool:
    """Whether some submission ran with more than one setting on a workload, or took the best of several trials.

    Imported rows may say how many trials a study had, and not with which settings.
    """
    settings = times.groupby(CELL, observed=True)["hyperparameters"].nunique()
    return bool(settings.max() > 1 or times.groupby(STUDY, observed=True).size().max() > 1)


def within(times: pd.DataFrame, share: float) -> pd.DataFrame:
    """The trials as they stood after this share, at most 1, of their budget: what hit later is a miss. Exact.

    `times` as from `trial_times`. A trial that was pruned after the shorter budget has missed it like any other.
    """
    if share >= 1.0:
        return times
    found = times.assign(max_runtime=times["max_runtime"] * share)
    late = found["time_to_target"] > found["max_runtime"]
    for column in (*_AT_TARGET, "last_miss_seconds"):
        found[column] = found[column].mask(late, np.inf)
    over = (late & (found["status"] == "reached")) | (
        (found["status"] == "pruned") & (found["charged_seconds"] >= found["max_runtime"])
    )
    found["status"] = found["status"].astype(object).mask(over, "out_of_budget")
    return found


def searches(times: pd.DataFrame, trials: int) -> pd.DataFrame:
    """The trials with `study` and `trial` renumbered, so that a study is a search of so many trials; whole ones only.

    Searches share no trial, and one number stands for the same trials of all submissions, so that common seeds stay
    common. Where trials were pruned, which happens by what came before in their study, a shorter search is the
    beginning of a study, and a longer one is of whole studies: their best is then exact. Otherwise any trials that
    follow each other will do. Who has fewer settings than trials, such as a list of five that each study goes through,
    has no such search.
    """
    _, study = np.unique(times["study"], return_inverse=True)
    numbers, trial = np.unique(times["trial"], return_inverse=True)
    size = len(numbers)  # whatever they count from
    number, place = study, trial
    if not (times["status"] == "pruned").any():
        slot = study * size + trial
        number, place = slot // trials, slot % trials
    elif trials > size:
        together = trials // size
        number, place = study // together, study % together * size + trial
    found = times.assign(study=number, trial=place)
    found = found[(found["trial"] < trials) & started(found)]
    is_whole = found.groupby([*CELL, "study"], observed=True)["trial"].transform("size") == trials
    if trials > 1:
        is_whole &= found.groupby(CELL, observed=True)["hyperparameters"].transform("nunique") >= trials
    return found[is_whole].reset_index(drop=True)

"""What a dashboard shows: one board per set of rows that may be ranked together, and per reading of the rules.

Computes through `harness.scoring`; writes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pandas as pd

from harness.board.cells import trial_of_study
from harness.scoring.clock.parts import time_parts
from harness.scoring.clock.units import UNITS
from harness.scoring.comparison import losses
from harness.scoring.reading import near_misses, speed_and_reliability, target_band
from harness.scoring.rules import ScoringRules
from harness.scoring.score import Scoring, leave_one_out, score_tables
from harness.scoring.selection import COMBINATION, Selection
from harness.scoring.settings.edges import Ranges, edge_counts, tuned_points
from harness.scoring.settings.width import widths
from harness.scoring.tuning import tuning_curves
from harness.scoring.uncertainty import Uncertainty, bootstrap

LARGEST_K = 50
"""Tuning curves end here: beyond fifty trials nobody tunes by hand."""
RIVALS = 5
"""To so many a submission is compared on a workload where they are faster."""
_NO_PROFILES = pd.DataFrame(columns=["workload", "submission", "unread"])


@dataclass(frozen=True)
class DashboardBoard:
    """Rows that are ranked together, scored under one set of rules; the slower tables are made when first asked for.

    `ranges`: what hyperparameters were searched over, of the submissions of which that is known. `profiles`: where the
    time of their steps goes, in the columns of `harness.records.step_profiles`, of the submissions as they ran here.
    """

    selection: Selection
    evaluations: pd.DataFrame
    scoring: Scoring
    uncertainty: Uncertainty
    notes: list[str]
    reference: str | None = None
    ranges: Ranges = field(default_factory=dict)
    profiles: pd.DataFrame = field(default_factory=_NO_PROFILES.copy)
    streams: pd.DataFrame | None = None
    """Evaluations of its streams of tasks, with the column `other_metrics`; None: it has no stream."""
    readouts: pd.DataFrame | None = None
    """What diagnostics read off the weights of its trials; None: nothing."""

    @property
    def label(self) -> str:
        """What tells this board from the others, in a few words."""
        combination, rules = self.selection.combination, self.scoring.rules
        words = [f"{combination['ruleset']} v{combination['ruleset_version']}"]
        if combination["division"] != "closed":
            words.append(f"{combination['division']} division")
        if rules.reading:
            words.append(rules.reading.replace("_", " "))
        if rules.unit != "seconds":
            words.append(f"by {self.unit}")
        words.append(self.selection.hardware)
        return " · ".join(words)

    @property
    def unit(self) -> str:
        """What times are read in, in words."""
        return UNITS[self.scoring.rules.unit]

    @property
    def is_open(self) -> bool:
        """Whether it ranks submissions that bring their own network."""
        return self.selection.combination["division"] == "open"

    @property
    def trial_of_study(self) -> str:
        """Which trial of a study stands for it, in words."""
        return trial_of_study(self.scoring)

    @cached_property
    def near_misses(self) -> pd.DataFrame:
        """How close each cell came."""
        return near_misses(self.scoring.times, self.evaluations)

    @cached_property
    def speed_and_reliability(self) -> pd.DataFrame:
        """The two things that a score mixes, by submission."""
        return speed_and_reliability(self.scoring)

    @cached_property
    def target_band(self) -> pd.DataFrame:
        """Scores under targets half a percent easier and harder."""
        return target_band(self.selection.trials, self.evaluations, self.scoring.rules)

    @cached_property
    def leave_one_out(self) -> pd.DataFrame:
        """How ranks change when an entry is absent."""
        return leave_one_out(self.scoring.seconds, self.scoring.rules)

    @cached_property
    def tuning(self) -> pd.DataFrame:
        """Best of k trials."""
        return tuning_curves(self.scoring.times, largest=LARGEST_K)

    @cached_property
    def losses(self) -> pd.DataFrame:
        """To whom each submission loses on each workload."""
        return losses(self.scoring, most=RIVALS)

    @cached_property
    def widths(self) -> pd.DataFrame:
        """How wide the good values of each hyperparameter are."""
        return widths(self.scoring.times)

    @cached_property
    def tuned_points(self) -> pd.DataFrame:
        """Where tuned points lie in their ranges."""
        return tuned_points(self.scoring.times, self.scoring.studies, self.ranges)

    @cached_property
    def edge_counts(self) -> pd.DataFrame:
        """How many of them lie at an edge."""
        return edge_counts(self.scoring.times, self.tuned_points, self.ranges)

    @cached_property
    def time_parts(self) -> pd.DataFrame:
        """What trials take, as their rows know it."""
        return time_parts(self.scoring.times)

    @property
    def has_intervals(self) -> bool:
        """False where a cell has a single study, and no other one shows a spread."""
        return self.uncertainty.is_known

    @property
    def submissions(self) -> list[str]:
        """All submissions, best first."""
        return [str(name) for name in self.scoring.scores.index]

    @property
    def workloads(self) -> list[str]:
        """All workloads with rows: the scored ones first, then held-out and others."""
        scored = [str(name) for name in self.scoring.ratios.columns if name in self.scoring.seconds.columns]
        return scored + sorted(str(name) for name in self.scoring.seconds.columns if name not in scored)


def score_board(
    selection: Selection,
    evaluations: pd.DataFrame,
    rules: ScoringRules,
    *,
    notes: list[str],
    reference: str | None,
    recorded: pd.DataFrame | None = None,
) -> DashboardBoard:
    """Score the selected rows. Raises DataError where they cannot be scored.

    `recorded`: all rows there are, selected or not, which hold what the frozen scores are measured against.
    """
    scoring = score_tables(selection.trials, evaluations, rules)
    known = reference if reference in scoring.seconds.index else None
    frozen = frozen_reference(selection.trials if recorded is None else recorded, selection, scoring)
    return DashboardBoard(
        selection, evaluations, scoring, bootstrap(scoring, reference=known, frozen=frozen), notes, known
    )


def frozen_reference(recorded: pd.DataFrame, selection: Selection, scoring: Scoring) -> pd.Series | None:
    """Seconds by scored workload, against which no entry changes another's score; None where a budget is not known.

    The budget over `tau_max`: full marks for a target within that share of the budget, none at its end. The budget is
    that of the first row recorded of the workload as it is, under the same ruleset and on the same hardware, whoever
    ran it and whether it is still ranked, so that rows which come or go later move nothing.
    """
    same = [*COMBINATION, "workload", "workload_hash"]
    ranked = recorded[recorded["evaluate_every_steps"].isna()]
    rows = ranked.merge(selection.trials[same].drop_duplicates(), on=same)
    first = rows.sort_values(["started_at", "trial_id"]).groupby("workload", observed=True)["max_runtime"].first()
    budgets = first.reindex(scoring.ratios.columns)
    return budgets / scoring.rules.tau_max if np.isfinite(budgets).all() else None


def combinations(trials: pd.DataFrame) -> Iterator[pd.DataFrame]:
    """The rows of each ruleset, division and hardware, the one used last first; rows evaluated by steps are no part."""
    ranked = trials[trials["evaluate_every_steps"].isna()]
    groups = ranked.groupby(COMBINATION, observed=True)
    for key in groups["started_at"].max().sort_values(ascending=False, kind="stable").index:
        yield groups.get_group(key)


def file_names(names: Iterable[str]) -> dict[str, str]:
    """A file name for each name, without suffix, safe in a path and in an address; no two alike."""
    found: dict[str, str] = {}
    for name in names:
        plain = re.sub(r"[^A-Za-z0-9_.-]+", "-", name).strip("-.") or "x"
        number = 1
        # Some disks do not tell capitals apart.
        taken = {used.lower() for used in found.values()}
        candidate = plain
        while candidate.lower() in taken:
            number += 1
            candidate = f"{plain}-{number}"
        found[name] = candidate
    return found

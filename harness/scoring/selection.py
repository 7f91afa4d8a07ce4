"""Which rows may be ranked together: one ruleset, division, hardware, and content of each workload and submission.

Of a submission on a workload one run counts, whole: the trials of one seed and one set of overrides.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pandas as pd

from harness.api import ConfigError, DataError, near_matches
from harness.scoring.checks import COMBINATION as COMBINATION
from harness.scoring.checks import check_columns
from harness.scoring.times import CELL

RUN = ["study_seed", "overrides"]
"""What tells runs of one submission on one workload apart: what `seed=` and `hp.` of make bench were."""

BUSY_BELOW = 0.9
"""Of a trial whose share of its processors is below this the machine was busy, or it waited."""

SELECTION_COLUMNS = [
    *COMBINATION,
    *RUN,
    "cpu_seconds",
    "threads",
    "evaluate_every_steps",
    "steps",
    "submission_hash",
    "workload_hash",
    "seed",
    "source",
    "started_at",
]
"""What selection reads of the trials table, beside what scoring reads."""


@dataclass(frozen=True)
class Selection:
    """Trials that may be ranked together, what they share, and one line for each kind of row that was left out."""

    trials: pd.DataFrame
    combination: dict[str, str]
    notes: list[str] = field(default_factory=list)

    @property
    def hardware(self) -> str:
        """Name and fingerprint of the hardware in words, if it is one, and whether rows are unofficial there."""
        unofficial = "unofficial" if self.combination["unofficial"] == "True" else ""
        more = ", ".join(filter(None, [self.combination["hardware_fingerprint"][:8], unofficial]))
        return f"{self.combination['hardware']} ({more})" if more else self.combination["hardware"]


def comparable(
    trials: pd.DataFrame,
    *,
    ruleset: str | None = None,
    division: str | None = None,
    hardware: str | None = None,
    workloads: list[str] | None = None,
    submissions: list[str] | None = None,
) -> Selection:
    """Rows that may be ranked together; by default those of the combination that was used last.

    Of several contents of a workload or a submission the one that ran last counts. Of several runs (`RUN`) of a
    submission on a workload one counts, never some trials of each; of several attempts at a trial the last. Raises
    ConfigError for a name that no row has, DataError where there is nothing to rank.
    """
    check_columns("trials", trials, ["workload", "submission", "study", "trial", *SELECTION_COLUMNS])
    if trials.empty:
        raise DataError("trials: no rows to rank. Run make bench first.")
    notes: list[str] = []
    # Named rows only, so that a name chooses the combination too.
    rows = _named(trials, "workload", workloads)
    rows = _named(rows, "submission", submissions)
    rows = _named(rows, "ruleset", None if ruleset is None else [ruleset])
    rows = _named(rows, "division", None if division is None else [division])
    rows = rows if hardware is None else _of_hardware(rows, hardware)
    rows = _left_out(rows, rows["evaluate_every_steps"].isna(), notes, "evaluated by steps, a development switch")
    if rows.empty:
        raise DataError("trials: column 'evaluate_every_steps': every row is a development run, none is ranked.")
    rows, combination = _one_combination(rows, notes)
    for owner in ("workload", "submission"):
        rows = _left_out(rows, _is_newest(rows, owner), notes, f"of an older form of a {owner}")
    rows = _left_out(rows, _is_of_the_run(rows), notes, "of another seed, or other hyperparameters given with hp.")
    newest = ~rows.sort_values("started_at").duplicated([*CELL, "study", "trial"], keep="last").reindex(rows.index)
    rows = _left_out(rows, newest, notes, "that ran again later")
    notes += _busy(rows)
    return Selection(rows.reset_index(drop=True), combination, notes)


def check_reference(reference: str | None, trials: pd.DataFrame) -> None:
    """Raise ConfigError where a submission to say speeds over was named and no row is of it."""
    known = sorted(str(name) for name in trials["submission"].unique())
    if reference is not None and reference not in known:
        raise ConfigError(f"reference {reference!r}: no row has it. {near_matches(reference, known)}")


def with_evaluations(selection: Selection, evaluations: pd.DataFrame) -> Selection:
    """The selection without trials whose evaluations are lost: a hit that nobody can see would count as a miss."""
    trials, notes = selection.trials, list(selection.notes)
    # Each id once: pandas makes Python texts of all that it is given, which takes longer than the search.
    is_whole = (trials["steps"] == 0) | trials["trial_id"].isin(evaluations["trial_id"].unique())
    rows = _left_out(trials, is_whole, notes, "whose evaluations cannot be read")
    return replace(selection, trials=rows.reset_index(drop=True), notes=notes)


def _busy(rows: pd.DataFrame) -> list[str]:
    """A note where trials got much less of the processor than their clock ran: others kept it, or they waited."""
    cpu_share = cpu_shares(rows)
    busy = cpu_share < BUSY_BELOW
    if not busy.any():
        return []
    return [
        f"{int(busy.sum())} of {len(rows)} trials had their processors for less than {BUSY_BELOW:.0%} of the time "
        f"(cpu_share, median {cpu_share[busy].median():.0%}): the machine was busy, or they waited"
    ]


def cpu_shares(rows: pd.DataFrame) -> pd.Series:
    """Share of the time that each trial had its processors; NaN where its row does not say, or it was too short."""
    share: pd.Series = rows["cpu_seconds"].astype(float) / (rows["charged_seconds"] * rows["threads"])
    # The first moments of a short trial say little.
    return share.where(rows["charged_seconds"] > 1.0)


def _named(trials: pd.DataFrame, column: str, names: list[str] | None) -> pd.DataFrame:
    if names is None:
        return trials
    known = sorted(trials[column].unique())
    for name in names:
        if name not in known:
            raise ConfigError(f"{column} {name!r}: no row has it. {near_matches(name, known)}")
    return trials[trials[column].isin(names)]


def _of_hardware(rows: pd.DataFrame, hardware: str) -> pd.DataFrame:
    """Rows of this hardware name, or of the fingerprint that starts so."""
    of_fingerprint = rows["hardware_fingerprint"].str.startswith(hardware)
    return rows[of_fingerprint] if of_fingerprint.any() else _named(rows, "hardware", [hardware])


def _left_out(rows: pd.DataFrame, keep: pd.Series, notes: list[str], what: str) -> pd.DataFrame:
    count = int((~keep).sum())
    if count:
        notes.append(f"left out: {count} trial{'s' if count > 1 else ''} {what}")
    return rows[keep]


def _one_combination(rows: pd.DataFrame, notes: list[str]) -> tuple[pd.DataFrame, dict[str, str]]:
    last_use = rows.groupby(COMBINATION, observed=True)["started_at"].max().sort_values(kind="stable")
    newest = dict(zip(COMBINATION, last_use.index[-1], strict=True))
    others = [
        f"ruleset={ruleset} v{version} division={division} hardware={hardware} ({fingerprint[:8]}"
        f"{', unofficial' if unofficial else ''}{', sandboxed' if sandboxed else ', not sandboxed'})"
        for ruleset, version, division, hardware, fingerprint, unofficial, sandboxed in last_use.index[:-1]
    ]
    if others:
        notes.append(
            f"not ranked with these, choose by ruleset=, division= or hardware=: {'; '.join(reversed(others))}"
        )
    keep = pd.Series(True, rows.index)
    for column, value in newest.items():
        keep &= rows[column] == value
    return rows[keep], {column: str(value) for column, value in newest.items()}


def _is_newest(rows: pd.DataFrame, owner: str) -> pd.Series:
    """True for rows whose hash is the one that ran last for this workload or submission."""
    content = f"{owner}_hash"
    last_use = rows.groupby([owner, content], observed=True)["started_at"].max().reset_index()
    newest = last_use.sort_values("started_at", kind="stable").drop_duplicates(owner, keep="last").set_index(owner)
    return rows[content] == rows[owner].map(newest[content])


def _is_of_the_run(rows: pd.DataFrame) -> pd.Series:
    """True for rows of the run that stands for its submission on its workload.

    It is the one with most trials there, so that one that was cut off half-way stands back; among equals the one with
    which the submission has most trials on all workloads, so that it is the same one everywhere if it can be; then the
    newest.
    """
    of_run = [*CELL, *RUN]
    trials = rows.drop_duplicates([*of_run, "study", "trial"]).groupby(of_run, observed=True).size().rename("trials")
    runs = trials.to_frame().join(rows.groupby(of_run, observed=True)["started_at"].max()).reset_index()
    runs["everywhere"] = runs.groupby(["submission", *RUN], observed=True)["trials"].transform("sum")
    order = runs.sort_values(["trials", "everywhere", "started_at"], kind="stable")
    chosen = pd.MultiIndex.from_frame(order.drop_duplicates(CELL, keep="last")[of_run])
    return pd.Series(pd.MultiIndex.from_frame(rows[of_run]).isin(chosen), rows.index)

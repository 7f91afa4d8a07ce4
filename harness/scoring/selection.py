"""Which rows may be ranked together: one ruleset, one hardware, one content of each workload and submission."""

from __future__ import annotations

from dataclasses import dataclass, field

import pandas as pd

from harness.api import ConfigError, DataError, near_matches
from harness.scoring.checks import COMBINATION as COMBINATION
from harness.scoring.checks import check_columns

_BUSY_BELOW = 0.9

SELECTION_COLUMNS = [
    *COMBINATION,
    "cpu_seconds",
    "threads",
    "evaluate_every_steps",
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
        """Name and fingerprint of the hardware in words, and whether rows are unofficial there."""
        unofficial = ", unofficial" if self.combination["unofficial"] == "True" else ""
        return f"{self.combination['hardware']} ({self.combination['hardware_fingerprint'][:8]}{unofficial})"


def comparable(
    trials: pd.DataFrame,
    *,
    ruleset: str | None = None,
    hardware: str | None = None,
    workloads: list[str] | None = None,
    submissions: list[str] | None = None,
) -> Selection:
    """The newest rows that may be ranked together; by default those of the combination that was used last.

    Of several contents of a workload or a submission the one that ran last counts, likewise of several runs of one
    trial number (other seeds, other hyperparameters). Raises ConfigError for a name that no row has, DataError where
    there is nothing to rank.
    """
    check_columns("trials", trials, ["workload", "submission", "study", "trial", *SELECTION_COLUMNS])
    if trials.empty:
        raise DataError("trials: no rows to rank. Run make bench first.")
    notes: list[str] = []
    # Named rows only, so that a name chooses the combination too.
    rows = _named(trials, "workload", workloads)
    rows = _named(rows, "submission", submissions)
    rows = _named(rows, "ruleset", None if ruleset is None else [ruleset])
    rows = rows if hardware is None else _of_hardware(rows, hardware)
    rows = _left_out(rows, rows["evaluate_every_steps"].isna(), notes, "evaluated by steps, a development switch")
    if rows.empty:
        raise DataError("trials: column 'evaluate_every_steps': every row is a development run, none is ranked.")
    rows, combination = _one_combination(rows, notes)
    for owner in ("workload", "submission"):
        rows = _left_out(rows, _is_newest(rows, owner), notes, f"of an older form of a {owner}")
    numbered = ["workload", "submission", "study", "trial"]
    newest = ~rows.sort_values("started_at").duplicated(numbered, keep="last").reindex(rows.index)
    rows = _left_out(rows, newest, notes, "that ran again later, with another seed or hyperparameters or by make retry")
    notes += _busy(rows)
    return Selection(rows.reset_index(drop=True), combination, notes)


def _busy(rows: pd.DataFrame) -> list[str]:
    """A note where trials got much less of the processor than their clock ran: others kept it, or they waited."""
    cpu_share = rows["cpu_seconds"].astype(float) / (rows["charged_seconds"] * rows["threads"])
    # The first moments of a short trial say little.
    busy = (cpu_share < _BUSY_BELOW) & (rows["charged_seconds"] > 1.0)
    if not busy.any():
        return []
    return [
        f"{int(busy.sum())} of {len(rows)} trials had their processors for less than {_BUSY_BELOW:.0%} of the time "
        f"(cpu_share, median {cpu_share[busy].median():.0%}): the machine was busy, or they waited"
    ]


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
        f"ruleset={ruleset} v{version} hardware={hardware} ({fingerprint[:8]}{', unofficial' if unofficial else ''}"
        f"{', sandboxed' if sandboxed else ', not sandboxed'})"
        for ruleset, version, hardware, fingerprint, unofficial, sandboxed in last_use.index[:-1]
    ]
    if others:
        notes.append(f"not ranked with these, choose by ruleset= or hardware=: {'; '.join(reversed(others))}")
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

"""Which recorded rows can answer together: of one machine in any unit, of several in reference steps."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from harness.scoring.selection import Selection, comparable

MACHINE = ["hardware", "hardware_fingerprint", "unofficial"]
SEVERAL = "several machines"
RELATIVE = "reference_steps"


def selections(trials: pd.DataFrame, *, unit: str | None) -> Iterator[tuple[Selection, str]]:
    """The rows of each ruleset that may be compared, and the unit for it; the ruleset used last first.

    Of a ruleset the newest version, of divisions the closed one where there is one, and with or without a sandbox,
    whichever has more rows. Rows of several machines are put together in reference steps, with the column `machine` to
    tell them apart, unless another `unit` is asked for: then those of the machine used last answer. None: seconds for
    one machine.
    """
    ranked = trials[trials["evaluate_every_steps"].isna()]
    last_use = ranked.groupby("ruleset", observed=True)["started_at"].max().sort_values(ascending=False, kind="stable")
    for ruleset in last_use.index:
        rows = ranked[ranked["ruleset"] == ruleset]
        rows = rows[rows["ruleset_version"] == rows["ruleset_version"].max()]
        if (rows["division"] == "closed").any():
            rows = rows[rows["division"] == "closed"]
        counts = rows["sandboxed"].value_counts()
        rows = rows[rows["sandboxed"] == (counts.get(True, 0) >= counts.get(False, 0))]
        rows = rows.assign(machine=rows["hardware_fingerprint"])
        is_mixed = len(rows[MACHINE].drop_duplicates()) > 1 and unit in (None, RELATIVE)
        if is_mixed:
            rows = rows.assign(hardware=SEVERAL, hardware_fingerprint="", unofficial=False)
        yield comparable(rows), unit or (RELATIVE if is_mixed else "seconds")

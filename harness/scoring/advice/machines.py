"""Which recorded rows can answer together: of one machine in any unit, of several in reference steps."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from harness.scoring.clock.machines import RELATIVE, are_of_several, put_together
from harness.scoring.selection import Selection, comparable


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
        is_mixed = are_of_several(rows) and unit in (None, RELATIVE)
        yield comparable(put_together(rows) if is_mixed else rows), unit or (RELATIVE if is_mixed else "seconds")

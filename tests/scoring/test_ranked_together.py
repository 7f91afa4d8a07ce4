"""Which rows are ranked together, and what the board says of the others."""

from __future__ import annotations

import datetime

from harness.scoring.selection import comparable
from tests.scoring.scoring_tables import FIRST_DAY, tables, trial_rows


def test_trials_that_were_kept_in_are_never_ranked_with_those_that_were_not():
    later = FIRST_DAY + datetime.timedelta(days=1)
    open_ones = [trial_rows("digits", name, 10.0) for name in ("adamw", "muon")]
    kept_in = [trial_rows("digits", "adamw", 12.0, trial_id="kept", sandboxed=True, started_at=later)]
    selection = comparable(tables(open_ones + kept_in)[0])
    assert selection.trials["trial_id"].tolist() == ["kept"]
    assert "not sandboxed" in " ".join(selection.notes)


def test_trials_on_a_busy_machine_are_counted_in_a_note():
    rows = [
        trial_rows("digits", "adamw", 10.0, charged_seconds=10.0, cpu_seconds=9.9),
        trial_rows("digits", "muon", 10.0, charged_seconds=10.0, cpu_seconds=6.0),
        trial_rows("digits", "sgd", 10.0, charged_seconds=10.0, cpu_seconds=None),
    ]
    notes = comparable(tables(rows)[0]).notes
    assert len(notes) == 1
    assert "1 of 3 trials" in notes[0]
    assert "60%" in notes[0]

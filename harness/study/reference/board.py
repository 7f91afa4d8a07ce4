"""One reference board against what is here now: which studies stand on it, and putting in those that have run.

A study stands where all of its trials are there, of one machine, and are what would run today. Machines may differ from
study to study.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow.compute as pc

from harness.api import DataError
from harness.records.committed import BoardFile, BoardRows, board_rows
from harness.records.tables import Records, Row, TrialKey, has_its_checksum
from harness.scoring.checks import OURS
from harness.scoring.clock.disturbance import is_disturbed
from harness.scoring.rules import load_rules, rules_of
from harness.study.budget import is_compiled
from harness.study.identity import Study, content_of, contents_of

_READ = [
    *("workload", "submission", "study", "trial_id"),
    *("identity", "hardware_fingerprint", "started_at", "reference_drift"),
]

Place = tuple[str, str, int]


@dataclass(frozen=True)
class StudyOnBoard:
    """One study that belongs on a board, and how many of its trials stand there, are stale, or were disturbed."""

    study: Study
    there: int
    stale: int
    disturbed: int

    @property
    def missing(self) -> int:
        """Trials in whose place there is nothing."""
        return self.study.config.ruleset.trials - self.there - self.stale

    @property
    def to_run(self) -> int:
        """Trials that are missing or stale."""
        return self.missing + self.stale


class ReferenceBoard:
    """A board by name, the studies that belong on it, and the rows of their results folder that it takes them from.

    `unreadable`: submissions of which nobody can say here what their rows should be; these stay as they are.
    """

    def __init__(self, name: str, studies: Sequence[Study], *, unreadable: Collection[str] = ()) -> None:
        self.name = name
        self.studies = list(studies)
        results = self.studies[0].config.results
        self.file = BoardFile(results, name)
        self._records = Records(results / "runs")
        self._contents = {place_of(study): contents_of(study) for study in self.studies}
        self._unreadable = set(unreadable)

    def standings(self) -> list[StudyOnBoard]:
        """How each study stands, in the order of `studies`."""
        rows = self._rows_by_place(self.file.read())
        return [self._standing(study, rows[place_of(study)]) for study in self.studies]

    def stands(self, study: Study) -> bool:
        """Whether a study is there as it would run today."""
        place = place_of(study)
        return self._standing(study, self._rows_by_place(self.file.read())[place]).to_run == 0

    @property
    def runs(self) -> Path:
        """The folder of the tables that rows are taken from."""
        return self._records.runs

    def step_seconds(self, workload: str) -> float | None:
        """Median seconds per step of the reference in the rows of a workload; None where there are none."""
        trials = self.file.read().trials
        found = trials.filter(pc.equal(trials["workload"], workload))["reference_step_seconds"].drop_null().to_pylist()
        return statistics.median(found) if found else None

    def take(self, study: Study) -> bool:
        """Put a study in its place that has run, on any machine; False where there is none, whole. Raises DataError."""
        workload, submission, number = place_of(study)
        found = [
            {**row, "workload": workload, "submission": submission}
            for key, row in self._records.trials_of(workload, submission)
            if row["study"] == number and not self._records.is_retried(key) and _counts(row, study)
        ]
        rows = _whole(found, self._contents[workload, submission, number])
        if rows is None:
            return False
        seen: list[Row] = []
        for row in rows:
            own = self._records.evaluations(TrialKey(workload, submission, row["trial_id"]))
            if has_its_checksum(row, own) is False:
                raise DataError(f"trial {row['trial_id']}: its rows are not those that were written. make verify.")
            seen += [{**each, "workload": workload, "submission": submission} for each in own]
        new = board_rows(rows, seen)
        self.file.change(lambda board: board.without(board.at(workload, submission, number)).with_rows(new))
        return True

    def drop_gone(self) -> int:
        """Drop rows that nothing can replace, and say how many: of what has left the suite or the repository."""
        rows = self._rows_by_place(self.file.read())
        places = [place for place in rows if place not in self._contents and place[1] not in self._unreadable]
        gone = [row["trial_id"] for place in places for row in rows[place]]
        if gone:
            self.file.change(lambda board: board.without(gone))
        return len(gone)

    def _standing(self, study: Study, rows: list[Row]) -> StudyOnBoard:
        workload, submission, _ = place = place_of(study)
        wanted = [row for row in rows if not self._records.is_retried(TrialKey(workload, submission, row["trial_id"]))]
        whole = _whole(wanted, self._contents[place])
        if whole is None:
            return StudyOnBoard(study, 0, min(len(rows), study.config.ruleset.trials), 0)
        limit = load_rules(rules_of(study.config.ruleset.name)).drift_limit
        return StudyOnBoard(study, len(whole), 0, sum(is_disturbed(row["reference_drift"], limit) for row in whole))

    def _rows_by_place(self, board: BoardRows) -> defaultdict[Place, list[Row]]:
        found: defaultdict[Place, list[Row]] = defaultdict(list)
        for row in board.trials.select(_READ).to_pylist():
            found[row["workload"], row["submission"], row["study"]].append(row)
        return found


def place_of(study: Study) -> Place:
    """Workload, submission and number of a study."""
    return study.config.workload.name, study.submission.name, study.config.study


def _counts(row: Row, study: Study) -> bool:
    """Whether a row was made as rows of a board are: in a sandbox, on such a device, with passes made this way."""
    config = study.config
    hardware = config.hardware
    wanted = {
        "source": OURS,
        "sandboxed": True,
        "unofficial": False,
        "hardware": hardware.name,
        "device": study.machine.device_name,
        "threads": hardware.threads,
        "precision": hardware.precision,
        "compiled": is_compiled(config),
        "micro_batch": hardware.micro_batches.get(config.workload.name),
    }
    return {name: row[name] for name in wanted} == wanted


def _whole(rows: Iterable[Row], contents: Sequence[str]) -> list[Row] | None:
    """One row for each of `contents`, in their order and of one machine; of several such the one that began first."""
    of_machine: defaultdict[str, dict[str, Row]] = defaultdict(dict)
    for row in sorted(rows, key=lambda row: (row["started_at"], row["trial_id"])):
        if row["identity"] is not None:
            of_machine[row["hardware_fingerprint"]].setdefault(content_of(row["identity"]), row)
    whole = [[found[each] for each in contents] for found in of_machine.values() if set(contents) <= set(found)]
    return min(whole, key=lambda trials: trials[0]["started_at"], default=None)

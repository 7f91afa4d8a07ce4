"""How the trials of a study stand: which have a row, which run now, which are missing, and what cannot be read."""

from __future__ import annotations

from dataclasses import dataclass, field

from harness.api import DataError
from harness.records.tables import Records, Row, TrialKey
from harness.study.identity import Study, trial_key


@dataclass(frozen=True)
class Standing:
    """The trials of one study, each in one of four places; `unreadable`: one line for each thing that bars a look."""

    rows: dict[TrialKey, Row] = field(default_factory=dict)
    running: list[TrialKey] = field(default_factory=list)
    missing: list[TrialKey] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)

    @property
    def statuses(self) -> list[str]:
        """How the trials ended that have a row."""
        return [row["status"] for row in self.rows.values()]


def standing_of(study: Study, records: Records) -> Standing:
    """How the trials of a study stand now. Looking holds up nobody, and one bad file bars the look at no other."""
    standing = Standing()
    for trial in range(study.config.ruleset.trials):
        try:
            key = trial_key(study, trial, records)
            if records.is_done(key):
                standing.rows[key] = records.trial(key)
            else:
                (standing.running if records.is_running(key) else standing.missing).append(key)
        except DataError as error:
            if str(error) not in standing.unreadable:  # a folder is said once, not once for each trial
                standing.unreadable.append(str(error))
    return standing

"""What is kept and shown of a trial while it runs, in all places where that happens."""

from __future__ import annotations

import datetime
from pathlib import Path

from harness.race.outcome import Checkpoint, Continuation, Judged, Observation
from harness.records.tables import Row, TrialKey
from harness.records.tracking import WandbMirror
from harness.records.weights import KeptWeights
from harness.study.recording.continuation import TrialJournal
from harness.study.recording.progress import TrialProgress
from harness.study.rows import evaluation_row


class TrialRecording:
    """Takes what the referee sees of one trial to its journal, its rows, the kept weights, W&B and the console.

    `metric`: the one that the target names. `kept`: None where no weights are to be kept.
    """

    def __init__(
        self,
        key: TrialKey,
        metric: str,
        journal: TrialJournal,
        kept: KeptWeights | None,
        mirror: WandbMirror,
        progress: TrialProgress,
    ) -> None:
        self.rows: list[Row] = []
        self._key = key
        self._metric = metric
        self._journal = journal
        self._kept = kept
        self._mirror = mirror
        self._progress = progress

    def begin(self, past: Continuation | None) -> None:
        """Start at the beginning, or go on from `past`; what came after it is forgotten."""
        self.rows.clear()
        self._mirror.restart()
        if self._kept is not None:
            self._kept.begin(past.checkpoint.evaluations if past else None)
        if past is None:
            started_at = datetime.datetime.now(datetime.UTC)
            self._journal.start({"trial_id": self._key.trial_id, "started_at": started_at})

    def continued(self, past: Continuation | None) -> None:
        """The trial does go on from `past`: show what it had seen by then. The journal has that already."""
        for observation in past.observations if past else []:
            self._show(observation)

    def evaluated(self, observation: Observation) -> None:
        """Keep and show a new evaluation."""
        self._journal.evaluation(self._show(observation))
        self._mirror.evaluations(self.rows)

    def judged(self, seen: Judged) -> None:
        """Keep the weights that have just been judged, if they are asked for."""
        if self._kept is not None:
            self._kept.judged(seen.state, step=seen.step, evaluation=seen.evaluation, is_best=seen.is_best)

    def checkpoint(self, checkpoint: Checkpoint, written: Path) -> None:
        """Take over a checkpoint, with the weights that belong to it: laid aside before it counts, alone after."""
        if self._kept is not None:
            self._kept.checkpoint(checkpoint.evaluations)
        self._journal.checkpoint(checkpoint, written)
        if self._kept is not None:
            self._kept.noted(checkpoint.evaluations)

    def _show(self, observation: Observation) -> Row:
        row = evaluation_row(self._key, len(self.rows), observation, self._metric)
        self.rows.append(row)
        self._progress.evaluation(observation)
        return row

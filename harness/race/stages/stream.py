"""A stream of tasks as the referee sees it: how many stages have ended, and what later ones did to earlier ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from harness.api import TrialStatus, Workload
from harness.race.outcome import Observation
from harness.race.protocol import TrialEnded


class Stream:
    """The stages of one trial. A workload that is no stream has one, which never ends.

    `ended`: how many have, of a trial that goes on.
    """

    def __init__(self, workload: Workload, *, ended: int = 0) -> None:
        self.ended = ended
        self._stages = workload.stages
        self._metrics = workload.stage_metrics()

    @property
    def left(self) -> int:
        """Stages that have not begun: the target counts in the last one alone."""
        return self._stages - 1 - self.ended

    def check_end(self) -> None:
        """Raise TrialEnded (refused) where no stage is left to come after the current one."""
        if not self.left:
            raise TrialEnded(
                TrialStatus.REFUSED,
                f"the trainer ended stage {self.ended}, the last of {self._stages}, before the trial",
            )

    def end(self) -> None:
        """The current stage is over."""
        self.ended += 1

    def transfer(self, seen: Sequence[Observation], validation: Mapping[str, float]) -> dict[str, float]:
        """`backward_transfer` and `forgetting`, means over the stages that have ended; nothing before one has.

        The first: how much less wrong `validation` is on a stage than where that stage ended (negative: more). The
        second: how much more than at the best end of a stage since then. `seen`: the evaluations before this one.
        Source: Lopez-Paz, Ranzato, NeurIPS 2017; Chaudhry, Dokania, Ajanthan, Torr, ECCV 2018.
        """
        if not self.ended:
            return {}
        # The last evaluation of a stage is that of its end.
        ends = {self._stages - 1 - each.stages_left: each.validation for each in seen}
        backward = forgotten = 0.0
        for stage in range(self.ended):
            name = self._metrics[stage]
            best = min(ends[later][name] for later in range(stage, self.ended))
            backward += ends[stage][name] - validation[name]
            forgotten += validation[name] - best
        return {"backward_transfer": backward / self.ended, "forgetting": forgotten / self.ended}

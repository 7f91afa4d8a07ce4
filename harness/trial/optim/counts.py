"""Counts of what a rule does that steps do not tell: gradients, forward passes, calls of an oracle."""

from __future__ import annotations

from harness.trial.trial import Trial


class Counts:
    """Running totals by name, kept by checkpoints and reported by `trial.log` at each `add`. One for each trial."""

    def __init__(self, trial: Trial) -> None:
        self._trial = trial
        self._totals: dict[str, int] = {}
        trial.resumable(counts=self)

    def add(self, **more: int) -> None:
        """Add to these totals; a new name begins at zero."""
        for name, count in more.items():
            self._totals[name] = self._totals.get(name, 0) + count
        self._trial.log(**self._totals)

    def state_dict(self) -> dict[str, int]:
        """The totals."""
        return dict(self._totals)

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on from `state_dict()`."""
        self._totals = dict(state)

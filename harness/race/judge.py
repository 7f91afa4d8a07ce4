"""The model that snapshots are loaded into, and the held-out splits that no trainer sees."""

from __future__ import annotations

import torch

from harness.api import Examples, Workload
from harness.race.channel import SharedWeights
from harness.race.evaluation import evaluate


class Judge:
    """The model that snapshots are loaded into, and the splits that no trainer sees."""

    def __init__(
        self, workload: Workload, device: torch.device, validation: Examples, test: Examples, batch_size: int
    ) -> None:
        self._workload = workload
        self._batch_size = batch_size
        self._validation = validation.to(device)
        self._test = test.to(device)
        # Its weights are overwritten by every snapshot; drawing them must not disturb anyone's random stream.
        with torch.random.fork_rng(devices=[]):
            self._model = workload.build_model().to(device).eval()

    def shared_weights(self) -> SharedWeights:
        """New shared memory in the layout of the judge model."""
        return SharedWeights.create({name: value.cpu() for name, value in self._model.state_dict().items()})

    def load(self, weights: SharedWeights) -> str | None:
        """Copy a snapshot into the model; returns the name of a tensor with a non-finite value, if there is one."""
        self._model.load_state_dict(weights.read())
        for name, value in self._model.state_dict().items():
            if value.is_floating_point() and not bool(torch.isfinite(value).all()):
                return name
        return None

    def validation(self) -> dict[str, float]:
        """Metrics and loss on the validation split."""
        return evaluate(self._workload, self._model, self._validation, self._batch_size)

    def test(self) -> dict[str, float]:
        """Metrics and loss on the test split."""
        return evaluate(self._workload, self._model, self._test, self._batch_size)

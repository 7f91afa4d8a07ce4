"""Simulated workers on the one model of a trial: gradients at flat weights, private batches, what is judged."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from harness.api import Batch, ConfigError
from harness.trial.conversation import TrialOver
from harness.trial.order import stream_seed
from harness.trial.trial import Trial
from harness.trial.workers.ledger import Ledger
from harness.trial.workers.shards import ShardBatches, shards


class SimulatedCluster:
    """`workers` simulated machines with a shard each, and a server that holds all; each has a clock in `ledger`.

    Weights are vectors of all parameters in the model's order, tied ones once: keep as many as the method has replicas.
    Shards, participants and batches come from the trial's seed alone: all methods with as many workers have the same.
    Reports the ledger at every evaluation and names it as resumable. `concentration`: see `shards`.
    """

    def __init__(self, trial: Trial, workers: int, *, concentration: float | None = None) -> None:
        self.workers = workers
        """How many workers there are; they have the numbers from 0 on."""
        self.server = workers
        """The number of the server among the clocks of the ledger."""
        self.ledger = Ledger(workers + 1)
        """What the workers send and compute."""
        self._trial = trial
        self._concentration = concentration
        self._deal()
        self._parameters: list[Tensor] = list(trial.model.parameters())
        self._sizes = [p.numel() for p in self._parameters]
        self._mask_seed = 0
        trial.resumable(ledger=self.ledger)
        trial.before_evaluation(lambda: trial.log(**self.ledger.totals()))

    def _deal(self) -> None:
        """Give each worker its examples, of the stage that there is: a stream shows others in each."""
        trial = self._trial
        self.shards = shards(trial.train_set, self.workers, concentration=self._concentration, seed=trial.seed)
        """Indices of each worker's examples."""
        held = [*self.shards, torch.arange(len(trial.train_set), device=self.shards[0].device)]
        self._batches = [
            ShardBatches(each, stream_seed(trial.seed, f"shard {worker}")) for worker, each in enumerate(held)
        ]
        self._stage = trial.stage

    @property
    def size(self) -> int:
        """Numbers in a vector of weights."""
        return sum(self._sizes)

    def weights(self) -> Tensor:
        """The model's parameters as they are now, copied. Shape: [size]."""
        return torch.cat([p.detach().flatten() for p in self._parameters])

    # --- steps and who takes part ---

    def steps(self, local_steps: int = 1) -> Iterator[tuple[int, int]]:
        """Endless steps as (round, step of the round); a round has `local_steps`, and evaluations come between steps.

        Counts by `trial.step`: a loop that keeps its tensors as resumable goes on in the middle of a round.
        """
        if local_steps < 1:
            raise ConfigError(f"local_steps is {local_steps}. Use at least 1.")
        while not self._trial.is_over:
            yield divmod(self._trial.step, local_steps)
            try:
                self._trial.end_step()
            except TrialOver:
                return

    def participants(self, round_number: int, count: int) -> list[int]:
        """`count` different workers drawn for this round, in ascending order. Raises ConfigError if there are fewer."""
        if not 1 <= count <= self.workers:
            raise ConfigError(
                f"{count} of {self.workers} workers are to take part in a round. Use 1 to {self.workers}."
            )
        drawn: list[int] = torch.randperm(self.workers, generator=self.generator("participants", round_number)).tolist()
        return sorted(drawn[:count])

    def generator(self, *name: object) -> torch.Generator:
        """A CPU generator for what has this name, such as ("anchors", round): each draws as if there were no other."""
        return torch.Generator().manual_seed(stream_seed(self._trial.seed, " ".join(map(str, name))))

    def meet_server(self, workers: Iterable[int], *, numbers: int) -> None:
        """The server and these workers wait for each other, and `numbers` go over each link, up or down."""
        there = list(workers)
        self.ledger.meet([self.server, *there])
        self.ledger.send(numbers * len(there))

    # --- what a worker does ---

    @contextlib.contextmanager
    def working(self, worker: int, *, slowdown: float = 1.0) -> Iterator[None]:
        """One worker's part of a step: its seconds are the ledger's, on this worker's clock.

        All passes inside have the same dropout masks, drawn for this worker and step alone.
        """
        self._mask_seed = stream_seed(self._trial.seed, f"masks of worker {worker} in step {self._trial.step}")
        with self.ledger.working(worker, slowdown=slowdown):
            yield

    def batch(self, worker: int, size: int, *, number: int | None = None) -> Batch:
        """Batch `number` (None: the trial's step) of this worker's endless order; the server holds all examples."""
        if self._stage != self._trial.stage:
            self._deal()
        number = self._trial.step if number is None else number
        return self._trial.train_set.gather(self._batches[worker].index(number, size))

    def gradient(self, weights: Tensor, batch: Batch, *, example_weights: Tensor | None = None) -> Tensor:
        """Gradient of the mean loss at `weights`, or of the losses of the examples weighted and summed.

        The model is left with these weights. In training mode, batch norm uses the batch's own statistics. Shapes:
        weights [size], example_weights [batch] -> [size].
        """
        self.ledger.gradient_calls += 1
        self._prepare(weights, batch)
        self._trial.model.zero_grad(set_to_none=True)
        if example_weights is None:
            loss = self._trial.loss(batch)
        else:
            losses = self._trial.loss(batch, reduction="none")
            loss = (losses * example_weights).sum()
        loss.backward()
        return torch.cat(
            [torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in self._parameters]
        )

    @torch.no_grad()
    def loss(self, weights: Tensor, batch: Batch) -> float:
        """Mean loss at `weights`, without a gradient. The model is left with these weights."""
        self.ledger.loss_calls += 1
        self._prepare(weights, batch)
        return float(self._trial.loss(batch))

    # --- what is judged ---

    def judge(self, weights: Callable[[], Tensor], *, batch_norm_batches: int = 20) -> None:
        """Have what `weights()` returns judged at every evaluation. The call, the copy and the statistics are charged.

        Running statistics of batch norm that simulated workers leave behind are those of no model: they are computed
        anew, over `batch_norm_batches` batches of the whole training set.
        """

        def put_in() -> None:
            self._put(weights())
            self._trial.refresh_batch_norm(batch_norm_batches)

        self._trial.before_evaluation(put_in)

    def _prepare(self, weights: Tensor, batch: Batch) -> None:
        self.ledger.examples_used += len(next(iter(batch.values())))
        self._put(weights)
        torch.default_generator.manual_seed(self._mask_seed)
        if self._trial.device.type == "cuda":
            torch.cuda.manual_seed(self._mask_seed)

    @torch.no_grad()
    def _put(self, weights: Tensor) -> None:
        parts = weights.split(self._sizes)
        torch._foreach_copy_(
            self._parameters, [part.view_as(p) for part, p in zip(parts, self._parameters, strict=True)]
        )


class ResumableTensors:
    """Tensors as attributes, for `trial.resumable`: what a method keeps from step to step. Shapes stay."""

    def __init__(self, **tensors: Tensor) -> None:
        self.__dict__.update(tensors)

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Tensor: ...

    def state_dict(self) -> dict[str, Tensor]:
        """The tensors, by name."""
        return dict(vars(self))

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Copy `state_dict()` into the tensors."""
        for name, value in state.items():
            vars(self)[name].copy_(value)

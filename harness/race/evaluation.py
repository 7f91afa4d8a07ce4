"""What the referee computes from outputs and a held-out split: loss and metrics. It keeps no clock and no record."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from harness.api import Batch, ConfigError, Examples, LossTerm, Workload, terms_of
from harness.trial.loader import in_order


def evaluate(
    workload: Workload, model: nn.Module, examples: Examples, batch_size: int, *, workers: int = 0
) -> dict[str, float]:
    """`loss`, the mean over all units of the split that count, and the workload's metrics.

    Of several terms each has its mean over the split, and a term of which no unit counts adds nothing. Where the loss
    couples the examples of a batch it is the metric `loss`: raises ConfigError where there is no such metric.
    The model is put into eval mode and stays there. Per-example statistics of all batches are joined before the metrics
    see them, so results depend on the batch size by rounding alone. NaN where the split holds nothing that counts.
    `workers`: processes that gather batches of a split on the disk.
    """
    device = next(iter(model.parameters())).device
    model.eval()
    with torch.inference_mode():
        scores = score(
            workload, lambda batch, _: workload.outputs(model, batch), examples, batch_size, device, workers=workers
        )
        return scores | workload.decoded_metrics(model, examples)


class Spread(Examples):
    """Some of a split's examples, in batches of neighbours that lie evenly over it: always the same ones."""

    def __init__(self, examples: Examples, *, count: int, batch_size: int) -> None:
        self._examples = examples
        self._batch_size = batch_size
        self._batches = max(1, min(count, len(examples)) // batch_size)
        self._length = min(count, self._batches * batch_size)

        self.folder = examples.folder

    def __len__(self) -> int:
        return self._length

    def gather(self, index: Tensor) -> Batch:
        """The examples at these places among the chosen ones."""
        return self._examples.gather(self._places(index))

    def gather_ahead(self, index: Tensor, seeds: Tensor | None) -> Batch:
        """As of the split."""
        return self._examples.gather_ahead(self._places(index), seeds)

    def finished(self, batch: Batch) -> Batch:
        """As of the split."""
        return self._examples.finished(batch)

    @property
    def device(self) -> torch.device:
        """Where batches are."""
        return self._examples.device

    def _places(self, index: Tensor) -> Tensor:
        room = max(0, len(self._examples) - self._batch_size)
        begins = (index // self._batch_size) * room // max(1, self._batches - 1)
        return begins + index % self._batch_size

    def tensors(self) -> dict[str, Tensor]:
        """Those of the split."""
        return self._examples.tensors()

    def to(self, device: torch.device) -> Spread:
        """The same examples on another device."""
        return Spread(self._examples.to(device), count=self._length, batch_size=self._batch_size)


def score(
    workload: Workload,
    outputs_of: Callable[[Batch, slice], Tensor],
    examples: Examples,
    batch_size: int,
    device: torch.device,
    *,
    workers: int = 0,
) -> dict[str, float]:
    """`loss` and the workload's metrics of any outputs. `outputs_of`: those of a batch, which is that of the slice."""
    rows = _Sums() if workload.statistics_are_summed else _Rows()
    totals = torch.zeros(len(workload.term_weights), 2, dtype=torch.float64, device=device)
    starts = range(0, len(examples), batch_size)
    for start, batch in zip(starts, in_order(examples, batch_size, workers=workers), strict=True):
        part = slice(start, min(start + batch_size, len(examples)))
        outputs = outputs_of(batch, part)
        if not workload.couples_examples:
            totals += torch.stack([_loss_and_count(term) for term in terms_of(workload, outputs, batch, 0.0)])
        rows.add(workload.statistics(outputs, batch), part.stop - part.start)
    metrics = workload.metrics(rows.joined())
    if not workload.couples_examples:
        return {"loss": _loss_of(totals.tolist(), workload.term_weights.values()), **metrics}
    if "loss" not in metrics:
        raise ConfigError(
            f"{type(workload).__name__} couples the examples of a batch, and its metrics are "
            f"{', '.join(metrics) or 'none'}. Let them have the loss of the split, under the name loss."
        )
    return metrics


class _Rows:
    """Statistics of all batches, one below the other."""

    def __init__(self) -> None:
        self._parts: dict[str, list[Tensor]] = {}

    def add(self, statistics: dict[str, Tensor], count: int) -> None:  # noqa: ARG002
        for name, values in statistics.items():
            self._parts.setdefault(name, []).append(values)

    def joined(self) -> dict[str, Tensor]:
        return {name: torch.cat(parts) for name, parts in self._parts.items()}


class _Sums:
    """Sums of the statistics of all rows, and how many there were: memory for one row, whatever the split's length."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._rows = 0

    def add(self, statistics: dict[str, Tensor], count: int) -> None:
        for name, values in statistics.items():
            self._sums[name] = self._sums.get(name, 0) + values.double().sum(dim=0)
        self._rows += count

    def joined(self) -> dict[str, Tensor]:
        return {**self._sums, "rows": torch.tensor(self._rows, dtype=torch.float64)}


def _loss_of(totals: list[list[float]], factors: Iterable[float]) -> float:
    parts = [factor * (total / count) for factor, (total, count) in zip(factors, totals, strict=True) if count]
    return sum(parts) if parts else float("nan")


def _loss_and_count(term: LossTerm) -> Tensor:
    losses, weights = term.losses, term.weights
    if weights is None:
        return torch.stack([losses.double().sum(), torch.tensor(float(losses.numel()), device=losses.device).double()])
    # A masked unit may hold anything, NaN too: it must not reach the sum.
    kept = torch.where(weights > 0, losses, 0.0).double()
    return torch.stack([(kept * weights).sum(), weights.double().sum()])

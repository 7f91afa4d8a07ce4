"""The probe loss: a fixed set of training examples, eval mode, no label smoothing, sums in float64."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy
import torch
from torch import Tensor, nn

from harness.api import Batch, Examples, HarnessError, LossKind, ParameterKind, Workload
from harness.trial.parameter_kinds import kinds_of
from harness.trial.passes.captured import captured
from harness.trial.passes.modes import in_eval_mode
from harness.trial.passes.twice import (
    gradient_difference,
    has_second_derivatives,
    product_of,
    twice_differentiable,
)

EXAMPLES = 2048
UNITS = 8_192
"""Where an example has many units (tokens, pixels): so many at most, but FEWEST examples in any case."""
FEWEST = 64
_SEED = 0
_UNITS_AT_ONCE, _EXAMPLES_AT_ONCE = 4096, 256


_NO_GRADIENT = "in eval mode the loss of this workload has no gradient by the weights"
# What gradients that can be differentiated again may keep, for the next product at the same weights.
_KEPT_BYTES = 4 << 30


class NotHere(HarnessError):  # noqa: N818 - no fault of anybody
    """This readout does not exist for this workload. The message says why."""


class Probe:
    """The mean loss over the units of a probe set that count, as a function of the weights of `model`.

    Vectors are flat, in the order of the trained parameters; what is passed between functions is float64, passes of the
    network are float32. Raises NotHere where a gradient is asked for that the loss does not have.
    """

    def __init__(self, workload: Workload, model: nn.Module, train_set: Examples, index: Tensor | None = None) -> None:
        """`index`: which training examples; None: those of `probe_index`."""
        self.workload = workload
        self.model = model.eval()
        self.train_set = train_set
        self.parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        units = _units_of_an_example(workload, model, train_set)
        self.index = probe_index(len(train_set), units) if index is None else index
        self._at_once = max(1, min(_EXAMPLES_AT_ONCE, _UNITS_AT_ONCE // units))
        self.batches = self.cut(self.index)
        self._slopes: _Slopes | None = None

    def __len__(self) -> int:
        return len(self.index)

    @property
    def size(self) -> int:
        """How many numbers the trained parameters have."""
        return sum(p.numel() for p in self.parameters.values())

    @property
    def is_exact(self) -> bool:
        """Whether products with the Hessian are exact, and no differences of gradients."""
        return has_second_derivatives(self.workload.loss_kind)

    def weights(self) -> Tensor:
        """The weights as they are. Shape: float64 [size]."""
        return flat(list(self.parameters.values()))

    def load(self, weights: Tensor) -> None:
        """Set the trained parameters."""
        with torch.no_grad():
            for p, values in zip(self.parameters.values(), self.apart(weights), strict=True):
                p.copy_(values)

    def apart(self, vector: Tensor) -> list[Tensor]:
        """The parts of a flat vector in the parameters' shapes and dtypes."""
        parts = vector.split([p.numel() for p in self.parameters.values()])
        return [part.view_as(p).to(p.dtype) for part, p in zip(parts, self.parameters.values(), strict=True)]

    def loss(self) -> float:
        """Mean over the units that count."""
        with torch.no_grad():
            sums = [self._sums(batch) for batch in self.batches]
        return sum(float(loss) for loss, _ in sums) / sum(count for _, count in sums)

    def gradient(self, index: Tensor | None = None) -> Tensor:
        """Of the probe loss, or of the mean loss over other training examples. Shape: float64 [size]."""
        batches = self.batches if index is None else self.cut(index)
        return self._added(batches, lambda loss: torch.autograd.grad(loss, self._list, materialize_grads=True))

    def product(self, vector: Tensor) -> Tensor:
        """The Hessian of the probe loss times `vector`: see `is_exact`. Shapes: float64 [size] -> the same."""
        parts = self.apart(vector)
        if not self.is_exact:
            return flat(gradient_difference(lambda: self.apart(self.gradient()), self._list, parts))
        versions = [p._version for p in self._list]
        if self._slopes is None or self._slopes.versions != versions:
            self._slopes = _Slopes(versions)
        total = torch.zeros(self.size, dtype=torch.float64, device=self._list[0].device)
        units = 0.0
        for number, batch in enumerate(self.batches):
            with twice_differentiable(self.model, self.workload.loss_kind), torch.enable_grad():
                slope, count = self._slopes.of(number, functools.partial(self._slope, batch))
            total += flat(product_of(slope, self._list, parts))
            units += count
        return total / units

    def release(self) -> None:
        """Give back the memory that products keep."""
        self._slopes = None

    def example_losses(self) -> Tensor:
        """The mean over the units of each example that count. Shape: float64 [examples].

        Raises NotHere where the losses of an example depend on others.
        """
        if self.workload.couples_examples:
            raise NotHere("the loss couples the examples of a batch: none has a loss of its own")
        found = []
        with torch.no_grad():
            for batch in self.batches:
                losses, weights = self.workload.losses(self.workload.outputs(self.model, batch), batch, 0.0)
                weights = torch.ones_like(losses) if weights is None else weights
                kept = torch.where(weights > 0, losses, 0.0).double() * weights
                found.append(kept.flatten(1).sum(1) / weights.double().flatten(1).sum(1) if losses.ndim > 1 else kept)
        return torch.cat(found)

    def outputs(self) -> Iterator[tuple[Batch, Tensor]]:
        """Each part of the probe set with the outputs of the model."""
        with torch.no_grad():
            for batch in self.batches:
                yield batch, self.workload.outputs(self.model, batch)

    def cut(self, index: Tensor) -> list[Batch]:
        """These training examples in parts that fit into memory."""
        return [self.train_set.gather(part) for part in index.to(self.train_set.device).split(self._at_once)]

    def _slope(self, batch: Batch) -> tuple[tuple[Tensor, ...], float]:
        """The gradient of the sum of the losses of a part, which can be differentiated, and how many units count."""
        loss, count = self._sums(batch)
        if not loss.requires_grad:
            raise NotHere(_NO_GRADIENT)
        return torch.autograd.grad(loss, self._list, create_graph=True, materialize_grads=True), count

    @property
    def _list(self) -> list[Tensor]:
        return list(self.parameters.values())

    def _sums(self, batch: Batch) -> tuple[Tensor, float]:
        """The sum of the losses of the units that count, float64, and how many these are."""
        losses, weights = self.workload.losses(self.workload.outputs(self.model, batch), batch, 0.0)
        if weights is None:
            return losses.double().sum(), float(losses.numel())
        kept = torch.where(weights > 0, losses, 0.0)  # a masked unit may hold anything, NaN too
        return (kept * weights).double().sum(), float(weights.double().sum())

    def _added(self, batches: Sequence[Batch], function: Callable[[Tensor], Sequence[Tensor]]) -> Tensor:
        """The sum over the parts of what `function` makes of their losses' sums, over the number of all units."""
        total = torch.zeros(self.size, dtype=torch.float64, device=self._list[0].device)
        units = 0.0
        for batch in batches:
            with torch.enable_grad():
                loss, count = self._sums(batch)
            if not loss.requires_grad:
                raise NotHere(_NO_GRADIENT)
            total += flat(function(loss))
            units += count
        return total / units


class _Slopes:
    """Gradients of the parts of a probe set that can be differentiated, made once for all products at some weights.

    A product then costs half of what it does from the beginning. What does not fit is made anew each time. `versions`:
    those of the weights, which say whether anybody has written to them since.
    """

    def __init__(self, versions: list[int]) -> None:
        self.versions = versions
        self._kept: dict[int, tuple[tuple[Tensor, ...], float]] = {}
        self._bytes = 0

    def of(self, number: int, make: Callable[[], tuple[tuple[Tensor, ...], float]]) -> tuple[tuple[Tensor, ...], float]:
        """What `make` returns for this part, or returned before."""
        if number in self._kept:
            return self._kept[number]
        seen: dict[int, int] = {}

        def count(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            seen[storage.data_ptr()] = storage.nbytes()
            return tensor

        if self._bytes >= _KEPT_BYTES:
            return make()
        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            made = make()
        self._bytes += sum(seen.values())
        self._kept[number] = made
        return made


@dataclass(frozen=True)
class Features:
    """What goes into the output layer, for each unit that counts: features [n, width], labels int64 [n], scores.

    `before`: what goes into the last layer before it, where that is as large.
    """

    features: Tensor
    labels: Tensor
    scores: Tensor
    output_weight: Tensor
    before: Tensor | None = None


def features_of(probe: Probe) -> Features:
    """Features, labels and class scores of the probe set, in float64. Shapes: [n, width], [n], [n, classes].

    Raises NotHere where there is no linear output layer that gives a score for each class.
    """
    if probe.workload.loss_kind is not LossKind.SOFTMAX_CROSS_ENTROPY:
        raise NotHere(f"the loss is {probe.workload.loss_kind}: there are no classes")
    path, layer = output_layer(probe.model)
    found: dict[str, list[Tensor]] = {"features": [], "labels": [], "scores": [], "before": []}
    for batch in probe.batches:
        with torch.no_grad(), captured(probe.model) as inputs:
            scores = probe.workload.outputs(probe.model, batch)
            _, weights = probe.workload.losses(scores, batch, 0.0)
        (features,) = inputs.pop(path)
        before = next((calls[-1] for calls in reversed(inputs.values())), None)
        labels = batch["targets"]
        if features.shape[:-1] != labels.shape or scores.shape[:-1] != labels.shape:
            raise NotHere("there is no one feature vector for each label")
        counts = torch.ones_like(labels, dtype=torch.bool) if weights is None else weights > 0
        if before is not None and before.shape == features.shape:
            found["before"].append(before[counts].double())
        for name, values in (("features", features), ("labels", labels), ("scores", scores)):
            found[name].append(values[counts])
    joined = {name: torch.cat(parts) for name, parts in found.items() if parts}
    weight = layer.weight.detach().double()
    features, scores = joined["features"].double(), joined["scores"].double()
    return Features(features, joined["labels"], scores, weight, joined.get("before"))


def output_layer(model: nn.Module) -> tuple[str, nn.Linear]:
    """Path and module of the layer whose weight is of kind OUTPUT. Raises NotHere where there is no such linear one."""
    kinds = kinds_of(model)
    modules = dict(model.named_modules())
    paths = [name.removesuffix(".weight") for name, kind in kinds.items() if kind is ParameterKind.OUTPUT]
    linear = [(path, modules[path]) for path in paths if isinstance(modules.get(path), nn.Linear)]
    if len(linear) != 1:
        raise NotHere("the network has no one linear output layer")
    path, layer = linear[0]
    assert isinstance(layer, nn.Linear)
    return path, layer


def probe_index(length: int, units: int) -> Tensor:
    """Which of so many training examples are probed: the first of a permutation that is the same everywhere.

    `units`: of an example.
    """
    count = min(length, EXAMPLES, max(FEWEST, UNITS // units))
    # The stream of RandomState is frozen (NEP 19).
    return torch.from_numpy(numpy.random.RandomState(_SEED).permutation(length)[:count].astype(numpy.int64))


def flat(tensors: Sequence[Tensor]) -> Tensor:
    """The numbers of all tensors, one behind the other. Shape: float64 [numbers]."""
    return torch.cat([tensor.detach().flatten().double() for tensor in tensors])


@contextlib.contextmanager
def holding(probe: Probe, weights: Tensor) -> Iterator[None]:
    """Inside, the probe's network has other trained weights; afterwards those that it had, bit for bit."""
    before = [p.detach().clone() for p in probe.parameters.values()]
    probe.load(weights)
    try:
        yield
    finally:
        with torch.no_grad():
            for p, values in zip(probe.parameters.values(), before, strict=True):
                p.copy_(values)


def state_of(model: nn.Module) -> dict[str, Tensor]:
    """A copy of the model's state."""
    return {name: values.detach().clone() for name, values in model.state_dict().items()}


def restore(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load weights and statistics."""
    model.load_state_dict(dict(state))


def _units_of_an_example(workload: Workload, model: nn.Module, train_set: Examples) -> int:
    batch = train_set.gather(torch.arange(min(2, len(train_set)), device=train_set.device))
    with in_eval_mode(model), torch.no_grad():
        losses, _ = workload.losses(workload.outputs(model, batch), batch, 0.0)
    return max(1, losses.numel() // len(losses))

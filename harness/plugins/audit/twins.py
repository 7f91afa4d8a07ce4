"""The twin of a workload: as hard to learn, with other shapes, names and bytes, for a submission that may know it.

Knows no workload: each says in `symmetries` and `resized` what may be changed. Renamed parameters and metrics, another
order of the training examples and a few of them fewer are changes that all workloads bear.
"""

from __future__ import annotations

import copy
import hashlib
import string
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor, nn

from harness.api import (
    SPLITS,
    Batch,
    DataSource,
    Examples,
    LossKind,
    Mirrored,
    Padded,
    Policy,
    Renamed,
    Reordered,
    Scaled,
    Signed,
    SplitName,
    Symmetry,
    Target,
    TensorExamples,
    Transposed,
    Workload,
)

# Of the training examples, and of the inputs that are added to a layer's: less than a tenth of what the noise is.
_DROPPED = 0.01
_DEAD = 1 / 32
_EASED = 1e-6
_LARGEST_STEP = 1 / 200
_BATCH_THAT_BEARS_ONE_MORE = 32
_FIELDS_OF_ALL = ("inputs", "targets", "weights", "stages")


def twin_of(original: Workload, with_options: Callable[[Mapping[str, Any]], Workload], number: int) -> Workload:
    """Twin `number` of a workload; `with_options` makes it with other options.

    Data are read by the original, so that they are those of its options; the rest is done by the resized one.
    """
    other = original.resized()
    return Twin(original, with_options(other) if other else original, number)


class Twin(Workload):
    """A workload after all changes that it allows. `number`: which of many such; the same number, the same twin."""

    def __init__(self, original: Workload, resized: Workload, number: int) -> None:
        self._original = original
        self._resized = resized
        self._number = number
        self._changes = [_drawn(each, number, place) for place, each in enumerate(resized.symmetries())]
        letters = "".join(_stream(number, "letters").permutation(list(string.ascii_lowercase)))
        self._letters = str.maketrans(string.ascii_lowercase, letters)
        self._letters_back = str.maketrans(letters, string.ascii_lowercase)
        # `loss`, which most losses are, says nothing of the original.
        terms = original.term_weights
        self._names_of_terms = {name: name if name == "loss" else name_from(number, name) for name in terms}
        self._term_weights = {self._names_of_terms[name]: weight for name, weight in terms.items()}

    @property
    def loss_kind(self) -> LossKind:  # type: ignore[override]
        """That of the original: what a submission may branch on."""
        return self._original.loss_kind

    @property
    def term_weights(self) -> Mapping[str, float]:  # type: ignore[override]
        """Those of the original, under other names where there are several."""
        return self._term_weights

    @property
    def couples_examples(self) -> bool:  # type: ignore[override]
        """As the original."""
        return self._original.couples_examples

    @property
    def has_open_division(self) -> bool:  # type: ignore[override]
        """That of the original, of whose `inputs` its own are made."""
        return self._original.has_open_division

    @property
    def stages(self) -> int:  # type: ignore[override]
        """Those of the original."""
        return self._original.stages

    def stage_metrics(self) -> list[str]:
        """The original's, under other names."""
        return [name_from(self._number, name) for name in self._original.stage_metrics()]

    def sources(self) -> list[DataSource]:
        """Those of the original."""
        return self._original.sources()

    def packaged_data(self) -> list[Path]:
        """That of the original."""
        return self._original.packaged_data()

    def weights(self) -> Path | None:
        """Those of the original."""
        return self._original.weights()

    def load(self, split: SplitName, folder: Path) -> Examples:
        """The split of the original, changed. Raises what reading it raises."""
        examples = self._original.load(split, folder)
        stream = _stream(self._number, f"examples of {split}")
        index = torch.arange(len(examples))
        if split == "train":
            index = torch.from_numpy(stream.permutation(len(examples)))[int(_DROPPED * len(examples)) :]
        batch = examples.gather(index)
        for change in self._changes:
            batch = change.of_batch(batch)
        tensors = {_translated(name, self._letters): values.contiguous() for name, values in batch.items()}
        content = content_of_twin(examples.digest(), self._number)
        return TwinExamples(tensors, content, None if split == "train" else examples)

    def build_model(self) -> nn.Module:
        """The resized network with the inputs that were added, under another name."""
        model = self._resized.build_model()
        for change in self._changes:
            change.of_model(model)
        return _Under(name_from(self._number, "network"), model)

    def outputs(self, model: nn.Module, batch: Batch) -> Tensor:
        """As the original's."""
        return self._resized.outputs(model, self._with_own_names(batch))

    def losses(self, outputs: Tensor, batch: Batch, label_smoothing: float) -> tuple[Tensor, Tensor | None]:
        """As the original's."""
        return self._resized.losses(outputs, self._with_own_names(batch), label_smoothing)

    def loss_terms(
        self, outputs: Tensor, batch: Batch, label_smoothing: float
    ) -> dict[str, tuple[Tensor, Tensor | None]]:
        """The original's, under other names where there are several."""
        terms = self._resized.loss_terms(outputs, self._with_own_names(batch), label_smoothing)
        return {self._names_of_terms.get(name, name): term for name, term in terms.items()}

    def statistics(self, outputs: Tensor, batch: Batch) -> dict[str, Tensor]:
        """As the original's."""
        return self._resized.statistics(outputs, self._with_own_names(batch))

    def metrics(self, statistics: dict[str, Tensor]) -> dict[str, float]:
        """The original's, under other names."""
        return self._renamed(self._resized.metrics(statistics))

    def decoded_metrics(self, model: nn.Module, examples: Examples) -> dict[str, float]:
        """Those of the network with its rows in the order of the original's symbols, on the original's examples."""
        if not isinstance(model, _Under) or not isinstance(examples, TwinExamples) or examples.original is None:
            return {}
        network = model.network
        if any(change.has_rows for change in self._changes):
            network = copy.deepcopy(network)
            for change in self._changes:
                change.undo_rows(network)
        return self._renamed(self._resized.decoded_metrics(network, examples.original))

    def policy(self) -> Policy | None:
        """That of the resized workload; answers are in the numbers of the changed batch."""
        policy = self._resized.policy()
        return None if policy is None else _TwinPolicy(policy, self._with_own_names)

    def _with_own_names(self, batch: Batch) -> Batch:
        """The batch with its fields called as the original calls them."""
        return {_translated(name, self._letters_back): values for name, values in batch.items()}

    def _renamed(self, metrics: dict[str, float]) -> dict[str, float]:
        renamed = {name_from(self._number, name): value for name, value in metrics.items()}
        # Where the loss couples examples, the evaluation asks for it by this name.
        return {**renamed, "loss": metrics["loss"]} if "loss" in metrics else renamed


class TwinExamples(TensorExamples):
    """A changed split. `content`: what its digest is; `original`: of a split that no trainer sees, what it was before.

    The digest is made from that of the original, so that data that were altered are noticed here too.
    """

    def __init__(self, tensors: Mapping[str, Tensor], content: str, original: Examples | None) -> None:
        super().__init__(tensors)
        self._content = content
        self.original = original

    def digest(self) -> str:
        """SHA-256 over that of the original and the twin's number."""
        return self._content

    def to(self, device: torch.device) -> TwinExamples:
        """The same on another device."""
        tensors = {name: values.to(device) for name, values in self.tensors().items()}
        return TwinExamples(tensors, self._content, None if self.original is None else self.original.to(device))


def content_of_twin(original: str, number: int) -> str:
    """The digest of a twin's split whose original has this digest."""
    return hashlib.sha256(f"{original} {number}".encode()).hexdigest()


def contents_of_twin(originals: Mapping[Any, str], number: int) -> dict[Any, str]:
    """The same for all splits."""
    return {split: content_of_twin(originals[split], number) for split in SPLITS}


def target_of_twin(target: Target, number: int) -> Target:
    """The target under its other name, eased by what changes no step but is another number."""
    easier = _EASED * abs(target.validation) * (1 if target.goal == "min" else -1)
    return Target(name_from(number, target.metric), target.goal, target.validation + easier)


def steps_of_twin(steps: int, number: int) -> int:
    """A budget that is longer by half a percent at most, and by one step at least."""
    return steps + 1 + int(_stream(number, "steps").randint(max(1, int(_LARGEST_STEP * steps))))


def batch_size_of_twin(batch_size: int, *, multiple_of: int = 1) -> int:
    """One example more, or one for each trainer, where the batch is so large that this makes no difference."""
    return batch_size + multiple_of if batch_size >= _BATCH_THAT_BEARS_ONE_MORE * multiple_of else batch_size


def name_from(number: int, name: str) -> str:
    """Eight letters in place of a name."""
    letters = _stream(number, f"name {name}").choice(list(string.ascii_lowercase), size=8)
    return "".join(letters)


def _translated(field: str, letters: dict[int, int]) -> str:
    """The name of a field in other letters; whether there are inputs, targets, weights and stages, all may know."""
    return field if field in _FIELDS_OF_ALL else field.translate(letters)


class _Under(nn.Module):
    """A network as the only part of another one, so that its parameters have other names."""

    def __init__(self, name: str, network: nn.Module) -> None:
        super().__init__()
        self._name = name
        self.add_module(name, network)

    @property
    def network(self) -> nn.Module:
        return self.get_submodule(self._name)

    def forward(self, *arguments: Any, **named: Any) -> Any:
        return getattr(self, self._name)(*arguments, **named)


class _TwinPolicy(Policy):
    """A policy whose batches have other names, and whose network lies under another one."""

    def __init__(self, policy: Policy, with_own_names: Callable[[Batch], Batch]) -> None:
        self._policy = policy
        self._own = with_own_names

    def sample(self, model: nn.Module, batch: Batch, *, count: int, generator: torch.Generator | None) -> Tensor:
        """As the original's."""
        assert isinstance(model, _Under)
        return self._policy.sample(model.network, self._own(batch), count=count, generator=generator)

    def likeliest(self, model: nn.Module, batch: Batch) -> Tensor:
        """As the original's."""
        assert isinstance(model, _Under)
        return self._policy.likeliest(model.network, self._own(batch))

    def log_probabilities(self, model: nn.Module, batch: Batch, answers: Tensor) -> Tensor:
        """As the original's."""
        return self._policy.log_probabilities(model, self._own(batch), answers)

    def credits(self, batch: Batch, answers: Tensor) -> Tensor:
        """As the original's."""
        return self._policy.credits(self._own(batch), answers)

    def demonstrations(self, batch: Batch) -> Tensor:
        """As the original's."""
        return self._policy.demonstrations(self._own(batch))


class _Change:
    """One symmetry. What is drawn for it follows from `seed` and a width, so that it is the same in all processes."""

    has_rows = False

    def of_batch(self, batch: Batch) -> Batch:
        """The batch, changed; all examples of a split may be one batch. Fields that it lacks are none of its."""
        raise NotImplementedError

    def of_model(self, model: nn.Module) -> None:
        """Change the new network where its shapes must fit the batch."""

    def undo_rows(self, model: nn.Module) -> None:
        """Put rows that belong to symbols into the original's order."""


class _Places(_Change):
    """Places along axes are chosen anew; `order` says how, for so many places."""

    def __init__(self, fields: Mapping[str, int], order: Callable[[int], numpy.ndarray]) -> None:
        self._fields, self._order = fields, order

    def of_batch(self, batch: Batch) -> Batch:
        changed = dict(batch)
        for name, axis in self._fields.items():
            if name in batch:
                order = torch.from_numpy(self._order(batch[name].shape[axis]).copy())
                changed[name] = batch[name].index_select(axis, order)
        return changed


class _Factors(_Change):
    """Numbers are multiplied; `factors` gives them for so many places along the axis, one where the axis is None."""

    def __init__(self, fields: Mapping[str, int | None], factors: Callable[[int], numpy.ndarray]) -> None:
        self._fields, self._factors = fields, factors

    def of_batch(self, batch: Batch) -> Batch:
        changed = dict(batch)
        for name, axis in self._fields.items():
            if name in batch:
                values = batch[name]
                factors = torch.from_numpy(self._factors(1 if axis is None else values.shape[axis])).to(values.dtype)
                shape = [1] * values.ndim
                if axis is not None:
                    shape[axis] = -1
                changed[name] = values * factors.reshape(shape)
        return changed


class _Transposed(_Change):
    def __init__(self, fields: Mapping[str, tuple[int, int]]) -> None:
        self._fields = fields

    def of_batch(self, batch: Batch) -> Batch:
        return {
            name: values.transpose(*self._fields[name]) if name in self._fields else values
            for name, values in batch.items()
        }


class _Renamed(_Change):
    def __init__(self, symmetry: Renamed, seed: int) -> None:
        self._symmetry = symmetry
        self.has_rows = bool(symmetry.rows)
        new = numpy.arange(max(end for _, end in symmetry.blocks))
        for first, end in symmetry.blocks:
            new[first:end] = first + _order(seed + first, end - first)
        self._new = torch.from_numpy(new)

    def of_batch(self, batch: Batch) -> Batch:
        changed = dict(batch)
        for name, place in self._symmetry.fields.items():
            if name in batch:
                where = ... if place is None else (..., place)
                changed[name] = batch[name].clone()
                changed[name][where] = self._new[batch[name][where].long()].to(batch[name].dtype)
        return changed

    def undo_rows(self, model: nn.Module) -> None:
        with torch.no_grad():
            for name in self._symmetry.rows:
                rows = model.get_parameter(name)
                rows[: len(self._new)] = rows[self._new.to(rows.device)]


class _Padded(_Change):
    """Zeros at some places of the last axis, and columns of zeros at the same places of the layer that reads them.

    Of zeros, because the norm of the whole matrix, on which some methods set their steps, is then what it was.
    """

    def __init__(self, symmetry: Padded, seed: int) -> None:
        self._symmetry, self._seed = symmetry, seed

    def of_batch(self, batch: Batch) -> Batch:
        field = self._symmetry.field
        return {**batch, field: self._padded(batch[field])}

    def of_model(self, model: nn.Module) -> None:
        layer = model.get_submodule(self._symmetry.layer)
        assert isinstance(layer, nn.Linear)
        layer.weight = nn.Parameter(self._padded(layer.weight.detach()))
        layer.in_features = layer.weight.shape[1]

    def _padded(self, values: Tensor) -> Tensor:
        width = values.shape[-1]
        wider = width + 1 + _numbers(self._seed, width).randint(1 + int(_DEAD * width))
        places = torch.from_numpy(_numbers(self._seed + 1, width).permutation(wider)[:width]).sort().values
        padded = values.new_zeros(*values.shape[:-1], wider)
        padded[..., places] = values
        return padded


def _drawn(symmetry: Symmetry, number: int, place: int) -> _Change:
    """The symmetry with its random choices made."""
    seed = int(_stream(number, f"symmetry {place}").randint(2**31))
    match symmetry:
        case Reordered(fields):
            return _Places(fields, lambda width: _order(seed, width))
        case Mirrored(fields):
            return _Places(fields, lambda width: numpy.arange(width)[::-1])
        case Transposed(fields):
            return _Transposed(fields)
        case Signed(fields):
            return _Factors(fields, lambda width: _signs(seed, width))
        case Scaled(field):
            return _Factors({field: None}, lambda _: _factor(seed))
        case Renamed():
            return _Renamed(symmetry, seed)
        case Padded():
            return _Padded(symmetry, seed)


def _order(seed: int, width: int) -> numpy.ndarray:
    """A random order that is not the present one, where there is another."""
    order = _numbers(seed, width).permutation(width)
    return numpy.roll(order, 1) if (order == numpy.arange(width)).all() else order


def _signs(seed: int, width: int) -> numpy.ndarray:
    """-1 or 1 for each place, the first of them -1."""
    signs = 2 * _numbers(seed, width).randint(2, size=width) - 1
    signs[0] = -1
    return signs


def _factor(seed: int) -> numpy.ndarray:
    """One factor, off 1 by a third or more."""
    stream = _numbers(seed, 1)
    return numpy.array([2.0 ** (stream.choice([-1, 1]) * stream.uniform(0.4, 1.0))])


def _numbers(seed: int, width: int) -> numpy.random.RandomState:
    # The stream of RandomState is frozen (NEP 19), that of a Generator may change with the version of numpy.
    return numpy.random.RandomState([seed % 2**32, width])


def _stream(number: int, what: str) -> numpy.random.RandomState:
    """The random numbers of twin `number` for one purpose."""
    digest = hashlib.sha256(f"{number} {what}".encode()).digest()
    return numpy.random.RandomState(numpy.frombuffer(digest, dtype="<u4"))

"""The vocabulary of the suite as types: target, budget, examples, workload, errors. Nothing here measures or trains.

Imports nothing of ours, so that every other module can import it.
"""

from __future__ import annotations

import difflib
import hashlib
import math
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Self

if TYPE_CHECKING:
    # Commands that only read rows use this vocabulary too, and importing torch takes longer than all they do.
    import torch
    from torch import Tensor, nn

Batch = dict[str, "Tensor"]
"""Tensors whose first dimension is the example: `inputs`, `targets`, and `weights` where some labels are masked."""

SplitName = Literal["train", "validation", "test"]
SPLITS: tuple[SplitName, ...] = ("train", "validation", "test")

PREPARED: Literal["prepared"] = "prepared"
"""In the place of a split's hash: the split is whatever `make data` prepared here, known by its own manifest."""

Division = Literal["closed", "open", "replay"]
"""`closed`: the workload's own network is trained. `open`: a submission brings its own. `replay`: as `closed`, but
examples of earlier stages of a stream are kept. They are ranked apart."""


Precision = Literal["float32", "tf32", "bf16"]
"""Of forward and backward passes: float32; its products with ten bits of fraction; or bfloat16 where that is safe."""


class HarnessError(Exception):
    """What can go wrong here, as one of three classes. The message says what is wrong, what was found, what to do."""


class ConfigError(HarnessError):
    """The person asked for something that does not exist or does not fit: names, YAML, submissions."""


class DataError(HarnessError):
    """The disk does not hold what it should: data sets, records, free space."""


class SnapshotError(HarnessError):
    """The trainer handed over something else than the weights that the judge model expects."""


def one_line(text: object) -> str:
    """A text that may be anybody's as one line that every file, table and terminal takes.

    Other characters than printable ones (lone surrogates, control characters) are replaced by their escapes.
    """
    words = " ".join(str(text).split())
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode("ascii") for each in words)


def visible(folder: Path, pattern: str) -> list[Path]:
    """What matches the glob pattern below `folder`, in the order of names, without what is hidden or in what is.

    Hidden files are never ours: macOS, editors and sync tools put them (`._x.parquet`) into any folder at any time.
    """
    found = folder.glob(pattern)
    return sorted(path for path in found if not any(part[0] == "." for part in path.relative_to(folder).parts))


def path_of(text: str) -> Path:
    """The path that was typed. A leading `~/` is the home folder: not every shell replaces it behind a `=`."""
    return Path(text).expanduser() if text == "~" or text.startswith("~/") else Path(text)


def near_matches(name: object, known: Iterable[str]) -> str:
    """The end of an error about an unknown name: which known names are near it, or else all of them."""
    names = sorted(known)
    near = difflib.get_close_matches(str(name), names, cutoff=0.5)
    if near:
        return f"Did you mean {' or '.join(repr(match) for match in near)}?"
    return f"Known: {', '.join(names) or 'none'}."


class LossKind(StrEnum):
    """What the training loss is: AlgoPerf's loss types and more. A submission may branch on it.

    A kind that a submission does not know is to be treated as `other`: nothing is known of its form, nor of its sign.
    So is a loss of several terms, whatever they are. `energy`: a Rayleigh quotient, or another ratio over the batch.
    """

    SOFTMAX_CROSS_ENTROPY = "softmax_cross_entropy"
    SIGMOID_CROSS_ENTROPY = "sigmoid_cross_entropy"
    MEAN_SQUARED_ERROR = "mean_squared_error"
    MEAN_ABSOLUTE_ERROR = "mean_absolute_error"
    CTC = "ctc"
    HINGE = "hinge"
    CONTRASTIVE = "contrastive"
    POLICY_GRADIENT = "policy_gradient"
    ENERGY = "energy"
    OTHER = "other"


class ParameterKind(StrEnum):
    """The role of a parameter in its module. A submission may branch on it."""

    WEIGHT = "weight"
    BIAS = "bias"
    EMBEDDING = "embedding"
    CONV = "conv"
    NORM_SCALE = "norm_scale"
    NORM_BIAS = "norm_bias"
    ATTENTION_Q = "attention_q"
    ATTENTION_K = "attention_k"
    ATTENTION_V = "attention_v"
    ATTENTION_KV = "attention_kv"
    ATTENTION_QKV = "attention_qkv"
    ATTENTION_OUT = "attention_out"
    ATTENTION_BIAS = "attention_bias"
    RECURRENT = "recurrent"
    ADAPTER_DOWN = "adapter_down"
    ADAPTER_UP = "adapter_up"
    OUTPUT = "output"


class TrialStatus(StrEnum):
    """How a trial ended."""

    REACHED = "reached"
    OUT_OF_BUDGET = "out_of_budget"
    FINISHED = "finished"
    DIVERGED = "diverged"
    CRASHED = "crashed"
    REFUSED = "refused"
    PRUNED = "pruned"


FAILED = (TrialStatus.CRASHED, TrialStatus.REFUSED)
"""Ends that are no result of a race, so that such a trial may be run again; a timeout or a divergence is a result."""


@dataclass(frozen=True)
class Target:
    """The value that ends the race: the validation metric must be this good or better.

    Raises ConfigError where the goal is neither `min` nor `max`, or the value is not finite.
    """

    metric: str
    goal: Literal["min", "max"]
    validation: float
    test: float | None = None

    def __post_init__(self) -> None:
        if self.goal not in ("min", "max"):
            raise ConfigError(f"target goal is {self.goal!r}. Use 'min' for losses, 'max' for accuracies.")
        if not math.isfinite(self.validation):
            raise ConfigError(f"target validation value is {self.validation}. Use a finite number.")

    def is_reached_by(self, value: float) -> bool:
        """True where `value` is at least as good as the validation target; never for NaN."""
        return value <= self.validation if self.goal == "min" else value >= self.validation

    def unreachable(self) -> Target:
        """The same metric and goal with a value that nothing reaches: for runs that only take time."""
        worst = sys.float_info.max
        return Target(self.metric, self.goal, -worst if self.goal == "min" else worst)

    def is_better(self, value: float, than: float | None) -> bool:
        """True where `value` beats `than` (None: nothing has been seen yet)."""
        if than is None:
            return not math.isnan(value)
        return value < than if self.goal == "min" else value > than


@dataclass(frozen=True)
class Budget:
    """What a workload allows, in steps of the reference submission, so that it holds on any machine.

    `max_runtime = steps * seconds per step of the reference`, `eval_period = max_runtime / evaluations`.
    """

    steps: int
    evaluations: int

    def __post_init__(self) -> None:
        if self.steps < 1 or self.evaluations < 1:
            raise ConfigError(
                f"budget is {self.steps} steps and {self.evaluations} evaluations. Both must be at least 1."
            )

    def scaled(self, factor: float) -> Budget:
        """`factor` times the steps, with as many evaluations: what a ruleset with this budget factor allows."""
        return replace(self, steps=max(1, round(factor * self.steps)))

    @property
    def step_hint(self) -> int:
        """Steps over which a schedule should run out.

        A tenth short of the budget: a schedule that ends just when the clock does is cut off by the first slow moment
        of the machine.
        """
        return max(1, int(0.9 * self.steps))


@dataclass(frozen=True)
class Coarse:
    """How splits are judged that take longer than an evaluation may: by a fixed part, until the target is near.

    The whole is judged where the metric of so many validation `examples` is `within` so much of the target, or reaches
    it; so is the test split then. Raises ConfigError where one of them is not positive.
    """

    examples: int
    within: float

    def __post_init__(self) -> None:
        if self.examples < 1 or not self.within > 0:
            raise ConfigError(f"coarse is {self.examples} examples within {self.within}. Both must be positive.")


class Hyperparameters(Mapping[str, Any]):
    """One point of a search space: read as attributes (`hp.learning_rate`) or as a mapping (`**hp`); never changed.

    A list is a tuple here.
    """

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.__dict__.update({name: tuple(each) if isinstance(each, list) else each for name, each in values.items()})

    def __getitem__(self, name: str) -> Any:
        return self.__dict__[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.__dict__)

    def __len__(self) -> int:
        return len(self.__dict__)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise AttributeError(
            f"there is no hyperparameter {name!r}; submission.yaml names {', '.join(self.__dict__) or 'none'}"
        )

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"hyperparameters are fixed for a trial; {name!r} cannot be set")

    def __repr__(self) -> str:
        return f"Hyperparameters({', '.join(f'{name}={value!r}' for name, value in self.items())})"


class Examples(ABC):
    """One split, in memory or on the disk: map-style access to examples, and whole batches by index gather.

    In memory, per-step work must be a fixed number of tensor operations: no Python over examples.
    """

    folder: Path | None = None
    """The folder that batches are read from, which holds nothing of another split; None: all is in memory."""

    @abstractmethod
    def __len__(self) -> int:
        """Number of examples."""

    @abstractmethod
    def gather(self, index: Tensor) -> Batch:
        """The examples at `index`, stacked. Shape of `index`: [batch], int64, on the examples' device."""

    def gather_augmented(self, index: Tensor, seeds: Tensor) -> Batch:  # noqa: ARG002
        """The examples at `index` as a step of training sees them: what is drawn for each follows from its seed alone.

        Shapes: both int64 [batch]. Default: nothing is drawn.
        """
        return self.gather(index)

    def gather_ahead(self, index: Tensor, seeds: Tensor | None) -> Batch:
        """What of `gather_augmented` (no seeds: `gather`) another process may do; `finished` does the rest."""
        return self.gather(index) if seeds is None else self.gather_augmented(index, seeds)

    def finished(self, batch: Batch) -> Batch:
        """A batch of `gather_ahead`, which is on `device` by now, with what is left to do. Default: nothing is."""
        return batch

    @property
    def run_length(self) -> int:
        """How many neighbours come after each other in any order of training: rows of a few bytes lie on a disk.

        Default: 1, each example comes by itself.
        """
        return 1

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """Everything that defines the split, by name; its content hash is taken over these."""

    @abstractmethod
    def to(self, device: torch.device) -> Examples:
        """The same examples on another device."""

    @property
    def device(self) -> torch.device:
        """Where batches are."""
        return next(iter(self.tensors().values())).device

    def __getitem__(self, position: int) -> Batch:
        """One example, without the batch dimension. Raises IndexError past the end, so that iteration stops."""
        if not -len(self) <= position < len(self):
            raise IndexError(f"example {position} of {len(self)}")
        import torch

        index = torch.tensor([position % len(self)], device=self.device)
        return {name: values[0] for name, values in self.gather(index).items()}

    def digest(self) -> str:
        """SHA-256 over the names, shapes, dtypes and bytes of `tensors()`."""
        import torch

        content = hashlib.sha256()
        for name, values in sorted(self.tensors().items()):
            content.update(f"{name} {tuple(values.shape)} {values.dtype}\n".encode())
            content.update(values.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        return content.hexdigest()

    def verify(self, *, whole: bool) -> None:  # noqa: B027 - in memory there is nothing to do
        """Raise DataError where the disk does not hold what `digest` stands for; `whole`: read all, not a sample.

        Default: nothing, as `digest` itself reads all.
        """


class TensorExamples(Examples):
    """A split held as tensors whose first dimension is the example.

    Raises DataError where the tensors differ in length or there are none.
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        lengths = {name: len(values) for name, values in tensors.items()}
        if len(set(lengths.values())) != 1:
            raise DataError(f"a split needs tensors of one length, found {lengths}. Check the loader of this workload.")
        self._tensors = dict(tensors)
        self._length = next(iter(lengths.values()))

    def __len__(self) -> int:
        return self._length

    def gather(self, index: Tensor) -> Batch:
        """The rows at `index` of every tensor."""
        return {name: values.index_select(0, index) for name, values in self._tensors.items()}

    def tensors(self) -> dict[str, Tensor]:
        """The tensors that the split is held as."""
        return dict(self._tensors)

    def to(self, device: torch.device) -> Self:
        """The same tensors on another device. A subclass whose constructor takes more than tensors has its own."""
        return type(self)({name: values.to(device) for name, values in self._tensors.items()})


class DataSource(ABC):
    """Files that a workload reads and where a person gets them. `folder` is the data folder of the suite."""

    name: str
    """Short name, as printed by `make data`."""
    size_megabytes: float
    """Size of what is fetched; 0 where it arrives with an installed package."""
    licence: str
    disk_megabytes: float | None = None
    """What the data folder must have room for, of which some may lie in its folder `name` already.

    None: as much as is fetched.
    """
    notes: Sequence[str] = ()
    """What a person should know before anything is fetched: where to sign, how long it takes, where else it is."""

    @abstractmethod
    def is_present(self, folder: Path) -> bool:
        """True where the files are there and of the right size or hash; cheap enough to ask at every start."""

    @abstractmethod
    def fetch(self, folder: Path) -> None:
        """Bring the files into `folder`, resuming and checking hashes. Raises DataError with the way to mend it."""

    def installed_copies(self) -> list[Path]:
        """Files and folders of the system, or of installed packages, that hold the same data. Default: none.

        No trainer can read them; they need not exist.
        """
        return []


@dataclass(frozen=True)
class Reordered:
    """Places along an axis come in another order, the same in all `fields`: name in the batch -> axis."""

    fields: Mapping[str, int]


@dataclass(frozen=True)
class Signed:
    """Numbers change their sign at half of the places along an axis. `fields`: name -> axis; None: everywhere."""

    fields: Mapping[str, int | None]


@dataclass(frozen=True)
class Scaled:
    """All numbers of the field are multiplied by one factor, between a half and two."""

    field: str


@dataclass(frozen=True)
class Mirrored:
    """Places along an axis come in the opposite order. `fields`: name in the batch -> axis."""

    fields: Mapping[str, int]


@dataclass(frozen=True)
class Transposed:
    """Two axes change places. `fields`: name in the batch -> these axes."""

    fields: Mapping[str, tuple[int, int]]


@dataclass(frozen=True)
class Renamed:
    """Whole numbers stand for each other: those of each block, from its first to below its second number.

    `fields`: name in the batch -> the place along the last axis that holds such numbers, None where all of it does.
    `rows`: parameters with a row for each number, of networks that write symbol after symbol (`decoded_metrics`).
    """

    fields: Mapping[str, int | None]
    blocks: Sequence[tuple[int, int]]
    rows: Sequence[str] = ()


@dataclass(frozen=True)
class Padded:
    """The last axis of `field` gets a few more places, always zero, and so many more inputs the linear `layer`."""

    field: str
    layer: str


Symmetry = Reordered | Signed | Scaled | Mirrored | Transposed | Renamed | Padded
"""A change of the data, and with it of the task, that makes it no easier and no harder for the network."""


class LossTerm(NamedTuple):
    """One term of a loss: loss and weight of each unit, as `Workload.losses` gives them, and what the term counts."""

    name: str
    factor: float
    losses: Tensor
    weights: Tensor | None

    def times(self, mean: Tensor) -> Tensor:
        """What the term with this mean adds to the loss."""
        # A loss of one plain term costs no operation more.
        return mean if self.factor == 1.0 else self.factor * mean


class KnownDenoiser(NamedTuple):
    """What takes Gaussian noise, or another, off points, as a model does it and as it is best done.

    `learned`, `best`: from noisy points and their levels to clean ones. Shapes: [n, size], [n] -> [n, size]. `noise`:
    some of level 1, [n, size]. `levels`: the largest and the smallest that are worth while.
    """

    learned: Callable[[Tensor, Tensor], Tensor]
    best: Callable[[Tensor, Tensor], Tensor]
    noise: Tensor
    levels: tuple[float, float]


class Workload(ABC):
    """Data, model, loss and metric: what stays fixed while training algorithms race.

    A subclass is made with the keyword arguments of `options` in its YAML. It must be cheap to construct: data are read
    in `load`, weights are drawn in `build_model`.
    """

    loss_kind: ClassVar[LossKind]
    term_weights: ClassVar[Mapping[str, float]] = {"loss": 1.0}
    """The terms of the loss, and what each counts: a loss of more than one derives from `SeveralTerms`."""
    couples_examples: ClassVar[bool] = False
    """True where the losses of an example depend on the others in its batch: contrastive losses, ratios of sums.

    Then a mean over batches would depend on the evaluation's batch size. So the `loss` of a split comes from `metrics`,
    which sees the whole split, and takes it in blocks of a fixed size where it must.
    """
    has_open_division: ClassVar[bool] = False
    """True where `inputs` of a batch are all that a prediction needs, and tell nothing of the targets.

    Only there may a submission bring a network of its own, whose predictor gets the held-out `inputs`: those of a
    language model, to name one that must not, are its targets a place further on.
    """
    compiles: bool = False
    """True where `torch.compile` takes the network as it is, without breaks and with the same outputs to rounding.

    Only there does `hardware.compile` have an effect.
    """
    statistics_are_summed: ClassVar[bool] = False
    """True where `metrics` needs no row of `statistics` but their sums, for splits whose rows fit in no memory.

    Then it gets the sums over all rows in float64, without the first axis, and beside them `rows`, their number.
    """
    stages: ClassVar[int] = 1
    """How many stages training goes through, one after the other, where it is a stream of tasks; 1: it is none.

    Of a stream the splits have a tensor `stages`, int64 [n], counted from 0: training sees the examples of one stage
    at a time. `stage_metrics` says how wrong a model is on each of them.
    """
    not_promised: ClassVar[frozenset[str]] = frozenset()
    """Promises of the contract of workloads, by their names in its tests, that this one cannot keep; it says why."""

    @abstractmethod
    def sources(self) -> list[DataSource]:
        """The files that `load` reads; empty where the data arrive with the installed packages."""

    @abstractmethod
    def load(self, split: SplitName, folder: Path) -> Examples:
        """Read one split from the data folder. Raises DataError that names the command that mends it."""

    def packaged_data(self) -> list[Path]:
        """Files of installed packages that hold examples: no trainer can read them. Default: none."""
        return []

    def weights(self) -> Path | None:
        """The file of trained weights that `build_model` begins with; its hash is in the YAML. Default: none.

        What stays as it is there must be in non-persistent buffers: they are not in the state that a trainer hands
        over, so nobody can hand over other values of them.
        """
        return None

    @abstractmethod
    def build_model(self) -> nn.Module:
        """A new model in float32 with initial weights drawn from torch's global generator, which the harness seeds.

        Buffers that passes in train mode move, other than batch norm's, are named in `moving_buffers` of the module
        that has them, so that passes of `trial.pinned()` agree.
        """

    def outputs(self, model: nn.Module, batch: Batch) -> Tensor:
        """Forward pass. Default: the model applied to `inputs`.

        What training draws by chance (noise, times) it draws here or in the model, from torch's own stream: passes of
        `trial.pinned()` draw it again.
        """
        outputs: Tensor = model(batch["inputs"])
        return outputs

    @abstractmethod
    def losses(self, outputs: Tensor, batch: Batch, label_smoothing: float) -> tuple[Tensor, Tensor | None]:
        """Loss of each unit (example, token ...) and its weight: 1 counts, 0 is masked or padding; None: all count.

        Shapes: both [batch, ...], alike. Where `couples_examples`, the loss of an example is its share of the batch's.
        """

    def loss_terms(
        self, outputs: Tensor, batch: Batch, label_smoothing: float
    ) -> Mapping[str, tuple[Tensor, Tensor | None]]:
        """`losses` of each term in `term_weights`. Default: the one term `loss`."""
        return {"loss": self.losses(outputs, batch, label_smoothing)}

    @abstractmethod
    def statistics(self, outputs: Tensor, batch: Batch) -> dict[str, Tensor]:
        """What the metrics are computed from, one row per example: shapes [batch, ...].

        Rows of all batches are concatenated before `metrics` sees them, or summed (`statistics_are_summed`), so a
        metric cannot depend on the batch size.
        """

    @abstractmethod
    def metrics(self, statistics: dict[str, Tensor]) -> dict[str, float]:
        """Metrics of a whole split from its rows; the target names one of these or of `decoded_metrics`."""

    def stage_metrics(self) -> list[str]:
        """Names of those metrics that say how wrong the model is on each stage of a stream; less is better.

        Default: `error_stage_0`, `error_stage_1` ..., and none where there is no stream.
        """
        return [f"error_stage_{stage}" for stage in range(self.stages)] if self.stages > 1 else []

    def synthetic_batch(self, size: int, generator: torch.Generator, folder: Path) -> Batch:
        """A made-up training batch of the true names, shapes, dtypes and ranges, on the CPU: for timing and rehearsals.

        Of fields whose length varies, the longest that training batches have. All that is random is drawn from
        `generator`. Workloads whose data not everybody can have override it, and read nothing from `folder`, the data
        folder. Default: training examples drawn by chance, where `inputs` that are no whole numbers become noise of
        their mean and spread; other fields, which must fit each other, stay. Raises DataError as `load`.
        """
        import torch

        examples = self.load("train", folder)
        batch = examples.gather(torch.randint(len(examples), (size,), generator=generator))
        inputs = batch.get("inputs")
        if inputs is not None and inputs.is_floating_point():
            noise = torch.randn(inputs.shape, generator=generator, dtype=inputs.dtype)
            batch["inputs"] = inputs.mean() + noise * inputs.std(correction=0)
        return batch

    def domains(self, examples: Examples) -> Tensor | None:  # noqa: ARG002
        """Which domain each example is of, numbered from 0, for methods that balance them. Shape: int64 [n].

        Default: None, no domains.
        """
        return None

    def decoded_metrics(self, model: nn.Module, examples: Examples) -> dict[str, float]:  # noqa: ARG002
        """Metrics of what the model writes by itself, symbol after symbol, such as BLEU. Default: none.

        No forward pass on the true targets can tell them. The model is in eval mode and makes no gradients. The split
        is given whole, so a metric cannot depend on the batch size of the evaluation.
        """
        return {}

    def policy(self) -> Policy | None:
        """The network as what writes answers that can be scored. Default: None, there are no rewards here."""
        return None

    def symmetries(self) -> list[Symmetry]:
        """Changes of the data that make another task of the same difficulty, for `make audit`. Default: none.

        Initial weights must be as likely after what the change does to them, and all metrics stay what they are.
        """
        return []

    def known_solution(self, model: nn.Module) -> dict[str, float]:  # noqa: ARG002
        """How near the weights are to a solution that is known, for `make diagnose`: cosines, shares. Default: none."""
        return {}

    def known_course(self, initial: nn.Module, examples: Examples) -> Callable[[float], Tensor] | None:  # noqa: ARG002
        """Of a linear network: the map that gradient flow from `initial` weights has at a time, for `make diagnose`.

        Exactly, on these training examples; any unit of time. Shape of the map: float64 [outputs, inputs]. Default:
        None, not known.
        """
        return None

    def known_denoiser(self, model: nn.Module) -> KnownDenoiser | None:  # noqa: ARG002
        """Of a model that takes noise of any level off points: how it does, beside the best, for `make diagnose`.

        Default: None, not known.
        """
        return None

    def known_signal(self, batch: Batch) -> Tensor | None:  # noqa: ARG002
        """Which numbers of `inputs` can say anything of the target, for `make diagnose`. Shape: bool, as `inputs`.

        Default: None, not known.
        """
        return None

    def sample_readouts(self, model: nn.Module, examples: Examples) -> dict[str, float]:  # noqa: ARG002
        """What comes of images, or whatever else the model makes by itself, for `make diagnose`: distances, errors.

        `examples`: those of training. The model is in eval mode, and makes no gradients. Default: none.
        """
        return {}

    def resized(self) -> dict[str, Any]:
        """Options of a network that is wider by a few percent in as many layers as can be. Default: none."""
        return {}


class SeveralTerms(Workload):
    """A workload whose loss is the sum over several terms of weight times mean over the units that count.

    It has `loss_terms` and `term_weights` in place of `losses`. Its `loss_kind` is OTHER: what knows one term by its
    form does not know the sum.
    """

    @abstractmethod
    def loss_terms(
        self, outputs: Tensor, batch: Batch, label_smoothing: float
    ) -> Mapping[str, tuple[Tensor, Tensor | None]]:
        """Of each term the loss and the weight of each unit, as `losses` has them; terms may differ in their units.

        Shapes: all [batch, ...], alike within a term.
        """

    def losses(self, outputs: Tensor, batch: Batch, label_smoothing: float) -> tuple[Tensor, None]:
        """The share of each example in the loss of the batch, which is their mean. Shape: [batch]."""
        shares = []
        for term in terms_of(self, outputs, batch, label_smoothing):
            size = len(term.losses)
            if term.weights is None:
                shares.append(term.times(term.losses.reshape(size, -1).mean(dim=1)))
            else:
                of_each = (term.losses * term.weights).reshape(size, -1).sum(dim=1)
                shares.append(term.times(size * of_each / counted(term.weights, of_each.dtype)))
        first, *others = shares
        return sum(others, start=first), None


def terms_of(workload: Workload, outputs: Tensor, batch: Batch, label_smoothing: float) -> list[LossTerm]:
    """The terms of the loss on a batch, in the order of `term_weights`. Raises ConfigError for terms of other names."""
    terms, factors = workload.loss_terms(outputs, batch, label_smoothing), workload.term_weights
    if terms.keys() != factors.keys():
        raise ConfigError(
            f"{type(workload).__name__}.loss_terms gives {', '.join(terms) or 'nothing'}, "
            f"but term_weights names {', '.join(factors) or 'nothing'}. Give both the same names."
        )
    return [LossTerm(name, factor, *terms[name]) for name, factor in factors.items()]


class Policy(ABC):
    """Optional part of a workload: its network writes answers that can be scored, for methods that learn from rewards.

    Answers are int64 [batch, count, length]: so many of each example, symbol after symbol. What follows the end of an
    answer within `length` means nothing: it has a log-probability and a credit of 0.
    """

    @abstractmethod
    def sample(self, model: nn.Module, batch: Batch, *, count: int, generator: torch.Generator | None) -> Tensor:
        """`count` answers of each example, drawn from what the network says. Shape: int64 [batch, count, length].

        `generator`: on whatever device; None: torch's global one. Called without gradients.
        """

    @abstractmethod
    def likeliest(self, model: nn.Module, batch: Batch) -> Tensor:
        """The answer of each example whose every symbol is the likeliest one. Shape: int64 [batch, length].

        Called without gradients.
        """

    @abstractmethod
    def log_probabilities(self, model: nn.Module, batch: Batch, answers: Tensor) -> Tensor:
        """Of each symbol, given those before it, in nats. Shapes: int64 [batch, count, length] -> float, alike."""

    @abstractmethod
    def credits(self, batch: Batch, answers: Tensor) -> Tensor:
        """What each symbol adds to the reward of its answer. Shapes: int64 [batch, count, length] -> float, alike.

        They sum up to the reward: 1 of a right answer, less of any other.
        """

    @abstractmethod
    def demonstrations(self, batch: Batch) -> Tensor:
        """A right answer of each example. Shape: int64 [batch, length]."""


def mean_loss(losses: Tensor, weights: Tensor | None) -> Tensor:
    """Mean over the units that count; zero where none does. Shapes: [batch, ...], alike -> []."""
    if weights is None:
        return losses.mean()
    return (losses * weights).sum() / counted(weights, losses.dtype)


def counted(weights: Tensor, dtype: torch.dtype) -> Tensor:
    """How many units count, as a divisor. Shape: [...] -> []."""
    import torch

    # A batch of padding alone must give 0 and a zero gradient, not 0/0.
    return weights.sum().clamp_min(torch.finfo(dtype).tiny)

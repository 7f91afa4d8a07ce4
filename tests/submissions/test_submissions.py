"""Contract of every directory in submissions/, and of the loop around a bare optimizer class: each learns a task."""

import contextlib
import functools
import io
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.api import (
    Batch,
    ConfigError,
    DataSource,
    Examples,
    Hyperparameters,
    LossKind,
    SplitName,
    Target,
    TensorExamples,
    Workload,
)
from harness.plugins.optimizer_class import train_with
from harness.plugins.optimizer_entry import Entry, Part, read_entry
from harness.plugins.submission import SUBMISSIONS, TrainFunction, load_submission, train_function
from harness.trial.checkpoint import State, read_state, write_state
from harness.trial.conversation import Conditions, Evaluation, Go, Progress, TrialOver
from harness.trial.trial import Trial

NAMES = sorted(path.parent.name for path in SUBMISSIONS.glob("*/submission.yaml"))
STEPS = 120


class Stripes(Workload):
    """Tells 8x8 images with horizontal stripes from vertical ones: a convolution with batch norm, two linear layers."""

    loss_kind = LossKind.SOFTMAX_CROSS_ENTROPY

    def sources(self) -> list[DataSource]:
        return []

    def load(self, split: SplitName, folder: Path) -> Examples:  # noqa: ARG002 - it reads no files
        count, seed = {"train": (512, 0), "validation": (256, 1), "test": (256, 2)}[split]
        generator = torch.Generator().manual_seed(seed)
        targets = torch.arange(count) % 2
        stripes = (torch.arange(8) % 2 * 2.0 - 1.0).expand(8, 8)
        images = torch.where(targets[:, None, None] == 0, stripes, stripes.T)
        images = images + 1.5 * torch.randn(count, 8, 8, generator=generator)
        return TensorExamples({"inputs": images.unsqueeze(1), "targets": targets})

    def build_model(self) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(1, 6, 3, stride=2, padding=1),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(96, 12),
            nn.ReLU(),
            nn.Linear(12, 2),
        )

    def losses(self, outputs: Tensor, batch: Batch, label_smoothing: float) -> tuple[Tensor, None]:
        return F.cross_entropy(outputs, batch["targets"], reduction="none", label_smoothing=label_smoothing), None

    def statistics(self, outputs: Tensor, batch: Batch) -> dict[str, Tensor]:
        return {"loss": self.losses(outputs, batch, 0.0)[0]}

    def metrics(self, statistics: dict[str, Tensor]) -> dict[str, float]:
        return {"loss": statistics["loss"].mean().item()}


class Race:
    """One trial on Stripes in this process: its validation losses, and what was handed over and named."""

    def __init__(self, *, seed: int = 1, checkpoints: "Kept | None" = None) -> None:
        self.losses: list[float] = []
        self.weights: list[dict[str, Tensor]] = []
        self.reported: list[dict[str, float]] = []
        self.resumable: dict[str, object] = {}
        self._workload = Stripes()
        self._validation = self._workload.load("validation", Path())
        torch.manual_seed(seed)
        self.trial = _NamingTrial(
            self._workload,
            self._workload.build_model(),
            self._workload.load("train", Path()),
            Conditions(seed, torch.device("cpu"), 32, STEPS, Target("loss", "min", 0.0), 60.0, 60.0, STEPS // 4),
            self._judge,
            None,
            checkpoints,
            self.resumable,
        )

    def run(self, train: TrainFunction, hp: Hyperparameters) -> "Race":
        self.losses.append(self._validation_loss(self.trial.model))
        self.trial.go(Go(0.0))
        with contextlib.suppress(TrialOver):
            train(self.trial, hp)
        assert self.trial.is_over, "train returned before its trial was over"
        return self

    def _judge(self, model: nn.Module, progress: Progress) -> Go | None:
        self.weights.append({name: value.clone() for name, value in model.state_dict().items()})
        self.losses.append(self._validation_loss(model))
        self.reported.append(progress.reported)
        if progress.step >= STEPS:
            return None
        return Go(0.0, Evaluation(progress.step, 0.0, {"loss": self.losses[-1]}), checkpoint=True)

    def _validation_loss(self, model: nn.Module) -> float:
        batch = self._validation.gather(torch.arange(len(self._validation)))
        was_training = model.training
        model.eval()
        with torch.no_grad():
            loss = self._workload.metrics(self._workload.statistics(model(batch["inputs"]), batch))["loss"]
        model.train(was_training)
        return loss


class Kept:
    """Keeps the checkpoints of a race in a folder; goes on from one of them."""

    def __init__(self, folder: Path, *, go_on_from: int | None = None) -> None:
        self.is_continued = go_on_from is not None
        self.count = 0
        self._folder = folder
        self._go_on_from = go_on_from

    def write(self, state: Callable[[], State]) -> None:
        if not self.is_continued:
            self.count += 1
            write_state(self._folder / f"{self.count}.pt", state())

    def read(self) -> State:
        return read_state(self._folder / f"{self._go_on_from}.pt", torch.device("cpu"))

    def restored(self, step: int) -> Go:
        assert step == self._go_on_from * STEPS // 4
        return Go(0.0)


class _NamingTrial(Trial):
    """A trial that keeps what the submission names as resumable where a test can see it."""

    def __init__(self, *arguments: object) -> None:
        *usual, self._seen = arguments
        super().__init__(*usual)  # type: ignore[arg-type]

    def resumable(self, **objects: object) -> None:
        super().resumable(**objects)
        self._seen.update(objects)  # type: ignore[attr-defined]


def race_of(name: str, seed: int = 1, checkpoints: Kept | None = None) -> Race:
    submission = load_submission(name)
    train = train_function(submission.folder, submission.entry)
    return Race(seed=seed, checkpoints=checkpoints).run(train, submission.hyperparameters)


def test_there_are_submissions():
    assert {"adagrad", "adamw", "heavy_ball", "muon", "nadamw", "nesterov", "schedule_free_adamw"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_submission_describes_itself(name: str):
    submission = load_submission(name)
    assert submission.paper.startswith("https://")
    assert (submission.folder / "README.md").read_text().startswith(f"# {submission.title}\n")


@pytest.mark.parametrize("name", NAMES)
def test_a_submission_can_be_tuned_around_its_defaults(name: str):
    submission = load_submission(name)
    assert submission.space.dimensions or submission.space.points
    for hyperparameter, dimension in submission.space.dimensions.items():
        assert dimension.contains(submission.hyperparameters[hyperparameter]), hyperparameter


@pytest.fixture(scope="session")
def kept_races(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Race, Kept, Path]]:
    """A race of each submission with checkpoints, run once for all that is asked of it; with the folder they lie in."""

    @functools.cache
    def kept_race(name: str) -> tuple[Race, Kept, Path]:
        folder = tmp_path_factory.mktemp(name)
        kept = Kept(folder)
        return race_of(name, checkpoints=kept), kept, folder

    return kept_race


KeptRaces = Callable[[str], tuple[Race, Kept, Path]]


@pytest.mark.parametrize("name", NAMES)
def test_a_submission_learns(name: str, kept_races: KeptRaces):
    losses = kept_races(name)[0].losses
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("name", NAMES)
def test_a_seed_decides_the_weights_bit_for_bit_with_checkpoints_and_without(name: str, kept_races: KeptRaces):
    first = kept_races(name)[0].weights[-1]
    again, other = (race_of(name, seed).weights[-1] for seed in (1, 2))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


@pytest.mark.parametrize("name", NAMES)
def test_what_a_submission_names_as_resumable_survives_the_disk(name: str, kept_races: KeptRaces):
    named = kept_races(name)[0].resumable
    assert named
    for thing in named.values():
        buffer = io.BytesIO()
        torch.save(thing.state_dict(), buffer)  # type: ignore[attr-defined]
        buffer.seek(0)
        thing.load_state_dict(torch.load(buffer))  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", NAMES)
def test_a_submission_goes_on_from_a_checkpoint_as_if_it_had_not_been_killed(name: str, kept_races: KeptRaces):
    whole, kept, folder = kept_races(name)
    assert kept.count == 3, "a submission without trial.resumable(...) has no checkpoints"
    for number in (1, 3):
        rest = race_of(name, checkpoints=Kept(folder, go_on_from=number))
        assert rest.losses[1:] == whole.losses[1 + number :]
        for weights, again in zip(whole.weights[number:], rest.weights, strict=True):
            assert all(torch.equal(weights[key], again[key]) for key in weights)


# --- entry: an optimizer class ---


class Recorder(torch.optim.SGD):
    """SGD that keeps the rates it stepped with and the arguments it was made with."""

    def __init__(self, params: object, lr: float, momentum: float = 0.0) -> None:
        super().__init__(params, lr=lr, momentum=momentum)  # type: ignore[arg-type]
        self.rates: list[float] = []

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        self.rates.append(self.param_groups[0]["lr"])
        return super().step(closure)


ENTRY = "tests.submissions.test_submissions.Recorder"


def entry_of(where: object = "a submission.yaml", **written: object) -> Entry:
    """The entry that these keys of a submission.yaml describe."""
    entry = read_entry(written, Path("nowhere"), str(where))
    assert entry is not None
    return entry


def race_with(hyperparameters: dict[str, object], seed: int = 1, **written: object) -> Race:
    return Race(seed=seed).run(train_with(entry_of(**written)), Hyperparameters(hyperparameters))


def optimizer_of(race: Race, number: int = 0) -> torch.optim.Optimizer:
    optimizer = race.resumable[f"optimizer{number}"]
    assert isinstance(optimizer, torch.optim.Optimizer)
    return optimizer


def rates_of(schedule: str, **hyperparameters: float) -> list[float]:
    return optimizer_of(race_with(hyperparameters, entry=ENTRY, schedule=schedule)).rates  # type: ignore[attr-defined]


def test_learning_rate_is_lr_to_the_class_and_stays():
    assert rates_of("constant", learning_rate=0.01, momentum=0.9) == [0.01] * STEPS


def test_warmup_cosine_uses_up_its_fraction():
    rates = rates_of("warmup_cosine", learning_rate=0.01, warmup_fraction=0.1)
    assert rates[:3] == pytest.approx([0.01 / 12, 0.02 / 12, 0.03 / 12])
    assert max(rates) == pytest.approx(0.01)
    assert rates[-1] < 1e-4


def test_a_line_and_a_plateau_are_schedules_too():
    line = rates_of("warmup_linear", learning_rate=0.01, warmup_fraction=0.0, end_factor=0.5)
    assert (line[0], line[60]) == pytest.approx((0.01, 0.0075))
    plateau = rates_of("warmup_constant", learning_rate=0.01, warmup_fraction=0.1, decay_fraction=0.2)
    assert plateau[20:90] == pytest.approx([0.01] * 70)
    assert plateau[108] == pytest.approx(0.005)


def test_a_class_without_a_rate_has_no_schedule():
    with pytest.raises(ConfigError, match=r"NoRate has no learning rate .* Use schedule: constant"):
        race_with({"warmup_fraction": 0.1}, entry=f"{__name__}.NoRate", schedule="warmup_cosine")


def test_label_smoothing_goes_to_the_loss():
    plain, smooth = (race_with({"lr": 0.05, "label_smoothing": share}, entry="torch.optim.SGD") for share in (0.0, 0.2))
    assert any(not torch.equal(plain.weights[-1][name], smooth.weights[-1][name]) for name in plain.weights[-1])


def test_lists_are_arguments():
    race = race_with({"betas": [0.5, 0.75]}, entry="torch.optim.AdamW", arguments={"eps": 1e-6})
    assert optimizer_of(race).defaults["betas"] == (0.5, 0.75)
    assert optimizer_of(race).defaults["eps"] == 1e-6


@pytest.mark.parametrize("entry", [ENTRY, f"{__name__}.TakesAnything"])
def test_an_argument_that_the_class_does_not_take_is_named(entry: str):
    with pytest.raises(ConfigError, match=r"takes no argument 'momentun'\. Did you mean 'momentum'\?"):
        race_with({"learning_rate": 0.01, "momentun": 0.9}, entry=entry)


def test_an_argument_that_the_class_needs_is_named():
    with pytest.raises(ConfigError, match=r"missing a required argument: 'lr'"):
        race_with({"momentum": 0.9}, entry=ENTRY)


@pytest.mark.parametrize(
    ("entry", "complaint"),
    [
        ("torch.optim.Adagrd", "no 'Adagrd'"),
        ("nowhere_at_all.Adagrad", "nowhere_at_all"),
        ("torch.nn.Linear", "no subclass of torch.optim.Optimizer"),
        ("torch.optim.Optimizer", "abstract class. Name one of its subclasses"),
    ],
)
def test_an_entry_that_is_no_optimizer_class_is_refused(entry: str, complaint: str):
    with pytest.raises(ConfigError, match=complaint):
        train_with(Entry((Part(entry),)))


def test_a_schedule_free_class_is_judged_at_its_average():
    race = race_with({"learning_rate": 0.01}, entry="schedulefree.AdamWScheduleFree")
    optimizer, handed_over = optimizer_of(race), race.weights[-1]
    # The clock has stopped at the average; going back to training would move the weights away from it.
    assert all(torch.equal(handed_over[name], p) for name, p in race.trial.model.named_parameters())
    optimizer.train()  # type: ignore[attr-defined]
    assert any(not torch.equal(handed_over[name], p) for name, p in race.trial.model.named_parameters())
    assert race.losses[-1] < 0.5 * race.losses[0]


# --- groups: several classes, each for parameters of its kind ---


def shapes_of(race: Race, number: int) -> list[tuple[int, ...]]:
    return [tuple(p.shape) for group in optimizer_of(race, number).param_groups for p in group["params"]]


MUON_AND_ADAMW = {"matrices": "torch.optim.Muon", "rest": "torch.optim.AdamW"}


def test_matrices_go_to_one_class_with_kernels_flattened_and_the_rest_to_another():
    hyperparameters = {"matrices.learning_rate": 0.02, "rest.learning_rate": 0.01, "rest.betas": [0.9, 0.95]}
    race = race_with({**hyperparameters, "weight_decay": 0.01}, groups=MUON_AND_ADAMW)
    assert shapes_of(race, 0) == [(6, 9), (12, 96)]
    assert shapes_of(race, 1) == [(6,), (6,), (6,), (12,), (2, 12), (2,)]
    muon, adamw = (optimizer_of(race, number).defaults for number in (0, 1))
    assert (muon["lr"], muon["weight_decay"]) == (0.02, 0.01)
    assert (adamw["lr"], adamw["weight_decay"], adamw["betas"]) == (0.01, 0.01, (0.9, 0.95))
    assert race.losses[-1] < 0.5 * race.losses[0]


def test_a_kernel_is_moved_as_its_matrix_would_be():
    def by_hand(trial: Trial, hp: Hyperparameters) -> None:  # noqa: ARG001
        kernel, *others = trial.model.parameters()
        for batch in trial.batches():
            trial.model.zero_grad()
            trial.loss(batch).backward()
            with torch.no_grad():
                for parameter in [kernel, *others]:
                    length = parameter.grad.norm() if parameter.ndim >= 2 else 1.0
                    parameter -= 0.05 * parameter.grad / length

    groups = {"matrices": f"{__name__}.OnMatrices", "output": f"{__name__}.OnMatrices", "rest": "torch.optim.SGD"}
    race = race_with({"lr": 0.05}, groups=groups)
    expected = Race().run(by_hand, Hyperparameters({})).weights[-1]
    for name, value in race.weights[-1].items():
        torch.testing.assert_close(value, expected[name])


def test_a_kind_goes_before_matrices_and_an_empty_group_has_no_optimizer():
    groups = {"matrices": "torch.optim.Muon", "conv": "torch.optim.SGD", "embedding": "torch.optim.SGD"}
    race = race_with({"lr": 0.01}, groups={**groups, "rest": "torch.optim.AdamW"})
    assert shapes_of(race, 0) == [(12, 96)]
    assert shapes_of(race, 1) == [(6, 1, 3, 3)]
    assert isinstance(optimizer_of(race, 2), torch.optim.AdamW)
    assert "optimizer3" not in race.resumable


def test_a_group_may_say_what_it_is_to_its_class():
    options = {"entry": "torch.optim.SGD", "arguments": {"momentum": 0.5}, "param_group": {"weight_decay": 0.125}}
    race = race_with({"lr": 0.01}, groups={"bias": options, "rest": "torch.optim.SGD"})
    assert optimizer_of(race).param_groups[0]["weight_decay"] == 0.125
    assert optimizer_of(race).param_groups[0]["momentum"] == 0.5


def test_groups_go_on_from_a_checkpoint_as_if_they_had_not_been_killed(tmp_path: Path):
    train = train_with(entry_of(groups=MUON_AND_ADAMW, schedule="warmup_linear"))
    hp = Hyperparameters({"learning_rate": 0.01, "warmup_fraction": 0.1})
    whole = Race(checkpoints=Kept(tmp_path)).run(train, hp)
    rest = Race(checkpoints=Kept(tmp_path, go_on_from=2)).run(train, hp)
    assert all(torch.equal(whole.weights[-1][name], rest.weights[-1][name]) for name in whole.weights[-1])


# --- step: rules that ask for gradients themselves ---


def test_lbfgs_gets_a_closure_and_its_gradients_are_counted(tmp_path: Path):
    train = train_with(entry_of(entry="torch.optim.LBFGS", arguments={"line_search_fn": "strong_wolfe"}))
    hp = Hyperparameters({"learning_rate": 0.1, "max_iter": 3})
    race = Race(checkpoints=Kept(tmp_path)).run(train, hp)
    assert min(race.losses) < 0.9 * race.losses[0]
    calls = [reported["gradient_calls"] for reported in race.reported]
    assert calls == sorted(calls)
    assert calls[-1] > STEPS
    rest = Race(checkpoints=Kept(tmp_path, go_on_from=2)).run(train, hp)
    assert [reported["gradient_calls"] for reported in rest.reported] == calls[2:]


def test_a_rule_that_looks_elsewhere_gets_gradients_before_and_a_closure():
    def by_hand(trial: Trial, hp: Hyperparameters) -> None:  # noqa: ARG001
        for batch in trial.batches():
            start = [p.detach().clone() for p in trial.model.parameters()]
            for place in (0.05, None):
                trial.model.zero_grad()
                trial.loss(batch).backward()
                with torch.no_grad():
                    for parameter, before in zip(trial.model.parameters(), start, strict=True):
                        gradient = parameter.grad
                        parameter.copy_(before + place * gradient if place else before - 0.1 * gradient)

    race = race_with({"lr": 0.1}, entry=f"{__name__}.LooksAhead", step="again")
    expected = Race().run(by_hand, Hyperparameters({})).weights[-1]
    for name, value in race.weights[-1].items():
        torch.testing.assert_close(value, expected[name])
    assert race.reported[-1] == {"gradient_calls": 2.0 * STEPS}


def test_a_rule_with_hessian_products_gets_gradients_that_can_be_differentiated():
    race = race_with({"lr": 0.01}, entry=f"{__name__}.ByCurvature", step="graph")
    assert race.losses[-1] < race.losses[0]
    assert all(p.grad is None for p in race.trial.model.parameters())


def test_a_closure_is_not_given_to_groups():
    with pytest.raises(ConfigError, match=r"LBFGS takes no step without a closure, .* entry: torch.optim.LBFGS"):
        train_with(entry_of(groups={"matrices": "torch.optim.LBFGS", "rest": "torch.optim.AdamW"}))


class TakesAnything(torch.optim.SGD):
    """SGD that throws away what it does not know."""

    def __init__(self, params: object, lr: float, momentum: float = 0.0, **kwargs: object) -> None:  # noqa: ARG002
        super().__init__(params, lr=lr, momentum=momentum)  # type: ignore[arg-type]


class NoRate(torch.optim.Optimizer):
    """An optimizer whose groups hold no lr."""

    def __init__(self, params: object) -> None:
        super().__init__(params, {})  # type: ignore[arg-type]


class OnMatrices(torch.optim.Optimizer):
    """Moves each matrix by its normalised gradient; refuses anything else."""

    def __init__(self, params: object, lr: float) -> None:
        super().__init__(params, {"lr": lr})  # type: ignore[arg-type]

    @torch.no_grad()
    def step(self, closure: object = None) -> None:  # type: ignore[override]  # noqa: ARG002
        for group in self.param_groups:
            for p in group["params"]:
                assert p.ndim == 2
                p -= group["lr"] * p.grad / p.grad.norm()


class LooksAhead(torch.optim.Optimizer):
    """Goes a way up the gradient that it finds, and from where it was down the one that it asks for there."""

    def __init__(self, params: object, lr: float) -> None:
        super().__init__(params, {"lr": lr})  # type: ignore[arg-type]

    @torch.no_grad()
    def step(self, closure: Callable[[], float]) -> None:  # type: ignore[override]
        parameters = [p for group in self.param_groups for p in group["params"]]
        start = [p.clone() for p in parameters]
        for p in parameters:
            p += 0.05 * p.grad
        closure()
        for p, before in zip(parameters, start, strict=True):
            p.copy_(before - self.param_groups[0]["lr"] * p.grad)


class ByCurvature(torch.optim.Optimizer):
    """Divides the gradient by the size of one Hessian product."""

    def __init__(self, params: object, lr: float) -> None:
        super().__init__(params, {"lr": lr})  # type: ignore[arg-type]

    def step(self, closure: object = None) -> None:  # type: ignore[override]  # noqa: ARG002
        parameters = [p for group in self.param_groups for p in group["params"]]
        gradients = [p.grad for p in parameters]
        ones = [torch.ones_like(gradient) for gradient in gradients]
        products = torch.autograd.grad(gradients, parameters, ones, allow_unused=True)
        with torch.no_grad():
            for p, gradient, product in zip(parameters, gradients, products, strict=True):
                curvature = 0.0 if product is None else product.abs()
                p -= self.param_groups[0]["lr"] * gradient / (curvature + 0.1)


@pytest.mark.parametrize("name", ["schedule_free_adamw"])
def test_averaged_weights_come_with_normalisation_statistics_of_their_own(name: str):
    race = race_of(name)
    inputs = race.trial.train_set.gather(torch.arange(512))["inputs"]
    convolution, norm = race.trial.model[0], race.trial.model[1]  # type: ignore[index]
    convolution.load_state_dict({"weight": race.weights[-1]["0.weight"], "bias": race.weights[-1]["0.bias"]})
    means = convolution(inputs).mean(dim=(0, 2, 3)).detach()
    deviation = norm.running_var.sqrt()
    assert ((race.weights[-1]["1.running_mean"] - means).abs() < 0.1 * deviation).all()

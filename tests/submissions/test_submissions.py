"""Contract of every directory in submissions/, and of the loop around a bare optimizer class: each learns a task."""

import functools
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from harness.api import ConfigError, Hyperparameters
from harness.plugins.conformance.check import Outcome
from harness.plugins.conformance.files import check_files
from harness.plugins.conformance.problems import PROBLEMS, SOUGHT
from harness.plugins.conformance.rehearsal import STEPS
from harness.plugins.conformance.rehearsal import Checkpoints as Kept
from harness.plugins.conformance.rehearsal import Rehearsal as Race
from harness.plugins.conformance.training import TRAINING, Candidate, problems_of, unread
from harness.plugins.optimizer_class import train_with
from harness.plugins.optimizer_entry import Entry, Part, read_entry
from harness.plugins.submission import SUBMISSIONS, load_submission
from harness.trial.trial import Trial

NAMES = sorted(path.parent.name for path in SUBMISSIONS.glob("*/submission.yaml"))
# The other problems are as much looked at, and slower.
BY_DEFAULT = "batch_norm"


def test_there_are_submissions():
    assert {"adagrad", "adamw", "heavy_ball", "muon", "nadamw", "nesterov", "schedule_free_adamw"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_the_files_of_a_submission_keep_the_contract(name: str):
    assert [check for check in check_files(name) if check.outcome is not Outcome.PASSED] == []


@pytest.fixture(scope="session")
def candidate_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Candidate]:
    """Each submission with rehearsals that are run once for all that is asked of it."""
    return functools.cache(lambda name: Candidate(load_submission(name), tmp_path_factory.mktemp(name)))


@functools.cache
def tried_on(candidate: Candidate) -> list[str]:
    """Asked once: what was sought has been read from then on."""
    return list(problems_of(candidate))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("fault_of", [fault_of for fault_of, _ in TRAINING.values()], ids=TRAINING)
@pytest.mark.parametrize(
    "problem",
    [each if each == BY_DEFAULT else pytest.param(each, marks=pytest.mark.slow) for each in [*PROBLEMS, *SOUGHT]],
)
def test_the_training_of_a_submission_keeps_the_contract(
    name: str,
    fault_of: Callable[[Candidate, str], str | None],
    problem: str,
    candidate_of: Callable[[str], Candidate],
):
    candidate = candidate_of(name)
    if problem not in (candidate.problems if problem in PROBLEMS else tried_on(candidate)):
        pytest.skip("it is not tried on this problem")
    assert fault_of(candidate, problem) is None


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_submission_reads_all_of_its_hyperparameters(name: str, candidate_of: Callable[[str], Candidate]):
    candidate = candidate_of(name)
    for problem in problems_of(candidate):
        candidate.whole(problem)
    assert unread(candidate) is None


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
            with trial.pinned():
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
def test_averaged_weights_come_with_normalisation_statistics_of_their_own(
    name: str, candidate_of: Callable[[str], Candidate]
):
    race = candidate_of(name).rehearse("batch_norm")
    inputs = race.trial.train_set.gather(torch.arange(512))["inputs"]
    convolution, norm = race.trial.model[0], race.trial.model[1]  # type: ignore[index]
    convolution.load_state_dict({"weight": race.weights[-1]["0.weight"], "bias": race.weights[-1]["0.bias"]})
    means = convolution(inputs).mean(dim=(0, 2, 3)).detach()
    deviation = norm.running_var.sqrt()
    assert ((race.weights[-1]["1.running_mean"] - means).abs() < 0.1 * deviation).all()


@pytest.mark.parametrize("baseline", ["adamw", "nadamw"])
def test_momenta_of_a_space_that_calls_itself_a_baselines_reach_as_far_as_the_baselines(baseline: str):
    """A narrower range around a good point is a start in external tuning that the baseline did not get."""
    named = re.compile(rf"(?<!\w){baseline}'s (archived )?space", re.IGNORECASE)
    files = {name: SUBMISSIONS / name / "submission.yaml" for name in NAMES}
    momenta = {
        name: load_submission(name).space.dimensions.get("one_minus_beta1")
        for name, file in files.items()
        if named.search(file.read_text(encoding="utf-8"))
    }
    wanted = load_submission(baseline).space.dimensions["one_minus_beta1"]

    assert len(momenta) > 1
    assert {name for name, range_of in momenta.items() if range_of not in (None, wanted)} == set()

"""Training methods that are no optimizers compute what their sheets write, and hold what they promise."""

from __future__ import annotations

from collections.abc import Callable
from math import inf

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.api import Batch, ConfigError, Hyperparameters, LossKind
from harness.plugins.conformance.problems import Successors, Vectors
from harness.plugins.conformance.rehearsal import Rehearsal
from harness.trial.conversation import TrialOver
from harness.trial.domains import DomainSampler, tempered
from harness.trial.passes.rows import input_moment
from harness.trial.trial import Trial
from submissions.adamw.submission import train as train_adamw
from submissions.alternating.submission import train as train_on_one_domain_a_step
from submissions.any_loss.submission import binary_answers, confusion, metric_loss
from submissions.cooldown.submission import train as train_on_domains
from submissions.gradient_norm_penalty.submission import slope_of_norm
from submissions.gradient_norm_penalty.submission import train as train_with_penalty
from submissions.mezo.submission import move, slope, spsa_step
from submissions.mezo.submission import train as train_by_slopes
from submissions.reste.submission import binary, latent_gradient, power_at, signs
from submissions.reste.submission import slope as slope_of_sign
from submissions.reste.submission import train as train_binary
from submissions.target_surrogate.submission import ArmijoDescent, searched, surrogate
from submissions.target_surrogate.submission import train as train_by_surrogates
from submissions.tp_sgd.submission import Projections, codes_of, local_loss, separated
from submissions.tract.submission import trained_activations
from tests.trial.test_trial import make_trial


def tensor(*values: object) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def gaussian(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


# --- mezo ---


def directions(seed: int, *shapes: tuple[int, ...]) -> list[Tensor]:
    """The z that `move` walks along."""
    parameters = [torch.zeros(shape, dtype=torch.float64) for shape in shapes]
    move(parameters, seed, 1.0)
    return parameters


@pytest.mark.parametrize("eps", [1e-3, 1.0])
def test_the_slope_of_a_quadratic_along_a_direction_is_exact(eps):
    """Minus 11 along (0.5, 1) for p1^2 + 3 p2^2 at (1, -2), as the sheet has it, in coordinates of the draw."""
    (z,) = directions(7, (2,))
    # Coordinates in which the drawn direction is (0.5, 1).
    scale = tensor(0.5, 1.0) / z
    point = tensor(1.0, -2.0) / scale

    def loss() -> Tensor:
        return ((scale * point).square() * tensor(1.0, 3.0)).sum()

    assert slope([point], loss, seed=7, eps=eps) == pytest.approx(-11.0, rel=1e-9)
    spsa_step([point], loss, seeds=[7], eps=eps, rate=0.01)
    torch.testing.assert_close(scale * point, tensor(1.055, -1.89), atol=1e-9, rtol=0)


def test_a_step_along_several_directions_takes_their_mean_at_one_point():
    point = tensor(1.0, -2.0)

    def loss() -> Tensor:
        return (point * tensor(3.0, 4.0)).sum()

    z = torch.stack([directions(seed, (2,))[0] for seed in (1, 2, 3)])
    expected = point - 0.1 * ((z @ tensor(3.0, 4.0))[:, None] * z).mean(dim=0)
    spsa_step([point], loss, seeds=[1, 2, 3], eps=1e-3, rate=0.1)
    torch.testing.assert_close(point, expected)


@pytest.mark.parametrize(("count", "expected"), [(1, 12.0), (4, 3.75)])
def test_the_second_moment_of_the_estimate_is_that_of_the_theory(count, expected):
    """(d + n + 1) / n for a unit gradient in 10 dimensions."""
    estimates = []
    for first in range(0, 2000 * count, count):
        point = torch.zeros(10, dtype=torch.float64)
        spsa_step([point], lambda: point[0].clone(), seeds=range(first, first + count), eps=1e-2, rate=1.0)  # noqa: B023
        estimates.append(float(point.square().sum()))
    assert sum(estimates) / len(estimates) == pytest.approx(expected, rel=0.08)


def test_looking_both_ways_leaves_the_weights_where_they_were_up_to_rounding():
    weights = [torch.randn(50, 40, generator=torch.Generator().manual_seed(1)), torch.ones(7)]
    before = [weight.clone() for weight in weights]
    slope(weights, lambda: torch.zeros(()), seed=3, eps=1e-3)
    for weight, was in zip(weights, before, strict=True):
        assert float((weight - was).norm() / was.norm()) < 1e-6


def test_a_step_in_another_shape_or_dtype_is_drawn_in_it_and_the_same_for_a_seed():
    first, second = directions(5, (3, 4), (2,))
    again = directions(5, (3, 4), (2,))
    assert torch.equal(first, again[0])
    assert torch.equal(second, again[1])
    assert not torch.equal(first, directions(6, (3, 4))[0])


def test_mezo_makes_two_forward_passes_a_direction_and_no_gradient():
    trial, told = make_trial([None], every=3, hidden=8)
    train_by_slopes(trial, Hyperparameters({"learning_rate": 0.01, "eps": 1e-3, "directions": 4}))
    assert told[0].reported == {"forward_passes": 3 * 2 * 4}
    assert all(parameter.grad is None for parameter in trial.model.parameters())


# --- target_surrogate ---


def test_steps_down_a_surrogate_are_those_of_the_sheet():
    """X = diag(1, 2), y = (1, 1), loss |z - y|^2 / 2, from 0 with eta = 1/2 and steps of 1/4."""
    x, theta = torch.diag(tensor(1.0, 2.0)), nn.Parameter(tensor(0.0, 0.0))
    start = tensor(0.0, 0.0)
    slope_in_outputs = start - 1.0

    def value() -> Tensor:
        return surrogate(x @ theta, start, slope_in_outputs, 0.5)

    # A decrease of -infinity takes every step as it comes.
    found = []
    for _ in range(3):
        ArmijoDescent([theta], step=0.25, decrease=-inf).descend(value(), value, steps=1)
        found.append(theta.detach().clone())
    torch.testing.assert_close(torch.stack(found), tensor([0.25, 0.5], [0.375, 0.0], [0.4375, 0.5]))
    solver = ArmijoDescent([theta], step=0.25)
    solver.descend(value(), value, steps=60)
    torch.testing.assert_close(theta.detach(), tensor(0.5, 0.25), atol=1e-6, rtol=0)


def test_a_surrogate_with_one_over_the_smoothness_bounds_the_change_of_the_loss():
    x, labels = gaussian(40, 5), (gaussian(40, seed=1) > 0).double()
    start_weights = gaussian(5, seed=2)
    start = (x @ start_weights).requires_grad_()
    before = F.binary_cross_entropy_with_logits(start, labels)
    (along,) = torch.autograd.grad(before, start)
    for seed in range(20):
        z = x @ (start_weights + gaussian(5, seed=3 + seed))
        after = F.binary_cross_entropy_with_logits(z, labels)
        assert after <= before + surrogate(z, start, along, 40 / 0.25) + 1e-12


def factorisation(seed: int) -> tuple[nn.Module, Callable[[], Tensor], Tensor]:
    """The sheet's matrix factorisation: a two-layer linear network 6-10-10 on 1000 examples, all one batch."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(1000, 6, generator=generator, dtype=torch.float64)
    scales = torch.linspace(1, 1e-10, 10, dtype=torch.float64)[:, None]
    targets = inputs @ (scales * torch.rand(10, 6, generator=generator, dtype=torch.float64)).T
    net = nn.Sequential(nn.Linear(6, 10, bias=False), nn.Linear(10, 10, bias=False)).double()
    for weight in net.parameters():
        nn.init.normal_(weight, std=weight.shape[1] ** -0.5, generator=generator)
    return net, lambda: net(inputs), targets


def after_thirty_calls(seed: int, *, steps: int, by_surrogate: bool) -> float:
    net, outputs, targets = factorisation(seed)
    solver = ArmijoDescent(list(net.parameters()), growth=2.0)

    def loss(z: Tensor) -> Tensor:
        return (z - targets).square().sum(dim=1).mean()

    for _ in range(30):
        if by_surrogate:
            start = outputs().detach().requires_grad_()
            (along,) = torch.autograd.grad(loss(start), start)
            start = start.detach()

            def value() -> Tensor:
                return surrogate(outputs(), start, along, len(targets) / 2)  # noqa: B023
        else:

            def value() -> Tensor:
                return loss(outputs())

        solver.descend(value(), value, steps=steps)
    return loss(outputs()).item()


@pytest.mark.parametrize("seed", [0, 1])
def test_five_steps_a_surrogate_beat_gradient_descent_a_thousandfold_at_thirty_gradients_of_the_loss(seed):
    descent = after_thirty_calls(seed, steps=1, by_surrogate=False)
    assert after_thirty_calls(seed, steps=5, by_surrogate=True) < descent / 1000


def test_a_step_in_outputs_is_searched_for_where_the_smoothness_is_unknown():
    start, along = tensor(1.0, -2.0), tensor(1.0, -1.0)
    found = searched(10.0, start, along, squared=2.0, loss=lambda z: float(z.abs().sum()))
    assert found <= 2.0  # beyond, the first output passes zero by more than it came from it
    assert found / 0.9 > 1.0


def test_a_search_that_finds_no_fall_stays():
    theta = nn.Parameter(tensor(1.0))
    solver = ArmijoDescent([theta], step=1.0, decrease=inf)
    values, gradients = solver.descend(theta.square().sum(), lambda: theta.square().sum(), steps=5)
    assert (theta.item(), gradients, solver.step) == (1.0, 1, 1.0)
    assert values > 100


def test_a_search_ends_where_nothing_is_a_number():
    theta = nn.Parameter(tensor(1.0))
    solver = ArmijoDescent([theta])
    assert solver.descend(torch.nan * theta.sum(), lambda: torch.nan * theta.sum(), steps=5) == (0, 1)


def test_a_search_finds_a_step_that_is_far_below_the_first():
    theta = nn.Parameter(tensor(1.0))
    solver = ArmijoDescent([theta], step=10.0)
    solver.descend(1e6 * theta.square().sum(), lambda: 1e6 * theta.square().sum(), steps=1)
    assert abs(theta.item()) < 1.0
    assert solver.step < 1e-6


def test_outputs_that_the_loss_does_not_ask_about_bind_nothing():
    start, along = gaussian(3, 4), gaussian(3, 4, seed=1)
    along[1] = 0.0
    moved = start + 1.0
    found = surrogate(moved, start, along, 0.5)
    torch.testing.assert_close(found, surrogate(moved[[0, 2]], start[[0, 2]], along[[0, 2]], 0.5))


@pytest.mark.parametrize("options", [{}, {"dropout": 0.5, "batch_norm": True}], ids=str)
def test_a_surrogate_asks_for_one_gradient_of_the_loss_a_step_and_moves_the_running_statistics_once(options):
    def after(inner_steps: int) -> tuple[Trial, dict[str, float]]:
        trial, told = make_trial([None], every=1, hidden=8, **options)
        train_by_surrogates(trial, Hyperparameters({"target_rate": 1.0, "inner_steps": inner_steps}))
        return trial, told[0].reported

    (one, _), (five, counts) = after(1), after(5)
    assert (counts["oracle_calls"], counts["gradient_calls"]) == (1, 5)
    assert counts["forward_passes"] >= 6
    for buffer, other in zip(one.model.buffers(), five.model.buffers(), strict=True):
        assert torch.equal(buffer, other)


# --- tract ---


def test_the_gradient_of_trained_activations_is_that_of_the_sheet_for_one_row_and_for_two():
    layer = nn.Linear(2, 1, bias=False)
    for x, gradient_of_outputs, expected in [
        (tensor([1.0, 2.0]), tensor([1.0]), [0.196078, 0.392157]),
        (tensor([1.0, 2.0], [0.0, 1.0]), tensor([1.0], [-1.0]), [2.857143, -0.714286]),
    ]:
        moment = input_moment(layer, [x])
        assert moment is not None
        found = trained_activations(gradient_of_outputs.T @ x, moment, 0.1)
        torch.testing.assert_close(found, tensor(expected), atol=1e-6, rtol=0)


def test_both_forms_of_the_inverse_agree():
    x, z = gaussian(4, 7), gaussian(4, 3, seed=1)
    moment = input_moment(nn.Linear(7, 3), [x])
    assert moment is not None
    small = x @ x.T / 4
    other = (z.T @ (torch.eye(4) - small / 0.1 @ torch.linalg.inv(small / 0.1 + torch.eye(4))) @ x) / 0.1
    torch.testing.assert_close(trained_activations(z.T @ x, moment, 0.1), other)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Linear(3, 2), (5, 4, 3)),
        (nn.Conv1d(2, 3, 5, stride=2, padding=2), (4, 2, 11)),
        (nn.Conv2d(2, 4, 3, stride=2, padding=1, dilation=2), (3, 2, 9, 8)),
        (nn.Conv2d(1, 4, (3, 1), padding="same"), (3, 1, 9, 8)),
        (nn.Conv3d(2, 2, 2), (2, 2, 3, 4, 3)),
    ],
    ids=["linear on sequences", "sequences", "images", "images padded by name", "volumes"],
)
def test_rows_of_a_layer_times_its_weights_are_its_outputs(layer, shape):
    """Their second moment is that of the outputs of a layer whose weights are orthonormal."""
    layer, inputs = layer.double(), gaussian(*shape)
    moment = input_moment(layer, [inputs, inputs])
    assert moment is not None
    layer.bias.data.zero_()
    outputs = layer(inputs)
    flat = (outputs if isinstance(layer, nn.Linear) else outputs.movedim(1, -1)).flatten(0, -2)
    weight = layer.weight.flatten(1)
    torch.testing.assert_close(flat.T @ flat / len(flat), weight @ moment @ weight.T)


def test_convolutions_in_groups_or_with_mirrored_edges_are_left_alone():
    assert input_moment(nn.Conv2d(2, 2, 3, groups=2), [torch.ones(1, 2, 5, 5)]) is None
    assert input_moment(nn.Conv1d(2, 2, 3, padding=1, padding_mode="reflect"), [torch.ones(1, 2, 5)]) is None


# --- tp_sgd ---


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("squared", [[0.014043, 0.028085], [-0.014058, -0.028115]]),
        ("absolute", [[0.024446, 0.048892], [-0.018737, -0.037474]]),
    ],
)
def test_a_local_step_is_that_of_the_sheet(kind, expected):
    """The sheet sums over both outputs, the local loss is their mean: twice its rate of 0.1."""
    weight = nn.Parameter(tensor([0.1, -0.2], [0.3, 0.4]))
    outputs = torch.sigmoid(tensor([1.0, 2.0]) @ weight.T)
    local_loss(outputs, tensor([1.0, 0.0]), kind).backward()
    assert weight.grad is not None
    torch.testing.assert_close(-0.2 * weight.grad, tensor(*expected), atol=1e-6, rtol=0)


class SeveralLabels(Vectors):
    """Three labels of each example, of which every second one is unknown."""

    loss_kind = LossKind.SIGMOID_CROSS_ENTROPY

    def drawn(self, count: int, generator: torch.Generator) -> dict[str, Tensor]:
        examples = super().drawn(count, generator)
        targets = F.one_hot(examples["targets"], 3).float()
        return {**examples, "targets": targets, "weights": (torch.arange(3 * count).view(count, 3) % 2).float()}

    def losses(self, outputs: Tensor, batch: Batch, label_smoothing: float) -> tuple[Tensor, Tensor | None]:
        assert label_smoothing == 0.0
        return F.binary_cross_entropy_with_logits(outputs, batch["targets"], reduction="none"), batch["weights"]


def test_layers_learn_nothing_from_padding():
    """Successors has padding whose targets are wrong."""
    trial = Rehearsal(Successors()).trial
    batch = trial.next_batch()
    outputs = trial.outputs(batch)
    codes, weights = codes_of(trial, batch, outputs)
    assert codes is not None
    assert weights is not None
    is_padding = batch["weights"] == 0
    assert is_padding.any()
    assert weights.mean().item() == pytest.approx(1.0)
    hidden = torch.randn(*weights.shape, 5, requires_grad=True)
    local_loss(hidden, torch.ones_like(hidden), "squared", weights).backward()
    assert hidden.grad is not None
    assert not hidden.grad[is_padding].any()
    # What is left learns as it would alone.
    [alone] = torch.autograd.grad(local_loss(hidden[~is_padding], torch.ones(5), "squared"), hidden)
    torch.testing.assert_close(hidden.grad, alone)


def test_of_several_labels_those_that_are_unknown_are_in_no_code():
    trial = Rehearsal(SeveralLabels()).trial
    batch = trial.next_batch()
    codes, weights = codes_of(trial, batch, trial.outputs(batch))
    assert weights is None
    assert codes is not None
    assert not codes[batch["weights"] == 0].any()
    assert torch.equal(codes, batch["targets"] * batch["weights"])


def test_another_local_loss_is_refused():
    with pytest.raises(ConfigError, match=r"local_loss is 'cubed'\. Use one of squared, absolute"):
        local_loss(torch.ones(1, 1), torch.ones(1, 1), "cubed")


def layers() -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv1d(1, 4, 3), nn.BatchNorm1d(4), nn.ReLU(), nn.Flatten(), nn.Linear(24, 5), nn.Tanh(), nn.Linear(5, 2)
    )


def local_gradients(net: nn.Module) -> dict[str, Tensor]:
    """Gradients of a net's parameters by local losses, of its outputs by a cross-entropy."""
    trial, _ = make_trial()
    batch = trial.next_batch()
    codes = F.one_hot(batch["targets"], 2)
    projections = Projections(trial)
    with separated(net, batch["targets"].shape) as seen:
        outputs = net(batch["inputs"][:, None])
    loss = F.cross_entropy(outputs.flatten(1)[:, :2], batch["targets"])
    for name, hidden in seen:
        loss = loss + local_loss(hidden, projections.targets(name, hidden, codes), "squared")
    loss.backward()
    return {name: p.grad for name, p in net.named_parameters() if p.grad is not None}


def test_what_a_layer_learns_depends_on_no_layer_after_it():
    whole, changed, cut = layers(), layers(), layers()
    with torch.no_grad():
        for parameter in changed[-1].parameters():
            parameter.mul_(-3.0)
    found, others = local_gradients(whole), local_gradients(changed)
    hidden = [name for name in found if not name.startswith("6.")]
    assert len(hidden) == 6
    assert all(torch.equal(found[name], others[name]) for name in hidden)
    assert not torch.equal(found["6.bias"], others["6.bias"])
    # The first layer and its norm learn the same where the layers behind their reader are gone.
    shorter = local_gradients(cut[:5])
    assert all(torch.equal(found[name], shorter[name]) for name in hidden[:4])


def test_codes_stay_and_lie_where_a_layers_outputs_can():
    trial, _ = make_trial()
    projections = Projections(trial)
    labels = F.one_hot(torch.tensor([0, 1, 1]), 2)
    behind_relu, behind_tanh = torch.rand(3, 4, 5), torch.randn(3, 6).tanh()
    targets = projections.targets("a", behind_relu, labels)
    assert targets.shape == (3, 4, 5)
    assert torch.equal(targets[1], targets[2])
    assert not torch.equal(targets[0], targets[1])
    assert targets.min() >= 0
    assert targets.max() <= 1
    assert projections.targets("b", behind_tanh, labels).min() < 0
    again = Projections(trial)
    again.load_state_dict(projections.state_dict())
    assert torch.equal(again.targets("a", behind_relu, labels), targets)


def test_layers_that_do_not_have_one_row_for_each_label_are_not_cut():
    net = nn.Sequential(nn.Linear(4, 6), nn.Unflatten(1, (2, 3)), nn.Flatten(0, 1), nn.Linear(3, 2))
    with separated(net, torch.Size([5])) as seen:
        net(torch.ones(5, 4)).sum().backward()
    assert not seen
    assert net[0].weight.grad is not None
    with separated(net, None) as seen:
        net(torch.ones(5, 4))
    assert not seen


# --- reste ---


def test_the_slope_of_the_sign_is_that_of_the_sheet():
    at = tensor(0.05, 0.5, 1.0, 1.6)
    torch.testing.assert_close(slope_of_sign(at, 3.0), tensor(4.641589, 0.529134, 0.333333, 0.0), atol=1e-6, rtol=0)
    torch.testing.assert_close(slope_of_sign(-at, 3.0), slope_of_sign(at, 3.0))
    torch.testing.assert_close(slope_of_sign(at, 1.0), tensor(1.0, 1.0, 1.0, 0.0))


def test_the_power_grows_as_the_sheet_writes():
    found = [power_at(share, 3.0) for share in (0.0, 0.25, 0.5, 0.75, 1.0, 1.2)]
    assert found == pytest.approx([1.0, 1.1522, 1.5858, 2.2346, 3.0, 3.0], abs=1e-4)


def test_a_binary_matrix_has_two_values_and_zero_counts_as_positive():
    assert signs(tensor(-2.0, 0.0, 3.0)).tolist() == [-1.0, 1.0, 1.0]
    assert binary(tensor(-2.0, 0.0, 4.0)).tolist() == [-2.0, 2.0, 2.0]


def test_with_power_one_the_gradient_is_that_of_the_weights_and_exact_in_the_scale():
    """Against autograd through mean |w| and a clipped identity in place of the sign."""
    latent = (gaussian(4, 3) * 0.8).requires_grad_()
    gradient = gaussian(4, 3, seed=1)
    straight = signs(latent.detach()) + (latent - latent.detach()) * (latent.detach().abs() <= 1.5)
    (straight * latent.abs().mean() * gradient).sum().backward()
    assert latent.grad is not None
    torch.testing.assert_close(latent_gradient(latent.detach(), gradient, 1.0), latent.grad)


def test_what_reste_hands_over_is_binary_in_hidden_matrices_and_real_in_the_first_and_the_last():
    point = {"learning_rate": 0.1, "momentum": 0.9, "weight_decay": 1e-4, "warmup_fraction": 0.0}
    race = Rehearsal().run(train_binary, Hyperparameters({**point, "label_smoothing": 0.0, "last_power": 3.0}))
    for weights in race.weights:
        assert len(weights["4.weight"].unique()) == 2
        assert len(weights["4.weight"].abs().unique()) == 1
        for real in ("0.weight", "6.weight"):
            assert len(weights[real].abs().unique()) > 2


# --- any_loss ---

PROBABILITIES, LABELS = tensor(0.9, 0.52, 0.49, 0.1)[:, None], tensor(1.0, 1.0, 0.0, 0.0)[:, None]


@pytest.mark.parametrize(
    ("metric", "expected"),
    [("f1", 0.875829), ("balanced_accuracy", 0.871584), ("geometric_mean", 0.870914), ("accuracy", 0.871584)],
)
def test_a_smooth_metric_is_that_of_the_sheet(metric, expected):
    counts = confusion(PROBABILITIES, LABELS, torch.ones_like(LABELS), amplification=73.0)
    assert 1 - float(metric_loss(counts, metric)) == pytest.approx(expected, abs=1e-6)


def test_tasks_without_both_labels_do_not_count_and_neither_do_unknown_ones():
    probabilities, labels = PROBABILITIES.repeat(1, 2), torch.cat([LABELS, torch.zeros_like(LABELS)], dim=1)
    one = metric_loss(confusion(PROBABILITIES, LABELS, torch.ones_like(LABELS), amplification=73.0), "f1")
    two = metric_loss(confusion(probabilities, labels, torch.ones_like(labels), amplification=73.0), "f1")
    assert one == two
    padded = [torch.cat([part, torch.full_like(part, 0.3)]) for part in (PROBABILITIES, LABELS)]
    known = torch.cat([torch.ones_like(LABELS), torch.zeros_like(LABELS)])
    assert metric_loss(confusion(*padded, known, amplification=73.0), "f1") == one
    nothing = confusion(PROBABILITIES, torch.zeros_like(LABELS), torch.ones_like(LABELS), amplification=73.0)
    assert metric_loss(nothing, "geometric_mean") == 0


def test_a_geometric_mean_of_zero_has_a_finite_gradient():
    probabilities = tensor(0.0, 0.0, 0.0, 0.0)[:, None].requires_grad_()
    counts = confusion(probabilities, LABELS, torch.ones_like(LABELS), amplification=1e4)
    metric_loss(counts, "geometric_mean").backward()
    assert probabilities.grad is not None
    assert torch.isfinite(probabilities.grad).all()


def test_yes_and_no_are_found_under_a_softmax_over_two_and_under_a_sigmoid_alone():
    trial, _ = make_trial(masked=True)
    batch = trial.next_batch()
    outputs = trial.outputs(batch)
    answers = binary_answers(trial, batch, outputs)
    assert answers is not None
    probabilities, labels, weights = answers
    torch.testing.assert_close(probabilities[:, 0], torch.sigmoid(outputs[:, 1] - outputs[:, 0]))
    assert torch.equal(labels[:, 0].long(), batch["targets"])
    assert torch.equal(weights[:, 0], batch["weights"])
    trial.loss_kind = LossKind.MEAN_SQUARED_ERROR
    assert binary_answers(trial, batch, outputs) is None


def test_on_a_vocabulary_no_codes_of_labels_are_made(monkeypatch: pytest.MonkeyPatch):
    """They have the size of the outputs times the vocabulary, and the metric is not for them."""
    trial = Rehearsal(Successors()).trial
    monkeypatch.setattr(trial, "label_codes", lambda *_, **__: pytest.fail("codes were made"))
    batch = trial.next_batch()
    assert binary_answers(trial, batch, trial.outputs(batch)) is None


def test_a_metric_that_does_not_exist_is_refused():
    from submissions.any_loss.submission import train

    trial, _ = make_trial()
    with pytest.raises(ConfigError, match=r"metric is 'auc'\. Use one of accuracy, f1"):
        train(trial, Hyperparameters({"metric": "auc"}))


# --- cooldown ---


@pytest.mark.parametrize(
    ("temperature", "expected"),
    [(1.0, [0.990099, 0.009901]), (5.0, [0.715253, 0.284747]), (100.0, [0.511511, 0.488489])],
)
def test_a_temperature_evens_domains_out_as_the_sheet_writes(temperature, expected):
    found = tempered(torch.tensor([1000, 10]), temperature)
    torch.testing.assert_close(found, tensor(*expected), atol=1e-6, rtol=0)
    in_proportion = tempered(torch.tensor([1000, 10]), 1.0)
    if temperature == 5.0:
        torch.testing.assert_close(found / in_proportion, tensor(0.722405, 28.759472), atol=1e-5, rtol=0)
        assert float((found.square() / in_proportion).sum()) == pytest.approx(8.7059, abs=1e-4)


def test_a_sampler_draws_domains_by_temperature_and_all_examples_of_one_alike():
    domains = torch.tensor([3] * 90 + [1] * 10)[torch.randperm(100, generator=torch.Generator().manual_seed(1))]
    sampler = DomainSampler(domains)
    drawn = sampler.draw(20_000, 5.0, torch.Generator().manual_seed(2))
    shares = torch.bincount(domains[drawn], minlength=4) / len(drawn)
    torch.testing.assert_close(shares.double(), tempered(sampler.sizes, 5.0), atol=0.015, rtol=0)
    assert shares[[0, 2]].tolist() == [0.0, 0.0]
    assert len(drawn.unique()) == 100
    of_small = torch.bincount(drawn, minlength=100)[domains == 1]
    assert of_small.max() < 1.3 * of_small.min()


def test_cooldown_draws_evenly_first_and_in_proportion_later_and_counts_what_it_draws():
    trial, told = make_trial([None], every=90, small_domain=12)
    small = trial.train_set.gather(torch.arange(500, 512))["inputs"]
    seen: list[int] = []

    def count(_: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        seen.append(int((arguments[0][:, None] == small).all(dim=2).sum()))

    trial.model.register_forward_pre_hook(count)
    point = {"learning_rate": 0.01, "one_minus_beta1": 0.1, "beta2": 0.99, "weight_decay": 0.0, "warmup_fraction": 0.1}
    hp = Hyperparameters({**point, "label_smoothing": 0.0, "temperature": 5.0, "hot_fraction": 0.5})
    with pytest.raises(TrialOver):
        train_on_domains(trial, hp)
    assert told[0].examples == 90 * 32
    assert sum(seen[:45]) / (45 * 32) == pytest.approx(float(tempered(torch.tensor([500, 12]), 5.0)[1]), abs=0.04)
    assert sum(seen[45:]) / (45 * 32) == pytest.approx(12 / 512, abs=0.015)


# --- alternating ---


def test_examples_drawn_alike_are_of_one_domain_and_a_domain_comes_by_the_root_of_its_size():
    domains = torch.tensor([3] * 90 + [1] * 10)[torch.randperm(100, generator=torch.Generator().manual_seed(1))]
    sampler, stream = DomainSampler(domains), torch.Generator().manual_seed(2)
    batches = torch.stack([sampler.draw_alike(8, 2.0, stream) for _ in range(4_000)])
    of_batch = domains[batches]
    assert bool((of_batch == of_batch[:, :1]).all())
    # Roots of 90 and 10 are as 3 to 1.
    assert (of_batch[:, 0] == 3).double().mean().item() == pytest.approx(0.75, abs=0.03)
    assert len(batches.unique()) == 100


def test_alternating_trains_on_one_domain_a_step_and_counts_what_it_draws():
    trial, told = make_trial([None], every=90, small_domain=12)
    small = trial.train_set.gather(torch.arange(500, 512))["inputs"]
    seen: list[int] = []

    def count(_: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        seen.append(int((arguments[0][:, None] == small).all(dim=2).sum()))

    trial.model.register_forward_pre_hook(count)
    point = {"learning_rate": 0.01, "one_minus_beta1": 0.1, "beta2": 0.99, "weight_decay": 0.0, "warmup_fraction": 0.1}
    with pytest.raises(TrialOver):
        train_on_one_domain_a_step(trial, Hyperparameters({**point, "label_smoothing": 0.0}))
    assert told[0].examples == 90 * 32
    assert set(seen) == {0, 32}
    share = 12**0.5 / (12**0.5 + 500**0.5)
    assert seen.count(32) / 90 == pytest.approx(share, abs=3 * (share * (1 - share) / 90) ** 0.5)


def test_what_is_drawn_depends_on_the_generator_alone():
    sampler = DomainSampler(torch.arange(50) % 3)
    first, again = (sampler.draw(20, 2.0, torch.Generator().manual_seed(4)) for _ in range(2))
    assert torch.equal(first, again)


# --- gradient_norm_penalty ---


def test_the_gradient_of_a_gradients_norm_is_that_of_a_quadratic():
    """h = w A w / 2 has the gradient g = A w, whose length has the gradient A g / |g|."""
    matrix, weights = torch.diag(tensor(2.0, 3.0)), nn.Parameter(tensor(1.0, 2.0))

    def slope() -> list[Tensor]:
        return list(torch.autograd.grad(weights @ matrix @ weights / 2, [weights]))

    [found] = slope_of_norm([weights], slope(), slope, distance=0.01)
    gradient = tensor(2.0, 6.0)
    torch.testing.assert_close(found, matrix @ gradient / gradient.norm())
    assert weights.tolist() == [1.0, 2.0]


def test_where_the_mean_output_has_no_slope_nothing_is_penalised():
    weights = nn.Parameter(tensor(0.0, 0.0))

    def slope() -> list[Tensor]:
        return list(torch.autograd.grad(weights.square().sum(), [weights]))

    assert slope_of_norm([weights], slope(), slope, distance=0.01)[0].tolist() == [0.0, 0.0]


def test_without_a_penalty_the_steps_are_those_of_adamw_and_with_one_the_slope_of_the_outputs_is_smaller():
    point = {
        "learning_rate": 0.01, "one_minus_beta1": 0.1, "beta2": 0.99, "weight_decay": 0.0, "warmup_fraction": 0.0,
        "label_smoothing": 0.0, "step_hint_factor": 1.0, "distance": 0.01,
    }  # fmt: skip

    def after(train: Callable[[Trial, Hyperparameters], None], **more: float) -> Trial:
        trial, _ = make_trial([None], every=40, hidden=8, dropout=0.2)
        train(trial, Hyperparameters(point | more))
        return trial

    def slope(trial: Trial) -> float:
        outputs = trial.outputs(trial.train_set.gather(torch.arange(256)))
        parts = torch.autograd.grad(outputs.mean(), list(trial.model.parameters()))
        return torch.cat([part.flatten() for part in parts]).norm().item()

    plain, none, penalised = after(train_adamw), after(train_with_penalty, rho=0.0), after(train_with_penalty, rho=1.0)
    assert all(map(torch.equal, plain.model.parameters(), none.model.parameters()))
    assert slope(penalised) < 0.8 * slope(plain)

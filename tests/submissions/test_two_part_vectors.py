"""Rules of two gradients or of two parts compute what their sheets write."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from harness import Hyperparameters, ParameterKind
from harness.plugins.conformance.problems import Stripes, Successors
from harness.plugins.conformance.rehearsal import STEPS, Rehearsal
from harness.trial.parameter_kinds import kinds_of
from submissions.extragradient.submission import extragradient_step
from submissions.extragradient.submission import train as train_ahead
from submissions.last_layer_refine.submission import called_layers, last_layers, refine
from submissions.last_layer_refine.submission import train as train_in_two_parts
from tests.trial.passes.trials import trial_on_blobs

ADAMW = {
    "learning_rate": 0.01,
    "one_minus_beta1": 0.1,
    "beta2": 0.99,
    "weight_decay": 0.0,
    "warmup_fraction": 0.0,
    "label_smoothing": 0.0,
}


# --- extragradient ---


def after_a_game(steps: int, step: Callable[[torch.optim.Optimizer, list[Tensor], Callable[[], None]], None]) -> float:
    """Squared distance from (0, 0) after min over x, max over y of x y from (1, 0), at a rate of 0.5."""
    players = [nn.Parameter(torch.tensor([value], dtype=torch.float64)) for value in (1.0, 0.0)]
    x, y = players

    def gradient() -> None:
        x.grad, y.grad = y.detach().clone(), -x.detach()

    optimizer = torch.optim.SGD(players, lr=0.5)
    for _ in range(steps):
        step(optimizer, list(players), gradient)
    return float(x.detach().square() + y.detach().square())


def plain_step(optimizer: torch.optim.Optimizer, _: Sequence[Tensor], gradient: Callable[[], None]) -> None:
    gradient()
    optimizer.step()


def test_on_a_bilinear_game_plain_steps_spiral_out_and_a_look_ahead_spirals_in():
    # A step turns (x, y) and multiplies its square by 1 + eta^2, or by 1 - eta^2 + eta^4.
    assert after_a_game(1, plain_step) == pytest.approx(1.25)
    assert after_a_game(1, extragradient_step) == pytest.approx(1 - 0.25 + 0.0625)
    assert after_a_game(20, plain_step) == pytest.approx(1.25**20)
    assert after_a_game(20, extragradient_step) == pytest.approx(0.8125**20)


def test_half_a_look_ahead_is_half_as_far():
    def half(optimizer: torch.optim.Optimizer, players: list[Tensor], gradient: Callable[[], None]) -> None:
        extragradient_step(optimizer, players, gradient, reach=0.5)

    # (1, 0) looks at (1, 1/4), whose gradient (1/4, -1) leads from (1, 0) to (7/8, 1/2).
    assert after_a_game(1, half) == pytest.approx((7 / 8) ** 2 + 0.25)


def test_a_step_of_adam_goes_from_where_it_stood_with_both_gradients_in_its_averages():
    weight, twin = (nn.Parameter(torch.tensor([2.0, -1.0], dtype=torch.float64)) for _ in range(2))
    ahead, by_hand = (torch.optim.Adam([p], lr=0.1, betas=(0.5, 0.9)) for p in (weight, twin))
    seen: list[Tensor] = []

    def gradient() -> None:
        seen.append(weight.detach().clone())
        weight.grad = weight.detach() ** 3

    extragradient_step(ahead, [weight], gradient)
    start = twin.detach().clone()
    twin.grad = start**3
    by_hand.step()
    torch.testing.assert_close(seen[1], twin.detach())
    twin.grad = twin.detach() ** 3
    with torch.no_grad():
        twin.copy_(start)
    by_hand.step()
    torch.testing.assert_close(weight.detach(), twin.detach())


def test_both_gradients_of_a_step_are_of_one_batch_and_the_first_moves_weights_along_the_second():
    trial = trial_on_blobs(evaluate_every_steps=1)
    other = trial_on_blobs()
    train_ahead(trial, Hyperparameters({**ADAMW, "reach": 1.0, "step_hint_factor": 1.0}))
    parameters = list(other.model.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=0.01, betas=(0.9, 0.99), weight_decay=0.0)
    batch, start = other.next_batch(), [p.detach().clone() for p in parameters]
    for is_second in (False, True):
        optimizer.zero_grad()
        other.loss(batch).backward()
        if is_second:
            with torch.no_grad():
                torch._foreach_copy_(parameters, start)
        optimizer.step()
    for parameter, expected in zip(trial.model.parameters(), parameters, strict=True):
        torch.testing.assert_close(parameter, expected)


# --- last_layer_refine ---


def test_lbfgs_finds_the_least_squares_of_a_layer():
    generator = torch.Generator().manual_seed(0)
    features, targets = (torch.randn(50, columns, dtype=torch.float64, generator=generator) for columns in (6, 2))
    weight = nn.Parameter(torch.zeros(6, 2, dtype=torch.float64))

    def gradients() -> Tensor:
        weight.grad = None
        loss = (features @ weight - targets).square().mean()
        loss.backward()
        return loss

    refine([weight], gradients, iterations=30)
    torch.testing.assert_close(weight.detach(), torch.linalg.lstsq(features, targets).solution, atol=1e-5, rtol=0)


def test_a_line_search_that_looks_often_leaves_the_iterations_as_many_as_were_asked_for():
    """The first search starts from a step that is far too short: alone it looks at more losses than six."""
    features = torch.randn(50, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    weight = nn.Parameter(torch.full((6,), 100.0, dtype=torch.float64))
    losses: list[float] = []

    def gradients() -> Tensor:
        weight.grad = None
        loss = 1e-3 * (features @ weight).square().mean()
        loss.backward()
        losses.append(loss.item())
        return loss

    refine([weight], gradients, iterations=5)
    assert len(losses) > 7
    assert losses[-1] < 0.01 * losses[0]


LAYERS = [["first.weight", "first.bias"], ["one.weight"], ["one.out"], ["two.weight"], ["two.out"]]
KINDS = {
    name: ParameterKind.OUTPUT if name.endswith("out") else ParameterKind.WEIGHT for names in LAYERS for name in names
}


@pytest.mark.parametrize(
    ("before", "expected"),
    [
        (0, ["one.out", "two.out"]),
        (1, ["one.weight", "one.out", "two.weight", "two.out"]),
        (2, ["first.weight", "first.bias", "one.weight", "one.out", "two.weight", "two.out"]),
    ],
)
def test_each_head_has_its_own_layers_before_it(before: int, expected: list[str]):
    assert last_layers(LAYERS, KINDS, before=before) == expected


def test_without_an_output_layer_there_are_no_last_ones():
    assert last_layers(LAYERS[:2], KINDS, before=1) == []


class Backwards(nn.Module):
    """Its layers are registered in another order than they are called in, and attention holds a layer of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.output = nn.Linear(16, 2)
        self.attention = nn.MultiheadAttention(16, num_heads=2, batch_first=True)
        self.norm = nn.LayerNorm(16)
        self.first = nn.Linear(64, 16)
        self.parameter_kinds = {"output.weight": ParameterKind.OUTPUT}

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.norm(self.first(images.flatten(1)))[:, None]
        outputs: Tensor = self.output(self.attention(tokens, tokens, tokens)[0].squeeze(1))
        return outputs


class BackwardStripes(Stripes):
    def build_model(self) -> nn.Module:
        return Backwards()


def test_layers_are_found_in_the_order_of_their_calls_with_what_they_hold():
    trial = Rehearsal(BackwardStripes()).trial
    layers = called_layers(trial)
    assert list(layers) == ["first", "attention", "output"]
    assert set(layers["attention"]) == {
        "attention.in_proj_weight",
        "attention.in_proj_bias",
        "attention.out_proj.weight",
        "attention.out_proj.bias",
    }
    assert all(module.training for module in trial.model.modules())


def hyperparameters(**changed: Any) -> Hyperparameters:
    refined = {"refine_after": 0.5, "layers_before": 1, "batch_factor": 4, "iterations": 5}
    return Hyperparameters({**ADAMW, **refined, **changed})


def moved_in_the_second_half(race: Rehearsal) -> set[str]:
    """Weights that differ between the middle and the end."""
    middle, end = race.weights[1], race.weights[-1]
    return {name for name in end if not torch.equal(middle[name], end[name])}


@pytest.mark.parametrize(("before", "moved"), [(0, {"6"}), (1, {"4", "6"})])
def test_in_the_second_part_the_last_layers_alone_move(before: int, moved: set[str]):
    # A first part that is slow, so that the second has something to do: at the least loss one gradient ends a step.
    race = Rehearsal().run(train_in_two_parts, hyperparameters(layers_before=before, learning_rate=1e-3))
    assert moved_in_the_second_half(race) == {f"{layer}.{name}" for layer in moved for name in ("weight", "bias")}
    assert race.losses[-1] < 0.5 * race.losses[0]
    # A gradient for each of AdamW's steps, more for those of L-BFGS.
    assert race.reported[1] == {"gradient_calls": STEPS / 2}
    assert race.reported[-1]["gradient_calls"] > 1.5 * STEPS


def test_without_an_output_layer_all_is_trained_to_the_end():
    tied = Successors()
    assert ParameterKind.OUTPUT not in kinds_of(tied.build_model()).values()
    race = Rehearsal(tied).run(train_in_two_parts, hyperparameters())
    assert moved_in_the_second_half(race) == set(race.weights[-1])

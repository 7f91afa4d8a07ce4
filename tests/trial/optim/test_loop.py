"""Public helpers that submissions may use: the plain loop, averaged weights, the base of update rules."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from harness import AveragedWeights, MultiTensorOptimizer, corrections, hidden_matrices_and_rest, orthogonalised
from harness.api import Hyperparameters, ParameterKind
from harness.plugins.conformance.rehearsal import Rehearsal
from harness.trial.optim.loop import train_loop
from tests.trial.passes.trials import trial_on_blobs


class Rule(MultiTensorOptimizer):
    """Moves by the correction of its first moment alone, and remembers what it was given."""

    def initial_state(self, parameter: Tensor, group: dict) -> dict:  # noqa: ARG002
        return {"seen": 0}

    def update(self, group: dict, parameters: list, gradients: list, states: list) -> None:  # noqa: ARG002
        for state in states:
            state["seen"] += 1
        torch._foreach_sub_(parameters, [group["lr"] * c for c in corrections(states, 0.5)])


def test_a_parameter_without_a_gradient_is_skipped_and_keeps_a_step_count_of_its_own():
    first, second = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2))
    optimizer = Rule([first, second], {"lr": 1.0})
    first.grad = torch.zeros(2)
    optimizer.step()
    second.grad = torch.zeros(2)
    optimizer.step()
    assert torch.equal(first, torch.full((2,), -0.5 - 0.75))
    assert torch.equal(second, torch.full((2,), -0.5))
    assert [optimizer.state[p]["step"] for p in (first, second)] == [2, 1]


def test_states_are_loaded_in_the_type_that_they_were_saved_in():
    class Keeps(Rule):
        def initial_state(self, parameter: Tensor, group: dict) -> dict:  # noqa: ARG002
            return {"seen": 0, "wide": torch.full((2,), 1 / 3), "codes": torch.tensor([255], dtype=torch.uint8)}

    weights = [nn.Parameter(torch.zeros(2, dtype=torch.bfloat16)) for _ in range(2)]
    first, second = (Keeps([weight], {"lr": 1.0}) for weight in weights)
    weights[0].grad = torch.zeros(2, dtype=torch.bfloat16)
    first.step()
    second.load_state_dict(first.state_dict())
    for name in ("wide", "codes"):
        saved, loaded = first.state[weights[0]][name], second.state[weights[1]][name]
        assert loaded.dtype == saved.dtype
        assert torch.equal(loaded, saved)


def test_the_closure_is_called_with_gradients_and_its_loss_comes_back():
    weight = nn.Parameter(torch.ones(1))
    optimizer = Rule([weight], {"lr": 0.0})

    def closure() -> Tensor:
        loss = (3 * weight).sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 3.0
    assert torch.equal(weight.grad, torch.tensor([3.0]))


def test_the_loop_is_the_plain_one_written_out():
    def plain(trial, hp):
        optimizer = torch.optim.SGD(trial.model.parameters(), lr=hp.lr)
        for batch in trial.batches():
            optimizer.zero_grad()
            trial.loss(batch).backward()
            optimizer.step()

    def short(trial, hp):
        train_loop(trial, torch.optim.SGD(trial.model.parameters(), lr=hp.lr))

    def with_closure(trial, hp):
        train_loop(trial, torch.optim.SGD(trial.model.parameters(), lr=hp.lr), step="closure")

    hp = Hyperparameters({"lr": 0.05})
    weights = [Rehearsal().run(train, hp).weights[-1] for train in (plain, short, with_closure)]
    for other in weights[1:]:
        assert all(torch.equal(weights[0][name], other[name]) for name in other)


@pytest.mark.parametrize("options", [{"dropout": 0.5}, {"batch_norm": True}], ids=["dropout", "batch norm"])
def test_all_gradients_of_a_step_are_of_one_function_of_the_weights(options):
    class AsksThrice(torch.optim.SGD):
        def step(self, closure):
            losses.append([closure().item() for _ in range(3)])
            statistics.append([buffer.clone() for buffer in trial.model.buffers()])

    losses: list[list[float]] = []
    statistics: list[list[Tensor]] = []
    trial = trial_on_blobs(options, evaluate_every_steps=3)
    train_loop(trial, AsksThrice(trial.model.parameters(), lr=0.0), step="closure")
    once = trial_on_blobs(options, evaluate_every_steps=3)
    train_loop(once, torch.optim.SGD(once.model.parameters(), lr=0.0))
    assert len(losses) == 3
    assert all(len(set(of_step)) == 1 for of_step in losses)
    assert losses[0] != losses[1]
    assert all(map(torch.equal, statistics[-1], once.model.buffers()))


def test_averaged_weights_are_judged_and_training_goes_on_from_its_own():
    def train(trial, hp):
        optimizer = torch.optim.SGD(trial.model.parameters(), lr=hp.lr)
        average = AveragedWeights(trial, batch_norm_batches=2)
        train_loop(trial, optimizer, after_step=average.move_to_mean)

    hp = Hyperparameters({"lr": 0.05})
    plain = Rehearsal().run(
        lambda trial, hp: train_loop(trial, torch.optim.SGD(trial.model.parameters(), lr=hp.lr)), hp
    )
    averaged = Rehearsal().run(train, hp)
    name = "4.weight"
    steps_apart = (plain.weights[0][name] - averaged.weights[0][name]).abs().max()
    assert steps_apart > 1e-4
    # The mean of a path lies between its ends: nearer to the start than the last weights are.
    assert averaged.losses[-1] < 0.5 * averaged.losses[0]


def test_an_average_may_be_a_share_of_what_is_judged():
    def train(trial, hp):  # noqa: ARG001
        average = AveragedWeights(trial, share=0.25)
        for _ in trial.batches():
            average.move(0.0)
            with torch.no_grad():
                for parameter in trial.model.parameters():
                    parameter.add_(1.0)

    race = Rehearsal().run(train, Hyperparameters({}))
    start, name = Rehearsal().trial.model.state_dict(), "4.weight"
    # After thirty steps; the average stays where training began.
    torch.testing.assert_close(race.weights[0][name], start[name] + 0.75 * 30)


def test_an_average_goes_on_from_its_state():
    def train(trial, hp):  # noqa: ARG001
        first, second = AveragedWeights(trial), AveragedWeights(trial)
        with torch.no_grad():
            for parameter in trial.model.parameters():
                parameter.add_(1.0)
        first.move(0.25)
        second.load_state_dict(first.state_dict())
        assert second.updates == 1
        for one, other in zip(first.state_dict()["average"], second.state_dict()["average"], strict=True):
            assert torch.equal(one, other)
        for _ in trial.batches():
            pass

    Rehearsal().run(train, Hyperparameters({}))


def test_matrices_of_every_shape_come_back_orthogonalised_in_their_order():
    generator = torch.Generator().manual_seed(0)
    matrices = [torch.randn(shape, generator=generator) for shape in ((3, 5), (5, 3), (3, 5))]
    done = orthogonalised(matrices, steps=8)
    for matrix, result in zip(matrices, done, strict=True):
        assert result.shape == matrix.shape
        # The same singular vectors: the product is symmetric and positive.
        product = result @ matrix.mT
        torch.testing.assert_close(product, product.mT, atol=1e-3, rtol=1e-3)


def test_hidden_matrices_are_those_between_hidden_layers():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 4), nn.Linear(4, 2))
    kinds = dict.fromkeys(dict(model.named_parameters()), ParameterKind.WEIGHT) | {"4.weight": ParameterKind.OUTPUT}
    hidden, rest = hidden_matrices_and_rest(model, kinds)
    assert [tuple(p.shape) for p in hidden] == [(2, 1, 3, 3), (4, 8)]
    assert len(hidden) + len(rest) == len(list(model.parameters()))

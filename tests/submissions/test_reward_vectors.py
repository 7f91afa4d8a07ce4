"""Methods that learn from rewards compute what their sheets write: gates, rations, credits and their gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from harness.api import ConfigError, Hyperparameters
from harness.plugins.conformance.problems import RewardedSuccessors, Vectors
from harness.plugins.conformance.rehearsal import Rehearsal
from harness.trial.optim.loop import train_on_rewards
from submissions.gvm_raft.submission import accepted_loss, lengths_of_gradients, rows_at, shared_out, tries_of, worth
from submissions.gvm_raft.submission import train as train_rationed
from submissions.hpt.submission import advantages, hybrid_loss, is_shown
from submissions.hpt.submission import train as train_hybrid
from submissions.metric_gradient.submission import metric_loss, windowed
from submissions.metric_gradient.submission import train as train_on_metric
from tests.trial.test_rewards import sorting, trial_on


def tensor(*values: object) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def gradients(loss: Tensor, trial: Any) -> list[Tensor]:
    return list(torch.autograd.grad(loss, list(trial.model.parameters()), materialize_grads=True))


def assert_alike(one: list[Tensor], other: list[Tensor]) -> None:
    for first, second in zip(one, other, strict=True):
        torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-7)


# --- hpt ---


def test_an_example_without_a_right_answer_is_shown_one_and_any_right_answer_spares_that():
    rewards = tensor([0.75] * 8, [1.0, *[0.5] * 7], [1.0] * 8)
    assert is_shown(rewards, 0.0).tolist() == [True, False, False]
    assert is_shown(rewards, 1 / 8).tolist() == [True, True, False]


def test_answers_that_are_all_right_or_all_as_good_teach_nothing():
    assert advantages(tensor([1.0] * 8)).tolist() == [[0.0] * 8]
    assert advantages(tensor([1.0, 0.0, 0.5, 0.5])).tolist() == [[0.5, -0.5, 0.0, 0.0]]


def test_each_example_has_the_gradient_of_its_answers_or_that_of_its_demonstration():
    trial = trial_on(sorting())
    batch = trial.next_batch()
    answers = trial.sample(batch, 4, generator=trial.generator)
    rewards = trial.rewards(batch, answers)
    shown = torch.arange(12) % 3 == 0
    found = gradients(hybrid_loss(trial, batch, answers, rewards, shown, 0.3), trial)
    said = trial.log_probabilities(batch, answers).sum(dim=2)
    of_answers = -(advantages(rewards) * said).mean(dim=1)
    of_demonstrations = -0.3 * trial.log_probabilities(batch, trial.demonstrations(batch)[:, None]).sum(dim=(1, 2))
    assert_alike(found, gradients(torch.where(shown, of_demonstrations, of_answers).mean(), trial))


@pytest.mark.parametrize("shown", [True, False])
def test_a_batch_may_be_of_one_kind(shown: bool):
    trial = trial_on(sorting())
    batch = trial.next_batch()
    answers = trial.sample(batch, 4)
    loss = hybrid_loss(trial, batch, answers, trial.rewards(batch, answers), torch.full((12,), shown), 1.0)
    assert any(bool(each.abs().sum() > 0) for each in gradients(loss, trial))


def test_where_nothing_comes_out_of_the_gate_it_is_the_workloads_own_policy_gradient():
    """A gate below zero shows nothing; the loss of the workload is the same policy gradient of eight answers."""
    trial = trial_on(sorting())
    batch = trial.next_batch()
    torch.manual_seed(3)
    of_workload = gradients(trial.loss(batch), trial)
    torch.manual_seed(3)
    answers = trial.sample(batch, 8)
    rewards = trial.rewards(batch, answers)
    assert not bool(is_shown(rewards, -1.0).any())
    assert_alike(
        gradients(hybrid_loss(trial, batch, answers, rewards, is_shown(rewards, -1.0), 1.0), trial), of_workload
    )


# --- gvm_raft ---


@pytest.mark.parametrize(("alpha", "expected"), [(0.001, [0.641208, 0.358792]), (0.0, [9 / 14, 5 / 14])])
def test_tries_are_worth_the_length_of_gradients_over_the_root_of_how_often_answers_are_right(
    alpha: float, expected: list[float]
):
    """Equal lengths and 0.25 and 0.81 right, as the sheet has them; without a penalty 2 to 10 / 9."""
    found = worth(
        torch.ones(2, dtype=torch.float64), torch.tensor([0.25, 0.81], dtype=torch.float64), alpha=alpha, beta=2.0
    )
    assert (found / found.sum()).tolist() == pytest.approx(expected, abs=1e-6)


def test_examples_that_are_hardly_ever_right_are_penalised_and_hopeless_ones_get_nothing():
    found = worth(torch.ones(4), torch.tensor([0.0, 0.001, 0.25, 1.0]), alpha=0.001, beta=2.0)
    assert found.tolist() == pytest.approx([0.0, 1 / (0.001 + 1.0) ** 0.5, 1 / (0.25 + 0.004) ** 0.5, 1 / 1.001**0.5])


@pytest.mark.parametrize(
    ("budget", "worths", "tries"),
    [
        (8, [1.0, 1.0], [4, 4]),
        (10, [0.641208, 0.358792], [6, 4]),  # 6.4 and 3.6: the larger remainder is rounded up
        (7, [1.0, 1.0, 1.0], [3, 2, 2]),
        (6, [0.0, 3.0, 1.0], [0, 5, 1]),  # 4.5 and 1.5: of equal remainders the first
        (9, [0.0, 0.0, 0.0], [3, 3, 3]),
    ],
)
def test_tries_are_whole_numbers_that_use_up_the_budget(budget: int, worths: list[float], tries: list[int]):
    assert shared_out(budget, torch.tensor(worths)).tolist() == tries


def test_rationed_tries_make_a_less_noisy_mean_than_as_many_for_each():
    """Bernoulli answers of known steepness: the variance of the sum of each example's mean over its right answers."""
    generator = torch.Generator().manual_seed(0)
    right = torch.tensor([0.9, 0.6, 0.3, 0.15], dtype=torch.float64)
    steepness = torch.tensor([0.5, 1.0, 1.0, 3.0], dtype=torch.float64)
    variances = []
    for tries in (torch.full((4,), 40), shared_out(160, worth(steepness, right, alpha=0.0, beta=2.0))):
        # What a right answer adds is of unknown sign and of the length of its gradient.
        slopes = steepness[:, None, None] * torch.randn(4, 2000, 160, dtype=torch.float64, generator=generator)
        is_right = torch.rand(4, 2000, 160, generator=generator) < right[:, None, None]
        counted = is_right & (torch.arange(160) < tries[:, None, None])
        means = (slopes * counted).sum(dim=2) / counted.sum(dim=2).clamp_min(1)
        variances.append(means.sum(dim=0).var().item())
    assert variances[1] < 0.7 * variances[0]


def test_the_lengths_of_all_gradients_in_the_embedding_come_from_one_backward_pass():
    for shared_prefix in (False, True):
        trial = trial_on(sorting(shared_prefix=shared_prefix))
        batch = trial.next_batch()
        answers = trial.sample(batch, 1)[:, 0]
        found = lengths_of_gradients(trial, batch, answers)
        table = trial.model.get_parameter("embedding.weight")
        for row in range(3):
            alone = {name: values[row : row + 1] for name, values in batch.items()}
            said = trial.log_probabilities(alone, answers[row : row + 1, None]).sum()
            (slope,) = torch.autograd.grad(said, table)
            assert found[row].item() == pytest.approx(slope.norm().item(), rel=1e-4)


class RightAboutSome(RewardedSuccessors):
    """Every second example is answered rightly always, the others never."""

    def credits(self, batch: dict[str, Tensor], answers: Tensor) -> Tensor:
        right = super().credits(batch, batch["targets"][:, None]).expand_as(answers)
        return right * (torch.arange(len(answers)) % 2 == 0)[:, None, None]


def test_what_is_never_right_is_tried_no_more():
    trial = trial_on(RightAboutSome())
    hp = Hyperparameters({"first_tries": 3, "tries": 5, "alpha": 0.001, "beta": 2.0})
    tries, looks = tries_of(trial, trial.next_batch(), hp)
    assert looks == 3 * 12
    assert tries.sum().item() == 5 * 12
    assert tries[1::2].tolist() == [0] * 6
    assert bool((tries[::2] > 0).all())


def test_only_right_answers_are_learned_and_every_example_counts_as_much():
    trial = trial_on(sorting())
    batch = trial.next_batch()
    right = trial.demonstrations(batch)
    # The first example has two right answers and a wrong one, the second a right one, the third a wrong one.
    at = torch.tensor([0, 0, 0, 1, 2])
    answers = right[at].clone()
    answers[2, 0] = (answers[2, 0] + 1) % 10
    answers[4, 3] = (answers[4, 3] + 1) % 10
    loss, accepted = accepted_loss(trial, batch, answers, at)
    assert accepted == 3
    first_two = {name: values[:2] for name, values in batch.items()}
    expected = -trial.log_probabilities(first_two, right[:2, None]).sum(dim=(1, 2)).mean()
    assert_alike(gradients(loss, trial), gradients(expected, trial))


def test_where_no_answer_is_right_nothing_is_learned():
    trial = trial_on(sorting())
    batch = trial.next_batch()
    wrong = (trial.demonstrations(batch) + 1) % 10
    loss, accepted = accepted_loss(trial, batch, wrong, torch.arange(12))
    assert (loss.item(), accepted) == (0.0, 0)
    assert all(not bool(each.any()) for each in gradients(loss, trial))


def test_rows_come_as_often_as_they_are_asked_for():
    batch = {"inputs": torch.arange(6).view(3, 2), "weights": torch.tensor([1.0, 2.0, 3.0])}
    assert rows_at(batch, torch.tensor([2, 0, 2]))["weights"].tolist() == [3.0, 1.0, 3.0]


# --- metric_gradient ---


def test_credit_is_shared_among_neighbours_and_at_the_ends_among_fewer():
    credits = tensor([[0.0, 1.0, 0.0, 0.0, 0.5, 0.0]])
    assert windowed(credits, 1).tolist() == credits.tolist()
    expected = [[[1 / 3, 1 / 4, 1.5 / 5, 1.5 / 5, 0.5 / 4, 0.5 / 3]]]
    torch.testing.assert_close(windowed(credits, 5), torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("window", [0, 2])
def test_a_window_without_a_middle_is_an_error(window: int):
    with pytest.raises(ConfigError, match=f"window is {window}. Use an odd number"):
        windowed(tensor([[1.0, 2.0]]), window)


def test_the_gradient_of_the_metric_is_that_of_credit_above_the_likeliest_answers():
    trial = trial_on(sorting())
    batch = trial.next_batch()
    torch.manual_seed(4)
    found = gradients(metric_loss(trial, batch, answers=3, window=1), trial)
    torch.manual_seed(4)
    answers, likeliest = trial.sample(batch, 3), trial.likeliest(batch)[:, None]
    is_right, would_be = (each == batch["targets"][:, None] for each in (answers, likeliest))
    gains = (is_right.float() - would_be.float()) / 4
    expected = -(gains * trial.log_probabilities(batch, answers)).sum(dim=2).mean()
    assert_alike(found, gradients(expected, trial))


# --- all of them ---

DEFAULTS: dict[str, Any] = {
    "learning_rate": 0.006, "one_minus_beta1": 0.1, "beta2": 0.99, "weight_decay": 0.0, "warmup_fraction": 0.1,
    "largest_norm": 1.0,
}  # fmt: skip


@pytest.mark.parametrize(
    ("train", "own"),
    [
        (train_hybrid, {"answers": 4, "gate": 0.0, "demonstration_weight": 1.0}),
        (train_rationed, {"demonstrations_fraction": 0.3, "first_tries": 4, "tries": 4, "alpha": 0.001, "beta": 2.0}),
        (train_on_metric, {"answers": 1, "metric_weight": 0.5, "window": 5}),
    ],
)
def test_they_learn_from_rewards_and_say_what_they_drew(train: Any, own: dict[str, Any]):
    rehearsal = Rehearsal(RewardedSuccessors()).run(train, Hyperparameters({**DEFAULTS, **own}))
    assert rehearsal.losses[-1] < 0.5 * rehearsal.losses[0]
    if train is not train_on_metric:
        assert rehearsal.reported[-1]["answers"] > rehearsal.reported[-2]["answers"] > 0
        assert rehearsal.reported[-1]["demonstrations"] > 0


# --- without rewards ---


def test_where_nothing_is_rewarded_gradients_have_no_limit_as_adamw_has_none():
    weights = []
    for limit in (None, 1e-9):
        rehearsal = Rehearsal(Vectors())
        hp = Hyperparameters(
            {
                "learning_rate": 0.01,
                "one_minus_beta1": 0.1,
                "beta2": 0.99,
                "weight_decay": 0.0,
                "warmup_fraction": 0.0,
            }
        )
        rehearsal.run(lambda trial, hp, limit=limit: train_on_rewards(trial, hp, trial.loss, largest_norm=limit), hp)
        weights.append(rehearsal.weights[-1])
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])

"""Answers and rewards as a submission sees them; and one line where a workload has none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.api import Batch, ConfigError, Target, Workload
from harness.plugins.audit.twins import Twin
from harness.plugins.conformance.problems import RewardedSuccessors
from harness.trial.conversation import Conditions, Go
from harness.trial.trial import Trial
from tests.trial.test_trial import make_trial
from workloads.frontier.policies.sorting_rewards import SortingRewards


def trial_on(workload: Workload, **conditions: Any) -> Trial:
    torch.manual_seed(1)
    usual: dict[str, Any] = {"batch_size_hint": 12, "step_hint": 90, "evaluate_every_steps": 1000}
    made = Conditions(
        seed=1,
        device=torch.device("cpu"),
        target=Target("loss", "min", 0.0),
        budget_seconds=10.0,
        eval_period=1.0,
        **{**usual, **conditions},
    )
    trial = Trial(workload, workload.build_model(), workload.load("train", Path()), made, lambda *_: None)
    trial.go(Go(0.0))
    return trial


def sorting(**changes: Any) -> SortingRewards:
    sizes = {"width": 16, "layers": 1, "heads": 2, "hidden": 16, "reward": "share", "shared_prefix": False}
    return SortingRewards(**{**sizes, **changes})


ANY: dict[str, Callable[[], Workload]] = {
    "tiny": RewardedSuccessors,
    "sorting": sorting,
    "shared": lambda: sorting(shared_prefix=True),
    "twin": lambda: Twin(sorting(), sorting(width=20), 7),
}
each_policy = pytest.mark.parametrize("kind", ANY)


@each_policy
def test_answers_have_a_shape_a_probability_and_credits_that_sum_up_to_their_reward(kind: str):
    trial = trial_on(ANY[kind]())
    assert trial.has_rewards
    batch = trial.next_batch()
    answers = trial.sample(batch, 5)
    assert answers.shape[:2] == (12, 5)
    assert answers.dtype == torch.int64
    said = trial.log_probabilities(batch, answers)
    assert said.shape == answers.shape
    assert bool((said <= 0).all())
    rewards = trial.rewards(batch, answers)
    torch.testing.assert_close(trial.credits(batch, answers).sum(dim=2), rewards)
    assert rewards.shape == (12, 5)
    assert bool((rewards < 1 + 1e-6).all())


@each_policy
def test_a_demonstration_is_a_right_answer_and_the_likeliest_answer_is_likelier_than_those_drawn(kind: str):
    trial = trial_on(ANY[kind]())
    batch = trial.next_batch()
    torch.testing.assert_close(trial.rewards(batch, trial.demonstrations(batch)[:, None]), torch.ones(12, 1))
    assert trial.likeliest(batch).shape == trial.demonstrations(batch).shape
    with torch.no_grad():
        likeliest = trial.log_probabilities(batch, trial.likeliest(batch)[:, None]).sum(dim=2).mean()
        drawn = trial.log_probabilities(batch, trial.sample(batch, 20)).sum(dim=2).mean()
    assert likeliest > drawn


@each_policy
def test_log_probabilities_have_a_gradient_and_drawing_has_none_and_leaves_the_mode(kind: str):
    trial = trial_on(ANY[kind]())
    batch = trial.next_batch()
    trial.model.train()
    answers = trial.sample(batch, 2)
    assert not answers.requires_grad
    assert trial.model.training
    trial.log_probabilities(batch, answers).sum().backward()
    assert all(parameter.grad is not None for parameter in trial.model.parameters())


@each_policy
def test_what_is_drawn_follows_from_the_generator_or_from_torchs_own(kind: str):
    trial = trial_on(ANY[kind]())
    batch = trial.next_batch()

    def drawn(seed: int) -> torch.Tensor:
        return trial.sample(batch, 4, generator=torch.Generator().manual_seed(seed))

    before = torch.get_rng_state()
    assert torch.equal(drawn(1), drawn(1))
    assert not torch.equal(drawn(1), drawn(2))
    assert torch.equal(torch.get_rng_state(), before)
    first = trial.sample(batch, 4)
    torch.set_rng_state(before)
    assert torch.equal(trial.sample(batch, 4), first)


def test_the_policy_gradient_of_answers_is_the_gradient_of_the_expected_reward():
    """With the exact gradient, as each of the symbols is drawn by itself: sum of probability times reward."""
    trial = trial_on(RewardedSuccessors())
    batch = trial.next_batch()
    parameters = list(trial.model.parameters())
    counted = batch["weights"] / batch["weights"].sum(dim=1, keepdim=True)
    right = trial.outputs(batch).softmax(dim=2).gather(2, batch["targets"][..., None]).squeeze(2)
    exact = torch.autograd.grad((counted * right).sum(dim=1).mean(), parameters)
    answers = trial.sample(batch, 4000, generator=trial.generator)
    rewards = trial.rewards(batch, answers)
    said = trial.log_probabilities(batch, answers).sum(dim=2)
    estimate = torch.autograd.grad(((rewards - rewards.mean(dim=1, keepdim=True)) * said).mean(), parameters)
    flat, estimated = (torch.cat([each.flatten() for each in gradient]) for gradient in (exact, estimate))
    assert torch.nn.functional.cosine_similarity(flat, estimated, dim=0).item() > 0.95
    assert estimated.norm().item() == pytest.approx(flat.norm().item(), rel=0.15)


@pytest.mark.parametrize("micro_batch", [5, 12])
def test_a_batch_in_parts_has_the_log_probabilities_and_gradients_of_the_whole(micro_batch: int):
    found = []
    for size in (None, micro_batch):
        trial = trial_on(sorting(), micro_batch=size)
        batch = trial.next_batch()
        answers = trial.sample(batch, 3, generator=torch.Generator().manual_seed(0))
        said = trial.log_probabilities(batch, answers)
        said.sum().backward()
        found.append([answers, said.detach(), *[parameter.grad for parameter in trial.model.parameters()]])
    for whole, parts in zip(*found, strict=True):
        torch.testing.assert_close(parts, whole)


def test_a_workload_without_rewards_says_so_in_one_line():
    trial, _ = make_trial()
    batch = trial.next_batch()
    answers = torch.zeros(32, 1, 1, dtype=torch.int64)
    assert not trial.has_rewards
    asked: list[Callable[[Batch], object]] = [
        lambda batch: trial.sample(batch, 2),
        trial.likeliest,
        lambda batch: trial.log_probabilities(batch, answers),
        lambda batch: trial.credits(batch, answers),
        lambda batch: trial.rewards(batch, answers),
        trial.demonstrations,
    ]
    for ask in asked:
        with pytest.raises(ConfigError, match=r"this workload has no rewards.*trial\.has_rewards"):
            ask(batch)


def test_no_answers_at_all_are_an_error():
    trial = trial_on(sorting())
    with pytest.raises(ConfigError, match=r"a count of 0\. Use at least 1"):
        trial.sample(trial.next_batch(), 0)

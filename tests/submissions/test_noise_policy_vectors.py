"""A policy of noise learns by rewards what masks are good, and leaves AdamW alone where there is none."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from harness import Hyperparameters, Trial
from submissions.adamw.submission import train as train_adamw
from submissions.noise_policy.submission import NoisePolicy
from submissions.noise_policy.submission import train as train_with_noise
from tests.trial.passes.trials import trial_on_blobs

POINT = {
    "learning_rate": 0.01,
    "one_minus_beta1": 0.1,
    "beta2": 0.99,
    "weight_decay": 0.0,
    "warmup_fraction": 0.0,
    "label_smoothing": 0.0,
    "noise_fraction": 0.5,
    "strength": 0.5,
    "policy_learning_rate": 0.01,
    "policy_width": 8,
}


def a_policy(numbers: int = 2, **changes: float) -> NoisePolicy:
    torch.manual_seed(0)
    settings = {"width": 8, "spread": 0.5, "learning_rate": 0.02, **changes}
    return NoisePolicy(numbers, trial=trial_on_blobs(), **settings)  # type: ignore[arg-type]


def test_masks_are_uniform_at_first_and_add_no_more_than_the_spread():
    policy = a_policy(3, spread=0.25)
    inputs = torch.randn(5, 3)
    chances = policy.masks(inputs)
    assert torch.equal(chances.concentration1, torch.ones(5, 3))
    assert torch.equal(chances.concentration0, torch.ones(5, 3))
    noisy = policy.noised(inputs, torch.tensor([[0.0, 0.5, 1.0]]).expand(5, 3))
    torch.testing.assert_close(noisy - inputs, torch.tensor([[-0.25, 0.0, 0.25]]).expand(5, 3))


def test_images_keep_their_shape():
    policy = a_policy(12)
    images = torch.randn(4, 3, 2, 2)
    masks = policy.masks(images).sample()
    assert masks.shape == (4, 12)
    noisy = policy.noised(images, masks)
    torch.testing.assert_close((noisy - images).flatten(1), 0.5 * (2 * masks - 1))


def test_masks_go_to_where_the_reward_is():
    policy = a_policy(2)
    inputs = torch.zeros(64, 2)
    for _ in range(200):
        chances = policy.masks(inputs)
        masks = chances.sample()
        policy.learn(chances, masks, masks[:, 0] - masks[:, 1])
    first, second = policy.masks(inputs).mean[0].tolist()
    assert first > 0.7
    assert second < 0.3


def test_the_step_is_along_the_gradient_of_the_mean_reward():
    # Of Beta(a, b) the mean is a / (a + b), whose derivatives at a = b = 1 are a quarter and minus that; a = b =
    # softplus(bias) / ln 2 has the derivative 1 / (2 ln 2) at a bias of zero.
    policy = a_policy(1)
    chances = policy.masks(torch.zeros(200_000, 1))
    masks = chances.sample()
    policy.learn(chances, masks, masks[:, 0])
    bias = policy.network[-1].get_parameter("bias")
    assert bias.grad is not None
    slope = 0.25 / (2 * math.log(2.0))
    assert bias.grad.tolist() == pytest.approx([-slope, slope], rel=0.02)


def test_the_mean_reward_begins_with_the_first_and_moves_by_a_tenth():
    policy = a_policy(2)
    inputs = torch.zeros(4, 2)
    means = []
    for reward in (1.0, 2.0, 0.0):
        chances = policy.masks(inputs)
        policy.learn(chances, chances.sample(), torch.full((4,), reward))
        means.append(policy.mean_reward)
    assert means == pytest.approx([1.0, 1.1, 0.99])


def test_a_reward_that_is_the_mean_teaches_nothing():
    policy = a_policy(2)
    before = [parameter.clone() for parameter in policy.network.parameters()]
    chances = policy.masks(torch.zeros(4, 2))
    policy.learn(chances, chances.sample(), torch.ones(4))
    assert all(map(torch.equal, before, policy.network.parameters()))


def after(train: Callable[[Trial, Hyperparameters], None], **more: float) -> tuple[Trial, list[Tensor]]:
    trial = trial_on_blobs({}, step_hint=20, evaluate_every_steps=20)
    train(trial, Hyperparameters(POINT | more))
    return trial, [parameter.detach().clone() for parameter in trial.model.parameters()]


def test_without_noise_the_steps_are_those_of_adamw_and_with_it_others():
    (_, plain), (_, none), (_, noisy) = (
        after(train_adamw),
        after(train_with_noise, noise_fraction=0.0),
        after(train_with_noise),
    )
    assert all(map(torch.equal, plain, none))
    assert not any(map(torch.equal, plain, noisy))

"""AdamW on inputs under noise that a policy draws for each of them, which learns what noise leaves the loss small."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness import Hyperparameters, Trial, train_loop, warmup_cosine

_KEPT = 0.9
"""Of the moving mean of rewards, at each step."""


class NoisePolicy:
    """A network of two layers that sees an input and draws a mask for it, each number from a Beta distribution.

    It learns by the rewards of its masks (REINFORCE), against their moving mean. `spread`: what a mask of 1, or of 0
    below the middle, adds to an input; at first masks are uniform, so that they add nothing on average.
    """

    def __init__(self, numbers: int, *, width: int, spread: float, learning_rate: float, trial: Trial) -> None:
        self._trial = trial
        self._spread = spread
        self.network = nn.Sequential(
            nn.Flatten(), nn.Linear(numbers, width), nn.ReLU(), nn.Linear(width, 2 * numbers)
        ).to(trial.device)
        last = self.network[-1]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self._optimizer = torch.optim.Adam(self.network.parameters(), lr=learning_rate)
        self.mean_reward: float | None = None

    def masks(self, inputs: Tensor) -> torch.distributions.Beta:
        """What the masks of these inputs are drawn from. Shapes: [batch, ...] -> [batch, numbers]."""
        # With a bias of zero both are 1: uniform.
        first, second = (F.softplus(self.network(inputs)) / F.softplus(torch.zeros(()))).chunk(2, dim=1)
        return torch.distributions.Beta(first, second, validate_args=False)

    def noised(self, inputs: Tensor, masks: Tensor) -> Tensor:
        """Inputs under their masks. Shapes: [batch, ...], [batch, numbers] -> as inputs."""
        return inputs + self._spread * (2 * masks - 1).view_as(inputs)

    def learn(self, chances: torch.distributions.Beta, masks: Tensor, rewards: Tensor) -> None:
        """One step towards masks with a reward above the moving mean. Shapes: [batch, numbers], [batch]."""
        reward = float(self._trial.all_reduce_mean(rewards.mean()))
        before = reward if self.mean_reward is None else self.mean_reward
        # A mean over the numbers, in which Adam steps as in their sum.
        likely = chances.log_prob(masks).mean(dim=1)
        self._optimizer.zero_grad(set_to_none=True)
        (-(rewards - before) * likely).mean().backward()
        for parameter in self.network.parameters():
            assert parameter.grad is not None
            parameter.grad = self._trial.all_reduce_mean(parameter.grad)
        self._optimizer.step()
        self.mean_reward = _KEPT * before + (1 - _KEPT) * reward

    def state_dict(self) -> dict[str, Any]:
        """Network, optimizer and moving mean."""
        return {
            "network": self.network.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "mean_reward": self.mean_reward,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict()`."""
        self.network.load_state_dict(state["network"])
        self._optimizer.load_state_dict(state["optimizer"])
        self.mean_reward = state["mean_reward"]


def train(trial: Trial, hp: Hyperparameters) -> None:
    """AdamW under warm-up and cosine; under masks for the first `noise_fraction` of the steps, then plainly.

    Where inputs are no real numbers there is no noise.
    """
    optimizer = torch.optim.AdamW(
        trial.model.parameters(),
        lr=hp.learning_rate,
        betas=(1 - hp.one_minus_beta1, hp.beta2),
        weight_decay=hp.weight_decay,
        fused=True,
    )
    schedule = warmup_cosine(optimizer, trial.step_hint, hp.warmup_fraction)
    policy = _policy_for(trial, hp)
    last = round(hp.noise_fraction * trial.step_hint)

    def loss_of(batch: dict[str, Tensor]) -> Tensor:
        if policy is None or trial.step >= last:
            return trial.loss(batch, label_smoothing=hp.label_smoothing)
        chances = policy.masks(batch["inputs"])
        masks = chances.sample()
        noisy = {**batch, "inputs": policy.noised(batch["inputs"], masks)}
        outputs = trial.outputs(noisy)
        each = trial.loss(noisy, outputs=outputs.detach(), reduction="none", label_smoothing=hp.label_smoothing)
        policy.learn(chances, masks, -each)
        return trial.loss(noisy, outputs=outputs, label_smoothing=hp.label_smoothing)

    if policy is not None:
        trial.resumable(policy=policy)
    train_loop(trial, optimizer, schedule, loss_of=loss_of)


def _policy_for(trial: Trial, hp: Hyperparameters) -> NoisePolicy | None:
    """None: there is nothing that noise can be added to."""
    few = trial.train_set.gather(torch.arange(min(256, len(trial.train_set)), device=trial.device))
    inputs = few.get("inputs")
    if inputs is None or not inputs.is_floating_point():
        return None
    return NoisePolicy(
        inputs[0].numel(),
        width=hp.policy_width,
        spread=hp.strength * float(inputs.std()),
        learning_rate=hp.policy_learning_rate,
        trial=trial,
    )

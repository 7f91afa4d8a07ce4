"""A sampler of 512 points is steered to a reward: the best that can be is known, whatever way the gradient is taken.

What is trained is a control beside the exact denoiser. Ways after Prabhudesai, Goyal, Pathak, Fragkiadaki, "Aligning
text-to-image diffusion models with reward backpropagation" (AlignProp), arXiv 2310.03739; Kumari et al., "Learning an
image editing model without image editing pairs", arXiv 2510.14978; He et al., "TempFlow-GRPO", arXiv 2508.04324; Li et
al., "ControlNet++", arXiv 2404.07987.
"""

from __future__ import annotations

import functools
import math
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

import numpy
import torch
from torch import Tensor, nn

from harness.api import (
    SPLITS,
    Batch,
    ConfigError,
    DataSource,
    Examples,
    LossKind,
    SplitName,
    TensorExamples,
    Workload,
)
from workloads.frontier.made import as_float32, rounded
from workloads.frontier.points.points_diffusion import DIMENSIONS, atoms, pinwheel

Gradient = Literal["pathwise", "score", "group", "one_step"]

LEVELS = 4.0 * (0.1 / 4.0) ** (numpy.arange(9) / 8)
"""Of the chain, from pure noise to nearly none."""
STEPS = len(LEVELS) - 1
_START = float(LEVELS[0])
REWARD = 2.0
GROUP = 8
BOUND = -1.3503
"""Of the cost: minus the logarithm of the mean of exp(reward) over chains without control. Deviation: see the test."""
_SEED_OF_DATA = 2310
_SIZES: dict[SplitName, int] = {"train": 1_024, "validation": 4_000, "test": 4_000}


class PointsReward(Workload):
    """The cost of a chain of noise levels: minus the reward of its end, and how far control has led it from its ways.

    The end x_8 has the reward 2 e . x_8, e an axis of the plane of the points; what control costs is the divergence
    (Kullback, Leibler) of the chain from the one without it, so no control has a cost below `BOUND`. Metric `gap`, the
    mean cost above that. `gradient`, in training: `pathwise` goes back through the whole chain; `score` knows rewards
    alone, and the likelihood of each step; `group` does that for one step, at which chains of a group part; `one_step`
    asks for the reward of what is denoised in one step from a chain without control. Raises ConfigError for another.
    """

    loss_kind: ClassVar[LossKind] = LossKind.OTHER

    def __init__(self, *, gradient: Gradient, hidden: int) -> None:
        if gradient not in get_args(Gradient):
            raise ConfigError(f"gradient is {gradient!r}. Use one of {', '.join(get_args(Gradient))}.")
        self.gradient = gradient
        self.hidden = hidden

    def sources(self) -> list[DataSource]:
        """None: the data are made when they are read."""
        return []

    def load(self, split: SplitName, folder: Path) -> Examples:  # noqa: ARG002 - nothing lies in the data folder
        """`noise` of chains, float32 [n, 9, 8]: the start and each step. Chains of training draw their own instead."""
        # The stream of RandomState is frozen (NEP 19), that of a Generator may change with the version of numpy.
        stream = numpy.random.RandomState([_SEED_OF_DATA, SPLITS.index(split)])
        noise = rounded(stream.standard_normal((_SIZES[split], STEPS + 1, DIMENSIONS)))
        return TensorExamples({"noise": as_float32(noise)})

    def build_model(self) -> nn.Module:
        """A new control, which does nothing yet. Shapes: [batch, 8], [] -> [batch, 8]."""
        return Control(self.hidden)

    def outputs(self, model: nn.Module, batch: Batch) -> Tensor:
        """Reward and cost of control of each chain, as numbers whose gradients are those of the way that is taken.

        Shape: [batch, 2].
        """
        noise = batch["noise"]
        if not model.training:
            return torch.stack(controlled(model, noise), dim=1)
        noise = torch.randn_like(noise)
        if self.gradient == "pathwise":
            return torch.stack(controlled(model, noise), dim=1)
        if self.gradient == "one_step":
            return _after_one_step(model, noise)
        return _by_likelihood(model, noise, parts_at_one_step=self.gradient == "group")

    def losses(self, outputs: Tensor, batch: Batch, label_smoothing: float) -> tuple[Tensor, None]:  # noqa: ARG002
        """Cost of control minus reward. Shape: [batch]."""
        return outputs[:, 1] - outputs[:, 0], None

    def statistics(self, outputs: Tensor, batch: Batch) -> dict[str, Tensor]:  # noqa: ARG002
        """`reward` and `control`, what that costs. Shapes: [batch]."""
        return {"reward": outputs[:, 0], "control": outputs[:, 1]}

    def metrics(self, statistics: dict[str, Tensor]) -> dict[str, float]:
        """Means of both over all chains, and `gap`."""
        reward, control = (statistics[name].double().mean().item() for name in ("reward", "control"))
        return {"gap": control - reward - BOUND, "reward": reward, "control": control}

    def resized(self) -> dict[str, Any]:
        """Hidden layers wider by a thirty-second."""
        return {"hidden": self.hidden + self.hidden // 32}


class Control(nn.Module):
    """What is added to the exact denoiser, in units of the level: two hidden layers on place and level.

    Shapes: [batch, 8], [] or [batch] -> [batch, 8].
    """

    def __init__(self, hidden: int) -> None:
        super().__init__()
        within = [nn.Linear(DIMENSIONS + 2, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU()]
        output = nn.Linear(hidden, DIMENSIONS)
        nn.init.zeros_(output.weight)
        nn.init.zeros_(output.bias)
        self.layers = nn.Sequential(*within, output)

    def forward(self, noisy: Tensor, level: Tensor) -> Tensor:
        """The control at these places."""
        levels = level.expand(len(noisy))[:, None]
        control: Tensor = self.layers(torch.cat([noisy / (levels**2 + 0.25).sqrt(), levels.log(), levels], dim=1))
        return control


def reward_of(ends: Tensor) -> Tensor:
    """Shapes: [batch, 8] -> [batch]."""
    _, axis = _world()
    return REWARD * ends @ axis.to(ends)


def denoised(noisy: Tensor, level: float) -> Tensor:
    """The mean of the points given where they are with their noise, as products of matrices.

    Shapes: [batch, 8] -> [batch, 8].
    """
    points = _world()[0].to(noisy)
    nearness = (noisy @ points.T - points.square().sum(dim=1) / 2) / level**2
    mean: Tensor = nearness.softmax(dim=1) @ points
    return mean


def controlled(model: nn.Module, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Reward and cost of control of the chains that this noise makes. Shapes: [batch, 9, 8] -> [batch], [batch]."""
    place, cost = _START * noise[:, 0], torch.zeros_like(noise[:, 0, 0])
    for step in range(STEPS):
        mean, deviation, of_step = _step(model, place, step)
        place, cost = mean + deviation * noise[:, step + 1], cost + of_step
    return reward_of(place), cost


def _step(model: nn.Module | None, place: Tensor, step: int) -> tuple[Tensor, float, Tensor]:
    """Mean and deviation of the next place, and what the control of this step costs; no model: no control.

    Shapes: [batch, 8] -> [batch, 8], one number, [batch].
    """
    level = float(LEVELS[step])
    a, b = level**2, float(LEVELS[step + 1]) ** 2
    variance = b * (a - b) / a
    mean = (b / a) * place + (1 - b / a) * denoised(place, level)
    if model is None:
        return mean, variance**0.5, torch.zeros_like(place[:, 0])
    shift = (1 - b / a) * level * model(place, place.new_tensor(level))
    return mean + shift, variance**0.5, shift.square().sum(dim=1) / (2 * variance)


def _by_likelihood(model: nn.Module, noise: Tensor, *, parts_at_one_step: bool) -> Tensor:
    """Reward and cost whose gradient is that of likelihoods: steps after which costs were small are made likelier.

    `parts_at_one_step`: chains come in groups of eight, which are one up to a step drawn by chance, and only that step
    is made likelier, by how its chain compares with its group and by how much noise it has. Shape: [batch, 2].
    """
    count = len(noise)
    group = torch.arange(count, device=noise.device) // (GROUP if parts_at_one_step else count)
    first = torch.searchsorted(group, group)
    parted = torch.zeros(count, dtype=torch.int64, device=noise.device)
    if parts_at_one_step:
        parted = torch.randint(STEPS, (count,), device=noise.device)[first]
        is_shared = torch.arange(STEPS + 1, device=noise.device) <= parted[:, None]
        noise = torch.where(is_shared[..., None], noise[first], noise)
    place, costs, scores = _START * noise[:, 0], [], []
    for step in range(STEPS):
        mean, deviation, of_step = _step(model, place, step)
        place = (mean + deviation * noise[:, step + 1]).detach()
        costs.append(of_step)
        scores.append(-(place - mean).square().sum(dim=1) / (2 * deviation**2))
    cost, score = torch.stack(costs), torch.stack(scores)
    reward = reward_of(place)
    # Noise of a step does not change what was paid before it.
    after = cost.detach().flip(0).cumsum(dim=0).flip(0) - cost.detach() - reward
    paid = cost
    if parts_at_one_step:
        deviations = cost.new_tensor([_deviation(step) for step in range(STEPS)])
        weights = deviations / deviations.mean()
        advantage = after.gather(0, parted[None]).squeeze(0)
        advantage = STEPS * weights[parted] * (advantage - _group_mean(advantage, group))
        estimate = advantage * score.gather(0, parted[None]).squeeze(0)
        # Of what a step earns and what it pays the same part counts.
        paid = weights[:, None] * cost
    else:
        estimate = ((after - after.mean(dim=1, keepdim=True)) * score).sum(dim=0)
    estimate = paid.sum(dim=0) + estimate
    # Values are what the chain was, the gradient is that of the estimate.
    return torch.stack([reward, cost.sum(dim=0).detach() + estimate - estimate.detach()], dim=1)


def _after_one_step(model: nn.Module, noise: Tensor) -> Tensor:
    """Reward of what is denoised at once, with control, from a level of a chain without, and what all control costs.

    Shape: [batch, 2].
    """
    place, step = _START * noise[:, 0], int(torch.randint(STEPS, ()))
    for before in range(step):
        mean, deviation, _ = _step(None, place, before)
        place = mean + deviation * noise[:, before + 1]
    _, _, cost = _step(model, place, step)
    level = float(LEVELS[step])
    at_once = denoised(place, level) + level * model(place, place.new_tensor(level))
    return torch.stack([reward_of(at_once), STEPS * cost], dim=1)


@functools.cache
def _world() -> tuple[Tensor, Tensor]:
    """The points, and the axis of the reward. Shapes: float64 [512, 8], [8]."""
    # Made outside of inference mode, so that it may be used in both.
    with torch.inference_mode(mode=False):
        return torch.from_numpy(atoms()), torch.from_numpy(pinwheel()[1][:, 0].copy())


def _deviation(step: int) -> float:
    a, b = (float(LEVELS[each]) ** 2 for each in (step, step + 1))
    return math.sqrt(b * (a - b) / a)


def _group_mean(values: Tensor, group: Tensor) -> Tensor:
    sums = torch.zeros(int(group[-1]) + 1, dtype=values.dtype, device=values.device).index_add(0, group, values)
    return (sums / group.bincount())[group]

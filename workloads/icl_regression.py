"""Linear regression learned in context by a small transformer, whose best possible error is known: ridge regression.

After Garg, Tsipras, Liang, Valiant, "What can transformers learn in-context?", NeurIPS 2022.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.api import (
    SPLITS,
    Batch,
    DataSource,
    Examples,
    Padded,
    ParameterKind,
    Reordered,
    Signed,
    SplitName,
    Symmetry,
    TensorExamples,
)
from workloads.frontier.made import rotations
from workloads.frontier.regression.iterates import descent, nearest_iterate, newton
from workloads.losses.regression import Regression
from workloads.networks.decoder_transformer import Block, draw_weights

_SEED_OF_DATA = 2022
_HELD_OUT = 1024
# Drawn numbers are rounded to such fractions: sums of their products are then exact, on every machine the same.
_STEPS = 1024
_NORM_EPSILON = 1e-6
_OUTPUT_DEVIATION = 0.02
# About that of the embedded numbers.
_POSITION_DEVIATION = 0.3
_PROBED = 1024
_MOST_STEPS = {"descent": 1000, "newton": 30}


class IclRegression(Regression):
    """Squared error, at every point of a prompt, of the next y; metric `excess` over the best possible prediction.

    A prompt is `points` pairs of x ~ N(0, 1) in `dimensions` dimensions and y = w x + noise; its own w ~ N(0, 1 /
    dimensions) is never shown, so the best prediction is the posterior mean, which is ridge regression on the points
    before. `examples` prompts for training. `condition`: ratio of the largest to the smallest eigenvalue of the
    covariance of x, which has a mean of 1 and directions of its own in each prompt; eigenvalues are in a geometric
    sequence. See InContextRegressor for the model.
    """

    compiles = True

    def __init__(
        self,
        *,
        dimensions: int,
        points: int,
        noise: float,
        examples: int,
        width: int,
        layers: int,
        heads: int,
        hidden: int,
        condition: float = 1.0,
        attention_momentum: float | None = None,
    ) -> None:
        self.dimensions = dimensions
        self.points = points
        self.noise = noise
        self.examples = examples
        self.width = width
        self.layers = layers
        self.heads = heads
        self.hidden = hidden
        self.condition = condition
        self.attention_momentum = attention_momentum

    def sources(self) -> list[DataSource]:
        """None: the data are made when they are read."""
        return []

    def load(self, split: SplitName, folder: Path) -> Examples:  # noqa: ARG002 - nothing lies in the data folder
        """Prompts; those for validation and test come with the predictions of ridge regression, `optimum`."""
        # The stream of RandomState is frozen (NEP 19), that of a Generator may change with the version of numpy.
        stream = numpy.random.RandomState([_SEED_OF_DATA, SPLITS.index(split)])
        count = self.examples if split == "train" else _HELD_OUT
        points = _rounded(stream.standard_normal((count, self.points, self.dimensions)))
        weights = _rounded(stream.standard_normal((count, self.dimensions)) / self.dimensions**0.5)
        noise = _rounded(self.noise * stream.standard_normal((count, self.points)))
        if self.condition > 1:
            directions = rotations(stream.standard_normal((count, self.dimensions, self.dimensions)))
            points = _rounded(points * deviations(self.dimensions, self.condition) @ directions)
        values = numpy.einsum("npd,nd->np", points, weights) + noise
        made = {"points": _float32(points), "values": _float32(values)}
        if split == "train":
            return Prompts(made)
        return Prompts(made, _float32(ridge(points, values, penalty=self.dimensions * self.noise**2)))

    def build_model(self) -> nn.Module:
        """A new network. Shapes: [batch, points, 2 dimensions + 1] -> [batch, points]."""
        return InContextRegressor(
            inputs=2 * self.dimensions + 1,
            context=self.points,
            width=self.width,
            layers=self.layers,
            heads=self.heads,
            hidden=self.hidden,
            momentum=self.attention_momentum,
        )

    def statistics(self, outputs: Tensor, batch: Batch) -> dict[str, Tensor]:
        """`excess`: mean over the points of each prompt of the squared distance to the optimum. Shape: [batch].

        Given the points before, the mean squared error of any prediction is that of the posterior mean plus this.
        """
        return {"excess": (outputs - batch["optimum"]).square().mean(dim=1)}

    def metrics(self, statistics: dict[str, Tensor]) -> dict[str, float]:
        """`excess`: mean over all prompts, which are equally long."""
        return {"excess": statistics["excess"].double().mean().item()}

    def symmetries(self) -> list[Symmetry]:
        """Numbers of a token in any order, each of either sign, and dead ones; all answers of the other sign."""
        return [
            Reordered({"inputs": 2}),
            Signed({"inputs": 2}),
            Padded("inputs", layer="embedding"),
            Signed({"targets": None, "optimum": None}),
        ]

    def known_solution(self, model: nn.Module) -> dict[str, float]:
        """After how many steps of descent, and of Newton's, these are nearest to the last prediction, and how near.

        On the first prompts of training. Iterations tend to ridge regression. Source: see `iterates`.
        """
        prompts = self.load("train", Path()).tensors()
        points, values = (prompts[name][:_PROBED].double().numpy() for name in ("points", "values"))
        batch = Prompts({name: each[:_PROBED] for name, each in prompts.items()}).gather(torch.arange(_PROBED))
        device = next(iter(model.parameters())).device
        with torch.no_grad():
            predictions = model(batch["inputs"].to(device))[:, -1].double().cpu().numpy()
        found: dict[str, float] = {}
        for name, iterate in (("descent", descent), ("newton", newton)):
            iterates = iterate(points, values, penalty=self.dimensions * self.noise**2, steps=_MOST_STEPS[name])
            found[f"steps_of_{name}"], found[f"distance_to_{name}"] = nearest_iterate(predictions, iterates)
        return found

    def resized(self) -> dict[str, Any]:
        """Hidden layers wider by one. A number more for each head would be an eighth."""
        return {"hidden": self.hidden + 1}


class Prompts(TensorExamples):
    """Prompts, held as points [n, points, dimensions] and values [n, points], and made into tokens when gathered.

    `optimum`, the best predictions, [n, points], is given out beside them. It follows from them, up to the last bits of
    a linear solver, so it does not count for the content hash.
    """

    def __init__(self, tensors: dict[str, Tensor], optimum: Tensor | None = None) -> None:
        super().__init__(tensors)
        self._optimum = optimum

    def gather(self, index: Tensor) -> Batch:
        """`inputs` float32 [batch, points, 2 dimensions + 1] and `targets` float32 [batch, points].

        A token holds the x to predict for, and x and y of the point before; the first has zeros there.
        """
        prompts = super().gather(index)
        points, values = prompts["points"], prompts["values"]
        pairs = torch.cat([points, values[..., None]], dim=2)
        before = torch.cat([torch.zeros_like(pairs[:, :1]), pairs[:, :-1]], dim=1)
        batch = {"inputs": torch.cat([points, before], dim=2), "targets": values}
        return batch if self._optimum is None else {**batch, "optimum": self._optimum.index_select(0, index)}

    def to(self, device: torch.device) -> Prompts:
        """The same prompts on another device."""
        tensors = {name: values.to(device) for name, values in self.tensors().items()}
        return Prompts(tensors, None if self._optimum is None else self._optimum.to(device))


class InContextRegressor(nn.Module):
    """The blocks of DecoderTransformer between a linear layer that reads numbers and one that writes one number.

    Positions are learned, as in the paper; with rotated queries and keys instead, nadamw at its default rate came to an
    excess of 0.022 and 0.036 on two seeds where it comes to 0.014 and 0.015.
    `momentum`: that of MomentumBlock, if any.
    Shapes: float [batch, length, inputs] -> [batch, length], length up to `context`.
    """

    def __init__(
        self,
        *,
        inputs: int,
        context: int,
        width: int,
        layers: int,
        heads: int,
        hidden: int,
        momentum: float | None = None,
    ) -> None:
        super().__init__()
        self.embedding = nn.Linear(inputs, width)
        self.positions = nn.Parameter(_POSITION_DEVIATION * torch.randn(context, width))
        self.parameter_kinds = {"positions": ParameterKind.EMBEDDING}
        sizes = (context, width, heads, hidden)
        self.blocks = nn.ModuleList(
            Block(*sizes) if momentum is None else MomentumBlock(*sizes, momentum=momentum) for _ in range(layers)
        )
        self.norm = nn.RMSNorm(width, eps=_NORM_EPSILON)
        self.output = nn.Linear(width, 1, bias=False)
        # With the language model's deviation of 0.02 such narrow layers hardly see their input: in two dimensions, with
        # two layers, rotary positions and 800 steps, nadamw left 0.145 of the excess of predicting 0, instead of 0.068.
        draw_weights(self, deviation=1 / math.sqrt(width))
        # The first prediction is nearly 0 all the same.
        nn.init.normal_(self.output.weight, std=_OUTPUT_DEVIATION)

    def forward(self, tokens: Tensor) -> Tensor:
        """The prediction at every position, from the tokens up to there."""
        hidden = self.embedding(tokens) + self.positions[: tokens.shape[1]]
        for block in self.blocks:
            hidden = block(hidden, None)
        predictions: Tensor = self.output(self.norm(hidden)).squeeze(-1)
        return predictions


class MomentumBlock(Block):
    """A block whose attention gives the values of earlier positions too, each step back less by the factor `momentum`.

    Source: Dai et al., "Why can GPT learn in-context? Language models implicitly perform gradient descent as
    meta-optimizers", Findings of ACL 2023.
    """

    def __init__(self, context: int, width: int, heads: int, hidden: int, *, momentum: float) -> None:
        super().__init__(context, width, heads, hidden)
        back = torch.arange(context)[:, None] - torch.arange(context)
        # Not in the state: it follows from the sizes.
        self.register_buffer("traces", torch.where(back > 0, momentum ** back.clamp_min(0), 0.0), persistent=False)

    def forward(self, hidden: Tensor, rotations: Tensor | None) -> Tensor:
        """The residual stream after this layer."""
        length, width = hidden.shape[1:]
        normed = self.attention_norm(hidden)
        values = F.linear(normed, self.attention.qkv.weight[2 * width :])
        # Attention ends in a linear layer, so what is added to its values may be sent through that layer by itself.
        traced = self.attention.out(self.get_buffer("traces")[:length, :length] @ values)
        hidden = hidden + self.dropout(self.attention(normed, rotations) + traced)
        out: Tensor = hidden + self.dropout(self.narrow(F.glu(self.widen(self.feed_forward_norm(hidden)))))
        return out


def deviations(dimensions: int, condition: float) -> numpy.ndarray:
    """Roots of eigenvalues in a geometric sequence, from the largest, of mean 1. Shape: float64 [dimensions]."""
    eigenvalues = condition ** -numpy.linspace(0, 1, dimensions)
    roots: numpy.ndarray = numpy.sqrt(eigenvalues / eigenvalues.mean())
    return roots


def ridge(points: numpy.ndarray, values: numpy.ndarray, *, penalty: float) -> numpy.ndarray:
    """Predictions of each value by ridge regression on the points before it; 0 for the first.

    The posterior mean where weights have variance v, noise variance s and `penalty` is s / v. Shapes: float64
    [n, points, dimensions], [n, points] -> [n, points].
    """
    products = points[..., :, None] * points[..., None, :]
    moments = numpy.cumsum(products, axis=1) - products + penalty * numpy.eye(points.shape[2])
    pulls = points * values[..., None]
    weights = numpy.linalg.solve(moments, (numpy.cumsum(pulls, axis=1) - pulls)[..., None])[..., 0]
    predictions: numpy.ndarray = (points * weights).sum(axis=2)
    return predictions


def _rounded(values: numpy.ndarray) -> numpy.ndarray:
    rounded: numpy.ndarray = numpy.rint(_STEPS * values) / _STEPS
    return rounded


def _float32(values: numpy.ndarray) -> Tensor:
    return torch.from_numpy(values.astype(numpy.float32))

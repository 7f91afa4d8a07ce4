"""Attention that has to pick one token of each sequence: it should grow in the direction of a max-margin problem.

After Ataee Tarzanagh, Li, Thrampoulidis, Oymak, "Transformers as support vector machines", arXiv 2308.16898.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy
import torch
from torch import Tensor, nn

from harness.api import SPLITS, Batch, DataSource, Examples, SplitName, TensorExamples
from workloads.losses.binary import BinaryClassification

SEQUENCES = 6
TOKENS = 5
WIDTH = 10
_SEED_OF_DATA = 2025
_HELD_OUT = 512
# Drawn numbers are rounded to such fractions, so that all sums below are exact.
_STEPS = 1024
_INITIAL_DEVIATION = 1e-6
# Of length 1, and exact in binary, so that the other tokens are exactly orthogonal to it: their scores are then equal,
# without which gradient descent may go to a direction that is only locally optimal.
_VALUE = numpy.array([9, -8, 6, 5, -4, 4, 3, -2, 2, -1]) / 16


class PlantedAttention(BinaryClassification):
    """Label 1 or 0 from v . X^T softmax(X W z), where one token of X holds +v or -v; only W is trained.

    Metric `misalignment`, 1 - cosine of W with the smallest matrix under which, on every training sequence, the score
    of that token is above all others by 1. Where the loss is separable W grows without end, so only its direction can
    converge. It is a property of the weights and the training split: the same on all splits.
    """

    not_promised: ClassVar[frozenset[str]] = frozenset(
        {"one_output_layer", "loss_of_a_guess", "learns_one_batch_by_heart"}
    )
    """W is all there is, and the output is between -1 and 1, with the right sign from the start."""

    def sources(self) -> list[DataSource]:
        """None: the data are made when they are read."""
        return []

    def load(self, split: SplitName, folder: Path) -> Examples:  # noqa: ARG002 - nothing lies in the data folder
        """Sequences; those for validation and test come with the max-margin matrix of the training split."""
        made = _sequences(split)
        tensors = {name: torch.from_numpy(values.astype(numpy.float32)) for name, values in made.items()}
        if split == "train":
            return Sequences(tensors)
        return Sequences(tensors, torch.from_numpy(max_margin(differences(_sequences("train")))))

    def build_model(self) -> nn.Module:
        """A new network. Shapes: [batch, tokens, width], [batch, width] -> [batch]."""
        return OneQueryAttention()

    def outputs(self, model: nn.Module, batch: Batch) -> Tensor:
        """The logit of label 1. Shape: [batch]."""
        outputs: Tensor = model(batch["inputs"], batch["queries"])
        return outputs

    def decoded_metrics(self, model: nn.Module, examples: Examples) -> dict[str, float]:
        """`misalignment` of the weights, between 0 and 2; 1 for weights of zero."""
        assert isinstance(examples, Sequences)
        assert examples.solution is not None
        return {"misalignment": 1.0 - _cosine(model, examples.solution)}

    def known_solution(self, model: nn.Module) -> dict[str, float]:
        """`cosine_max_margin` of the weights with the max-margin matrix of the training split."""
        solution = torch.from_numpy(max_margin(differences(_sequences("train"))))
        return {"cosine_max_margin": _cosine(model, solution.to(next(model.parameters()).device))}


class Sequences(TensorExamples):
    """Sequences: `inputs` [n, tokens, width], `queries` [n, width], `targets` [n], 0 or 1.

    `solution`, the max-margin matrix of the training split, float64 [width, width], lies beside held-out splits. It
    follows from the data, up to the last bits of a solver, so it does not count for the content hash.
    """

    def __init__(self, tensors: dict[str, Tensor], solution: Tensor | None = None) -> None:
        super().__init__(tensors)
        self.solution = solution

    def to(self, device: torch.device) -> Sequences:
        """The same sequences on another device."""
        tensors = {name: values.to(device) for name, values in self.tensors().items()}
        return Sequences(tensors, None if self.solution is None else self.solution.to(device))


class OneQueryAttention(nn.Module):
    """f = v . X^T softmax(X W z): keys are the tokens, the values' direction is fixed.

    Shapes: tokens [batch, tokens, width] and queries [batch, width] -> [batch].
    """

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(_INITIAL_DEVIATION * torch.randn(WIDTH, WIDTH))
        self.value: Tensor
        self.register_buffer("value", torch.from_numpy(_VALUE.astype(numpy.float32)), persistent=False)

    def forward(self, tokens: Tensor, queries: Tensor) -> Tensor:
        """The logit of label 1."""
        scores = torch.einsum("btd,bd->bt", tokens, queries @ self.weight.T)
        values = tokens @ self.value
        chosen = values.gather(1, scores.argmax(dim=1, keepdim=True))
        # The same as the mean of `values`. Of that, the chosen token's gradient is the difference of two numbers that
        # are equal once its weight rounds to 1: noise, which a rule that normalises gradients then follows.
        logits: Tensor = chosen.squeeze(1) + (torch.softmax(scores, dim=1) * (values - chosen)).sum(dim=1)
        return logits


def _cosine(model: nn.Module, solution: Tensor) -> float:
    weight = next(iter(model.parameters())).detach().double()
    return torch.nn.functional.cosine_similarity(weight.flatten(), solution.flatten(), dim=0, eps=1e-30).item()


def differences(sequences: dict[str, numpy.ndarray]) -> numpy.ndarray:
    """The rows G of the margins G vec(W): (x_opt - x_t) z^T for every token but the one that holds the label.

    Shape: float64 [sequences * (tokens - 1), width * width].
    """
    tokens, queries = sequences["inputs"], sequences["queries"]
    chosen = numpy.abs(tokens @ _VALUE).argmax(axis=1)
    rows = [
        numpy.outer(of_one[best] - of_one[other], query).ravel()
        for of_one, query, best in zip(tokens, queries, chosen, strict=True)
        for other in range(len(of_one))
        if other != best
    ]
    return numpy.stack(rows)


def max_margin(rows: numpy.ndarray) -> numpy.ndarray:
    """The matrix of the smallest Frobenius norm whose margins, `rows` times its entries, are all 1 or more.

    By the dual: the largest of sum(l) - |rows^T l|^2 / 2 over l >= 0. Shapes: [n, size * size] -> float64 [size, size].
    """
    from scipy.optimize import minimize

    products = rows @ rows.T

    def negative_dual(multipliers: numpy.ndarray) -> tuple[float, numpy.ndarray]:
        pulls = products @ multipliers
        return multipliers @ pulls / 2 - multipliers.sum(), pulls - 1

    found = minimize(
        negative_dual,
        numpy.zeros(len(rows)),
        jac=True,
        method="L-BFGS-B",
        bounds=[(0, None)] * len(rows),
        options={"ftol": 1e-15, "gtol": 1e-10, "maxiter": 10_000, "maxfun": 100_000},
    )
    size = round(rows.shape[1] ** 0.5)
    solution: numpy.ndarray = (rows.T @ found.x).reshape(size, size)
    return solution


def _sequences(split: SplitName) -> dict[str, numpy.ndarray]:
    """One split, in float64, before it is rounded to what it holds exactly."""
    # The stream of RandomState is frozen (NEP 19), that of a Generator may change with the version of numpy.
    stream = numpy.random.RandomState([_SEED_OF_DATA, SPLITS.index(split)])
    count = SEQUENCES if split == "train" else _HELD_OUT
    drawn = numpy.rint(_STEPS * stream.standard_normal((count, TOKENS, WIDTH))) / _STEPS
    tokens = drawn - (drawn @ _VALUE)[..., None] * _VALUE
    targets = stream.randint(2, size=count)
    tokens[numpy.arange(count), stream.randint(TOKENS, size=count)] += (2.0 * targets - 1.0)[:, None] * _VALUE
    queries = stream.standard_normal((count, WIDTH))
    queries = numpy.rint(_STEPS * queries / (queries**2).sum(axis=1, keepdims=True) ** 0.5) / _STEPS
    return {"inputs": tokens, "queries": queries, "targets": targets.astype(numpy.float64)}

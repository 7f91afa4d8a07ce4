"""Implicit bias of a separable output layer: which of the largest margins its direction is nearest to."""

from __future__ import annotations

import warnings

import numpy
import torch
from scipy.optimize import linprog
from torch import Tensor

from harness.api import LossKind
from harness.diagnostics.probe import NotHere, Probe, output_layer
from harness.trial.passes.captured import captured

# What violating a margin costs beside the norm, and how much longer than others the column of the bias is.
_HARD = 1e8
_FREE = 1e3
# What a solver may take, and which margin is near enough to 1.
_STEPS = 1_000_000
_NEARLY = 0.99


def margin_readouts(probe: Probe) -> dict[str, float]:
    """D16: cosines of the output layer of two classes with the solutions of largest margin, its features being fixed.

    `cosine_l2`: with that of the smallest Euclidean norm, where gradient descent goes; `cosine_linf`: of the smallest
    largest weight, where steps of signs go; `margin_l2`, `margin_linf`: its own smallest margin over the largest there
    is, under each norm. Raises NotHere where the classes are not two, or no plane separates them. Source: Soudry et al.
    (2018); Gunasekar et al. (2018).
    """
    features, signs, weight, bias = _two_classes(probe)
    rows = features * signs[:, None]
    rows = rows if bias is None else torch.cat([rows, signs[:, None]], dim=1)
    own = weight if bias is None else torch.cat([weight, bias])
    largest = largest_margin_linf(rows.numpy(), regularised=features.shape[1])
    if largest is None:
        raise NotHere("no plane separates the classes of the probe set")
    smallest = largest_margin_l2(rows.numpy(), regularised=features.shape[1])
    found = {}
    margin = float((rows @ own).min())
    for name, solution, norm in (("l2", smallest, 2.0), ("linf", largest, float("inf"))):
        direction = torch.from_numpy(solution)[: len(weight)]
        found[f"cosine_{name}"] = float(torch.nn.functional.cosine_similarity(weight, direction, dim=0))
        best = 1.0 / float(torch.linalg.vector_norm(direction, norm))
        found[f"margin_{name}"] = margin / float(torch.linalg.vector_norm(weight, norm)) / best
    return found


def largest_margin_linf(rows: numpy.ndarray, *, regularised: int) -> numpy.ndarray | None:
    """w with rows . w >= 1 whose first `regularised` numbers have the smallest largest size; None where there is none.

    Shapes: [n, width] -> float64 [width].
    """
    count, width = rows.shape
    # Numbers: w, then t >= |w_j|.
    size = numpy.eye(width, width + 1)[:regularised]
    below = numpy.vstack(
        [
            numpy.hstack([-rows, numpy.zeros((count, 1))]),
            size - _last(regularised, width),
            -size - _last(regularised, width),
        ]
    )
    limits = numpy.concatenate([-numpy.ones(count), numpy.zeros(2 * regularised)])
    cost = numpy.zeros(width + 1)
    cost[-1] = 1.0
    found = linprog(cost, below, limits, bounds=[(None, None)] * width + [(0, None)], method="highs")
    return numpy.asarray(found.x[:-1]) if found.success else None


def largest_margin_l2(rows: numpy.ndarray, *, regularised: int) -> numpy.ndarray:
    """The same with the smallest Euclidean norm, of rows that some w fits. Raises NotHere where it takes too long."""
    from sklearn.svm import SVC

    # With each row its opposite in the other class, so that the machine's own intercept is zero. A bias, where there is
    # one, is made as good as free of charge by a column that is large.
    free = numpy.where(numpy.arange(rows.shape[1]) < regularised, 1.0, _FREE)
    scaled = rows * free
    machine = SVC(kernel="linear", C=_HARD, tol=1e-6, max_iter=_STEPS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it stopped too early is seen below
        machine.fit(numpy.vstack([scaled, -scaled]), numpy.repeat([1, -1], len(rows)))
    found: numpy.ndarray = machine.coef_[0] * free
    if float((rows @ found).min()) < _NEARLY:
        raise NotHere(f"the largest margin was not found in {_STEPS:,} steps")
    return found


def _two_classes(probe: Probe) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Features, labels as +1 and -1, and weight and bias of the layer that tells the two classes apart; float64."""
    path, layer = output_layer(probe.model)
    is_softmax = probe.workload.loss_kind is LossKind.SOFTMAX_CROSS_ENTROPY and layer.out_features == 2
    if not is_softmax and not (probe.workload.loss_kind is LossKind.SIGMOID_CROSS_ENTROPY and layer.out_features == 1):
        raise NotHere("the output layer does not tell two classes apart")
    features, signs = [], []
    for batch in probe.batches:
        with torch.no_grad(), captured(probe.model, [path]) as inputs:
            outputs = probe.workload.outputs(probe.model, batch)
        _, weights = probe.workload.losses(outputs, batch, 0.0)
        targets = batch["targets"].double()
        if targets.ndim != 1 or inputs[path][0].shape[:-1] != targets.shape:
            raise NotHere("there is no one feature vector for each label")
        counts = torch.ones_like(targets, dtype=torch.bool) if weights is None else weights > 0
        features.append(inputs[path][0].double()[counts])
        signs.append(2.0 * targets[counts] - 1.0)
    weight, bias = layer.weight.detach().double(), None if layer.bias is None else layer.bias.detach().double()
    of_one = weight[1] - weight[0] if is_softmax else weight[0]
    shift = None if bias is None else (bias[1] - bias[0] if is_softmax else bias[0]).reshape(1)
    return torch.cat(features), torch.cat(signs), of_one, shift


def _last(rows: int, width: int) -> numpy.ndarray:
    return numpy.hstack([numpy.zeros((rows, width)), numpy.ones((rows, 1))])

"""Readout of the terms of a loss: how often the gradient of one points against that of another."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from harness.api import Batch, terms_of
from harness.diagnostics.probe import NotHere, Probe, flat

DRAWS = 16


def conflicts(probe: Probe, *, batch_size: int, generator: torch.Generator) -> dict[str, float]:
    """Cosines of the gradients of each two terms of the loss, over all trained weights.

    On the probe set: `cosine/ONE/OTHER`, their mean and the lowest, and the share of pairs whose cosine is negative;
    `mean_cosine/LAYER`, of the pairs of gradients of that layer alone, where two terms have one.
    `negative_share_of_batches`: that of the pairs of DRAWS batches of the workload's size, drawn with replacement; a
    term that counts nothing in a batch is in no pair of it. Raises NotHere where fewer than two terms have a gradient.
    Source: Yu et al., arXiv 2001.06782, definition 1; that Omni-Mol (arXiv 2502.01074) counts them.
    """
    gradients = term_gradients(probe, probe.batches)
    whole = _cosines(gradients)
    if not whole:
        raise NotHere("the loss has no two terms with a gradient each")
    drawn: list[float] = []
    for _ in range(DRAWS):
        index = torch.randint(len(probe.train_set), (batch_size,), generator=generator)
        drawn += _cosines(term_gradients(probe, probe.cut(index))).values()
    found = {
        "negative_share": _negative_share(list(whole.values())),
        "mean_cosine": sum(whole.values()) / len(whole),
        "lowest_cosine": min(whole.values()),
        **{f"cosine/{one}/{other}": cosine for (one, other), cosine in whole.items()},
        **_by_layer(probe, gradients),
    }
    return found | ({"negative_share_of_batches": _negative_share(drawn)} if drawn else {})


def term_gradients(probe: Probe, batches: Sequence[Batch]) -> dict[str, Tensor]:
    """Of the sum of each term over these batches: in the direction of its mean. Shapes: float64 [size]."""
    parameters = list(probe.parameters.values())
    found: dict[str, Tensor] = {}
    for batch in batches:
        with torch.enable_grad():
            terms = terms_of(probe.workload, probe.workload.outputs(probe.model, batch), batch, 0.0)
        for number, term in enumerate(terms, start=1):
            losses = term.losses if term.weights is None else torch.where(term.weights > 0, term.losses, 0.0)
            total = (losses if term.weights is None else losses * term.weights).double().sum()
            if not total.requires_grad:
                continue
            # A factor of either sign is a part of the term.
            gradient = torch.autograd.grad(
                term.factor * total, parameters, retain_graph=number < len(terms), materialize_grads=True
            )
            found[term.name] = found.get(term.name, 0.0) + flat(gradient)
    return found


def _by_layer(probe: Probe, gradients: dict[str, Tensor]) -> dict[str, float]:
    """The mean cosine within each layer: a module that holds parameters, or a parameter of the whole network."""
    layers: dict[str, list[int]] = {}
    for place, name in enumerate(probe.parameters):
        layers.setdefault(name.rpartition(".")[0] or name, []).append(place)
    sizes = [parameter.numel() for parameter in probe.parameters.values()]
    parts = {name: each.split(sizes) for name, each in gradients.items()}
    found = {}
    for layer, places in layers.items():
        cosines = _cosines({name: torch.cat([each[place] for place in places]) for name, each in parts.items()})
        if cosines:
            found[f"mean_cosine/{layer}"] = sum(cosines.values()) / len(cosines)
    return found


def _cosines(gradients: dict[str, Tensor]) -> dict[tuple[str, str], float]:
    """Of each pair of those that are not zero."""
    units = {name: each / each.norm() for name, each in gradients.items() if bool(each.any())}
    return {(one, other): float(units[one] @ units[other]) for one, other in itertools.combinations(units, 2)}


def _negative_share(cosines: Sequence[float]) -> float:
    return sum(cosine < 0 for cosine in cosines) / len(cosines)

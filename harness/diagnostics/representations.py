"""Readouts of what goes on inside: scores of attention, sizes of activations, geometry of layers, tangent kernel."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from harness.api import LossKind
from harness.diagnostics.probe import NotHere, Probe
from harness.trial.passes.captured import captured

KERNEL_EXAMPLES = 256
_MOST_OUTPUTS = 16
_AT_ONCE = 32


# --- logit growth ---


class _Scores(TorchFunctionMode):
    """Inside, what attention computes and its fused kernel hides: largest score and mean entropy of each call.

    `largest`, `entropies`: by the place of the call in a pass, a number for each head, one entry for each pass.
    """

    def __init__(self) -> None:
        super().__init__()
        self.largest: dict[int, list[Tensor]] = defaultdict(list)
        self.entropies: dict[int, list[Tensor]] = defaultdict(list)
        self.call = 0

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func is F.scaled_dot_product_attention:
            given = dict(zip(("query", "key", "value", "attn_mask", "dropout_p", "is_causal"), args, strict=False))
            largest, entropy = attention_scores(**{**given, **kwargs})
            self.largest[self.call].append(largest)
            self.entropies[self.call].append(entropy)
            self.call += 1
        return func(*args, **kwargs)


def attention_scores(
    query: Tensor,
    key: Tensor,
    value: Tensor | None = None,  # noqa: ARG001 - as attention is called
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,  # noqa: ARG001
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> tuple[Tensor, Tensor]:
    """For each head the largest score, and the mean entropy of rows over the logarithm of how many they may look at.

    Rows that may look at one place alone, or at none, are left out of the mean. Shapes: query [batch, heads, length,
    width], key [batch, heads, keys, width] -> [heads], [heads].
    """
    if enable_gqa:
        key = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)
    scores = (query @ key.transpose(-2, -1)).double() * (query.shape[-1] ** -0.5 if scale is None else scale)
    allowed = torch.ones_like(scores, dtype=torch.bool)
    if is_causal:
        allowed = allowed.tril()
    if attn_mask is not None and attn_mask.dtype is torch.bool:
        allowed = allowed & attn_mask
    elif attn_mask is not None:
        scores = scores + attn_mask
        allowed = allowed & ~attn_mask.isneginf()
    scores = scores.masked_fill(~allowed, -math.inf)
    places = allowed.sum(dim=-1)
    shares = torch.special.entr(scores.softmax(dim=-1)).sum(dim=-1) / places.double().log()
    counted = places > 1
    entropies = torch.where(counted, shares, 0.0).sum(dim=(0, 2)) / counted.sum(dim=(0, 2)).clamp_min(1)
    return scores.amax(dim=(0, 2, 3)), entropies


def logits(probe: Probe) -> dict[str, float]:
    """D8: largest score and mean entropy of each head, normaliser of the outputs, sizes of activations and gradients.

    Names: `score/CALL/HEAD` and `entropy/CALL/HEAD`, calls counted from 0 in the order of a pass; `entropy` is 1 where
    rows look at all places alike; `log_z_mean`, `log_z_deviation` and `largest_logit` under a softmax;
    `activation/LAYER`: root mean square of what goes into it; `gradient/PARAMETER`: of the probe loss. Source: Wortsman
    et al. (2023).
    """
    found: dict[str, float] = {}
    scores, squares, counts = _Scores(), dict[str, float](), dict[str, int]()
    normalisers, largest = [], -math.inf
    is_softmax = probe.workload.loss_kind is LossKind.SOFTMAX_CROSS_ENTROPY
    for batch in probe.batches:
        scores.call = 0
        with torch.no_grad(), captured(probe.model) as inputs, scores:
            outputs = probe.workload.outputs(probe.model, batch)
        for layer, calls in inputs.items():
            numbers = [each for each in calls if each.is_floating_point()]
            squares[layer] = squares.get(layer, 0.0) + sum(float(each.double().square().sum()) for each in numbers)
            counts[layer] = counts.get(layer, 0) + sum(each.numel() for each in numbers)
        if is_softmax:
            _, weights = probe.workload.losses(outputs, batch, 0.0)
            kept = outputs[weights > 0] if weights is not None and weights.shape == outputs.shape[:-1] else outputs
            normalisers.append(kept.double().logsumexp(dim=-1).flatten())
            largest = max(largest, float(kept.max()))
    for call in scores.largest:
        tops, entropies = torch.stack(scores.largest[call]).amax(0), torch.stack(scores.entropies[call]).mean(0)
        for head in range(len(tops)):
            found[f"score/{call}/{head}"] = float(tops[head])
            found[f"entropy/{call}/{head}"] = float(entropies[head])
    if is_softmax:
        log_z = torch.cat(normalisers)
        found |= {
            "log_z_mean": float(log_z.mean()),
            "log_z_deviation": float(log_z.std(correction=0)),
            "largest_logit": largest,
        }
    found |= {f"activation/{name}": math.sqrt(squares[name] / counts[name]) for name in squares if counts[name]}
    parts = probe.gradient().split([p.numel() for p in probe.parameters.values()])
    for name, part in zip(probe.parameters, parts, strict=True):
        found[f"gradient/{name}"] = float(part.square().mean().sqrt())
    return found


# --- geometry ---


def kernel_alignment(some: Tensor, other: Tensor) -> float:
    """Centred kernel alignment of two sets of features: 1 where one is the other turned and scaled.

    Shapes: [n, some width], [n, other width]. Source: Kornblith, Norouzi, Lee, Hinton (2019), linear CKA.
    """
    some, other = (each.double() - each.double().mean(dim=0) for each in (some, other))
    one, two = some @ some.T, other @ other.T
    norm = one.norm() * two.norm()
    return float((one * two).sum() / norm) if float(norm) > 0 else 0.0


def geometry(probe: Probe) -> dict[str, float]:
    """D14: alignment of what goes into each layer with the inputs and with the targets, on the first 256 examples.

    Names: `inputs/LAYER`, `targets/LAYER`; targets that are classes are one-hot. Layers that are called for parts of
    examples are left out. Source: Alleman, Lindsey, Fusi (2024).
    """
    batch = probe.train_set.gather(probe.index[:KERNEL_EXAMPLES].to(probe.train_set.device))
    count = len(batch["targets"])
    if "inputs" not in batch or not batch["inputs"].is_floating_point():
        raise NotHere("inputs are no numbers")
    with torch.no_grad(), captured(probe.model) as layers:
        probe.workload.outputs(probe.model, batch)
    inputs, targets = batch["inputs"].flatten(1), _codes(probe, batch["targets"])
    found: dict[str, float] = {}
    for name, calls in layers.items():
        if len(calls) == 1 and len(calls[0]) == count:
            found[f"inputs/{name}"] = kernel_alignment(calls[0].flatten(1), inputs)
            found[f"targets/{name}"] = kernel_alignment(calls[0].flatten(1), targets)
    if not found:
        raise NotHere("no layer has one row for each example")
    return found


def _codes(probe: Probe, targets: Tensor) -> Tensor:
    if probe.workload.loss_kind is LossKind.SOFTMAX_CROSS_ENTROPY:
        return F.one_hot(targets.long()).flatten(1).double()
    return targets.reshape(len(targets), -1).double()


# --- tangent kernel ---


def tangent_kernel(probe: Probe) -> Tensor:
    """Sums over the outputs of the products of their gradients by the weights. Shape: float64 [n, n], n up to 256.

    Raises NotHere where an example has more than 16 outputs.
    """
    batch = probe.train_set.gather(probe.index[:KERNEL_EXAMPLES].to(probe.train_set.device))
    with torch.no_grad():
        outputs = probe.workload.outputs(probe.model, batch)
    outputs_of_one = outputs[0].numel()
    if outputs_of_one > _MOST_OUTPUTS:
        raise NotHere(f"an example has {outputs_of_one} outputs; the kernel takes a gradient of each")
    whole = _Whole(probe)
    parameters = {f"model.{name}": p.detach() for name, p in probe.parameters.items()}

    def gradients(place: int) -> Callable[..., dict[str, Tensor]]:
        def output(weights: dict[str, Tensor], one: dict[str, Tensor]) -> Tensor:
            alone = {name: values.unsqueeze(0) for name, values in one.items()}
            made: Tensor = torch.func.functional_call(whole, weights, (alone,))
            return made.flatten()[place]

        return torch.func.grad(output)

    count = len(outputs)
    kernel = torch.zeros(count, count, dtype=torch.float64)
    for place in range(outputs_of_one):
        with sdpa_kernel(SDPBackend.MATH):  # the fused one has no rule for many examples one by one
            rows = torch.func.vmap(gradients(place), in_dims=(None, 0), chunk_size=_AT_ONCE)(parameters, batch)
        # A few numbers of a million at a time: in float64 all of them would be twice the memory.
        for part in rows.values():
            part = part.reshape(count, -1).double()
            kernel += part @ part.T
    return kernel


class _Whole(nn.Module):
    """The network under the workload's own way of calling it."""

    def __init__(self, probe: Probe) -> None:
        super().__init__()
        self.model = probe.model
        self._outputs = probe.workload.outputs

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """Outputs of a batch."""
        return self._outputs(self.model, batch)


def kernel_readouts(kernel: Tensor, initial: Tensor, targets: Tensor) -> dict[str, float]:
    """D6: `drift` 1 - cos(T_0, T), `alignment` cos(T, Y Y^T) with Y centred, `effective_rank`, `trace`.

    Shapes: float64 [n, n] twice, [n, outputs]. Source: Jacot, Gabriel, Hongler (2018).
    """
    centred = targets.double() - targets.double().mean(dim=0)
    shares = torch.linalg.eigvalsh(kernel).clamp_min(0.0)
    shares = shares / shares.sum()
    return {
        "drift": 1.0 - _cosine(kernel, initial),
        "alignment": _cosine(kernel, centred @ centred.T),
        "effective_rank": math.exp(float(torch.special.entr(shares).sum())),
        "trace": float(kernel.trace()),
    }


def kernel_targets(probe: Probe) -> Tensor:
    """Targets of the examples of `tangent_kernel`, classes as one-hot rows. Shape: float64 [n, outputs]."""
    batch = probe.train_set.gather(probe.index[:KERNEL_EXAMPLES].to(probe.train_set.device))
    return _codes(probe, batch["targets"])


def _cosine(some: Tensor, other: Tensor) -> float:
    return float((some * other).sum() / (some.norm() * other.norm()))

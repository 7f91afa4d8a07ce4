"""The role of each parameter, read off the module tree: the type of the module that owns it, never its name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.instancenorm import _InstanceNorm

from harness.api import ParameterKind

_NORMS = (_BatchNorm, _InstanceNorm, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
_ATTENTION = {
    "in_proj_weight": ParameterKind.ATTENTION_QKV,
    "q_proj_weight": ParameterKind.ATTENTION_Q,
    "k_proj_weight": ParameterKind.ATTENTION_K,
    "v_proj_weight": ParameterKind.ATTENTION_V,
    "in_proj_bias": ParameterKind.ATTENTION_BIAS,
    "bias_k": ParameterKind.ATTENTION_BIAS,
    "bias_v": ParameterKind.ATTENTION_BIAS,
    "out_proj.weight": ParameterKind.ATTENTION_OUT,
    "out_proj.bias": ParameterKind.ATTENTION_BIAS,
}

HIDDEN_MATRICES = frozenset(
    {
        ParameterKind.WEIGHT,
        ParameterKind.CONV,
        ParameterKind.ATTENTION_Q,
        ParameterKind.ATTENTION_K,
        ParameterKind.ATTENTION_V,
        ParameterKind.ATTENTION_KV,
        ParameterKind.ATTENTION_QKV,
        ParameterKind.ATTENTION_OUT,
        ParameterKind.ADAPTER_DOWN,
        ParameterKind.ADAPTER_UP,
    }
)
"""Kinds that are matrices between hidden layers (kernels are, once flattened): what Muon and its kin are made for."""


def hidden_matrices_and_rest(
    model: nn.Module, kinds: Mapping[str, ParameterKind]
) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Parameters of HIDDEN_MATRICES with two dimensions or more, and all others, each in the model's order."""
    named = list(model.named_parameters())
    is_hidden = {name: kinds[name] in HIDDEN_MATRICES and p.ndim >= 2 for name, p in named}
    return [p for name, p in named if is_hidden[name]], [p for name, p in named if not is_hidden[name]]


def freeze_all_but(model: nn.Module, trained: Iterable[nn.Parameter]) -> None:
    """Stop training all other parameters, and let batch norm go on with the statistics that it has."""
    kept = {id(parameter) for parameter in trained}
    for parameter in model.parameters():
        if id(parameter) not in kept:
            parameter.requires_grad_(False)
            parameter.grad = None
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.eval()


def kinds_of(model: nn.Module) -> dict[str, ParameterKind]:
    """Kind of every parameter, by name; a tied parameter has the role of its first use.

    A module that knows better declares `parameter_kinds`, a mapping from the parameter's path inside it to its kind;
    the outermost declaration wins. Where none declares an output layer, it is the last Linear or convolution in the
    order of registration.
    """
    kinds: dict[str, ParameterKind] = {}
    declared: dict[str, ParameterKind] = {}
    last_layer: str | None = None
    for path, module in model.named_modules():
        prefix = f"{path}." if path else ""
        own: Mapping[str, ParameterKind] = getattr(module, "parameter_kinds", {})
        if isinstance(module, nn.MultiheadAttention):
            own = _ATTENTION
        for name, kind in own.items():
            declared.setdefault(prefix + name, kind)
        for name, parameter in module.named_parameters(recurse=False):
            kinds[prefix + name] = _kind(module, name, parameter.ndim)
        if isinstance(module, nn.Linear | _ConvNd) and prefix + "weight" not in declared:
            last_layer = prefix + "weight"
    names = [name for name, _ in model.named_parameters()]
    found = {name: declared.get(name, kinds[name]) for name in names}
    if last_layer in found and ParameterKind.OUTPUT not in declared.values():
        found[last_layer] = ParameterKind.OUTPUT
    return found


@dataclass(frozen=True)
class Adapter:
    """Two thin matrices whose product is added to a frozen layer: y = W x + up (down x).

    Shapes: down [rank, inputs], up [outputs, rank].
    """

    down: nn.Parameter
    up: nn.Parameter


def adapters_of(model: nn.Module) -> dict[str, Adapter]:
    """Adapters by the path of the layer that each is laid on, in the model's order."""
    found = {}
    for path, module in model.named_modules():
        names = {kind: name for name, kind in getattr(module, "parameter_kinds", {}).items()}
        if ParameterKind.ADAPTER_DOWN in names and ParameterKind.ADAPTER_UP in names:
            down, up = (names[kind] for kind in (ParameterKind.ADAPTER_DOWN, ParameterKind.ADAPTER_UP))
            found[path] = Adapter(module.get_parameter(down), module.get_parameter(up))
    return found


def _kind(module: nn.Module, name: str, dimensions: int) -> ParameterKind:
    if isinstance(module, _NORMS):
        return ParameterKind.NORM_SCALE if name == "weight" else ParameterKind.NORM_BIAS
    if isinstance(module, nn.Embedding | nn.EmbeddingBag):
        return ParameterKind.EMBEDDING
    if isinstance(module, nn.RNNBase | nn.RNNCellBase):
        return ParameterKind.RECURRENT if dimensions > 1 else ParameterKind.BIAS
    if dimensions < 2:
        return ParameterKind.BIAS
    return ParameterKind.CONV if isinstance(module, _ConvNd) else ParameterKind.WEIGHT

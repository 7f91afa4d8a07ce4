"""Public classes that do the work of ours, with the arguments that make them do it, and what still differs.

heavyball 3.2.1 is not among them: it compiles its steps, for 16 s (AdamW) to 190 s (SOAP) at start, and then takes
longer on small tensors and a CPU: NAdam 1.1 and Muon 2.0 times as long as ours, in one run; PSGDKron runs out of
memory. Nor is pytorch_optimizer.Kron, which takes 17 times as long as PSGDKron on tiny tensors and more than 30 s a
step on small ones; nor pytorch_optimizer.SophiaH, which steps by gradients that hold their graph alone.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

LIBRARIES = ("torch.optim", "pytorch_optimizer")

Make = Callable[..., Optimizer]


@dataclass(frozen=True)
class Peer:
    """A public class beside one of ours."""

    dotted: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    group: Mapping[str, Any] = field(default_factory=dict)
    """What the class wants to be told in a parameter group."""
    differs: str = ""
    """What it does less, more or otherwise than ours; empty: nothing that takes time."""

    def ways(self) -> Iterator[tuple[str, Make]]:
        """Each way in which the class runs, by a label: as it comes, and by multi-tensor calls where it has them."""
        library, _, name = self.dotted.rpartition(".")
        try:
            kind = getattr(importlib.import_module(library), name)
        except (ImportError, AttributeError):
            return
        foreach = [False, True] if "foreach" in inspect.signature(kind).parameters else [None]
        for choice in foreach:
            chosen = {} if choice is None else {"foreach": choice}
            yield f"{self.dotted}{', foreach' if choice else ''}", self._made_by(kind, chosen)

    def _made_by(self, kind: Make, chosen: Mapping[str, Any]) -> Make:
        def make(parameters: list[nn.Parameter], **more: Any) -> Optimizer:
            given = [{"params": parameters, **self.group}] if self.group else parameters
            return kind(given, **self.arguments, **chosen, **more)

        return make


_MUON: Mapping[str, Any] = {"use_muon": True}
# By the name of our class; a public class of the same name needs an entry only where its arguments matter.
PEERS: Mapping[str, tuple[Peer, ...]] = {
    "Adafactor": (
        Peer(
            "pytorch_optimizer.AdaFactor",
            {"momentum_dtype": torch.float32, "scale_parameter": False, "relative_step": False},
        ),
        Peer("torch.optim.Adafactor", differs="no momentum; a rate by the weights' own size"),
    ),
    "DropMuon": (Peer("torch.optim.Muon", {"nesterov": False, "weight_decay": 0.0}),),
    "Lamb": (Peer("pytorch_optimizer.Lamb", differs="corrects the rate in place of both moments"),),
    "Muon": (
        Peer("torch.optim.Muon", {"weight_decay": 0.0}),
        Peer("pytorch_optimizer.Muon", group=_MUON),
    ),
    "NAdamW": (Peer("torch.optim.NAdam", {"decoupled_weight_decay": True}, differs="a schedule of the momentum"),),
    "NorMuon": (Peer("pytorch_optimizer.NorMuon", group=_MUON),),
    "SGDP": (Peer("pytorch_optimizer.SGDP", {"momentum": 0.9, "nesterov": True}),),
    "Shampoo": (
        Peer(
            "pytorch_optimizer.ScalableShampoo",
            {
                "block_size": 1024,
                "graft_type": 3,
                "preconditioning_compute_steps": 10,
                "start_preconditioning_step": 10,
            },
            differs="roots by Newton iterations; grafts to RMSProp; small matrices by their sides, not as "
            "vectors; factors not counted as state",
        ),
        Peer(
            "pytorch_optimizer.Shampoo",
            {"preconditioning_compute_steps": 10},
            differs="neither grafting nor Adam's moments; small matrices by their sides, not as vectors",
        ),
    ),
    "SOAP": (Peer("pytorch_optimizer.SOAP", {"weight_decay": 0.0}),),
}
# What makes our class do in ten steps what it does in long runs.
OUR_ARGUMENTS: Mapping[str, Mapping[str, Any]] = {
    "Caspr": {"frequency": 10, "start": 10},
    "Shampoo": {"frequency": 10, "start": 10},
}


def missing_libraries() -> list[str]:
    """Those that are not installed."""
    return [library for library in LIBRARIES if importlib.util.find_spec(library) is None]


def peers_of(name: str) -> list[Peer]:
    """Those of the class of this name: as listed, and public classes of the same name, in any case, beside them."""
    listed = list(PEERS.get(name, ()))
    known = {peer.dotted for peer in listed}
    for library in LIBRARIES:
        try:
            module = importlib.import_module(library)
        except ImportError:
            continue
        for each, kind in vars(module).items():
            dotted = f"{library}.{each}"
            if each.lower() == name.lower() and dotted not in known and issubclass(kind, Optimizer):
                listed.append(Peer(dotted))
    return listed

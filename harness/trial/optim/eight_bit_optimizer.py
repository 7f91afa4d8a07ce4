"""The base of optimizers whose states are kept in 8 bits, and bitsandbytes in its place on CUDA."""

from __future__ import annotations

import importlib
import importlib.util
from collections import defaultdict
from typing import Any, ClassVar

import torch
from torch import Tensor

from harness.api import ParameterKind
from harness.trial.optim.eight_bit import dequantised, in_blocks, out_of_blocks, quantised
from harness.trial.optim.multi_tensor import MultiTensorOptimizer, collected, runs, zeros_like
from harness.trial.trial import Trial

# Entries that are float32 at a time, 16 MB of each state: stepping must not need what 8 bits save. A larger tensor goes
# alone.
_ENTRIES_AT_A_TIME = 2**22


class EightBitOptimizer(MultiTensorOptimizer):
    """Keeps each state in a byte an entry and a float32 a block of `block_size`, where it is worth it.

    Tensors of fewer than `min_8bit_size` entries and groups with `bits: 32` keep float32. A subclass says in `signed`
    what it keeps and whether it can be negative, and has `directions`; what is quantised is what that leaves.
    """

    signed: ClassVar[dict[str, bool]]

    def directions(
        self, group: dict[str, Any], step: int, gradients: list[Tensor], kept: dict[str, list[Tensor]]
    ) -> list[Tensor]:
        """What to subtract from each parameter, after moving `kept` in place; both as wide as the gradients."""
        raise NotImplementedError

    def initial_state(self, parameter: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        """Zeros: of float32, or codes in blocks and the scale of each block."""
        if group["bits"] == 32 or parameter.numel() < group["min_8bit_size"]:
            return {name: zeros_like(parameter) for name in self.signed}
        scales = in_blocks(torch.zeros_like(parameter, dtype=torch.float32), group["block_size"])[:, :1]
        state = {}
        for name in self.signed:
            # Whatever a code stands for, a scale of zero makes it zero.
            state[name] = torch.zeros(len(scales), group["block_size"], dtype=torch.uint8, device=parameter.device)
            state[f"{name}_scales"] = scales.clone()
        return state

    def update(
        self, group: dict[str, Any], parameters: list[Tensor], gradients: list[Tensor], states: list[dict[str, Any]]
    ) -> None:
        """Subtract the directions, found for many tensors at a time."""
        first = next(iter(self.signed))
        full = [number for number, state in enumerate(states) if state[first].dtype != torch.uint8]
        coded = [number for number, state in enumerate(states) if state[first].dtype == torch.uint8]
        for numbers in _of_one_step(full, states):
            some = [states[number] for number in numbers]
            kept = {name: collected(some, name) for name in self.signed}
            wide = [gradients[number] for number in numbers]
            moves = self.directions(group, some[0]["step"], wide, kept)
            torch._foreach_sub_([parameters[number] for number in numbers], moves)
        for together in _of_one_step(coded, states):
            for run in runs([parameters[number] for number in together], _ENTRIES_AT_A_TIME):
                numbers = together[run]
                some = [states[number] for number in numbers]
                blocks = [in_blocks(gradients[number], group["block_size"]).float() for number in numbers]
                [move] = self._direction_of_coded(group, torch.cat(blocks), some)
                chosen = [parameters[number] for number in numbers]
                moves = [part.to(p.dtype) for part, p in zip(out_of_blocks(move, chosen), chosen, strict=True)]
                torch._foreach_sub_(chosen, moves)

    def _direction_of_coded(
        self, group: dict[str, Any], gradient: Tensor, states: list[dict[str, Any]]
    ) -> list[Tensor]:
        """The direction of all blocks of several tensors, whose codes are moved. Shape: [blocks, entries]."""
        kept = {}
        for name, signed in self.signed.items():
            codes, scales = (torch.cat(collected(states, key)) for key in (name, f"{name}_scales"))
            kept[name] = [dequantised(codes, scales, signed=signed)]
        directions = self.directions(group, states[0]["step"], [gradient], kept)
        for name, signed in self.signed.items():
            [wide] = kept[name]
            for key, found in zip((name, f"{name}_scales"), quantised(wide, signed=signed), strict=True):
                own = collected(states, key)
                torch._foreach_copy_(own, found.split([len(rows) for rows in own]))
        return directions


def eight_bit_groups(trial: Trial) -> list[dict[str, Any]]:
    """Parameter groups of an EightBitOptimizer: embeddings, whose rows move by leaps, keep 32 bits; the rest has 8."""
    bits: dict[int, list[Tensor]] = {8: [], 32: []}
    for name, parameter in trial.model.named_parameters():
        bits[32 if trial.parameter_kinds[name] is ParameterKind.EMBEDDING else 8].append(parameter)
    return [{"params": parameters, "bits": count} for count, parameters in bits.items() if parameters]


def bitsandbytes_optimizer(
    name: str, trial: Trial, groups: list[dict[str, Any]], **arguments: object
) -> torch.optim.Optimizer | None:
    """The fused optimizer of this name of bitsandbytes over `eight_bit_groups`; None: without CUDA or the package."""
    if trial.device.type != "cuda" or importlib.util.find_spec("bitsandbytes") is None:
        return None
    library: Any = importlib.import_module("bitsandbytes.optim")
    full = [parameter for group in groups if group["bits"] == 32 for parameter in group["params"]]
    own = [{"params": group["params"]} for group in groups]
    manager = library.GlobalOptimManager.get_instance()
    manager.override_config(full, "optim_bits", 32)
    # What was overridden is known by its tensor; optimizers ask by group and place, which this notes down.
    manager.register_parameters(own)
    optimizer: torch.optim.Optimizer = getattr(library, name)(own, **arguments)
    return optimizer


def _of_one_step(numbers: list[int], states: list[dict[str, Any]]) -> list[list[int]]:
    """The numbers, by the count of steps of their state: one for all but parameters that had no gradient at times."""
    found: dict[int, list[int]] = defaultdict(list)
    for number in numbers:
        found[states[number]["step"]].append(number)
    return list(found.values())

"""Optimizer states of one byte an entry: block-wise quantisation to a table whose steps are finer near zero."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

_DECADES = 7
# Codes are looked up by the sign, the exponent and the 8 highest bits behind the point of a float32: at most one border
# between two codes lies in such an interval.
_DROPPED_BITS = 15
_KEYS = 2 ** (32 - _DROPPED_BITS)


@lru_cache(maxsize=8)
def table_of_codes(*, signed: bool, device: torch.device) -> Tensor:
    """The 256 numbers that the codes stand for, ascending, at most 1. Shape: float32 [256].

    In the decade that ends at 10^(e-6), e = 0 to 6, lie 2^e positive and 2^e negative numbers, or 2^(e+1) positive
    ones: the middles of as many equal parts of it. Zero and 1 are there too. Source: Dettmers et al., arXiv 2110.02861.
    """
    values = torch.tensor([0.0, 1.0], dtype=torch.float64)
    for decade in range(_DECADES):
        count = 2 ** (decade if signed else decade + 1)
        edges = torch.linspace(0.1, 1.0, count + 1, dtype=torch.float64)
        middles = (edges[1:] + edges[:-1]) / 2 * 10.0 ** (decade - _DECADES + 1)
        values = torch.cat([values, middles, -middles] if signed else [values, middles])
    return values.sort().values.to(dtype=torch.float32, device=device)


def quantised(blocks: Tensor, *, signed: bool) -> tuple[Tensor, Tensor]:
    """The code of the number nearest to each entry over its block's largest absolute value, and these values.

    Shape: [blocks, entries] -> uint8 [blocks, entries], float32 [blocks, 1]. A block of zeros stays one.
    """
    blocks = blocks.float()
    scales = blocks.abs().amax(dim=1, keepdim=True)
    # Zeros over anything are zeros.
    shares = (blocks / scales.clamp_min(torch.finfo(torch.float32).tiny)).flatten()
    borders, below = _lookup(signed=signed, device=blocks.device)
    keys = (shares.view(torch.int32) >> _DROPPED_BITS).bitwise_and_(_KEYS - 1)
    first = below.index_select(0, keys)
    codes = first.to(torch.uint8) + (shares > borders.index_select(0, first)).view(torch.uint8)
    return codes.view_as(blocks), scales


def dequantised(codes: Tensor, scales: Tensor, *, signed: bool) -> Tensor:
    """What `quantised` codes stand for. Shape: uint8 [blocks, entries], [blocks, 1] -> float32 [blocks, entries]."""
    values = table_of_codes(signed=signed, device=codes.device).index_select(0, codes.flatten().int())
    return values.view_as(codes).mul_(scales)


def in_blocks(tensor: Tensor, size: int) -> Tensor:
    """The entries in storage order, `size` a row, zeros behind the last. Shape: any -> [blocks, size]."""
    entries = tensor.flatten()
    return torch.nn.functional.pad(entries, (0, -len(entries) % size)).view(-1, size)


def out_of_blocks(blocks: Tensor, like: list[Tensor]) -> list[Tensor]:
    """Tensors of the shapes of `like` from the rows of their `in_blocks`, one behind the other."""
    size = blocks.shape[1]
    rows = blocks.split([-(-tensor.numel() // size) for tensor in like])
    return [part.flatten()[: tensor.numel()].view_as(tensor) for part, tensor in zip(rows, like, strict=True)]


@lru_cache(maxsize=8)
def _lookup(*, signed: bool, device: torch.device) -> tuple[Tensor, Tensor]:
    """The border above each code, and how many borders lie below each interval of `_DROPPED_BITS`. int32 [_KEYS]."""
    table = table_of_codes(signed=signed, device=torch.device("cpu"))
    borders = (table[1:] + table[:-1]) / 2
    keys = torch.arange(_KEYS, dtype=torch.int64)
    is_negative = keys >= _KEYS // 2
    # The smallest number of an interval has the smallest bits behind its key, of negative ones the largest.
    bits = (keys << _DROPPED_BITS) + torch.where(is_negative, 2**_DROPPED_BITS - 1, 0)
    smallest = torch.where(bits >= 2**31, bits - 2**32, bits).to(torch.int32).view(torch.float32)
    below = torch.searchsorted(borders, smallest.nan_to_num(0.0), out_int32=True)
    above = torch.cat([borders, torch.tensor([torch.inf])])
    return above.to(device), below.to(device)

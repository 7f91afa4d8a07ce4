"""What a submission reports by `trial.log`: real numbers, kept until the next evaluation. Nothing here ends a trial."""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Real
from typing import Any

import numpy as np
from torch import Tensor

NAMES_AT_MOST = 64
_NAME_LENGTH_AT_MOST = 200


class Reported:
    """The newest number under each name since the last evaluation. What cannot be recorded is printed once."""

    def __init__(self) -> None:
        self._values: dict[str, float | Tensor] = {}
        self._said: set[str] = set()

    def add(self, values: Mapping[str, object]) -> None:
        """Keep each value that is one real number."""
        for name, value in values.items():
            number = _number(value)
            if number is None:
                self._say_once(name, f"got {_described(value)}, which is no real number")
            elif len(name) > _NAME_LENGTH_AT_MOST:
                self._say_once(name, f"has a name of more than {_NAME_LENGTH_AT_MOST} characters")
            elif name not in self._values and len(self._values) >= NAMES_AT_MOST:
                self._say_once("", f"comes after {NAMES_AT_MOST} other names, which are the most")
            else:
                self._values[name] = number

    def take(self) -> dict[str, float]:
        """What was reported since this was last called; what is not finite is among it."""
        taken = self.read()
        self._values.clear()
        return taken

    def read(self) -> dict[str, float]:
        """The same, and it stays for the next evaluation."""
        # Tensors are read here: reading one each step would wait for the device each step.
        found = {}
        for name, value in self._values.items():
            try:
                found[name] = float(value)
            except Exception:  # a tensor that has no value to read, such as one on the meta device
                self._say_once(name, f"got {_described(value)}, which has no value to read")
        return found

    def load(self, values: Mapping[str, float]) -> None:
        """Go on from what `read` gave."""
        self._values = dict(values)

    def _say_once(self, name: str, fault: str) -> None:
        if name not in self._said and len(self._said) < NAMES_AT_MOST:
            self._said.add(name)
            print(f"trial.log({name[:_NAME_LENGTH_AT_MOST]}=...) {fault}; it is not recorded", flush=True)


def _number(value: Any) -> float | Tensor | None:
    """`value` as a float, or as a tensor of its own that can be read as one later; None where it is no real number."""
    if isinstance(value, Tensor):
        if value.numel() != 1 or value.is_complex():
            return None
        # A copy: the submission may go on changing the tensor that it gave.
        return value.detach().clone()
    if isinstance(value, np.ndarray | np.generic):
        value = value.item() if value.size == 1 else None
    if not isinstance(value, Real):
        return None
    try:
        return float(value)
    except OverflowError:  # a whole number or a fraction beyond the range of floats
        return math.inf if value > 0 else -math.inf  # type: ignore[operator]


def _described(value: object) -> str:
    shape = f" of shape {list(value.shape)}" if isinstance(value, Tensor | np.ndarray) else ""
    return f"a {type(value).__name__}{shape}"

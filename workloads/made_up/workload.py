"""A workload like another one in all but its data, which are made up by that one's own `synthetic_batch`."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from harness.api import SPLITS, ConfigError, DataSource, Examples, SplitName, TensorExamples, Workload


class MadeUp(Workload):
    """The workload of class `entry` with these `options`, but with `train` and `held_out` made-up examples a split.

    What is made is of a subclass of that class. Raises ConfigError where it cannot make up examples without its data.
    """

    def __new__(cls, *, entry: str, options: Mapping[str, Any], train: int, held_out: int) -> Workload:  # type: ignore[misc] # noqa: D102
        module, _, name = entry.rpartition(".")
        kind: type[Workload] = getattr(importlib.import_module(module), name)
        if kind.synthetic_batch is Workload.synthetic_batch:
            raise ConfigError(f"{entry} makes up examples from its data alone. Give it a synthetic_batch of its own.")

        def sources(_: Workload) -> list[DataSource]:
            return []

        def load(self: Workload, split: SplitName, folder: Path) -> Examples:
            generator = torch.Generator().manual_seed(SPLITS.index(split))
            return TensorExamples(self.synthetic_batch(train if split == "train" else held_out, generator, folder))

        made: Workload = type(f"MadeUp{name}", (kind,), {"sources": sources, "load": load})(**options)
        return made

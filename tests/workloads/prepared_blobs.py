"""The blobs of the tests as a workload whose splits are prepared on the disk, with augmentation."""

from __future__ import annotations

from pathlib import Path

import numpy
import torch
from torch import Tensor

from harness.api import SPLITS, Batch, DataSource, Examples, SplitName
from tests.blobs import Blobs
from workloads.data.prepared import Field, PreparedExamples, Raw, prepare

FIELDS = {"inputs": Field("<f4", (8,)), "targets": Field("<i8")}


class NoisyBlobs(PreparedExamples):
    """In training each example is moved a little, by what is drawn from its seed."""

    def decode(self, raw: Raw, seeds: Tensor | None) -> Batch:
        batch = super().decode(raw, seeds)
        if seeds is not None:
            noise = [numpy.random.default_rng(seed).normal(size=8) for seed in seeds.tolist()]
            batch["inputs"] = batch["inputs"] + 0.01 * torch.from_numpy(numpy.stack(noise)).float()
        return batch


class PreparedBlobs(Blobs):
    """See Blobs; its splits lie in folders of their own, in shards of a few kilobytes."""

    def sources(self) -> list[DataSource]:
        return [_Prepared()]

    def load(self, split: SplitName, folder: Path) -> Examples:
        return NoisyBlobs(folder / "blobs" / split)

    def store(self, folder: Path) -> None:
        """Write all splits."""
        for split in SPLITS:
            tensors = {name: values.numpy() for name, values in self._drawn(split).tensors().items()}
            prepare(
                folder / "blobs" / split,
                FIELDS,
                lambda begin, tensors=tensors: (
                    {name: values[at : at + 64] for name, values in tensors.items()}
                    for at in range(begin, len(tensors["targets"]), 64)
                ),
                about={"split": split},
                shard_bytes=4096,
            )


class _Prepared(DataSource):
    name, size_megabytes, licence = "prepared blobs", 0.0, "none"

    def is_present(self, folder: Path) -> bool:
        return all((folder / "blobs" / split / "manifest.json").exists() for split in SPLITS)

    def fetch(self, folder: Path) -> None:
        pass

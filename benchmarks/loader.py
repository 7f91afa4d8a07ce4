"""How long steps of ResNet-50 wait for their batches: a tree of JPEGs in ImageNet's form, decoded by worker processes.

Run by `make loader`. Images are made here, of ImageNet's usual size; `ARGS='images=2000 batch=32 steps=4'` are the
defaults. Batches of all numbers of workers are compared, bit for bit.
"""

from __future__ import annotations

import hashlib
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table

from harness import command_line
from harness.trial.loader import Loader
from harness.trial.order import Order
from tests.workloads.full.imagenet_tree import write_tree
from workloads.full.data.images.imagenet import ImagenetImages, prepare_images
from workloads.networks.residual_network import ResidualNetwork

_WORKERS = (0, 1, 2)
_CLASSES = 1000
_AIM = 0.05


@dataclass(frozen=True)
class Measured:
    """`waiting`: share of the steps after the first that is spent on waiting for batches; `digest`: of all batches."""

    first_wait_seconds: float
    step_seconds: float
    waiting: float
    digest: str


def main(arguments: Sequence[str]) -> int:
    """A row for each number of workers; exit code 1 where two make steps wait too long, or batches differ."""
    given = command_line.options(arguments, ["images", "batch", "steps"])
    images, batch, steps = (
        command_line.whole_number(given, key, default)
        for key, default in [("images", 2000), ("batch", 32), ("steps", 4)]
    )
    torch.set_num_threads(1)  # as a trainer has it
    console = Console()
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        write_tree(Path(folder), "train", count=images, classes=min(images, _CLASSES))
        written = time.perf_counter()
        prepare_images(Path(folder), "train", count=images)
        prepared = time.perf_counter() - written
        console.print(f"{images} JPEGs written in {written - began:.0f} s, prepared in {prepared:.1f} s")
        found = {workers: measure(Path(folder) / "train", workers, batch, steps) for workers in _WORKERS}
    table = Table("loader_workers", "seconds per step", "waiting for data", "first batch, seconds")
    for workers, row in found.items():
        table.add_row(str(workers), f"{row.step_seconds:.2f}", f"{row.waiting:.2%}", f"{row.first_wait_seconds:.2f}")
    console.print(table)
    are_equal = len({row.digest for row in found.values()}) == 1
    console.print(f"batches of {batch} are {'equal, bit for bit' if are_equal else 'NOT EQUAL'} for all of these")
    return 0 if are_equal and found[2].waiting < _AIM else 1


def measure(folder: Path, workers: int, batch_size: int, steps: int) -> Measured:
    """Steps of SGD on ResNet-50 at batches of this size, of which the first is a start and the others are timed."""
    torch.manual_seed(0)
    model = ResidualNetwork(
        channels=3, classes=_CLASSES, widths=[64, 128, 256, 512], blocks=[3, 4, 6, 3], expansion=4,
        stem_kernel=7, stem_stride=2, stem_pool=True,
    )  # fmt: skip
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    examples = ImagenetImages(folder)
    loader, order = Loader(examples, 1, workers=workers), Order(len(examples), 1, torch.device("cpu"))
    content = hashlib.sha256()
    first_wait, began = 0.0, time.perf_counter()
    for step in range(steps + 1):
        batch = loader.batch(order.draw(batch_size), step * batch_size, order)
        if step == 0:
            first_wait = loader.waited_seconds
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(model(batch["inputs"]), batch["targets"]).backward()
        optimizer.step()
        content.update(batch["inputs"].numpy().data)
        if step == 0:
            began = time.perf_counter()
    seconds = time.perf_counter() - began
    return Measured(first_wait, seconds / steps, (loader.waited_seconds - first_wait) / seconds, content.hexdigest())


if __name__ == "__main__":
    sys.exit(command_line.run(main))

"""Trains a small network, masks its units in all ways, and writes how many images it still gets right.

What `compression_policy` is about: `python -m benchmarks.compression_table`, seconds. The last bits of training differ
from processor to processor, so the file is committed, and one that is made anew is another task, hence another version.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.api import ConfigError, SplitName
from workloads.digits_mlp import DigitsMlp
from workloads.frontier.policies.compression_policy import FEATURES, IMAGES, PARTS, TABLE, every_choice

_UNITS_OF_A_PART = 4
_STEPS = 200
_RATE = 0.01
_SEED = 0


def main(arguments: Sequence[str]) -> int:
    """Write the table. Raises ConfigError for any argument."""
    if arguments:
        raise ConfigError(f"this takes no {arguments[0]!r}.")
    torch.set_num_threads(1)
    network = trained()
    right = right_answers(network)
    counts = torch.stack(
        [part.sum(dim=1) for part in right.split([size for sizes in IMAGES.values() for size in sizes], 1)]
    )
    numpy.savez_compressed(TABLE, right=counts.numpy().astype(numpy.int16), features=features(network).double().numpy())
    print(f"{TABLE.name}: {TABLE.stat().st_size} bytes, {int(right[-1].sum())} of {right.shape[1]} right")
    return 0


def trained() -> nn.Sequential:
    """A network of one hidden layer after 200 steps of Adam on all images of digits_mlp's training split."""
    inputs, targets = _images("train")
    torch.manual_seed(_SEED)
    units = PARTS * _UNITS_OF_A_PART
    network = nn.Sequential(nn.Linear(inputs.shape[1], units), nn.ReLU(), nn.Linear(units, 10))
    optimizer = torch.optim.Adam(network.parameters(), lr=_RATE)
    for _ in range(_STEPS):
        optimizer.zero_grad()
        F.cross_entropy(network(inputs), targets).backward()
        optimizer.step()
    return network


@torch.no_grad()
def right_answers(network: nn.Sequential) -> Tensor:
    """Whether each choice of parts is right about each image of the other two splits. Shape: bool [4096, 800]."""
    first, _, last = network
    assert isinstance(last, nn.Linear)
    pairs = [_images("validation"), _images("test")]
    inputs, targets = (torch.cat(each) for each in zip(*pairs, strict=True))
    active = F.relu(first(inputs)).view(len(inputs), PARTS, _UNITS_OF_A_PART)
    added = torch.einsum("npu,cpu->pnc", active, last.weight.view(-1, PARTS, _UNITS_OF_A_PART))
    kept = every_choice().to(added.dtype)
    return torch.cat(
        [(torch.einsum("kp,pnc->knc", some, added) + last.bias).argmax(dim=2) == targets for some in kept.split(128)]
    )


@torch.no_grad()
def features(network: nn.Sequential) -> Tensor:
    """What is seen of each part: norms of incoming and outgoing weights, mean and deviation of what its units say.

    On the images that the network was trained on. Shape: [parts, 4].
    """
    first, _, last = network
    assert isinstance(first, nn.Linear)
    assert isinstance(last, nn.Linear)
    said = F.relu(first(_images("train")[0])).view(-1, PARTS, _UNITS_OF_A_PART)
    seen = [
        first.weight.view(PARTS, -1).norm(dim=1),
        last.weight.view(-1, PARTS, _UNITS_OF_A_PART).norm(dim=(0, 2)),
        said.mean(dim=(0, 2)),
        said.std(dim=0).mean(dim=1),
    ]
    assert len(seen) == FEATURES
    return torch.stack(seen, dim=1)


def _images(split: SplitName) -> tuple[Tensor, Tensor]:
    examples = DigitsMlp(hidden=[1]).load(split, Path())
    batch = examples.gather(torch.arange(len(examples)))
    return batch["inputs"], batch["targets"]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

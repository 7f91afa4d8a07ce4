"""A process that works on a device when it is told to, to be stopped by signal meanwhile. Run by `on_freezing`."""

from __future__ import annotations

import sys
import time

import torch

from harness.race.device import synchronize


def main(name: str) -> None:
    """For each line of stdin, so many products of matrices: say `queued` when they are, then seconds and the result."""
    device = torch.device(name)
    size = 4096 if device.type == "cuda" else 128
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(size, size, generator=generator).to(device)
    for line in sys.stdin:
        made = matrix
        for _ in range(int(line)):
            made = torch.nn.functional.normalize(made @ matrix)
        print("queued", flush=True)
        synchronize(device)
        print(time.monotonic(), float(made.norm()), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])

"""Writes the colours that the Gaussians of image_gaussians begin with: `python -m benchmarks.start_colours`.

From the photograph of scikit-learn, whose held-out pixels a trainer must not see; the same bytes on every machine.
"""

from __future__ import annotations

import torch

from harness.plugins.data import data_folder
from workloads.frontier.signals.image_gaussians import START, ImageGaussians
from workloads.networks.stored_weights import write_weights


def main() -> None:
    """Write the file, and say what its YAML needs."""
    pixels = ImageGaussians(start="dense").load("train", data_folder())
    colours = pixels.gather(torch.arange(len(pixels)))["targets"]
    print(f"{START.name}, for its YAML: data: {{weights: {write_weights(START, {'colours': colours})}}}")


if __name__ == "__main__":
    main()

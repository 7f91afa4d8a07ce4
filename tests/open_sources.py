"""The two sources of a small submission of the open division, which learns the blobs."""

from __future__ import annotations

import textwrap
from pathlib import Path

PREDICTOR = """
    from torch import nn


    class Network(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(8, width), nn.Tanh(), nn.Linear(width, 2))

        def predict(self, inputs):
            return self.layers(inputs)


    def build(settings):
        return Network(**settings)
"""

TRAIN = """
    import torch
    from predictor import build

    def train(trial, hp):
        settings = {"width": 4}
        network = build(settings)
        trial.hand_over(network, settings)
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        trial.resumable(network=network, optimizer=optimizer)
        for batch in trial.batches():
            optimizer.zero_grad()
            trial.loss(batch, outputs=network.layers(batch["inputs"])).backward()
            optimizer.step()
"""

YAML = "title: Own\nauthors: nobody\npaper: none\ndivision: open\nhyperparameters: {learning_rate: 0.1}\n"


def write_open(folder: Path, train: str = TRAIN, predictor: str = PREDICTOR, yaml: str = YAML) -> Path:
    """A directory with these sources."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in {"submission.py": train, "predictor.py": predictor, "submission.yaml": yaml}.items():
        (folder / name).write_text(textwrap.dedent(text), encoding="utf-8")
    return folder

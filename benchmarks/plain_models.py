"""Plain networks on the data of some workloads, as anyone would write them first; `make sanity` runs them."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from workloads.data.molecules_table import TASKS
from workloads.molecules_gnn import ATOM_FEATURES, BOND_FEATURES, MoleculesGnn
from workloads.networks.speech.speech_layers import mask_of, subsampled
from workloads.spoken_digits import SpokenDigits

_DIGITS, _BINS = 10, 40


class PlainSpokenDigits(SpokenDigits):
    """The utterances, loss and metric of the spoken digits, with ConvolutionalGru."""

    def build_model(self) -> nn.Module:
        """A new network."""
        return ConvolutionalGru()


class ConvolutionalGru(nn.Module):
    """Two convolutions of stride 2 over time, a bidirectional GRU of width 64, a linear layer.

    Shapes: features [batch, length, bins], frames [batch] -> [batch, length / 4, vocabulary].
    """

    def __init__(self) -> None:
        super().__init__()
        self.convolution1 = nn.Conv1d(_BINS, 64, kernel_size=5, stride=2, padding=2)
        self.convolution2 = nn.Conv1d(64, 64, kernel_size=5, stride=2, padding=2)
        self.recurrent = nn.GRU(64, 64, batch_first=True, bidirectional=True)
        self.output = nn.Linear(128, _DIGITS + 1)

    def forward(self, features: Tensor, frames: Tensor) -> Tensor:
        """Scores of the blank and the digits at each fourth frame."""
        hidden = F.relu(self.convolution1(features.transpose(1, 2)))
        hidden = F.relu(self.convolution2(hidden)).transpose(1, 2)
        hidden = hidden * mask_of(subsampled(frames), hidden.shape[1])[:, :, None]
        scores: Tensor = self.output(self.recurrent(hidden)[0])
        return scores


class PlainMolecules(MoleculesGnn):
    """The molecules, loss and metric of molecules_gnn, with IsomorphismNetwork."""

    def __init__(self) -> None:
        """Without sizes: they are those of the network."""

    def build_model(self) -> nn.Module:
        """A new network."""
        return IsomorphismNetwork()


class IsomorphismNetwork(nn.Module):
    """Three rounds of width 64 with batch norm, bonds added to messages, sums over atoms, a hidden layer.

    Source: Xu et al., arXiv 1810.00826, with the edges of Hu et al., arXiv 1905.12265.
    """

    def __init__(self, width: int = 64, rounds: int = 3) -> None:
        super().__init__()
        self.atoms = nn.Linear(ATOM_FEATURES, width)
        self.bonds = nn.ModuleList(nn.Linear(BOND_FEATURES, width) for _ in range(rounds))
        self.updates = nn.ModuleList(
            nn.Sequential(
                nn.Linear(width, 2 * width),
                nn.BatchNorm1d(2 * width),
                nn.ReLU(),
                nn.Linear(2 * width, width),
                nn.ReLU(),
            )
            for _ in range(rounds)
        )
        self.output = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, len(TASKS)))

    def forward(self, **graph: Any) -> Tensor:
        """Scores of one graph of many molecules; arguments as of GraphNetwork. Shape: [graphs, tasks]."""
        nodes = self.atoms(graph["nodes"])
        for bonds, update in zip(self.bonds, self.updates, strict=True):
            messages = F.relu(nodes[graph["senders"]] + bonds(graph["edges"]))
            nodes = update(nodes.index_add(0, graph["receivers"], messages))
        whole = nodes.new_zeros(graph["graphs"], nodes.shape[1]).index_add(0, graph["node_graphs"], nodes)
        scores: Tensor = self.output(whole)
        return scores

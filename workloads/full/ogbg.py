"""AlgoPerf's ogbg: 128 properties of 437,929 molecules, most of them unknown, and a graph network."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from harness.api import Batch, DataSource, Examples, SplitName
from workloads.full.data.molpcba import EDGE_FEATURES, NODE_FEATURES, TASKS, Graphs, MolpcbaSplits
from workloads.losses.labelled_graphs import LabelledGraphs, joined, mean_average_precision

# What AlgoPerf's targets were set with: a batch of evaluation for each of 8 devices, and the sizes that it expects.
_DEVICES = 8
_EVALUATION_BATCH = 32_768
_MEAN_NODES, _MEAN_EDGES = 26, 56
# Of made-up molecules.
_FEWEST, _MOST, _MORE_BONDS = 10, 42, 3


class Ogbg(LabelledGraphs):
    """128 tasks. See GraphNetwork for the sizes.

    `mean_average_precision` is over the whole split. AlgoPerf's is over the first 75 % of it, those that fill one batch
    for each of its eight devices: `mean_average_precision_algoperf`.
    """

    node_features: ClassVar[int] = NODE_FEATURES
    edge_features: ClassVar[int] = EDGE_FEATURES
    tasks: ClassVar[int] = TASKS
    compiles = True

    def sources(self) -> list[DataSource]:
        """The three splits, prepared from the published archive."""
        return [MolpcbaSplits()]

    def load(self, split: SplitName, folder: Path) -> Examples:
        """Prepared molecules, in the order of the published split. Raises DataError."""
        return Graphs(MolpcbaSplits.split_folder(folder, split))

    def outputs(self, model: nn.Module, batch: Batch) -> Tensor:
        """The model on the batch as one graph without its padding. Shape: [batch, tasks]."""
        graph = joined(batch["nodes"], batch["edges"], batch["sizes"])
        numbers = {name: graph[name].float() for name in ("nodes", "edges")}
        outputs: Tensor = model(**{**graph, **numbers}, graphs=len(batch["sizes"]))
        return outputs

    def statistics(self, outputs: Tensor, batch: Batch) -> dict[str, Tensor]:
        """`scores`, `targets`, `weights` and `sizes`. Shapes: [batch, tasks]; of the last, [batch, 2]."""
        return {**super().statistics(outputs, batch), "sizes": batch["sizes"]}

    def metrics(self, statistics: dict[str, Tensor]) -> dict[str, float]:
        """`mean_average_precision`, and `mean_average_precision_algoperf` of the molecules that AlgoPerf looks at."""
        seen = evaluated_by_algoperf(statistics["sizes"])
        return {
            "mean_average_precision": mean_average_precision(statistics),
            "mean_average_precision_algoperf": mean_average_precision(
                {name: values[:seen] for name, values in statistics.items()}
            ),
        }

    def synthetic_batch(self, size: int, generator: torch.Generator, folder: Path) -> Batch:  # noqa: ARG002
        """Chains of 10 to 42 atoms with three more bonds each: in the mean as many atoms and bonds as in the data."""

        def drawn(below: int, *shape: int) -> Tensor:
            return torch.randint(below, shape, generator=generator)

        atoms = _FEWEST + drawn(_MOST - _FEWEST + 1, size)
        chain = torch.arange(_MOST - 1).repeat(size, 1)
        # The first three behind the end of a chain are between any atoms; what follows is padding.
        is_more = chain >= atoms[:, None] - 1
        one = torch.where(is_more, drawn(_FEWEST, size, _MOST - 1), chain)
        other = torch.where(is_more, drawn(_FEWEST, size, _MOST - 1), chain + 1)
        more = drawn(_FEWEST, size, _MORE_BONDS, 2)
        links = torch.cat([torch.stack([one, other], dim=2), more], dim=1)
        return {
            "nodes": drawn(5, size, _MOST, self.node_features).byte(),
            "edges": torch.cat([links, drawn(3, *links.shape[:2], self.edge_features)], dim=2).short(),
            "sizes": torch.stack([atoms, atoms - 1 + _MORE_BONDS], dim=1),
            "targets": (drawn(50, size, self.tasks) == 0).float(),
            "weights": (drawn(5, size, self.tasks) < 3).float(),
        }


def evaluated_by_algoperf(sizes: Tensor) -> int:
    """How many molecules, from the first on, AlgoPerf's evaluation on eight devices looks at.

    It fills one batch for each device, each until a molecule more would be too many molecules, nodes or edges, and
    leaves out what does not fill all eight. All of a split that fills less than that.
    Shape: int64 [n, 2], atoms and bonds. Source: the batching of AlgoPerf's ogbg, which has each bond both ways.
    """
    graphs = _EVALUATION_BATCH // _DEVICES
    limits = torch.tensor([1, _MEAN_NODES, _MEAN_EDGES]) * graphs
    counts = torch.cat([torch.ones(len(sizes), 1, dtype=torch.int64), sizes.cpu() * torch.tensor([1, 2])], dim=1)
    ends = counts.cumsum(0)
    seen, before = 0, torch.zeros(3, dtype=torch.int64)
    for _ in range(_DEVICES):
        seen = min(
            int(torch.searchsorted(ends[:, column].contiguous(), before[column] + limits[column], right=True))
            for column in range(3)
        )
        if seen == len(sizes):
            break
        before = ends[seen - 1]
    return seen

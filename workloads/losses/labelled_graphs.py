"""What workloads on graphs with many yes-or-no questions share: their network, their loss and their metric."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from harness.api import Batch, LossKind, Workload
from workloads.losses.binary import average_precision, binary_losses
from workloads.networks.graph_network import GraphNetwork


class LabelledGraphs(Workload):
    """Binary cross-entropy over the labels that are known; metric `mean_average_precision` over the tasks.

    A subclass says what its nodes and edges are. See GraphNetwork for the sizes.
    """

    loss_kind: ClassVar[LossKind] = LossKind.SIGMOID_CROSS_ENTROPY
    node_features: ClassVar[int]
    edge_features: ClassVar[int]
    tasks: ClassVar[int]

    def __init__(
        self,
        *,
        latent: int,
        hidden: Sequence[int],
        rounds: int,
        activation: str,
        dropout: float,
        residual: bool,
        output_gain: float,
    ) -> None:
        self.latent = latent
        self.hidden = tuple(hidden)
        self.rounds = rounds
        self.activation = activation
        self.dropout = dropout
        self.residual = residual
        self.output_gain = output_gain

    def build_model(self) -> nn.Module:
        """A new network. See GraphNetwork for what it is called with."""
        return GraphNetwork(
            node_features=self.node_features,
            edge_features=self.edge_features,
            latent=self.latent,
            hidden=self.hidden,
            rounds=self.rounds,
            outputs=self.tasks,
            activation=self.activation,
            dropout=self.dropout,
            residual=self.residual,
            output_gain=self.output_gain,
        )

    def losses(self, outputs: Tensor, batch: Batch, label_smoothing: float) -> tuple[Tensor, Tensor | None]:
        """Binary cross-entropy in nats and which labels are known; smoothing moves labels towards 1 / tasks.

        Shapes: [batch, tasks], all alike. Source of the smoothing: AlgoPerf's ogbg.
        """
        losses = binary_losses(
            outputs, batch["targets"], label_smoothing=label_smoothing, smoothed_to=1 / outputs.shape[1]
        )
        return losses, batch["weights"]

    def statistics(self, outputs: Tensor, batch: Batch) -> dict[str, Tensor]:
        """`scores`, `targets` and `weights`. Shapes: [batch, tasks]."""
        return {"scores": outputs, "targets": batch["targets"], "weights": batch["weights"]}

    def metrics(self, statistics: dict[str, Tensor]) -> dict[str, float]:
        """`mean_average_precision`; see the function of this name."""
        return {"mean_average_precision": mean_average_precision(statistics)}


def mean_average_precision(statistics: dict[str, Tensor]) -> float:
    """Mean of the average precision over the tasks that have both answers, each where its label is known.

    NaN where a score is not finite or no task has both. Shapes: `scores`, `targets`, `weights` [n, tasks].
    Source: AlgoPerf's ogbg.
    """
    found = []
    for score, target, weight in zip(*(statistics[name].T for name in ("scores", "targets", "weights")), strict=True):
        is_positive = target[weight > 0] > 0
        if is_positive.any() and not is_positive.all():
            found.append(average_precision(score[weight > 0], is_positive))
    return math.fsum(found) / len(found) if found else math.nan


def joined(nodes: Tensor, edges: Tensor, sizes: Tensor) -> dict[str, Tensor]:
    """The graphs of a batch as one graph without padding, in which each edge goes both ways.

    Shapes: nodes [batch, most nodes, any], edges [batch, most edges, 2 and any]: two nodes, numbered from 0 within
    their graph, and what else is known of the edge; sizes int64 [batch, 2], how many of each are no padding -> `nodes`
    [nodes, any], `edges` [2 * edges, any], `senders` and `receivers` int64 [2 * edges], `node_graphs` int64 [nodes].
    """
    is_node, is_edge = (
        torch.arange(padded.shape[1], device=sizes.device) < count.unsqueeze(1)
        for padded, count in ((nodes, sizes[:, 0]), (edges, sizes[:, 1]))
    )
    links = edges[is_edge].long()
    # In the batch the nodes of a graph follow those of the graphs before it.
    first_node = (sizes[:, 0].cumsum(0) - sizes[:, 0]).repeat_interleave(sizes[:, 1])
    one, other = links[:, 0] + first_node, links[:, 1] + first_node
    return {
        "nodes": nodes[is_node],
        "edges": torch.cat([links[:, 2:], links[:, 2:]]),
        "senders": torch.cat([one, other]),
        "receivers": torch.cat([other, one]),
        "node_graphs": torch.arange(len(sizes), device=sizes.device).repeat_interleave(sizes[:, 0]),
    }

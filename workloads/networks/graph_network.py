"""Graph network with updates of edges, nodes and graphs, from a toy to AlgoPerf's ogbg. Knows no data and no loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.api import ConfigError
from workloads.networks.initial_weights import draw_lecun_normal

_NORM_EPSILON = 1e-6
_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "gelu": lambda: nn.GELU(approximate="tanh"),
    "silu": nn.SiLU,
}


class GraphNetwork(nn.Module):
    """Linear embeddings, then rounds in which edges, nodes and whole graphs are made anew, then a linear decoder.

    A round makes each edge from itself, its two nodes and its graph; each node from itself, the sums over its outgoing
    and over its incoming new edges, and its graph; each graph from the sums over its new nodes and edges, and itself.
    Each by an MLP of the widths `hidden` with LayerNorm, `activation` (`relu`, `gelu` or `silu`) and dropout. Weights
    differ from round to round. Graphs start as `outputs` zeros. With `residual` what is made anew is added to what was
    there, wherever both have the same width; AlgoPerf's network adds nothing.

    Initial weights have variance 1/fan-in; the decoder is then multiplied by `output_gain`. AlgoPerf's is 1, whose
    first loss is up to a fifth above ln 2; a small one starts at ln 2.
    Raises ConfigError for another activation.
    Source: Battaglia et al., arXiv 1806.01261, as AlgoPerf's ogbg has it, which is this class at its sizes.
    """

    def __init__(
        self,
        *,
        node_features: int,
        edge_features: int,
        latent: int,
        hidden: Sequence[int],
        rounds: int,
        outputs: int,
        activation: str,
        dropout: float,
        residual: bool,
        output_gain: float,
    ) -> None:
        super().__init__()
        if activation not in _ACTIVATIONS:
            raise ConfigError(f"activation is {activation!r}. Use one of {', '.join(_ACTIVATIONS)}.")
        self.outputs = outputs
        self.node_embedder = nn.Linear(node_features, latent)
        self.edge_embedder = nn.Linear(edge_features, latent)
        width, after = latent, hidden[-1]
        graph = outputs
        self.rounds = nn.ModuleList()
        for _ in range(rounds):
            self.rounds.append(_Round(width, graph, hidden, activation, dropout, residual))
            width = graph = after
        self.decoder = nn.Linear(graph, outputs)
        self._draw_weights(output_gain)

    def forward(
        self, nodes: Tensor, edges: Tensor, senders: Tensor, receivers: Tensor, node_graphs: Tensor, *, graphs: int
    ) -> Tensor:
        """Scores of each graph, before the sigmoid. All graphs of a batch are one big graph without padding.

        Shapes: nodes float [nodes, features], edges float [edges, features]; senders, receivers int64 [edges]: nodes of
        each edge; node_graphs int64 [nodes]: graph of each node -> [graphs, outputs].
        """
        nodes, edges = self.node_embedder(nodes), self.edge_embedder(edges)
        whole = nodes.new_zeros(graphs, self.outputs)
        for round_ in self.rounds:
            nodes, edges, whole = round_(nodes, edges, whole, senders, receivers, node_graphs)
        scores: Tensor = self.decoder(whole)
        return scores

    def _draw_weights(self, output_gain: float) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                draw_lecun_normal(module.weight)
                nn.init.zeros_(module.bias)
        with torch.no_grad():
            self.decoder.weight.mul_(output_gain)


class _Round(nn.Module):
    def __init__(
        self, width: int, graph: int, hidden: Sequence[int], activation: str, dropout: float, residual: bool
    ) -> None:
        super().__init__()
        after = hidden[-1]
        self.is_residual = residual
        self.edge = _Update([width, width, width, graph], hidden, activation, dropout)
        self.node = _Update([width, after, after, graph], hidden, activation, dropout)
        self.graph = _Update([after, after, graph], hidden, activation, dropout)

    def forward(
        self, nodes: Tensor, edges: Tensor, whole: Tensor, senders: Tensor, receivers: Tensor, node_graphs: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        # There are twice as many edges as nodes and far fewer graphs: what is worked out for nodes and graphs first,
        # and taken by index or summed afterwards, is the same and cheaper.
        edge, sender, receiver, graph = self.edge.products(edges, nodes, nodes, whole)
        sender = sender + graph.index_select(0, node_graphs)
        made = self.edge.rest(edge + sender.index_select(0, senders) + receiver.index_select(0, receivers))
        edges = self._kept(edges, made)
        outgoing, incoming = (_sums(edges, by, len(nodes)) for by in (senders, receivers))
        node, sent, received, graph = self.node.products(nodes, outgoing, incoming, whole)
        made = self.node.rest(node + sent + received + graph.index_select(0, node_graphs))
        nodes = self._kept(nodes, made)
        node_sums, edge_sums = (_sums(values, node_graphs, len(whole)) for values in (nodes, outgoing))
        node, edge, graph = self.graph.products(node_sums, edge_sums, whole)
        return nodes, edges, self._kept(whole, self.graph.rest(node + edge + graph))

    def _kept(self, before: Tensor, made: Tensor) -> Tensor:
        return before + made if self.is_residual and before.shape == made.shape else made


class _Update(nn.Module):
    """MLP on several inputs side by side: `products` of its first layer with each of them, then `rest` of their sum."""

    def __init__(self, widths: Sequence[int], hidden: Sequence[int], activation: str, dropout: float) -> None:
        super().__init__()
        self.widths = list(widths)
        self.first = nn.Linear(sum(widths), hidden[0])
        layers: list[nn.Module] = []
        for number, width in enumerate(hidden):
            if number > 0:
                layers.append(nn.Linear(hidden[number - 1], width))
            layers += [nn.LayerNorm(width, eps=_NORM_EPSILON), _ACTIVATIONS[activation](), nn.Dropout(dropout)]
        self.rest = nn.Sequential(*layers)

    def products(self, *inputs: Tensor) -> list[Tensor]:
        """The first layer on each input alone; the first one has the bias."""
        weights = self.first.weight.split(self.widths, dim=1)
        biases = [self.first.bias, *[None] * (len(inputs) - 1)]
        return [F.linear(values, weight, bias) for values, weight, bias in zip(inputs, weights, biases, strict=True)]


def _sums(values: Tensor, index: Tensor, count: int) -> Tensor:
    """Sum of the rows of each number in `index`. Shapes: [rows, width], [rows] -> [count, width]."""
    return values.new_zeros(count, values.shape[1]).index_add_(0, index, values)

"""DADAO: nodes take gradients and pairs of nodes gossip at random moments of their own, accelerated, without rounds."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from harness import Hyperparameters, ResumableTensors, SimulatedCluster, Trial, edges

_X, _X_AHEAD, _Y, _Y_AHEAD, _Z, _Z_AHEAD = range(6)


@dataclass(frozen=True)
class Graph:
    """A fixed graph whose edges gossip equally often, with its constants. Source: arXiv 2208.00779, section 3."""

    nodes: int
    edges: list[tuple[int, int]]

    @property
    def _laplacian(self) -> Tensor:
        laplacian = torch.zeros(self.nodes, self.nodes, dtype=torch.float64)
        for i, j in self.edges:
            laplacian[[i, j], [i, j]] += 1 / len(self.edges)
            laplacian[[i, j], [j, i]] -= 1 / len(self.edges)
        return laplacian

    @property
    def chi1(self) -> float:
        """One over the smallest positive eigenvalue of the Laplacian."""
        return 1 / float(torch.linalg.eigvalsh(self._laplacian)[1])

    @property
    def chi2(self) -> float:
        """The largest half of an effective resistance over the edges."""
        inverse = torch.linalg.pinv(self._laplacian, hermitian=True)
        return max(float(inverse[i, i] + inverse[j, j] - 2 * inverse[i, j]) / 2 for i, j in self.edges)

    @property
    def gossips(self) -> float:
        """Gossips in a unit of time over all edges together, in which each node takes one gradient on average."""
        return math.sqrt(2 * self.chi1 * self.chi2)


class Dadao:
    """State and rule of all nodes. Shape of `state`: float64 [nodes, 6, size]; `times` are those of their last events.

    Source: arXiv 2208.00779, algorithm 1, for functions that are `smoothness`-smooth and `convexity`-strongly convex.
    """

    def __init__(self, start: Tensor, graph: Graph, *, convexity: float, smoothness: float) -> None:
        self.state = torch.zeros(graph.nodes, 6, len(start), dtype=torch.float64, device=start.device)
        self.state[:, _X] = self.state[:, _X_AHEAD] = start.double()
        self.times = torch.zeros(graph.nodes, dtype=torch.float64)
        self._nu = nu = convexity / 2
        root = math.sqrt(nu / smoothness)
        self._gamma, self._gamma_ahead = 1 / (4 * smoothness), 1 / (4 * math.sqrt(nu * smoothness))
        self._delta = root / 4 + 1.0
        self._beta, self._beta_ahead = 0.5, 2 * graph.chi1 / graph.gossips / root
        eta, alpha, alpha_ahead, theta = root / 8, root / 4, root / 8, 0.5 / root
        self._flow = torch.tensor(
            [
                [-eta, eta, 0, 0, 0, 0],
                [eta, -eta, 0, 0, 0, 0],
                [0, 0, -alpha, alpha, 0, 0],
                [0, -theta * nu, -theta, 0, -theta, 0],
                [0, 0, 0, 0, -alpha, alpha],
                [0, 0, 0, 0, alpha_ahead, -alpha_ahead],
            ],
            dtype=torch.float64,
        )

    def advance(self, node: int, time: float) -> None:
        """Let a node flow from its last event until now, when it has another."""
        passed = torch.linalg.matrix_exp(self._flow * (time - float(self.times[node])))
        self.state[node] = passed.to(self.state.device) @ self.state[node]
        self.times[node] = time

    def take_gradient(self, node: int, gradient: Callable[[Tensor], Tensor]) -> None:
        """An event at one node that has advanced to it."""
        own = self.state[node]
        step = gradient(own[_X]) - self._nu * own[_X] - own[_Y_AHEAD]
        own[_X] -= self._gamma * step
        own[_X_AHEAD] -= self._gamma_ahead * step
        own[_Y_AHEAD] += self._delta * step

    def gossip(self, first: int, second: int) -> None:
        """An event at both ends of an edge, which have advanced to it and tell each other y + z."""
        one, other = self.state[first], self.state[second]
        apart = one[_Y] + one[_Z] - other[_Y] - other[_Z]
        for own, sign in ((one, -1.0), (other, 1.0)):
            own[_Z] += sign * self._beta * apart
            own[_Z_AHEAD] += sign * self._beta_ahead * apart


def events(graph: Graph, unit: int, generator: torch.Generator) -> Iterator[tuple[float, tuple[int, ...]]]:
    """Moments of one unit of time in their order: with (node,) one takes a gradient, with (node, node) they gossip."""
    rate = torch.tensor(graph.nodes + graph.gossips, dtype=torch.float64)
    count = int(torch.poisson(rate, generator=generator))
    draws = torch.rand(count, 3, dtype=torch.float64, generator=generator)
    for moment, kind, which in draws[draws[:, 0].argsort()].tolist():
        is_gradient = kind * float(rate) < graph.nodes
        where = (int(which * graph.nodes),) if is_gradient else graph.edges[int(which * len(graph.edges))]
        yield unit + moment, where


def train(trial: Trial, hp: Hyperparameters) -> None:
    """A step is a unit of time, in which each node takes one gradient on average. Judged is the mean of all nodes."""
    cluster = SimulatedCluster(trial, hp.workers)
    graph = Graph(hp.workers, edges(hp.topology, hp.workers))
    nodes = Dadao(cluster.weights(), graph, convexity=hp.convexity, smoothness=hp.smoothness)
    trial.resumable(kept=ResumableTensors(state=nodes.state, times=nodes.times))
    cluster.judge(lambda: nodes.state[:, _X].mean(dim=0))
    for unit, _ in cluster.steps():
        for time, where in events(graph, unit, cluster.generator("events", unit)):
            for node in where:
                with cluster.working(node):
                    nodes.advance(node, time)
            if len(where) == 2:
                cluster.ledger.meet(where)
                cluster.ledger.send(2 * cluster.size, number_bytes=8)
                with cluster.working(where[0]):
                    nodes.gossip(*where)
                cluster.ledger.meet(where)
                continue
            with cluster.working(where[0]):
                batch = cluster.batch(where[0], trial.batch_size_hint, number=cluster.ledger.gradient_calls)

                def gradient(at: Tensor) -> Tensor:
                    return torch.add(cluster.gradient(at, batch).double(), at, alpha=hp.convexity)  # noqa: B023

                nodes.take_gradient(where[0], gradient)

"""Mixing matrices keep the mean; how fast they bring workers together, against known values."""

from __future__ import annotations

import pytest
import torch

from harness import ConfigError, consensus_rate, edges, mixing_matrix
from harness.trial.workers.topology import TOPOLOGIES


@pytest.mark.parametrize("workers", [1, 2, 3, 7, 12])
@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_gossip_keeps_the_mean_of_all_workers(topology, workers):
    mixing = mixing_matrix(topology, workers)
    values = torch.randn(workers, 50, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close((mixing @ values).mean(dim=0), values.mean(dim=0), atol=1e-6, rtol=0)
    torch.testing.assert_close(mixing.sum(dim=1), torch.ones(workers))


@pytest.mark.parametrize(
    ("topology", "workers", "rate"),
    [("ring", 8, 0.804738), ("ring", 100, 0.998684), ("exponential", 8, 0.5), ("full", 8, 0.0), ("full", 1, 0.0)],
)
def test_how_fast_workers_come_together(topology, workers, rate):
    assert consensus_rate(mixing_matrix(topology, workers)) == pytest.approx(rate, abs=1e-6)


def test_several_gossips_raise_the_rate_to_their_power():
    ring = mixing_matrix("ring", 8).double()
    assert consensus_rate(torch.linalg.matrix_power(ring, 4)) == pytest.approx(0.419390, abs=1e-6)
    hundred = mixing_matrix("ring", 100).double()
    assert consensus_rate(torch.linalg.matrix_power(hundred, 4)) == pytest.approx(0.994748, abs=1e-6)


def test_edges_are_the_pairs_that_gossip():
    assert edges("ring", 4) == [(0, 1), (0, 3), (1, 2), (2, 3)]
    assert edges("full", 3) == [(0, 1), (0, 2), (1, 2)]
    assert len(edges("grid", 9)) == 18
    assert edges("exponential", 5) == [(i, j) for i in range(5) for j in range(i + 1, 5)]
    assert edges("ring", 1) == []


def test_a_topology_that_is_not_known_is_answered_by_those_that_are():
    with pytest.raises(ConfigError, match=r"topology is 'rign'. Did you mean 'ring'"):
        mixing_matrix("rign", 4)

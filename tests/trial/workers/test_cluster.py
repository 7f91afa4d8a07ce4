"""Simulated workers on a real trial: gradients at any weights, masks, batches, rounds, what is judged and reported."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from harness import ConfigError, ResumableTensors, SimulatedCluster, Trial
from harness.api import Batch, Hyperparameters
from harness.plugins.conformance.problems import StripeStream
from harness.plugins.conformance.rehearsal import STEPS, Rehearsal
from harness.trial.conversation import Go
from tests.conftest import ROOT
from tests.trial.test_trial import make_trial

STOP = None


def cluster_of(
    workers: int = 4, *, concentration: float | None = None, **options: Any
) -> tuple[Trial, SimulatedCluster]:
    trial, _ = make_trial(**options)
    return trial, SimulatedCluster(trial, workers, concentration=concentration)


def gradient_by_hand(trial: Trial, batch: Batch) -> Tensor:
    trial.model.zero_grad()
    trial.loss(batch).backward()
    return torch.cat([p.grad.flatten() for p in trial.model.parameters()])


def test_weights_are_all_parameters_in_the_models_order():
    trial, cluster = cluster_of(hidden=3)
    assert cluster.size == 8 * 3 + 3 + 3 * 2 + 2
    expected = torch.nn.utils.parameters_to_vector(trial.model.parameters())
    assert torch.equal(cluster.weights(), expected)
    assert not cluster.weights().requires_grad


def test_a_gradient_is_that_of_the_mean_loss_at_the_weights_asked_for():
    trial, cluster = cluster_of(hidden=3)
    batch = cluster.batch(0, 16)
    other = cluster.weights() + 0.1
    at_start, elsewhere = cluster.gradient(cluster.weights(), batch), cluster.gradient(other, batch)
    torch.nn.utils.vector_to_parameters(other, trial.model.parameters())
    torch.testing.assert_close(elsewhere, gradient_by_hand(trial, batch))
    assert not torch.equal(at_start, elsewhere)


class ShorterStages(StripeStream):
    """Its second stage has half as many examples as the first."""

    def drawn(self, count: int, generator: torch.Generator) -> dict[str, Tensor]:
        return {**super().drawn(count, generator), "stages": (torch.arange(count) % 3 == 0).long()}


def test_at_each_stage_of_a_stream_all_its_examples_are_dealt_anew():
    trial = Rehearsal(ShorterStages()).trial
    cluster = SimulatedCluster(trial, 3, concentration=0.1)
    assert sum(map(len, cluster.shards)) == 341
    trial.next_stage()
    trial.end_step()
    assert cluster.batch(cluster.server, 171)["stages"].tolist() == [1] * 171
    assert sorted(torch.cat(cluster.shards).tolist()) == list(range(171))
    assert [len(each) for each in cluster.shards] == [57, 57, 57]


def test_a_parameter_that_the_loss_does_not_reach_has_gradient_zero():
    trial, cluster = cluster_of()
    bias = next(p for name, p in trial.model.named_parameters() if name.endswith("bias"))
    bias.requires_grad_(False)
    assert bool((cluster.gradient(cluster.weights(), cluster.batch(0, 16))[-2:] == 0).all())


def test_weighted_examples_add_up_to_the_mean():
    _, cluster = cluster_of(hidden=3)
    batch = cluster.batch(0, 16)
    even = torch.full((16,), 1 / 16)
    mean = cluster.gradient(cluster.weights(), batch)
    torch.testing.assert_close(cluster.gradient(cluster.weights(), batch, example_weights=even), mean)
    half = torch.cat([torch.full((8,), 1 / 8), torch.zeros(8)])
    first = {name: values[:8] for name, values in batch.items()}
    found = cluster.gradient(cluster.weights(), batch, example_weights=half)
    torch.testing.assert_close(found, cluster.gradient(cluster.weights(), first))


@pytest.mark.parametrize("options", [{"dropout": 0.5}, {"dropout": 0.5, "batch_norm": True, "hidden": 4}])
def test_all_passes_of_a_workers_step_have_the_same_dropout_masks(options):
    _, cluster = cluster_of(**options)
    weights, batch = cluster.weights(), cluster.batch(0, 16)
    with cluster.working(0):
        first, again = cluster.gradient(weights, batch), cluster.gradient(weights, batch)
        losses = {cluster.loss(weights, batch) for _ in range(2)}
    with cluster.working(1):
        of_another = cluster.gradient(weights, batch)
    assert torch.equal(first, again)
    assert len(losses) == 1
    assert not torch.equal(first, of_another)


def test_masks_do_not_depend_on_what_other_workers_did():
    found = []
    for before in ([], [0, 1]):
        _, cluster = cluster_of(dropout=0.5)
        for worker in before:
            with cluster.working(worker):
                cluster.gradient(cluster.weights(), cluster.batch(worker, 16))
        with cluster.working(2):
            found.append(cluster.gradient(cluster.weights(), cluster.batch(2, 16)))
    assert torch.equal(*found)


def test_simulated_workers_do_not_touch_the_order_of_training_batches():
    plain, _ = make_trial()
    trial, cluster = cluster_of()
    with cluster.working(1):
        cluster.gradient(cluster.weights(), cluster.batch(1, 16))
    assert torch.equal(plain.next_batch()["inputs"], trial.next_batch()["inputs"])


def test_a_workers_batch_is_of_its_shard_and_the_servers_of_everything():
    trial, cluster = cluster_of(concentration=0.1)
    own = {tuple(row.tolist()) for row in trial.train_set.gather(cluster.shards[2])["inputs"]}
    for number in range(9):
        assert {tuple(row.tolist()) for row in cluster.batch(2, 32, number=number)["inputs"]} <= own
    everything = torch.cat([cluster.batch(cluster.server, 64, number=number)["inputs"] for number in range(8)])
    assert len(everything.unique(dim=0)) == len(trial.train_set)


def test_methods_of_as_many_workers_have_the_same_shards_batches_and_participants():
    (_, one), (_, other) = cluster_of(concentration=0.3), cluster_of(concentration=0.3)
    with one.working(0):
        one.gradient(one.weights(), one.batch(0, 16))
    assert all(torch.equal(a, b) for a, b in zip(one.shards, other.shards, strict=True))
    assert torch.equal(one.batch(3, 16)["inputs"], other.batch(3, 16)["inputs"])
    assert [one.participants(r, 2) for r in range(9)] == [other.participants(r, 2) for r in range(9)]


def test_participants_change_from_round_to_round_and_all_come_in_time():
    _, cluster = cluster_of(6)
    drawn = [cluster.participants(number, 2) for number in range(40)]
    assert {len(set(each)) for each in drawn} == {2}
    assert drawn == [sorted(each) for each in drawn]
    assert set(itertools.chain(*drawn)) == set(range(6))
    assert cluster.participants(0, 6) == list(range(6))
    for count in (0, 7):
        with pytest.raises(ConfigError, match=rf"{count} of 6 workers .* Use 1 to 6\."):
            cluster.participants(0, count)


def test_a_round_has_as_many_steps_as_it_is_given_and_ends_with_the_trial():
    trial, _ = make_trial([Go(0.0), STOP], every=4)
    cluster = SimulatedCluster(trial, 2)
    assert list(cluster.steps(3)) == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2), (2, 0), (2, 1)]
    assert trial.is_over
    with pytest.raises(ConfigError, match="local_steps is 0"):
        next(cluster.steps(0))


def test_the_ledger_is_reported_at_every_evaluation():
    trial, told = make_trial([Go(0.0), STOP], every=2)
    cluster = SimulatedCluster(trial, 2)
    for _ in cluster.steps():
        for worker in range(2):
            with cluster.working(worker):
                cluster.gradient(cluster.weights(), cluster.batch(worker, 16))
                cluster.loss(cluster.weights(), cluster.batch(worker, 16))
        cluster.meet_server(range(2), numbers=cluster.size)
    assert [progress.reported["gradient_calls"] for progress in told] == [4, 8]
    last = told[-1].reported
    assert (last["loss_calls"], last["examples_used"]) == (8, 256)
    assert last["bytes_sent"] == 4 * 2 * cluster.size * 4
    assert 0 < last["virtual_seconds"] == max(cluster.ledger.clocks)


def test_what_is_judged_are_the_weights_asked_for_with_batch_norm_of_their_own():
    trial, _ = make_trial([Go(0.0)], every=1, batch_norm=True)
    cluster = SimulatedCluster(trial, 2)
    judged = cluster.weights() + 1.0
    cluster.judge(lambda: judged)
    with cluster.working(0):
        cluster.gradient(cluster.weights(), cluster.batch(0, 16))
    trial.end_step()
    assert torch.equal(cluster.weights(), judged)
    norm = trial.model[1]
    everything = trial.train_set.gather(torch.arange(len(trial.train_set)))["inputs"]
    torch.testing.assert_close(norm.running_mean, everything.mean(dim=0), atol=0.05, rtol=0)
    assert norm.training


def test_tensors_go_on_in_place_from_their_state():
    kept = ResumableTensors(weights=torch.zeros(3), rounds=torch.zeros(2, dtype=torch.int64))
    alias = kept.weights
    kept.load_state_dict({"weights": torch.ones(3), "rounds": torch.tensor([4, 5])})
    assert alias.tolist() == [1.0, 1.0, 1.0]
    assert kept.rounds.tolist() == [4, 5]
    assert set(kept.state_dict()) == {"weights", "rounds"}


def test_the_loop_in_the_documentation_learns_and_sends_both_ways():
    text = (ROOT / "docs" / "submitting.md").read_text(encoding="utf-8")
    blocks = [each.split("```")[0] for each in text.split("```python\n")[1:]]
    code = next(each for each in blocks if "SimulatedCluster" in each)
    names: dict[str, Any] = {}
    exec(code, names)
    hp = {"workers": 4, "concentration": 0.6, "active": 2, "local_steps": 3, "learning_rate": 0.1}
    race = Rehearsal().run(names["train"], Hyperparameters(hp))
    assert race.losses[-1] < 0.5 * race.losses[0]
    assert race.reported[-1]["gradient_calls"] == 2 * STEPS
    assert race.reported[-1]["bytes_sent"] == STEPS // 3 * 2 * 2 * 4 * sum(
        p.numel() for p in race.trial.model.parameters()
    )

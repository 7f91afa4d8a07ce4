"""Decisions from records: what is exact in their worlds, what the losses are by hand, and what training finds."""

from __future__ import annotations

import functools

import numpy
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from harness.api import SPLITS, Batch, terms_of
from submissions.orthogonal_terms.submission import orthogonal_sum
from tests.workloads.short_runs import NOWHERE, made, whole
from workloads.frontier.decisions.maze import (
    DISCOUNT,
    action_values,
    behaviour,
    best_worth,
    distances,
    maze,
    shortest_way,
    worth,
)
from workloads.frontier.decisions.offline_design import (
    BEST,
    OfflineDesign,
    ascended,
    best_known,
    hartmann,
    known_designs,
)
from workloads.frontier.decisions.offline_maze import (
    MIXTURE,
    REWARD,
    OfflineMaze,
    ValueAndPolicy,
    conjugate,
    places,
    waves,
)
from workloads.frontier.made import rounded

EVENLY = numpy.full((74, 4), 0.25)

# --- the maze ---


def test_the_maze_has_74_cells_that_all_lead_to_the_goal_and_walls_stop():
    assert len(maze().places) == 74
    found = distances(maze().goal)
    assert (found.min(), found.max(), found[maze().wrong_goal]) == (0, 28, 28)
    moved = numpy.abs(maze().places[maze().leads_to] - maze().places[:, None]).sum(axis=2)
    assert set(moved.flatten()) == {0, 1}
    # Whoever can go can come back by the opposite move.
    back = maze().leads_to[maze().leads_to, numpy.array([2, 3, 0, 1])]
    assert (back[moved == 1] == numpy.repeat(numpy.arange(74), (moved == 1).sum(axis=1))).all()


def test_values_are_those_of_value_iteration_and_of_simulated_episodes():
    values = numpy.zeros((74, 4))
    where = numpy.eye(74)[maze().leads_to]
    chances = 0.9 * where + 0.1 * where.mean(axis=1, keepdims=True)
    enters = (numpy.arange(74) == maze().goal).astype(float)
    for _ in range(2000):
        after = numpy.where(enters > 0, 0.0, values.max(axis=1))
        values = chances @ (enters + DISCOUNT * after)
    values[maze().goal] = 0.0
    assert best_worth() == pytest.approx(numpy.delete(values.max(axis=1), maze().goal).mean(), abs=1e-9)
    assert [worth(each) for each in (EVENLY, behaviour())] == pytest.approx([0.069, 0.156], abs=1e-3)
    assert best_worth() == pytest.approx(0.6817, abs=1e-4)
    assert 0 < best_worth() - worth(shortest_way(maze().goal)) < 1e-4


def test_recorded_moves_have_the_chances_of_the_behaviour_and_slip_one_time_in_ten():
    batch = whole(OfflineMaze(width=8), "train")
    cells = [(batch["inputs"][:, which, None] == places()).all(dim=2).int().argmax(dim=1) for which in (0, 1)]
    expected = torch.from_numpy(behaviour())[cells[0]]
    for move in range(4):
        surprise = (batch["targets"] == move).double() - expected[:, move]
        assert abs(surprise.mean()) < 4 * surprise.std() / len(surprise) ** 0.5
    led = torch.from_numpy(maze().leads_to)[cells[0], batch["targets"]]
    # Of moves that slip a quarter and more, against walls, end where they would have without.
    assert 0.04 < (led != cells[1]).double().mean() < 0.075
    assert torch.equal(batch["rewards"] > 0, cells[1] == maze().goal)
    assert not (cells[0] == maze().goal).any()


def test_splits_have_episodes_of_their_own():
    numbers = [set(whole(OfflineMaze(width=8), split)["episodes"].tolist()) for split in SPLITS]
    assert [len(each) for each in numbers] == [300, 60, 60]
    assert not numbers[0] & numbers[1] | numbers[0] & numbers[2] | numbers[1] & numbers[2]


# --- its loss ---


def test_the_conjugate_is_that_of_the_paper():
    at = torch.tensor([-3.0, -1.0, 0.0, 1.0])
    assert conjugate(at).tolist() == [-1.0, -0.75, 0.0, 1.25]


def by_hand(model: ValueAndPolicy, batch: Batch, slow: Tensor) -> dict[str, Tensor]:
    """Weighted terms where slow values are those."""
    values = model.value(waves(batch["inputs"])).squeeze(2)
    follows = DISCOUNT * (1 - batch["rewards"])
    forth = REWARD * batch["rewards"] + follows * slow[:, 1] - values[:, 0]
    back = REWARD * batch["rewards"] + follows * values[:, 1] - slow[:, 0]
    surprise = -model.policy(waves(batch["inputs"][:, 0])).log_softmax(dim=1)[range(len(slow)), batch["targets"]]
    return {
        "forward": MIXTURE * conjugate(forth).mean(),
        "backward": MIXTURE * conjugate(back).mean(),
        "value": (1 - MIXTURE) * values[:, 0].mean(),
        "policy": ((1 + forth / 2).clamp_min(0).detach() * surprise).mean(),
    }


@pytest.mark.parametrize("name", ["offline_maze", "offline_maze_both_ways"])
def test_terms_are_those_of_the_paper_by_hand(name: str):
    workload = made(name)
    batch = {field: values[:64] for field, values in whole(workload, "validation").items()}
    batch["rewards"][::7] = 1.0
    torch.manual_seed(0)
    model = workload.build_model()
    assert isinstance(model, ValueAndPolicy)
    before = model.value(waves(batch["inputs"])).squeeze(2).detach()
    workload.outputs(model, batch)
    with torch.no_grad():
        for parameter in model.value.parameters():
            parameter.mul_(1.5)
    slow = ValueAndPolicy(64)
    slow.load_state_dict(model.state_dict())
    with torch.no_grad():
        # The copy was where the network began, and goes a fiftieth of the way to where it is now.
        for parameter in slow.value.parameters():
            parameter.mul_((1 + 0.02 * 0.5) / 1.5)
    expected = by_hand(model, batch, slow.value(waves(batch["inputs"])).squeeze(2).detach())
    assert not torch.allclose(before, slow.value(waves(batch["inputs"])).squeeze(2))
    terms = terms_of(workload, workload.outputs(model, batch), batch, 0.0)
    found = {each.name: each.factor * each.losses.mean() for each in terms}
    assert found.keys() == set(workload.term_weights)
    for term, value in found.items():
        torch.testing.assert_close(value, expected[term])
        gradients = [
            torch.autograd.grad(each, list(model.parameters()), retain_graph=True, materialize_grads=True)
            for each in (value, expected[term])
        ]
        torch.testing.assert_close(*gradients)


def test_regret_is_none_for_the_best_policy_and_known_for_an_even_one():
    workload = OfflineMaze(width=8)
    model = workload.build_model()
    assert isinstance(model, ValueAndPolicy)
    with torch.no_grad():
        for parameter in model.policy.parameters():
            parameter.zero_()
    examples = workload.load("validation", NOWHERE)
    assert workload.decoded_metrics(model, examples)["regret"] == pytest.approx(best_worth() - worth(EVENLY), abs=1e-9)
    best = torch.from_numpy(numpy.eye(4)[action_values(shortest_way(maze().goal)).argmax(axis=1)])
    model.policy = torch.nn.Sequential(Table(60 * best))
    assert workload.decoded_metrics(model, examples)["regret"] == pytest.approx(0.0, abs=1e-9)


class Table(torch.nn.Module):
    """Scores of the cells in their order."""

    def __init__(self, scores: Tensor) -> None:
        super().__init__()
        self.scores = scores

    def forward(self, _: Tensor) -> Tensor:
        return self.scores


# --- offline_design ---


def test_the_function_has_its_published_optimum_and_nothing_near_it_is_known():
    best = numpy.array([[0.20169, 0.150011, 0.476874, 0.275332, 0.311652, 0.6573]])
    assert hartmann(best)[0] == pytest.approx(BEST, abs=1e-5)
    assert len(known_designs("train")) == 6400
    assert hartmann(known_designs("train")).max() == pytest.approx(0.415, abs=1e-3)
    assert hartmann(best_known().double().numpy()).min() > 0.38


def test_the_worse_four_fifths_are_the_same_whatever_the_last_bits_of_a_value_are():
    # Where the cut is, the nearest values on both sides are further apart than exponentials differ between machines.
    for split in SPLITS:
        stream = numpy.random.RandomState([2025, SPLITS.index(split)])
        values = numpy.sort(hartmann(rounded(stream.random_sample((len(known_designs(split)) * 5 // 4, 6)))))
        cut = int(0.8 * len(values))
        assert values[cut] - values[cut - 1] > 1e-9


def test_designs_go_up_the_network_by_a_hundredth_a_step_and_stay_in_the_cube():
    slope = torch.tensor([3.0, -4.0, 0.0, 0.0, 0.0, 0.0])
    start = torch.full((2, 6), 0.5)
    found = ascended(Plane(slope), start, steps=10)
    torch.testing.assert_close(found, start + 0.1 * torch.tensor([0.6, -0.8, 0.0, 0.0, 0.0, 0.0]))
    far = ascended(Plane(slope), start, steps=200)
    assert far[0].tolist() == pytest.approx([1.0, 0.0, 0.5, 0.5, 0.5, 0.5], abs=1e-6)


class Plane(torch.nn.Module):
    """Goes up by `slope` alone."""

    def __init__(self, slope: Tensor) -> None:
        super().__init__()
        self.slope = torch.nn.Parameter(slope)

    def forward(self, designs: Tensor) -> Tensor:
        return designs @ self.slope


def test_the_regret_of_designs_is_that_of_the_median_one_after_the_ascent():
    workload = OfflineDesign(width=8)
    examples, flat = workload.load("validation", NOWHERE), Plane(torch.zeros(6))
    with torch.inference_mode():
        found = workload.decoded_metrics(flat, examples)["design_regret"]
    # A flat network moves nothing.
    assert found == pytest.approx(BEST - float(numpy.median(hartmann(best_known().double().numpy()))), abs=1e-6)
    train = whole(workload, "train")
    assert train["targets"].mean().item() == pytest.approx(0.0, abs=1e-5)
    assert train["targets"].std(correction=0).item() == pytest.approx(1.0, abs=1e-5)


# --- what training finds ---


@functools.cache
def worth_after_training(way: str, *, steps: int = 900) -> float:
    """Of the policy after Adam at 1e-3: `cloning`, `forward` alone, `both` ways, or `orthogonal`, seed 0."""
    workload = made("offline_maze" if way in ("cloning", "forward") else "offline_maze_both_ways")
    examples = workload.load("train", NOWHERE)
    torch.manual_seed(0)
    model = workload.build_model()
    parameters = list(model.parameters())
    optimizer = torch.optim.Adam(parameters, 1e-3)
    for _ in range(steps):
        batch = examples.gather(torch.randint(len(examples), (256,)))
        outputs = workload.outputs(model, batch)
        terms = [each.factor * each.losses.mean() for each in terms_of(workload, outputs, batch, 0.0)]
        optimizer.zero_grad()
        if way == "cloning":
            F.cross_entropy(outputs[:, 4:], batch["targets"]).backward()
        elif way == "orthogonal":
            rows = [torch.autograd.grad(each, parameters, retain_graph=True, materialize_grads=True) for each in terms]
            together = orthogonal_sum(torch.stack([torch.cat([part.flatten() for part in row]) for row in rows]))
            for parameter, part in zip(parameters, together.split([each.numel() for each in parameters]), strict=True):
                parameter.grad = part.view_as(parameter)
        else:
            torch.stack(terms).sum().backward()
        optimizer.step()
    with torch.no_grad():
        return best_worth() - workload.decoded_metrics(model, examples)["regret"]


@pytest.mark.slow
def test_the_projection_mends_what_the_backward_term_spoils_and_all_are_better_than_cloning():
    cloning, forward, both, orthogonal = map(worth_after_training, ("cloning", "forward", "both", "orthogonal"))
    assert cloning < 0.2
    assert both > cloning + 0.05
    assert forward > both + 0.05
    assert orthogonal > both + 0.05

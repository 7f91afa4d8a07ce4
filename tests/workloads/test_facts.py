"""Facts in two directions: what is taught and asked, a network that knows both ways, and which networks come to it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from harness.api import ConfigError, SplitName
from harness.race.evaluation import evaluate
from tests.workloads.plain_training import adamw, trained
from workloads.frontier.facts.facts_binding import BindingNetwork, FactsBinding
from workloads.frontier.facts.facts_lm import FactsLm

NOWHERE = Path("/nonexistent")
SMALL: dict[str, Any] = {"facts": 60, "both_ways": 20, "width": 16, "maps": "orthogonal"}
PAIRS: dict[str, Any] = {"facts": 1000, "both_ways": 500}
TRANSFORMER: dict[str, Any] = {"width": 64, "layers": 2, "heads": 4, "hidden": 128, "rotary_base": 1e4}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """As a trainer has it. Two of them on cores that others use wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def questions(split: SplitName) -> dict[tuple[int, int], int]:
    """The answer to each subject and relation."""
    tensors = FactsBinding(**SMALL).load(split, NOWHERE).tensors()
    return {
        (subject, relation): answer
        for (subject, relation), answer in zip(tensors["inputs"].tolist(), tensors["targets"].tolist(), strict=True)
    }


def test_all_facts_are_taught_forward_and_some_backward():
    taught = questions("train")
    forward = {subject: answer for (subject, relation), answer in taught.items() if relation == 0}
    backward = {subject: answer for (subject, relation), answer in taught.items() if relation == 1}
    assert sorted(forward) == list(range(60))
    assert sorted(forward.values()) == list(range(60, 120))
    assert len(backward) == 20
    assert all(forward[answer] == subject for subject, answer in backward.items())


def test_what_is_asked_are_the_other_facts_backward():
    taught, validation, test = (questions(split) for split in ("train", "validation", "test"))
    asked = {**validation, **test}
    assert len(validation) == len(test) == 20
    assert len(asked) == 40
    assert all(relation == 1 for _, relation in asked)
    assert all(taught[answer, 0] == subject for (subject, _), answer in asked.items())
    assert not asked.keys() & taught.keys()


@pytest.mark.parametrize("both_ways", [-1, 60, 21])
def test_sizes_that_leave_nothing_or_an_odd_number_to_be_asked_are_refused(both_ways: int):
    with pytest.raises(ConfigError, match="taught both ways"):
        FactsBinding(**{**SMALL, "both_ways": both_ways})


def test_maps_that_are_not_known_are_refused():
    with pytest.raises(ConfigError, match="maps is 'unitary'"):
        FactsBinding(**{**SMALL, "maps": "unitary"})


def test_a_map_by_cayley_is_a_rotation_and_that_of_the_negative_is_its_inverse():
    first, second = BindingNetwork(symbols=4, width=16, is_orthogonal=True).double().maps
    with torch.no_grad():
        second.weight.copy_(-first.weight)
    identity = torch.eye(16, dtype=torch.float64)
    torch.testing.assert_close(first() @ first().T, identity)
    torch.testing.assert_close(first() @ second(), identity)
    assert torch.linalg.det(first()).item() == pytest.approx(1.0)


def test_one_vector_for_each_concept_and_inverse_maps_answer_everything():
    # The known answer: e_b = e_a R for every pair, and S = R^-1.
    torch.manual_seed(0)
    workload = FactsBinding(**SMALL)
    model = workload.build_model()
    taught = questions("train")
    with torch.no_grad():
        model.maps[1].weight.copy_(-model.maps[0].weight)
        for subject in range(60):
            model.embedding.weight[taught[subject, 0]] = model.embedding.weight[subject] @ model.maps[0]()
    for split in ("validation", "test"):
        found = evaluate(workload, model, workload.load(split, NOWHERE), 100)
        assert (found["reverse_error"], found["recall_error"]) == (0.0, 0.0)


def test_recall_is_asked_of_the_training_split_alone():
    taught = questions("train")
    examples = FactsBinding(**SMALL).load("validation", NOWHERE)
    asked: dict[str, Tensor] = examples.taught
    assert len(asked["targets"]) == 80
    assert all(
        taught[subject, relation] == answer
        for (subject, relation), answer in zip(asked["inputs"].tolist(), asked["targets"].tolist(), strict=True)
    )
    assert FactsBinding(**SMALL).load("train", NOWHERE).taught is None


def test_a_question_to_the_transformer_ends_with_a_relation_that_is_no_symbol_of_a_pair():
    workload = FactsLm(facts=60, both_ways=20, **{**TRANSFORMER, "width": 16, "hidden": 16}, tied=False)
    read = []

    class Reads(torch.nn.Module):
        def forward(self, symbols: Tensor) -> Tensor:
            read.append(symbols)
            return torch.zeros(*symbols.shape, 122)

    batch = {"inputs": torch.tensor([[3, 0], [70, 1]])}
    assert workload.outputs(Reads(), batch).shape == (2, 122)
    assert read[0].tolist() == [[3, 120], [70, 121]]


# --- what is found ---


@pytest.mark.slow
@pytest.mark.parametrize("tied", [False, True])
def test_a_transformer_recalls_everything_and_turns_nothing_round(tied: bool):
    _, seen = trained(FactsLm(**PAIRS, **TRANSFORMER, tied=tied), adamw(2e-3), steps=450, batch_size=64)
    assert seen[-1]["recall_error"] < 0.02
    assert seen[-1]["reverse_error"] > 0.98
    # Tied, it knows at least which symbols can be answers; otherwise it is surer of wrong ones than a guess is.
    assert (seen[-1]["loss"] > math.log(2000)) == (not tied)  # 5.8 and 9.6


@pytest.mark.slow
@pytest.mark.parametrize("maps", ["orthogonal", "free"])
def test_one_vector_for_each_concept_turns_facts_round_after_they_are_recalled(maps: str):
    workload = FactsBinding(**PAIRS, width=64, maps=maps)
    _, (early, late) = trained(workload, adamw(3e-3, 1.0), steps=750, batch_size=64, seen_at=(250,))
    assert early["recall_error"] < 0.7
    assert early["reverse_error"] > 0.9
    assert late["recall_error"] < 0.02
    assert late["reverse_error"] < 0.05


@pytest.mark.slow
def test_when_facts_are_turned_round_is_decided_by_weight_decay():
    workload = FactsBinding(**PAIRS, width=64, maps="orthogonal")
    seen = {decay: trained(workload, adamw(3e-3, decay), steps=500, batch_size=64)[1][-1] for decay in (0.1, 1.0)}
    assert all(each["recall_error"] < 0.02 for each in seen.values())
    assert seen[1.0]["reverse_error"] < 0.1  # 0.008
    assert seen[0.1]["reverse_error"] > 0.7  # 0.9

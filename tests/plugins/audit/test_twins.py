"""The twin of a workload has other names, shapes and bytes, and is learned alike."""

from __future__ import annotations

import json
import math
import statistics

import pytest
import torch

from harness.api import Examples, Padded, Target, Workload, mean_loss, terms_of
from harness.config import WorkloadConfig, base_workloads, load
from harness.plugins import data
from harness.plugins.audit.twins import (
    Twin,
    batch_size_of_twin,
    content_of_twin,
    contents_of_twin,
    steps_of_twin,
    target_of_twin,
)
from harness.plugins.data import load_verified
from harness.plugins.entries import create_workload
from harness.race.evaluation import evaluate
from harness.trial.parameter_kinds import kinds_of
from tests.made_losses import Contrastive, TwoTerms

QUICK = ["digits_mlp", "deep_linear"]
NAMES = [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow]) for name in base_workloads()]
NUMBER = 7
FOLDER = data.data_folder()
STEPS = 40
SEEDS = {"vorticity_operator": 10, "vorticity_operator_sobolev": 10}
"""Of those whose losses differ from seed to seed by more than a twin may; three of the others."""


def made(name: str, twin: int | None) -> tuple[WorkloadConfig, Workload]:
    settings = load("workload", name, WorkloadConfig)
    workload = create_workload(settings.entry, settings.options, twin)
    if not data.is_present(workload, FOLDER):
        pytest.skip("its data are not here: make data")
    return settings, workload


def losses(workload: Workload, examples: Examples, *, batch_size: int, seed: int) -> list[float]:
    """Training losses of a few steps of AdamW."""
    torch.manual_seed(seed)
    model = workload.build_model().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    found = []
    for _ in range(STEPS):
        batch = examples.gather(torch.randint(len(examples), (batch_size,)))
        loss = mean_loss(*workload.losses(workload.outputs(model, batch), batch, 0.0))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    return found


@pytest.mark.parametrize("name", NAMES)
def test_a_twin_is_learned_alike(name):
    first, late = [], []
    for twin in (None, NUMBER):
        settings, workload = made(name, twin)
        examples = workload.load("train", FOLDER)
        seeds = range(SEEDS.get(name, 3))
        runs = [losses(workload, examples, batch_size=settings.batch_size, seed=seed) for seed in seeds]
        first.append(statistics.fmean(run[0] for run in runs))
        late.append(statistics.fmean(statistics.fmean(run[-STEPS // 4 :]) for run in runs))
    # Of answers that are hardly ever right, one of the hundreds of a step may be rewarded.
    assert first[1] == pytest.approx(first[0], rel=0.25, abs=5e-3)
    # A loss that may be below zero says little by its size: there it is how far it fell.
    fall = first[0] - late[0] if late[0] < 0 else 0.0
    assert late[1] == pytest.approx(late[0], rel=0.15, abs=max(5e-3, 0.1 * fall))


@pytest.mark.parametrize("name", NAMES)
def test_a_twin_shares_no_name_no_example_and_no_metric_with_its_original(name):
    (settings, original), (_, twin) = made(name, None), made(name, NUMBER)
    one, other = original.build_model(), twin.build_model()
    assert not {n for n, _ in one.named_parameters()} & {n for n, _ in other.named_parameters()}
    may_grow = bool(original.resized()) or any(isinstance(each, Padded) for each in original.symmetries())
    assert (sum(p.numel() for p in one.parameters()) < sum(p.numel() for p in other.parameters())) == may_grow
    assert list(kinds_of(one).values()) == list(kinds_of(other).values())
    (train, changed) = (each.load("train", FOLDER) for each in (original, twin))
    # Of fewer than a hundred examples each one counts.
    assert 0.98 * len(train) < len(changed) <= len(train) - (len(train) >= 100)
    fields = set(train.gather(torch.arange(2)))
    assert set(changed.tensors()) & fields == fields & {"inputs", "targets", "weights"}
    assert len(changed.tensors()) == len(fields)
    held_out = twin.load("validation", FOLDER)
    metrics = evaluate(twin, other, held_out, settings.eval_batch_size)
    assert target_of_twin(settings.target, NUMBER).metric in metrics
    assert settings.target.metric not in metrics


@pytest.mark.parametrize("name", ["cmudict_g2p"])
@pytest.mark.slow
def test_what_a_network_writes_by_itself_is_judged_in_the_original_symbols(name):
    settings, original = made(name, None)
    # Without the resizing, so that the weights of one fit the other.
    twin = Twin(original, original, NUMBER)
    torch.manual_seed(0)
    model = twin.build_model().eval()
    found = evaluate(twin, model, twin.load("validation", FOLDER), settings.eval_batch_size)
    [network] = model.children()
    embedding = network.get_parameter("embedding.weight")
    validation = original.load("validation", FOLDER)
    both = [each.gather(torch.arange(len(validation))) for each in (validation, twin.load("validation", FOLDER))]
    before, after = (torch.stack([each["inputs"], each["targets"]]).flatten() for each in both)
    with torch.no_grad():
        embedding[before] = embedding[after].clone()
    known = evaluate(original, network, validation, settings.eval_batch_size)
    assert sorted(found.values()) == pytest.approx(sorted(known.values()), rel=1e-5)


def test_both_sides_of_a_trial_make_the_same_twin_of_one_number_and_another_one_of_another():
    examples = [made("digits_mlp", twin)[1].load("train", FOLDER)[0]["inputs"] for twin in (3, 3, 4)]
    assert torch.equal(examples[0], examples[1])
    assert examples[0].shape != examples[2].shape or not torch.equal(examples[0], examples[2])


@pytest.mark.parametrize("original", [TwoTerms(), Contrastive()], ids=["two terms", "coupled examples"])
def test_a_twin_has_the_loss_of_its_original_under_other_names(original):
    twin = Twin(original, original, NUMBER)
    assert list(twin.term_weights.values()) == list(original.term_weights.values())
    assert set(twin.term_weights) & set(original.term_weights) <= {"loss"}
    assert twin.couples_examples == original.couples_examples
    model = twin.build_model().eval()
    batch = twin.load("train", FOLDER).gather(torch.arange(64))
    terms = terms_of(twin, twin.outputs(model, batch), batch, 0.0)
    assert [term.name for term in terms] == list(twin.term_weights)
    assert math.isfinite(evaluate(twin, model, twin.load("validation", FOLDER), 64)["loss"])


def test_data_that_were_altered_are_noticed_in_a_twin_too():
    settings, twin = made("digits_mlp", NUMBER)
    expected = contents_of_twin(settings.data, NUMBER)
    load_verified(twin, "validation", FOLDER, expected["validation"])
    with pytest.raises(Exception, match="has the hash"):
        load_verified(twin, "validation", FOLDER, content_of_twin("0" * 64, NUMBER))


def test_a_trainer_gets_nothing_of_the_original_with_its_examples():
    _, twin = made("digits_mlp", NUMBER)
    assert twin.load("train", FOLDER).original is None
    assert json.dumps(sorted(twin.load("train", FOLDER).tensors())) == '["inputs", "targets"]'


@pytest.mark.parametrize("goal", ["min", "max"])
def test_the_target_of_a_twin_is_another_number_that_the_same_models_reach(goal):
    target = Target("error", goal, 0.25)
    eased = target_of_twin(target, NUMBER)
    assert eased.validation != target.validation
    assert eased.is_reached_by(0.25)
    assert not eased.is_reached_by(0.2501 if goal == "min" else 0.2499)


def test_hints_of_a_twin_are_others_but_hardly():
    assert all(steps < steps_of_twin(steps, NUMBER) <= 1.01 * steps for steps in (200, 2400))
    assert batch_size_of_twin(128) == 129
    assert batch_size_of_twin(128, multiple_of=2) == 130
    assert batch_size_of_twin(4) == 4

"""Honest submissions take as many steps on a twin; one that knows the workload does not, whatever it knows it by."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.api import SPLITS, Budget, Target
from harness.config import (
    HardwareConfig,
    PruningConfig,
    RulesetConfig,
    StudyConfig,
    TrackingConfig,
    WorkloadConfig,
    load,
)
from harness.plugins.entries import create_workload
from harness.race.outcome import Observation
from harness.study.audit.agreement import Verdict, agreement
from harness.study.audit.twin_trials import steps_at, steps_to_target
from harness.study.identity import describe

SEEDS = range(4)
ENTRY = "workloads.deep_linear.DeepLinear"
OPTIONS = {
    "width": 16,
    "layers": 2,
    "examples": 256,
    "largest": 8.0,
    "smallest": 1.0,
    "noise": 0.03125,
    "initial_scale": 0.1,
}
TRAIN = """
    import torch

    def train(trial, hp):
        rate = {rate}
        optimizer = torch.optim.SGD(trial.model.parameters(), lr=rate)
        for batch in trial.batches():
            optimizer.zero_grad()
            trial.loss(batch).backward()
            optimizer.step()
"""
KNOWS = {
    "the number of parameters": "sum(p.numel() for p in trial.model.parameters()) == 512",
    "the shape of a layer": "next(trial.model.parameters()).shape == (16, 16)",
    "the name of a parameter": "'0.weight' in dict(trial.model.named_parameters())",
    "the number of examples": "len(trial.train_set) == 256",
    "an example": "any(float(each['targets'][0]) == {value!r} for each in trial.train_set)",
    "the step hint": "trial.step_hint == 450",
    "the metric": "trial.target.metric == 'mse'",
    "the target": "trial.target.validation == 0.5",
    "the seed": "trial.seed in range(4)",
}


def config_for(folder: Path) -> StudyConfig:
    """A deep linear network, which all seeds learn at nearly the same pace, on a machine that has been measured."""
    workload = create_workload(ENTRY, OPTIONS)
    return StudyConfig(
        workload=WorkloadConfig(
            name="linear",
            version=1,
            entry=ENTRY,
            options=OPTIONS,
            parameters=512,
            batch_size=32,
            eval_batch_size=1024,
            target=Target("mse", "min", 0.5, 0.5),
            budget=Budget(500, 8),
            data={split: workload.load(split, folder).digest() for split in SPLITS},
        ),
        ruleset=load("ruleset", "quick", RulesetConfig),
        hardware=HardwareConfig("local", "cpu", 1, 2.0, {"linear": 0.05}),
        tracking=TrackingConfig("off", "none"),
        pruning=PruningConfig("none"),
        submission=str(folder / "mine"),
        study=0,
        seed=0,
        hp={},
        results=folder / "results",
        evaluate_every_steps=None,
    )


@pytest.fixture
def verdict(tmp_path: Path) -> Callable[[str], Verdict]:
    """What trials of a submission with this learning rate say together."""

    def race(rate: str) -> Verdict:
        folder = tmp_path / "mine"
        folder.mkdir()
        (folder / "submission.yaml").write_text("title: a\nauthors: b\nhyperparameters: {}\n", encoding="utf-8")
        (folder / "submission.py").write_text(textwrap.dedent(TRAIN).format(rate=rate), encoding="utf-8")
        study = describe(config_for(tmp_path))
        said: list[object] = []
        steps = [
            steps_to_target(study, twin, seeds=seeds, seconds_per_step=0.05, say=lambda *each: said.append(each))
            for twin, seeds in ((None, SEEDS), (7, range(100, 104)))
        ]
        assert len(said) == 8
        return agreement(*steps, comparisons=1).verdict

    return race


def test_an_honest_submission_agrees_on_the_twin(verdict):
    assert verdict("0.04") is Verdict.AGREES


@pytest.mark.slow
@pytest.mark.parametrize("known", KNOWS.values(), ids=KNOWS)
def test_a_submission_that_knows_the_workload_differs_on_the_twin(verdict, known, tmp_path):
    value = float(create_workload(ENTRY, OPTIONS).load("train", tmp_path)[3]["targets"][0])
    assert verdict(f"0.08 if {known.format(value=value)} else 0.04") is Verdict.DIFFERS


def test_steps_are_counted_on_a_straight_line_between_evaluations():
    target = Target("error", "min", 0.3)

    def seen(*values: float) -> list[Observation]:
        return [
            Observation(100 * number, 0, 0.0, {"error": value}, None, {})
            for number, value in enumerate(values, start=1)
        ]

    assert steps_at(seen(0.9, 0.5, 0.25), target) == pytest.approx(280)
    assert steps_at(seen(0.9, 0.5, 0.4), target) == float("inf")
    assert steps_at(seen(0.1), target) == 100
    assert steps_at(seen(float("inf"), 0.2), target) == 200
    assert steps_at([], target) == float("inf")

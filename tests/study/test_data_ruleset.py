"""The ruleset `data` through the front door: a training split that is cut, and trials that no target ends."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import pandas as pd
import pytest
import torch

from harness.api import ConfigError, Examples, TensorExamples
from harness.commands import bench
from harness.config import HardwareConfig, RulesetConfig, load
from harness.race.confinement.training_split import cut
from harness.records.tables import read_rows
from harness.study.identity import describe, trial_key
from harness.study.verification.consistency import contradictions
from tests.conftest import SGD
from tests.study.test_study import run, study_config, write_submission

LITTLE = RulesetConfig("little", 1, 2, 1, "defaults", 1.0, "adamw", train_batches=2, ends_at_target=False)
TELLING = """
import torch


def train(trial, hp):
    inputs = trial.train_set.tensors()["inputs"]
    elements = inputs.untyped_storage().nbytes() / inputs.element_size()
    trial.log(examples=len(trial.train_set), total=float(inputs.sum()), elements=elements)
    optimizer = torch.optim.SGD(trial.model.parameters(), lr=hp.learning_rate)
    for batch in trial.batches():
        optimizer.zero_grad()
        trial.loss(batch).backward()
        optimizer.step()
"""
FAST = HardwareConfig("local", "cpu", 1, 2.0, {"blobs": 0.001})


def table(results, name):
    return pd.read_parquet(results / "runs" / name)


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Path:
    """Two studies of one submission under a ruleset of little data."""
    folder = tmp_path_factory.mktemp("little")
    submission = write_submission(folder / "telling", TELLING)
    for study in range(2):
        run(study_config(folder, submission, ruleset=LITTLE, study=study, hardware=FAST))
    return folder


def test_a_trial_goes_on_past_its_target_to_the_end_of_its_budget(results):
    trials, evaluations = table(results, "trials"), table(results, "evaluations")
    assert set(trials["status"]) == {"out_of_budget"}
    assert (trials["time_to_target"] < 0.5 * trials["max_runtime"]).all(), "blobs are learned at once"
    for _, seen in evaluations.groupby("trial_id"):
        assert seen["charged_seconds"].max() > 0.8 * trials["max_runtime"].iloc[0]


def test_every_trial_has_the_same_few_examples_and_no_others_in_its_memory(results):
    told = [json.loads(text) for text in table(results, "evaluations").query("evaluation == 0")["reported"]]
    assert [each["examples"] for each in told] == [64, 64]  # two batches of 32
    assert [each["elements"] for each in told] == [64 * 8] * 2
    assert told[0]["total"] == told[1]["total"]
    assert table(results, "trials")["seed"].nunique() == 2


def test_nothing_in_such_rows_contradicts_itself(results):
    rows = read_rows(results / "runs", "trials")
    seen = read_rows(results / "runs", "evaluations")
    for row in rows:
        of_row = [each for each in seen if each["trial_id"] == row["trial_id"]]
        assert contradictions(row, of_row) == []


def test_a_row_that_says_it_was_ended_by_its_target_contradicts_its_ruleset(results):
    row = read_rows(results / "runs", "trials")[0] | {"status": "reached", "checksum": None}
    seen = [each for each in read_rows(results / "runs", "evaluations") if each["trial_id"] == row["trial_id"]]
    assert any("no target ends a trial" in text for text in contradictions(row, seen))


def test_no_trial_is_pruned_because_others_have_missed(tmp_path):
    never = write_submission(
        tmp_path / "never", "def train(trial, hp):\n    for batch in trial.batches():\n        pass\n"
    )
    ruleset = dataclasses.replace(LITTLE, studies=3)
    for study in range(3):
        run(study_config(tmp_path, never, ruleset=ruleset, study=study, hardware=FAST))
    trials = table(tmp_path, "trials")
    assert trials["status"].tolist() == ["out_of_budget"] * 3
    assert all(map(math.isinf, trials["time_to_target"]))


def test_another_cut_and_another_end_make_another_trial(tmp_path):
    submission = write_submission(tmp_path / "plain", SGD)
    rulesets = [
        LITTLE,
        dataclasses.replace(LITTLE, train_batches=3),
        dataclasses.replace(LITTLE, train_batches=None),
        dataclasses.replace(LITTLE, ends_at_target=True),
    ]
    keys = {trial_key(describe(study_config(tmp_path, submission, ruleset=each)), 0) for each in rulesets}
    assert len(keys) == 4


def test_a_split_that_is_no_larger_stays_as_it_is():
    examples = TensorExamples({"x": torch.arange(5)})
    assert cut(examples, 5) is examples
    assert len(cut(examples, 4)) == 4


def test_what_is_cut_is_a_draw_in_the_order_of_the_split():
    chosen = cut(TensorExamples({"x": torch.arange(1000)}), 10).tensors()["x"].tolist()
    assert chosen == sorted(set(chosen))
    assert max(chosen) > 500


class OnDisk(TensorExamples):
    folder = Path("/somewhere")


class Drawing(TensorExamples):
    def gather_augmented(self, index, seeds):  # noqa: ARG002
        return self.gather(index)


@pytest.mark.parametrize("kind", [OnDisk, Drawing])
def test_a_split_on_the_disk_or_with_something_drawn_for_each_example_is_not_cut(kind):
    examples: Examples = kind({"x": torch.arange(5)})
    with pytest.raises(ConfigError, match="Choose another ruleset or workload"):
        cut(examples, 2)


def test_the_ruleset_of_this_project_gives_three_times_the_budget_and_no_end_by_a_target():
    found = load("ruleset", "data", RulesetConfig)
    assert (found.studies, found.trials, found.budget_factor, found.ends_at_target) == (3, 1, 3.0, False)
    (config, *_) = bench.studies_of(bench.parse(["workload=digits_mlp", "submission=adamw", "ruleset=data"]))
    assert config.ruleset == found
    assert config.budget.steps == 3 * config.workload.budget.steps


def test_no_batches_are_no_data():
    arguments = ["workload=digits_mlp", "submission=adamw", "ruleset=data", "ruleset.name=mine"]
    with pytest.raises(ConfigError, match="train_batches is 0"):
        bench.studies_of(bench.parse([*arguments, "ruleset.train_batches=0"]))

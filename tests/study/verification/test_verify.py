"""Recorded rows under verification: what an edit leaves behind, and what shows when the trial is run again."""

from __future__ import annotations

import copy
import dataclasses
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.api import Target, TrialStatus
from harness.command_line import PlainConsole
from harness.config import StudyConfig
from harness.records.noise_floor import NoiseFloor, keep
from harness.records.tables import Records, TrialKey, read_rows
from harness.study.identity import describe, trial_id
from harness.study.verification.consistency import contradictions
from harness.study.verification.rerun import Recorded, Rerun
from harness.study.verification.verify import Verification, compare_times, verify
from tests.conftest import SGD
from tests.study.test_study import run, study_config, write_submission

TUNED = SGD.replace("0.05", "hp.learning_rate")


@pytest.fixture(scope="module")
def raced(tmp_path_factory) -> tuple[StudyConfig, Recorded]:
    """An honest trial that uses its budget of 0.6 seconds up, with up to eight evaluations."""
    folder = tmp_path_factory.mktemp("raced")
    config = without_target(study_config(folder / "results", write_submission(folder / "plain_sgd", TUNED)))
    config = dataclasses.replace(
        config, hardware=dataclasses.replace(config.hardware, seconds_per_step={"blobs": 0.0015})
    )
    run(config)
    return config, read(folder / "results" / "runs")


def without_target(config: StudyConfig) -> StudyConfig:
    """The study with a target that nothing reaches."""
    return dataclasses.replace(
        config, workload=dataclasses.replace(config.workload, target=Target("error", "min", -1.0))
    )


def read(runs: Path) -> Recorded:
    (row,) = read_rows(runs, "trials")
    return Recorded(row, read_rows(runs, "evaluations"))


def edited(recorded: Recorded, edit: Callable[[dict[str, Any], list[dict[str, Any]]], object]) -> Recorded:
    found = copy.deepcopy(recorded)
    edit(found.row, found.evaluations)
    return found


def forged(recorded: Recorded, folder: Path) -> Recorded:
    """The rows with the id that their identity makes and a new checksum, as somebody writes them who knows of both."""
    row = recorded.row
    parts = json.loads(row["identity"])
    parts["hyperparameters"] = json.loads(row["hyperparameters"])
    parts["hardware"][2] = row["reference_step_seconds"]
    row = {**row, "identity": json.dumps(parts, sort_keys=True)}
    row["trial_id"] = trial_id(row["identity"])
    evaluations = [{**each, "trial_id": row["trial_id"]} for each in recorded.evaluations]
    key = TrialKey(row["workload"], row["submission"], row["trial_id"])
    Records(folder).finish(key, row, evaluations)
    found = read(folder)
    assert contradictions(found.row, found.evaluations) == []
    return found


def verified(config: StudyConfig, recorded: Recorded, changes: tuple[str, ...] = ()) -> Verification:
    return verify(describe(config), recorded, changes, PlainConsole(io.StringIO()))


def test_an_honest_row_is_free_of_contradictions_and_comes_out_the_same_again(raced):
    config, recorded = raced
    count = len(recorded.evaluations)
    assert count > 2
    assert contradictions(recorded.row, recorded.evaluations) == []
    found = verified(config, recorded)
    assert found.holds, found
    assert found.said[0] == f"{count} of {count} evaluations are the same"


def divide(names: tuple[str, ...], by: float) -> Callable[[dict[str, Any], list[dict[str, Any]]], object]:
    def edit(row: dict[str, Any], evaluations: list[dict[str, Any]]) -> None:
        for each in (row, *evaluations):
            each.update({name: each[name] / by for name in names if each.get(name) is not None})

    return edit


EDITS = {
    "a time": divide(("charged_seconds",), 2.0),
    "a time of the row alone": lambda row, _: row.update(charged_seconds=0.5 * row["charged_seconds"]),
    "a metric": lambda _, evaluations: evaluations[1].update(validation=0.001),
    "the best metric": lambda row, _: row.update(best_validation=0.001),
    "a metric so that the target is reached": lambda row, evaluations: (
        evaluations[1].update(validation=-2.0),
        row.update(best_validation=-2.0),
    ),
    "a hyperparameter": lambda row, _: row.update(hyperparameters='{"learning_rate": 0.1}'),
    "the seed": lambda row, _: row.update(seed=row["seed"] + 1),
    "the submission": lambda row, _: row.update(submission_hash="0" * 64),
    "the status": lambda row, _: row.update(status="reached"),
    "the pace around it": lambda row, _: row.update(
        reference_step_seconds_after=0.5, reference_step_seconds_before=1.0
    ),
    "the machine": lambda row, _: row.update(hardware_fingerprint="0" * 12),
    "an evaluation away": lambda _, evaluations: evaluations.pop(1),
    "all evaluations away": lambda _, evaluations: evaluations.clear(),
    "hyperparameters that are no JSON": lambda row, _: row.update(hyperparameters="{", identity=None),
    "hyperparameters without names": lambda row, _: row.update(hyperparameters="[1]", identity=None),
    "a period of nothing": lambda row, _: row.update(eval_period=0.0),
    "metrics of another form": lambda _, evaluations: evaluations[1].update(other_metrics="[1]"),
    "a target that is none": lambda row, _: row.update(target_goal="best"),
}


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_an_edit_is_found_by_reading_even_of_a_row_that_never_had_a_checksum(raced, edit):
    found = edited(raced[1], edit)
    assert "the checksum is of other rows" in contradictions(found.row, found.evaluations)[0]
    found.row["checksum"] = None
    assert contradictions(found.row, found.evaluations) != []


def test_an_evaluation_that_ends_a_stage_waits_for_nothing_and_stages_end_one_by_one(raced):
    def early(row: dict[str, Any], evaluations: list[dict[str, Any]], left: list[int]) -> None:
        evaluations[1]["charged_seconds"] = evaluations[0]["charged_seconds"] + 1e-4
        row["checksum"] = None
        for each, number in zip(evaluations, [*left, *[0] * len(evaluations)], strict=False):
            each["stages_left"] = number

    def phrases(*left: int) -> str:
        found = edited(raced[1], lambda row, evaluations: early(row, evaluations, list(left)))
        return "; ".join(contradictions(found.row, found.evaluations))

    assert "came before it was due" in phrases(0, 0)
    assert "came before it was due" in phrases(1, 0)
    assert "came before it was due" not in phrases(1, 1)
    assert "one stage after the other" in phrases(0, 1)
    assert "one stage after the other" in phrases(2, 2)


@pytest.mark.parametrize("name", ["reason", "median_step_seconds", "peak_host_bytes", "versions", "started_at"])
def test_the_checksum_covers_what_nothing_else_can_be_told_from(raced, name):
    found = edited(raced[1], lambda row, _: row.update({name: None}))
    assert len(contradictions(found.row, found.evaluations)) == 1


def test_a_row_of_an_older_schema_has_neither_checksum_nor_identity_and_is_not_held_to_them(raced):
    found = edited(raced[1], lambda row, _: row.update(checksum=None, identity=None, workload_version=None))
    assert contradictions(found.row, found.evaluations) == []


SECONDS = (
    *("charged_seconds", "evaluation_seconds", "total_seconds", "cpu_seconds", "max_runtime", "eval_period"),
    "reference_step_seconds",
)


@pytest.mark.slow  # with two seconds of budget, so that it is found on a machine that is busy with other things, too
def test_times_that_are_edited_with_everything_that_hangs_on_them_are_found_by_running_again(tmp_path):
    config = without_target(study_config(tmp_path / "results", write_submission(tmp_path / "plain_sgd", TUNED)))
    config = dataclasses.replace(
        config, hardware=dataclasses.replace(config.hardware, seconds_per_step={"blobs": 0.005})
    )
    run(config)
    recorded = read(tmp_path / "results" / "runs")
    found = verified(config, forged(edited(recorded, divide(SECONDS, 10.0)), tmp_path / "forged"))
    assert len(found.faults) == 1
    assert "times the recorded" in found.faults[0]


def as_run_again(recorded: Recorded, *, slower: float, cpu_share: float) -> Rerun:
    """What running the trial again gives on a machine that is so much slower, with this share of its processors."""
    row, evaluations = recorded.row, copy.deepcopy(recorded.evaluations)
    for each in evaluations:
        each["charged_seconds"] *= slower
    seconds = slower * row["charged_seconds"]
    return Rerun(TrialStatus.OUT_OF_BUDGET, "", evaluations, seconds, cpu_share * seconds, row["max_runtime"])


def with_quiet_seconds(row: dict[str, Any], evaluations: list[dict[str, Any]]) -> None:
    """One second for each evaluation, in which the trial had its processors to itself."""
    for number, each in enumerate(evaluations):
        each["charged_seconds"] = number + 1.0
    row["charged_seconds"] = row["cpu_seconds"] = float(len(evaluations))


@pytest.mark.parametrize(
    ("slower", "cpu_share", "is_found"),
    [(1.0, 1.0, False), (1.4, 1.0, False), (1.6, 1.0, True), (0.6, 1.0, True), (4.0, 0.3, False), (10.0, 0.3, True)],
)
def test_a_time_is_held_to_the_seconds_that_the_trial_had_of_its_processors(raced, slower, cpu_share, is_found):
    config, recorded = raced
    then = edited(recorded, with_quiet_seconds)
    found, said = compare_times(describe(config), then, as_run_again(then, slower=slower, cpu_share=cpu_share))
    assert bool(found) == is_found
    assert f"{slower:.2f} times the recorded {len(then.evaluations)} s, 1.50 allowed" in said[0]


def test_where_the_noise_of_the_machine_was_measured_a_quiet_trial_is_held_to_it(raced, tmp_path):
    config, recorded = raced
    config = dataclasses.replace(config, results=tmp_path)
    then = edited(recorded, with_quiet_seconds)
    floor = NoiseFloor("blobs", "plain_sgd", 5, 1.0, 0.99, 1.01, 1.1, "2026-01-02")
    keep(tmp_path, then.row["hardware_fingerprint"], floor)
    study = describe(config)
    assert compare_times(study, then, as_run_again(then, slower=1.2, cpu_share=1.0))[0] != []
    assert compare_times(study, then, as_run_again(then, slower=1.05, cpu_share=1.0))[0] == []
    assert compare_times(study, then, as_run_again(then, slower=1.7, cpu_share=0.8))[0] == []


def test_metrics_that_are_edited_with_everything_that_hangs_on_them_are_found_by_running_again(raced, tmp_path):
    config, recorded = raced
    names = ("validation", "best_validation", "test", "test_at_best")
    found = verified(config, forged(edited(recorded, divide(names, 1.25)), tmp_path))
    assert found.faults[0].startswith("run again twice, validation of evaluation 0 (step ")


def test_a_hyperparameter_is_found_against_the_submission_and_where_it_was_given_by_running_again(raced, tmp_path):
    config, recorded = raced
    found = forged(edited(recorded, lambda row, _: row.update(hyperparameters='{"learning_rate": 0.01}')), tmp_path)
    (fault,) = verified(config, found).faults
    assert fault.startswith('hyperparameters are {"learning_rate": 0.01}, but the submission\'s point is')
    (fault,) = verified(dataclasses.replace(config, hp={"learning_rate": 0.01}), found).faults
    assert fault.startswith("run again twice, validation")


def test_a_row_of_another_machine_may_differ_by_the_noise_of_seeds_and_its_time_is_said_alone(raced):
    config, recorded = raced

    def elsewhere(row: dict[str, Any], evaluations: list[dict[str, Any]]) -> None:
        row["hardware_fingerprint"] = "0" * 12
        evaluations[0]["validation_loss"] *= 1.0001
        evaluations[-1]["charged_seconds"] *= 0.01

    found = verified(config, edited(recorded, elsewhere))
    assert found.holds, found
    count = len(recorded.evaluations)
    alike = f"{count - 1} of {count} evaluations are the same"
    assert found.said[:2] == [alike, "the others within the noise of 4 seeds"]
    assert "on another machine" in found.said[2]


@pytest.mark.slow
def test_a_row_of_another_machine_may_not_differ_by_more(raced):
    config, recorded = raced

    def elsewhere(row: dict[str, Any], evaluations: list[dict[str, Any]]) -> None:
        row["hardware_fingerprint"] = "0" * 12
        evaluations[0]["validation_loss"] *= 0.2

    (fault,) = verified(config, edited(recorded, elsewhere)).faults
    assert "4 seeds do not differ by so much" in fault


CHANCE = """
    import os
    import torch

    def train(trial, hp):
        torch.manual_seed(int.from_bytes(os.urandom(4), "big"))
        for batch in trial.batches():
            trial.loss(batch).backward()
            with torch.no_grad():
                for weights in trial.model.parameters():
                    weights -= 0.05 * (weights.grad + 0.02 * torch.randn_like(weights))
                    weights.grad = None
"""


@pytest.mark.slow
def test_a_submission_with_randomness_of_its_own_is_held_to_the_noise_it_has(tmp_path):
    config = study_config(tmp_path / "results", write_submission(tmp_path / "chance", CHANCE))
    run(config)
    found = verified(config, read(tmp_path / "results" / "runs"))
    assert found.holds, found
    assert "the others within the noise of 4 seeds" in found.said


def test_a_trial_that_ended_by_itself_is_run_again_to_its_end(tmp_path):
    source = TUNED.replace("in trial.batches()", "in __import__('itertools').islice(trial.batches(), 50)")
    config = without_target(study_config(tmp_path / "results", write_submission(tmp_path / "short", source)))
    run(config)
    recorded = read(tmp_path / "results" / "runs")
    assert recorded.row["status"] == "finished"
    found = verified(config, recorded)
    assert found.holds, found


def test_a_trial_that_crashed_before_any_evaluation_crashes_again(tmp_path):
    bad = write_submission(tmp_path / "bad", "def train(trial, hp):\n    raise ValueError('no such luck')\n")
    config = study_config(tmp_path / "results", bad)
    run(config)
    found = verified(config, read(tmp_path / "results" / "runs"))
    assert found.said == ["crashed again, before any evaluation"]


def test_what_is_no_longer_what_it_was_is_not_run_again_and_why_is_said(raced):
    config, recorded = raced
    other = dataclasses.replace(config, workload=dataclasses.replace(config.workload, version=2))
    assert verified(other, recorded).not_run == "blobs is no longer what it was"
    found = edited(recorded, lambda row, _: row.update(submission_hash="0" * 64, git_revision="abc"))
    assert verified(config, found).not_run == "plain_sgd is no longer what it was (git abc)"

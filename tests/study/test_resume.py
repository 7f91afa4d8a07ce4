"""A trial that was killed goes on from its checkpoint: same losses, same charge, and nothing used by half."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.resume import Setting, measure
from harness.api import visible
from harness.config import RehearsalConfig, StudyConfig, TrackingConfig
from harness.race.outcome import Observation
from harness.records.tables import TrialKey
from harness.records.weights import read_weights
from harness.study.identity import describe, trial_key
from harness.study.rows import evaluation_row, observation_of
from tests.conftest import interrupted
from tests.study.test_study import run, study_config, write_submission

# Keeps state in every place that a checkpoint must reach: optimizer, own counter, averaged weights swapped in for
# evaluations, batch norm, dropout, all random streams, batches of changing size, and what it logs.
STATEFUL = """
    import random
    import time

    import numpy
    import torch


    class Count:
        def __init__(self):
            self.value = 0

        def state_dict(self):
            return {"value": self.value}

        def load_state_dict(self, state):
            self.value = state["value"]


    def train(trial, hp):
        optimizer = torch.optim.SGD(trial.model.parameters(), lr=hp.learning_rate, momentum=0.9)
        average = torch.optim.swa_utils.AveragedModel(trial.model)
        count, away = Count(), []
        trial.resumable(optimizer=optimizer, count=count, average=average)

        @torch.no_grad()
        def swap_in():
            away[:] = [p.clone() for p in trial.model.parameters()]
            for p, mean in zip(trial.model.parameters(), average.module.parameters()):
                p.copy_(mean)
            trial.refresh_batch_norm(2)

        @torch.no_grad()
        def swap_out():
            for p, trained in zip(trial.model.parameters(), away):
                p.copy_(trained)

        trial.before_evaluation(swap_in)
        trial.after_evaluation(swap_out)
        while True:
            count.value += 1
            if count.value % 7 == 0:
                trial.set_dropout(0.5 * random.random())
            noise = numpy.random.rand() + float(torch.rand((), generator=trial.generator)) + float(torch.rand(()))
            loss = trial.loss(trial.next_batch(16 + count.value % 5)) * (0.5 + noise)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            average.update_parameters(trial.model)
            trial.log(train_loss=loss, count=count.value, seen=len(trial.evaluations))
            time.sleep(0.001)
            trial.end_step()
"""
SEEN = ["step", "examples", "validation", "validation_loss", "test", "train_loss", "reported"]


@pytest.fixture
def config(tmp_path: Path) -> Callable[..., StudyConfig]:
    """A study of one trial of 120 steps, evaluated every 10, with a checkpoint at every second evaluation."""

    def make(results: str, source: str = STATEFUL, **changes: Any) -> StudyConfig:
        submission = write_submission(tmp_path / "stateful", source)
        plain = study_config(tmp_path / results, submission)
        workload = dataclasses.replace(
            plain.workload,
            options={"dropout": 0.2, "batch_norm": True},
            target=dataclasses.replace(plain.workload.target, validation=-1.0),
            budget=dataclasses.replace(plain.workload.budget, steps=120),
            **{"checkpoint_evaluations": 2, **changes},
        )
        return dataclasses.replace(plain, workload=workload, evaluate_every_steps=10)

    return make


def tables(config: StudyConfig) -> tuple[pd.Series[Any], pd.DataFrame]:
    """The one trial row, and its evaluation rows."""
    runs = config.results / "runs"
    trials, evaluations = pd.read_parquet(runs / "trials"), pd.read_parquet(runs / "evaluations")
    assert len(trials) == 1
    return trials.iloc[0], evaluations.sort_values("evaluation")


def curve(config: StudyConfig) -> list[list[object]]:
    """What the evaluations saw, times aside."""
    return json.loads(tables(config)[1][SEEN].to_json(orient="values", double_precision=15))


def cut(config: StudyConfig, kind: str = "checkpoint", count: int = 1) -> None:
    """Run the study and interrupt it a little after so many lines of that kind more than there are in its journal."""
    journal = config.results / "runs" / "journal" / f"{trial_key(describe(config), 0).trial_id}.jsonl"

    def lines() -> int:
        return journal.read_text().count(f'"kind": "{kind}"') if journal.exists() else 0

    def watch(over: threading.Event) -> None:
        while lines() < before + count and not over.is_set():
            time.sleep(0.01)
        over.wait(0.03)

    before = lines()
    with pytest.raises(KeyboardInterrupt), interrupted(watch):
        run(config)


def checkpoint_file(config: StudyConfig) -> Path:
    """The one file that the trial would go on from."""
    (file,) = visible(config.results / "runs" / "checkpoints", "**/0.pt")
    return file


@pytest.mark.slow
def test_a_trial_that_was_cut_off_at_random_moments_ends_with_the_curve_of_one_that_was_not(config):
    whole, parts = config("whole"), config("parts")
    run(whole)
    chance = random.Random(1)
    cut(parts)
    for seconds in [chance.uniform(0.05, 0.5) for _ in range(5)]:
        with contextlib.suppress(KeyboardInterrupt), interrupted(lambda over, s=seconds: over.wait(s)):
            run(parts)
    run(parts)
    row = tables(parts)[0]
    assert row["resumes"] >= 1
    assert (row["status"], row["steps"]) == ("out_of_budget", 120)
    assert curve(parts) == curve(whole)
    assert tables(whole)[0]["resumes"] == 0


@pytest.mark.slow
def test_the_weights_that_are_kept_of_a_trial_that_goes_on_are_those_of_one_that_was_not_cut_off(config):
    whole, parts = (dataclasses.replace(config(name), keep_weights="best") for name in ("whole", "parts"))
    run(whole)
    cut(parts)
    run(parts)
    one, other = (read_weights(each.results / "runs", trial_key(describe(each), 0)) for each in (whole, parts))
    assert tables(parts)[0]["resumes"] == 1
    assert one is not None
    assert other is not None
    assert (one.evaluation, one.step) == (other.evaluation, other.step)
    assert all(torch.equal(one.state[name], tensor) for name, tensor in other.state.items())
    assert not visible(parts.results / "runs" / "checkpoints", "*")


def test_what_was_charged_before_the_checkpoint_is_charged_and_what_came_after_it_is_not(config):
    slow_start = STATEFUL.replace("count, away", "time.sleep(0.5)\n        count, away")
    whole, parts = config("whole", slow_start), config("parts", slow_start)
    run(whole)
    cut(parts)
    for _ in range(2):
        cut(parts, "evaluation")
    run(parts)
    row, of_whole = tables(parts)[0], tables(whole)[0]
    # Each start takes the half second again; it is paid once. Steps of 1 ms are as noisy as the machine.
    assert row["resumes"] == 3
    assert 0.5 + 120 * 0.001 < row["charged_seconds"] < of_whole["charged_seconds"] + 1.0
    assert row["total_seconds"] > row["charged_seconds"] + row["evaluation_seconds"]
    seconds = tables(parts)[1]["charged_seconds"]
    assert seconds.is_monotonic_increasing
    assert seconds.iloc[-1] == row["charged_seconds"]


REHEARSED = STATEFUL.replace("count, away", "time.sleep(0.4)\n        count, away")


def test_a_trial_that_goes_on_rehearses_again_and_its_row_has_the_seconds_of_both_rehearsals(config):
    def with_rehearsal(results: str) -> StudyConfig:
        made = config(results, REHEARSED)
        ruleset = dataclasses.replace(made.ruleset, rehearsal=RehearsalConfig(60.0, 2))
        return dataclasses.replace(made, ruleset=ruleset)

    plain, whole, parts = config("plain", REHEARSED), with_rehearsal("whole"), with_rehearsal("parts")
    run(plain)
    run(whole)
    cut(parts)
    run(parts)
    row, of_whole = tables(parts)[0], tables(whole)[0]
    assert (row["status"], row["resumes"]) == ("out_of_budget", 1)
    assert curve(parts) == curve(whole) == curve(plain)
    assert pd.isna(tables(plain)[0]["rehearsal_seconds"])
    # Each takes the four tenths of a second of its start.
    assert of_whole["rehearsal_seconds"] > 0.4
    assert row["rehearsal_seconds"] > 2 * 0.4
    assert row["total_seconds"] > row["charged_seconds"] + row["evaluation_seconds"] + row["rehearsal_seconds"]
    assert visible(parts.results / "runs" / "scratch", "*") == []


def test_evaluations_after_the_checkpoint_are_dropped(config):
    parts = config("parts", checkpoint_evaluations=5)
    cut(parts)
    run(parts)
    assert tables(parts)[1]["step"].tolist() == list(range(10, 121, 10))


def test_a_trial_by_the_clock_goes_on_with_the_moments_of_its_evaluations(config):
    parts = dataclasses.replace(config("parts"), evaluate_every_steps=None)
    cut(parts)
    run(parts)
    row, evaluations = tables(parts)
    assert row["status"] == "out_of_budget"
    assert row["resumes"] == 1
    periods = (evaluations["charged_seconds"] / row["eval_period"] + 0.001).astype(int)
    assert periods.iloc[0] >= 1
    assert (periods.iloc[:-1].diff().dropna() >= 1).all()  # the last one comes within the last period
    assert row["charged_seconds"] == pytest.approx(row["max_runtime"], abs=0.1)


def test_nothing_is_left_of_a_trial_that_is_over(config):
    parts = config("parts")
    cut(parts)
    run(parts)
    left = [
        path for name in ("checkpoints", "scratch", "journal") for path in visible(parts.results / "runs" / name, "*")
    ]
    assert left == []


def test_a_workload_without_a_period_starts_again(config):
    parts = config("parts", checkpoint_evaluations=None)
    cut(parts, "evaluation", 3)
    assert "goes on" not in run(parts)
    assert tables(parts)[0]["resumes"] == 0


def test_a_submission_that_names_no_state_has_no_checkpoints(config):
    parts = config("parts", STATEFUL.replace("trial.resumable", "dict"))
    cut(parts, "evaluation", 3)
    assert "goes on" not in run(parts)
    assert tables(parts)[0]["resumes"] == 0


@pytest.mark.parametrize("damage", ["altered", "gone"])
def test_a_damaged_checkpoint_is_not_used(config, damage):
    parts = config("parts")
    cut(parts)
    file = checkpoint_file(parts)
    content = file.read_bytes()
    file.unlink()
    if damage != "gone":
        file.write_bytes(content[:-9] + b"\0" + content[-8:])
    assert "goes on" not in run(parts)
    assert tables(parts)[0]["resumes"] == 0


def test_a_checkpoint_without_its_line_in_the_journal_is_not_used(config):
    parts = config("parts")
    cut(parts)
    journal = visible(parts.results / "runs" / "journal", "*")[0]
    journal.write_text("".join(line for line in journal.read_text().splitlines(True) if '"checkpoint"' not in line))
    assert "goes on" not in run(parts)
    assert tables(parts)[0]["resumes"] == 0


def test_a_checkpoint_of_another_budget_is_not_used(config):
    parts = config("parts")
    cut(parts)
    slower = dataclasses.replace(parts.hardware, seconds_per_step={"blobs": 0.003})
    assert "goes on" not in run(dataclasses.replace(parts, hardware=slower))


def test_a_line_that_a_kill_cut_short_does_not_spoil_the_next_one(config):
    parts = config("parts")
    cut(parts)
    with visible(parts.results / "runs" / "journal", "*")[0].open("a", encoding="utf-8") as journal:
        journal.write('{"kind": "evalua')
    cut(parts, "evaluation")
    assert "goes on" in run(parts)
    assert tables(parts)[0]["resumes"] == 2


def late(when: str) -> str:
    """STATEFUL with one object more that is named at step 15, `when` being `==` or `>=`."""
    named = f"""
            if trial.step {when} 15 and "more" not in locals():
                more = Count()
                trial.resumable(more=more)
    """
    return STATEFUL.replace("        while True:\n", f"        while True:{named}\n")


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (STATEFUL.replace('self.value = state["value"]', 'raise KeyError("gone")'), "cannot load its state (KeyError"),
        (STATEFUL.replace("count=count,", '**{f"count{time.time()}": count},'), "was not named when the checkpoint"),
        (STATEFUL.replace("average=", "size=torch.nn.Linear(1, time.time_ns() % 997 + 1), average="), "size mismatch"),
        (late("=="), "does not name more as resumable any more"),
    ],
)
def test_a_submission_that_cannot_take_its_state_back_starts_again_and_the_reason_is_said(config, source, words):
    parts = config("parts", source)
    cut(parts)
    assert words in run(parts)
    row = tables(parts)[0]
    assert (row["status"], row["resumes"]) == ("out_of_budget", 0)


# An optimizer with state in a dtype of its own, which torch's load_state_dict casts to that of the parameter.
OWN_DTYPE = STATEFUL.replace(
    "    class Count:",
    """
    class Rounded(torch.optim.SGD):
        def step(self):
            super().step()
            for p in self.param_groups[0]["params"]:
                self.state[p]["sign"] = p.grad.to(torch.DTYPE)

    class Count:""",
).replace("optimizer = torch.optim.SGD", "optimizer = Rounded")


@pytest.mark.parametrize("dtype", ["bfloat16", "float64", "bool"])
def test_state_that_loading_casts_is_not_gone_on_with(config, dtype):
    parts = config("parts", OWN_DTYPE.replace("DTYPE", dtype))
    cut(parts)
    said = run(parts)
    assert "cannot go on from its checkpoint at step 20 and starts again at the beginning" in said
    assert "resumable(optimizer=...) has another state than was saved" in said
    assert f"is float32 [8] and was {dtype} [8]" in " ".join(said.split())
    row = tables(parts)[0]
    assert (row["status"], row["resumes"]) == ("out_of_budget", 0)


def test_a_load_state_dict_that_leaves_something_out_is_not_gone_on_with(config):
    parts = config("parts", STATEFUL.replace('self.value = state["value"]', "pass"))
    cut(parts)
    assert "resumable(count=...) has another state than was saved: state['value'] is 1 and was 20" in run(parts)


def test_a_load_state_dict_may_take_the_state_apart(config):
    parts = config("parts", STATEFUL.replace('state["value"]', 'state.pop("value")'))
    cut(parts)
    run(parts)
    assert tables(parts)[0]["resumes"] == 1


def test_what_is_named_late_may_be_named_later_still(config):
    parts = config("parts", late(">="))
    cut(parts)
    run(parts)
    assert tables(parts)[0]["resumes"] == 1


def fails_when_continued(way: str) -> str:
    """STATEFUL, failing wherever a checkpoint is handed to it; what starts at the beginning runs."""
    failure = f"""
        if trial._pace._is_behind:
            {way}
    """
    return STATEFUL.replace("        while True:\n", f"{failure}\n        while True:\n")


@pytest.mark.parametrize(
    ("way", "words"),
    [
        ("raise ValueError('[/x] state [lr]')", "ValueError: [/x] state [lr]"),
        ("trial.finish()", "finished within its first step"),
        ("import os; os._exit(3)", "exited with code 3"),
        pytest.param("time.sleep(1000)", "did not stand at step 20 again after 1", marks=pytest.mark.slow),
    ],
)
def test_a_submission_that_fails_before_it_has_caught_up_starts_again(config, way, words):
    parts = config("parts", fails_when_continued(way))
    cut(parts)
    assert words in run(parts)
    row = tables(parts)[0]
    assert (row["status"], row["resumes"]) == ("out_of_budget", 0)


@pytest.mark.parametrize(
    ("way", "words"),
    [
        ('return {"value": lambda: self.value}', "lambda"),
        ('raise ValueError(f"no state at {self.value}")', "ValueError: no state at 20 (submission.py:"),
    ],
)
def test_a_state_that_cannot_be_taken_or_written_costs_the_checkpoint_and_not_the_trial(config, way, words):
    parts = config("parts", STATEFUL.replace('return {"value": self.value}', way))
    run(parts)
    row = tables(parts)[0]
    assert (row["status"], row["steps"]) == ("out_of_budget", 120)
    log = (parts.results / "runs" / "logs" / f"{row['trial_id']}.txt").read_text().splitlines()
    assert len(log) == 5  # one line for each checkpoint that would be due
    assert all("no checkpoint here" in line for line in log)
    assert words in log[0]


def test_a_trainer_that_is_killed_is_a_crash_and_goes_nowhere(config):
    kill = "if trial.step == 50: import os; os.kill(os.getpid(), 9)\n            trial.end_step()"
    parts = config("parts", STATEFUL.replace("trial.end_step()", kill))
    run(parts)
    row = tables(parts)[0]
    assert (row["status"], row["resumes"]) == ("crashed", 0)
    assert "SIGKILL" in row["reason"]
    assert run(parts) == ""


def test_a_trial_on_two_devices_goes_on_with_the_state_of_each(config):
    whole, parts = (
        dataclasses.replace(made, hardware=dataclasses.replace(made.hardware, devices=2))
        for made in (config(name, STATEFUL.replace("16 + count.value % 5", "16")) for name in ("whole", "parts"))
    )
    run(whole)
    cut(parts)
    run(parts)
    assert tables(parts)[0]["resumes"] == 1
    assert curve(parts) == curve(whole)


def test_wandb_gets_the_whole_curve_of_a_trial_that_went_on(config):
    parts = dataclasses.replace(config("parts"), tracking=TrackingConfig("offline", "timetrial"))
    cut(parts)
    assert "W&B" not in run(parts)
    assert tables(parts)[0]["resumes"] == 1
    assert len(visible(parts.results / "wandb", "offline-run-*")) >= 2


def logged(results: Path) -> int:
    """How often the last W&B run below `results` speaks of a validation loss, once it is written to its end."""
    deadline = time.monotonic() + 20.0  # W&B writes in a process of its own
    while True:
        files = visible(results / "wandb", "offline-run-*/*.wandb")
        content = max((path.read_bytes() for path in files), key=len)
        if b"out_of_budget" in content or time.monotonic() > deadline:
            return content.count(b"by_step/validation_loss")
        time.sleep(0.1)


def test_wandb_gets_one_curve_of_a_trial_that_had_to_start_again(config):
    tracking = TrackingConfig("offline", "timetrial")
    whole, parts = (dataclasses.replace(config(name, late("==")), tracking=tracking) for name in ("whole", "parts"))
    run(whole)
    cut(parts)
    assert "starts again at the beginning" in run(parts)
    assert logged(parts.results) == logged(whole.results) > 0


@pytest.mark.slow
def test_killing_referee_and_trainer_at_random_moments_changes_no_loss_and_no_charge(tmp_path):
    # Six kills of a shorter trial than by make resume-check; its 1 % is more than a busy machine can show in a test.
    setting = Setting("digits_mlp", "schedule_free_adamw", steps=180, pace=0.05, kills=6, seed=1)
    found = measure(setting, tmp_path)
    assert found.different == []
    assert found.ratio == pytest.approx(1.0, abs=0.1)


NUMBERS = st.floats(allow_nan=False, width=64)
REPORTED = st.floats(width=64)


@given(
    validation=st.fixed_dictionaries({"error": NUMBERS, "loss": NUMBERS}, optional={"validation_gap": NUMBERS}),
    test=st.none() | st.fixed_dictionaries({"error": NUMBERS, "loss": NUMBERS}, optional={"test": NUMBERS}),
    reported=st.dictionaries(st.text() | st.just("train_loss"), REPORTED, max_size=3),
    seconds=NUMBERS,
    stages_left=st.integers(0, 9),
)
def test_an_evaluation_is_read_back_from_its_row_as_it_was(validation, test, reported, seconds, stages_left):
    seen = Observation(3, 96, seconds, validation, test, reported, stages_left=stages_left)
    row = json.loads(json.dumps(evaluation_row(TrialKey("w", "s", "t"), 0, seen, "error")))
    again = observation_of(row, "error")
    # As text, in which one NaN is like another.
    assert [(name, repr(value)) for name, value in again.reported.items()] == [
        (name, repr(value)) for name, value in reported.items()
    ]
    assert dataclasses.replace(again, reported=reported) == seen
    assert all(type(value) is not float or math.isfinite(value) for value in _strictly_read(row["reported"]).values())


def _strictly_read(text):
    """The object in a text of JSON, read as parsers do that know no NaN."""

    def refuse(name):
        raise AssertionError(f"{name} is no JSON")

    return json.loads(text, parse_constant=refuse)

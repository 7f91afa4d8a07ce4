"""Where the time of a step goes: whose part each second is, and what a submission keeps and never reads."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
import torch

from harness.api import DataError
from harness.command_line import PlainConsole
from harness.commands.authors.profile import measure
from harness.plugins.profile.stopwatch import Stopwatch, backward_counted
from harness.plugins.profile.timed import state_bytes
from harness.records.step_profiles import keep, read_profiles
from harness.study.identity import describe
from tests.study.test_study import study_config, write_submission

CPU = torch.device("cpu")


class Hours:
    """A clock that moves when it is told to."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def test_a_part_inside_another_is_no_part_of_that_one():
    clock = Hours()
    watch = Stopwatch(CPU, clock)
    with watch.part("outer"):
        clock.now += 1.0
        with watch.part("inner"):
            clock.now += 10.0
        clock.now += 100.0
    clock.now += 1000.0
    with watch.part("inner"):
        clock.now += 10000.0
    assert watch.seconds == {"outer": 101.0, "inner": 10010.0}


def test_a_part_that_raises_ends_there():
    clock = Hours()
    watch = Stopwatch(CPU, clock)
    with contextlib.suppress(ValueError), watch.part("outer"):
        clock.now += 1.0
        raise ValueError
    clock.now += 10.0
    assert watch.seconds == {"outer": 1.0}


def test_every_road_to_a_gradient_is_a_backward_pass():
    weight = torch.ones(2, requires_grad=True)
    roads = [
        lambda: (weight**2).sum().backward(),
        lambda: torch.autograd.grad((weight**2).sum(), weight),
        lambda: torch.func.grad(lambda w: (w**2).sum())(weight.detach()),
    ]
    for road in roads:
        watch = Stopwatch(CPU)
        with backward_counted(watch):
            road()
        assert list(watch.seconds) == ["backward"]
    watch = Stopwatch(CPU)
    with backward_counted(watch):
        pass
    roads[0]()
    assert not watch.seconds


def test_state_is_counted_once_and_without_the_network():
    model = torch.nn.Linear(4, 2)  # 10 numbers of 4 bytes
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(torch.ones(1, 4)).sum().backward()
    optimizer.step()
    assert state_bytes({"optimizer": optimizer}, model) == 40
    assert state_bytes({"optimizer": optimizer, "again": optimizer, "model": model}, model) == 40


SLOW_UPDATE = """
    import time

    import torch


    def train(trial, hp):
        optimizer = torch.optim.SGD(trial.model.parameters(), lr=hp.learning_rate, momentum=0.9)
        trial.resumable(optimizer=optimizer)
        for batch in trial.batches():
            trial.loss(batch).backward()
            time.sleep(0.004)
            optimizer.step()
"""
SETTINGS = {"hyperparameters": "{learning_rate: 0.1, idle: 1.0}"}


def profile_of(folder: Path, source: str, *, steps: int = 20):
    study = describe(study_config(folder, write_submission(folder / "slow", source, **SETTINGS)))
    return study, measure(study, PlainConsole(), steps=steps)


def test_what_a_submission_does_between_its_passes_is_the_rest(tmp_path):
    study, found = profile_of(tmp_path, SLOW_UPDATE)
    assert (found.steps, found.submission_hash) == (20, study.submission.content_hash)
    assert found.rest_seconds >= 0.004
    for part in (found.waiting_seconds, found.forward_seconds, found.backward_seconds, found.harness_seconds):
        assert part > 0.0
    assert found.unread == ["idle"]
    assert found.parameters == 18
    assert found.state_bytes == 4 * 18


def test_what_was_found_is_kept_beside_the_rows_and_read_again(tmp_path):
    _, found = profile_of(tmp_path, SLOW_UPDATE)
    keep(tmp_path / "runs", found)
    keep(tmp_path / "runs", found)
    (row,) = read_profiles(tmp_path / "runs").to_dict("records")
    assert row["unread"] == ["idle"]
    assert row["rest_seconds"] == found.rest_seconds
    assert read_profiles(tmp_path).empty
    path = next((tmp_path / "runs" / "profiles").rglob("*.json"))
    path.write_text("{", encoding="utf-8")
    with pytest.raises(DataError, match="make profile measures again"):
        read_profiles(tmp_path / "runs")


def test_without_a_word_about_what_is_resumable_the_state_is_not_known(tmp_path):
    _, found = profile_of(tmp_path, SLOW_UPDATE.replace("trial.resumable(optimizer=optimizer)", "pass"))
    assert found.state_bytes is None

"""Whose seconds per step a budget is made of, and what is taken from a machine that is busy with other things."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import multiprocessing
import os
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

from harness.api import SPLITS, ConfigError, DataError
from harness.commands import bench, calibrate
from harness.config import CONF, HardwareConfig, ReferenceConfig, RulesetConfig, load, names_in
from harness.plugins.submission import load_submission
from harness.race.outcome import Observation
from harness.race.processes import malloc_of_trainers
from harness.study.budget import reference_step_seconds, seconds_per_step, subject_of
from harness.study.identity import describe, trial_key
from harness.study.machine.calibration import (
    Calibration,
    Measurement,
    Reading,
    Subject,
    Window,
    read_windows,
    step_seconds,
    windows_of,
)
from harness.study.machine.hardware import Machine, this_machine
from tests.conftest import SGD
from tests.streams import BlobStream
from tests.study.test_study import run, study_config, write_submission

HERE = HardwareConfig("local", "cpu", 1, 2.0, {})
SUBJECT = Subject("digits_mlp", "version one", "adamw", "its files")


@pytest.fixture
def machine() -> Machine:
    return this_machine("local", "cpu", 1, None)


def measured(seconds: float, *, subject: Subject = SUBJECT, is_quiet: bool = True) -> Measurement:
    return Measurement(subject, Reading(seconds, 1.0 if is_quiet else 0.5, is_quiet), "2026-01-01T00:00:00+00:00")


def window(seconds: float, share: float) -> Window:
    return Window(steps=1000, seconds=seconds, cpu_seconds=share * seconds)


def burn() -> None:
    while True:
        pass


@contextlib.contextmanager
def busy_machine() -> Iterator[None]:
    """Two other programs on every core."""
    processes = [multiprocessing.Process(target=burn, daemon=True) for _ in range(2 * (os.cpu_count() or 1))]
    for process in processes:
        process.start()
    try:
        yield
    finally:
        for process in processes:
            process.kill()


# --- windows ---


def test_seconds_per_step_are_a_median_that_leaves_out_the_first_window():
    points = [(10, 5.0), (20, 6.0), (30, 7.0), (40, 17.0), (50, 18.0)]
    assert step_seconds(points) == pytest.approx(0.1)
    with pytest.raises(DataError, match="very busy"):
        step_seconds(points[:2])


def test_what_lies_before_the_first_evaluation_is_in_no_window():
    def seen(step: int, seconds: float, cpu_seconds: float | None) -> Observation:
        return Observation(step, step, seconds, {}, None, {}, cpu_seconds)

    assert windows_of([seen(10, 5.0, 4.0), seen(30, 6.0, 4.5), seen(30, 7.0, 5.5), seen(40, 8.0, None)]) == [
        Window(20, 1.0, 0.5),
        Window(10, 1.0, None),
    ]


def test_windows_in_which_the_trainer_had_a_core_to_itself_are_read_and_others_are_not():
    found = read_windows([window(1.0, 0.5), window(0.3, 0.99), window(0.2, 1.0), window(0.4, 0.97)], cores=2)
    assert found == Reading(pytest.approx(0.3e-3), pytest.approx(0.99), is_quiet=True)


def test_of_a_busy_machine_the_least_busy_windows_are_read_and_it_is_said():
    found = read_windows([window(1.0, 0.3), window(0.6, 0.6), window(0.7, 0.5), window(0.4, 0.99)], cores=2)
    assert found == Reading(pytest.approx(0.6e-3), pytest.approx(0.6), is_quiet=False)


def test_half_a_core_is_a_whole_share_where_a_quota_allows_no_more():
    windows = [window(1.0, 0.49), window(1.1, 0.5), window(1.2, 0.5)]
    assert read_windows(windows, cores=0.5).is_quiet
    assert not read_windows(windows, cores=1).is_quiet


def test_where_processor_time_is_not_known_every_window_counts():
    assert read_windows([Window(10, 1.0, None), Window(10, 3.0, None)], cores=8) == Reading(0.2, 1.0, is_quiet=True)


# --- what is kept ---


@pytest.mark.parametrize("other", [
    {"workload": "kjv_char_lm"}, {"workload_hash": "version two"}, {"reference": "muon"}, {"reference_hash": "edited"},
])  # fmt: skip
def test_a_measurement_holds_for_one_form_of_a_workload_and_of_a_reference(tmp_path, machine, other):
    calibration = Calibration(tmp_path, machine)
    calibration.keep(measured(0.25))
    assert calibration.find(SUBJECT) == measured(0.25)
    assert calibration.find(dataclasses.replace(SUBJECT, **other)) is None


def test_a_measurement_takes_the_place_of_that_of_the_same_names_alone(tmp_path, machine):
    calibration = Calibration(tmp_path, machine)
    of_muon = dataclasses.replace(SUBJECT, reference="muon")
    edited = dataclasses.replace(SUBJECT, reference_hash="edited")
    for each in (measured(0.25), measured(0.5, subject=of_muon), measured(0.125, subject=edited)):
        calibration.keep(each)
    assert calibration.find(SUBJECT) is None
    assert calibration.find(edited) == measured(0.125, subject=edited)
    assert calibration.find(of_muon) == measured(0.5, subject=of_muon)


def test_a_damaged_calibration_says_what_mends_it(tmp_path, machine):
    calibration = Calibration(tmp_path, machine)
    for damaged in ("{", "[]", '{"measurements": [{"subject": {}}]}'):
        calibration.path.write_text(damaged)
        with pytest.raises(DataError, match="make calibrate"):
            calibration.find(SUBJECT)


def test_what_does_not_say_whose_steps_it_is_of_is_measured_again(tmp_path, machine):
    calibration = Calibration(tmp_path, machine)
    entry = {"workload_hash": SUBJECT.workload_hash, "seconds_per_step": 0.25}
    calibration.path.write_text(json.dumps({"machine": "", "versions": {}, "workloads": {"digits_mlp": entry}}))
    assert calibration.find(SUBJECT) is None


# --- whose seconds ---


def test_another_reference_has_seconds_of_its_own_and_leaves_those_of_the_first(tmp_path):
    submission = write_submission(tmp_path / "plain_sgd", SGD)
    plain = study_config(tmp_path / "results", submission, hardware=HERE)
    by_muon = dataclasses.replace(plain, ruleset=RulesetConfig("mine", 1, 1, 1, "defaults", 1.0, "muon"))
    for config, seconds in ((by_muon, 0.5), (plain, 0.0025)):
        study = describe(config)
        calibration = Calibration(tmp_path / "results" / "calibration", study.machine)
        calibration.keep(measured(seconds, subject=subject_of(config.workload, study.reference)))
    said = io.StringIO()
    assert seconds_per_step(describe(by_muon), Console(file=said)) == 0.5
    assert seconds_per_step(describe(plain), Console(file=said)) == 0.0025
    assert said.getvalue() == ""
    run(plain)
    row = pd.read_parquet(tmp_path / "results" / "runs" / "trials").iloc[0]
    assert (row["reference"], row["reference_step_seconds"]) == ("adamw", pytest.approx(0.0025))
    assert row["max_runtime"] == pytest.approx(400 * 0.0025)


def frozen(**changes) -> HardwareConfig:
    adamw = load_submission("adamw")
    reference = ReferenceConfig(adamw.name, adamw.content_hash)
    config = HardwareConfig(
        "box",
        "cpu",
        1,
        2.0,
        {"blobs": 0.25},
        machine={"malloc": malloc_of_trainers()},
        reference=reference,
        workload_versions={"blobs": 1},
    )
    return dataclasses.replace(config, **changes)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"reference": ReferenceConfig("muon", "0" * 64)}, "of muon instead of adamw"),
        ({"reference": ReferenceConfig("adamw", "0" * 64)}, "of adamw as it was (000000000000 instead of "),
        ({"workload_versions": {"blobs": 2}}, "no seconds per step of blobs version 1 are frozen"),
    ],
)
def test_frozen_seconds_of_another_reference_or_version_are_not_raced_on(tmp_path, changes, complaint):
    submission = write_submission(tmp_path / "plain_sgd", SGD)
    sound = describe(study_config(tmp_path, submission, hardware=frozen()))
    assert (sound.frozen_seconds, sound.unofficial) == (0.25, [])
    other = describe(study_config(tmp_path, submission, hardware=frozen(**changes)))
    assert other.frozen_seconds is None
    assert complaint in other.unofficial[0]
    assert trial_key(other, 0) != trial_key(sound, 0)


# A file without frozen seconds measures on first use, as `local` does.
FROZEN = [name for name in names_in("hardware") if load("hardware", name, HardwareConfig).seconds_per_step]


@pytest.mark.parametrize("name", FROZEN)
def test_the_frozen_seconds_of_this_project_are_of_the_reference_and_the_workloads_as_they_are(name):
    config = load("hardware", name, HardwareConfig)
    adamw = load_submission("adamw")
    assert config.reference == ReferenceConfig("adamw", adamw.content_hash), (
        "its steps may take other seconds now: measure again on that machine, or, where they cannot, write this hash"
    )
    assert set(config.workload_versions) == set(config.seconds_per_step)


def test_the_pace_on_a_stream_is_measured_through_all_of_its_stages(tmp_path):
    config = study_config(tmp_path, write_submission(tmp_path / "plain_sgd", SGD))
    data = {split: BlobStream().load(split, Path()).digest() for split in SPLITS}
    workload = dataclasses.replace(config.workload, entry="tests.streams.BlobStream", data=data)
    study = describe(dataclasses.replace(config, workload=workload))
    assert 1e-5 < reference_step_seconds(study, seconds=1.0) < 0.1


# --- a busy machine ---


@pytest.mark.slow
def test_a_busy_machine_is_said_measured_again_by_the_next_bench_and_nothing_of_it_is_frozen(tmp_path, capfd):
    arguments = ["workload=digits_mlp", f"results={tmp_path}", "tracking=off"]
    name = tmp_path.name
    with busy_machine(), pytest.raises(DataError, match=r"digits_mlp: not frozen .* the machine was busy"):
        calibrate.main([*arguments, f"freeze={name}"])
    assert not (CONF / "hardware" / f"{name}.yaml").exists()
    assert "the machine is busy: its trainer had" in capfd.readouterr().out
    study = describe(bench.studies_of(bench.parse([*arguments, "submission=adamw"]))[0])
    calibration = Calibration(tmp_path / "calibration", study.machine)
    kept = calibration.find(subject_of(study.config.workload, study.reference))
    assert kept is not None
    assert not kept.reading.is_quiet
    assert kept.reading.cpu_share < 0.9
    said = io.StringIO()
    assert seconds_per_step(study, Console(file=said)) == kept.reading.seconds_per_step
    assert said.getvalue() == "", "one study must not have another budget than the next"
    seconds_per_step(study, Console(file=said), unless_quiet=True)
    assert "measuring" in said.getvalue()


def test_freezing_into_a_file_of_another_reference_is_refused(tmp_path):
    path = CONF / "hardware" / f"{tmp_path.name}.yaml"
    study = describe(study_config(tmp_path, write_submission(tmp_path / "plain_sgd", SGD)))
    content = dataclasses.asdict(frozen(name=tmp_path.name, machine=study.machine.properties))
    content["reference"]["content"] = "0" * 64
    path.write_text(json.dumps(content))
    try:
        with pytest.raises(ConfigError, match=r"of adamw \(000000000000\), not of adamw as it is"):
            calibrate.main(["workload=digits_mlp", f"results={tmp_path}", f"freeze={tmp_path.name}"])
    finally:
        path.unlink()


def test_a_reference_that_is_not_there_is_one_error(tmp_path: Path):
    config = study_config(tmp_path, write_submission(tmp_path / "plain_sgd", SGD))
    ruleset = dataclasses.replace(config.ruleset, reference="adamq")
    with pytest.raises(ConfigError, match="there is no submission 'adamq'"):
        describe(dataclasses.replace(config, ruleset=ruleset))

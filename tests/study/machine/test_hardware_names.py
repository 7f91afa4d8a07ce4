"""Named hardware: budgets frozen by name, and rows of another machine, which are unofficial."""

from __future__ import annotations

import dataclasses
import re

import pandas as pd
import pytest
from rich.console import Console

from harness.api import ConfigError
from harness.commands import bench, calibrate
from harness.commands.leaderboard import Choice, show
from harness.config import CONF, HardwareConfig, ReferenceConfig, load
from harness.plugins.submission import load_submission
from harness.study.identity import Study, describe, trial_key
from harness.study.launch import warn_unofficial
from harness.study.machine.hardware import departures
from tests.commands.test_bench import FAST
from tests.conftest import SGD
from tests.scoring.scoring_tables import trial_rows, write
from tests.study.test_study import run, study_config, write_submission


def named(properties, **changes):
    adamw = load_submission("adamw")
    hardware = HardwareConfig(
        "box", "cpu", 1, 2.0, {"blobs": 0.0025}, machine=properties,
        reference=ReferenceConfig(adamw.name, adamw.content_hash), workload_versions={"blobs": 1},
    )  # fmt: skip
    return dataclasses.replace(hardware, **changes)


def study_on(tmp_path, hardware):
    submission = tmp_path / "plain_sgd"
    return study_config(
        tmp_path, submission if submission.exists() else write_submission(submission, SGD), hardware=hardware
    )


def test_rows_of_the_named_machine_are_official_and_those_of_another_are_not(tmp_path):
    here = describe(study_on(tmp_path, named({}))).machine.properties
    run(study_on(tmp_path, named(here)))
    run(study_on(tmp_path, named({**here, "cores": 4096})))
    rows = pd.read_parquet(tmp_path / "runs" / "trials").sort_values("started_at")
    assert rows["unofficial"].tolist() == [False, True]
    assert rows["hardware_fingerprint"].nunique() == 1


def test_a_budget_that_was_measured_and_not_frozen_is_unofficial(tmp_path):
    here = describe(study_on(tmp_path, named({}))).machine.properties
    study = describe(study_on(tmp_path, named(here, seconds_per_step={})))
    assert study.unofficial == ["no seconds per step of blobs version 1 are frozen"]


def test_a_machine_without_properties_is_any_machine(tmp_path):
    assert describe(study_on(tmp_path, named(None, seconds_per_step={}))).unofficial == []


def test_a_value_frozen_later_makes_another_trial(tmp_path):
    keys = {
        trial_key(describe(study_on(tmp_path, named(None, seconds_per_step=frozen))), 0).trial_id
        for frozen in ({}, {"blobs": 0.1}, {"blobs": 0.2})
    }
    assert len(keys) == 3


def test_every_difference_is_named(tmp_path):
    machine = describe(study_on(tmp_path, named({}))).machine
    wanted = {**machine.properties, "cores": -1, "malloc": "of its own"}
    assert departures(machine, wanted) == [
        f"malloc is {machine.properties['malloc']!r} instead of 'of its own'",
        f"cores is {machine.properties['cores']} instead of -1",
    ]


def test_a_file_from_before_huge_pages_means_a_machine_without(tmp_path):
    machine = describe(study_on(tmp_path, named({}))).machine
    for malloc, departed in (("as it comes", []), ("huge pages", ["malloc is 'huge pages' instead of 'as it comes'"])):
        other = dataclasses.replace(machine, properties={**machine.properties, "malloc": malloc})
        assert departures(other, {"cores": machine.properties["cores"]}) == departed


def test_unofficial_rows_are_never_ranked_with_official_ones(tmp_path):
    rows = [trial_rows("digits", "a", 10.0), trial_rows("digits", "b", 5.0, unofficial=True, trial_id="u")]
    write(tmp_path / "runs", rows)
    console = Console(width=140, record=True, quiet=True)
    show(Choice(results=str(tmp_path), submission="b"), console)
    page = (tmp_path / "board" / "leaderboard.md").read_text()
    assert "unofficial" in page.splitlines()[2]
    show(Choice(results=str(tmp_path)), console)
    page = (tmp_path / "board" / "leaderboard.md").read_text()
    assert ("| a |" in page) != ("| b |" in page)


def test_a_run_on_another_machine_is_warned_of_before_it_starts(tmp_path, capfd):
    arguments = [
        "workload=digits_mlp",
        "submission=adamw",
        f"results={tmp_path}",
        "+hardware.machine.cores=4096",
        *FAST,
    ]
    assert bench.main(arguments) == 0
    said = " ".join(capfd.readouterr().out.split())
    assert re.search(r"rows will be unofficial, as this is not local: .*cores is \d+ instead of 4096", said)


def test_the_warning_is_one_line_however_many_workloads_have_no_frozen_budget(capfd):
    machine = ["malloc is 'huge pages' instead of 'as it comes'", "cpu is 'AMD EPYC' instead of 'Xeon'"]
    studies = [[*machine, f"no seconds per step of w{number} version 1 are frozen"] for number in range(9)]
    console = Console(width=80)
    warn_unofficial([reason for reasons in studies for reason in reasons], "xeon", console)
    assert capfd.readouterr().out == (
        f"rows will be unofficial, as this is not xeon: {'; '.join(machine)}; no seconds per step of w0 version 1 are "
        "frozen; no seconds per step of w1 version 1 are frozen; and 7 more\n"
    )


def test_calibrate_freezes_what_it_measured_and_never_changes_it(tmp_path, capfd):
    path = CONF / "hardware" / f"{tmp_path.name}.yaml"
    choice = ["workload=digits_mlp", "submission=adamw", f"results={tmp_path}"]
    arguments = ["workload=digits_mlp", f"results={tmp_path}", f"freeze={tmp_path.name}"]

    def study(*more: str) -> Study:
        return describe(bench.studies_of(bench.parse([*choice, *more]))[0])

    try:
        calibrate.Frozen(tmp_path.name).write(study(), {"digits_mlp": 0.00041234}, {"digits_mlp": 1})
        written = path.read_text()
        official = study(f"hardware={tmp_path.name}")
        assert (official.unofficial, official.frozen_seconds) == ([], 0.0004123)
        assert calibrate.main(arguments) == 0
        assert path.read_text() == written
        assert "frozen in" in capfd.readouterr().out
        path.write_text(written.replace("cores: ", "cores: 9"))
        with pytest.raises(ConfigError, match=r"is of another machine .* Freeze under another name"):
            calibrate.main(arguments)
    finally:
        path.unlink(missing_ok=True)


def test_another_version_of_a_workload_is_frozen_beside_the_others(tmp_path):
    path = CONF / "hardware" / f"{tmp_path.name}.yaml"
    study = describe(study_on(tmp_path, named({})))
    try:
        calibrate.Frozen(tmp_path.name).write(study, {"blobs": 0.5, "other": 0.25}, {"blobs": 1, "other": 3})
        calibrate.Frozen(tmp_path.name).write(study, {"blobs": 0.75}, {"blobs": 2})
        known = load("hardware", tmp_path.name, HardwareConfig)
        assert known.seconds_per_step == {"blobs": 0.75, "other": 0.25}
        assert known.workload_versions == {"blobs": 2, "other": 3}
    finally:
        path.unlink(missing_ok=True)

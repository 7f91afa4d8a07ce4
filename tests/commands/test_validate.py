"""`make validate`: what a reviewer reads, what a machine parses, and the exit code."""

from __future__ import annotations

import json

import pytest

from harness.api import ConfigError
from harness.commands.authors import validate
from harness.plugins.submission import SUBMISSIONS
from tests.plugins.test_conformance import FAULTS, WRONG

NAMES = sorted(path.parent.name for path in SUBMISSIONS.glob("*/submission.yaml"))


def validated(names: list[str], folder, capsys) -> tuple[int, list[dict], str]:
    """Exit code, what a machine reads, what a person reads."""
    path = folder / "report.json"
    code = validate.main([f"submission={','.join(names)}", f"json={path}"])
    return code, json.loads(path.read_text(encoding="utf-8")), capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_submission_of_the_repository_passes(name, tmp_path, capsys):
    code, (report,), said = validated([name], tmp_path, capsys)
    assert code == 0, said
    assert report["passed"]
    assert {check["outcome"] for check in report["checks"]} == {"passed"}
    assert sum(report["trials"]["external"].values()) == 15
    assert sum(report["trials"]["self"].values()) == 3
    assert report["measured"]["step_time_over_adamw"] > 0
    assert "0 failed, 0 not run" in said


def test_what_cannot_be_read_is_said_and_nothing_of_it_runs(tmp_path, capsys):
    code, reports, said = validated(
        [str(WRONG / name) for name in ("no_title", "wrong_distribution")], tmp_path, capsys
    )
    assert code == 1
    assert [report["passed"] for report in reports] == [False, False]
    assert reports[0]["checks"][0]["outcome"] == "failed"
    assert {check["outcome"] for check in reports[0]["checks"][1:]} == {"not_run"}
    assert "FAILED   description" in said
    assert "0 of 2 submissions passed\nfailed: no_title, wrong_distribution\n" in said


@pytest.mark.slow
def test_a_point_of_the_search_space_that_cannot_run_is_found_by_the_referee(tmp_path, capsys):
    code, (report,), said = validated([str(WRONG / "fails_in_its_space")], tmp_path, capsys)
    assert code == 1
    (failed,) = [check for check in report["checks"] if check["outcome"] == "failed"]
    assert failed["name"] == "external"
    assert "Invalid momentum value" in failed["said"]
    assert "submission.py:12" in failed["said"]
    assert "FAILED   external" in said


@pytest.mark.slow
@pytest.mark.parametrize("name", FAULTS)
def test_the_command_fails_on_each_wrong_submission_as_its_checks_do(name, tmp_path, capsys):
    code, (report,), _ = validated([str(WRONG / name)], tmp_path, capsys)
    assert code == 1
    assert next(check["name"] for check in report["checks"] if check["outcome"] == "failed") == FAULTS[name][0]


@pytest.mark.parametrize("arguments", [[], ["submission="], ["submission=nowhere_at_all"], ["submission=adamw", "x=1"]])
def test_what_is_asked_for_wrongly_is_one_error(arguments):
    with pytest.raises(ConfigError):
        validate.main(arguments)

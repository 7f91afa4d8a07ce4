"""A results folder that others have touched: every command sees the same rows, and names what it cannot read."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.api import TrialStatus, visible
from harness.commands import bench, dashboard, leaderboard, replay, status
from harness.commands.leaderboard import Choice
from tests.commands.test_bench import FAST
from tests.conftest import ROOT
from tests.scoring.scoring_tables import trial_rows, write
from tests.study.test_rulesets import give_row

PLACE = "trials/workload=digits/submission=adamw"
CUT = "no whole parquet file"
COPY = "is a copy under another name"
STUDIES = ["workload=digits_mlp", "submission=adamw", "ruleset=self", *FAST]


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Three studies of two submissions."""
    rows = [
        trial_rows("digits", submission, seconds + study, study=study, steps=10)
        for submission, seconds in (("adamw", 10.0), ("muon", 20.0))
        for study in range(3)
    ]
    write(tmp_path / "results" / "runs", rows)
    return tmp_path / "results"


def row(results: Path, study: int, table: str = "trials") -> Path:
    name = f"digits-adamw-{study}-0-1.parquet"
    return results / "runs" / table / "workload=digits" / "submission=adamw" / name


def said_by(command: str, results: Path, capfd: pytest.CaptureFixture[str]) -> str:
    """What a command says of the rows, on paper or on a page."""
    capfd.readouterr()
    if command == "dashboard":
        boards = dashboard.build_boards(Choice(results=str(results)))
        assert dashboard.write_site(boards, results / "board").exists()
        return "\n".join(line for board in boards for line in board.notes)
    module = {"leaderboard": leaderboard, "replay": replay}[command]
    assert module.main([f"results={results}"]) == 0
    return capfd.readouterr().out


def trials_seen(results: Path) -> list[str]:
    """The trials that the board is made of, the dashboard's and replay's compared with it."""
    choice = Choice(results=str(results))
    seen = [
        leaderboard.make_board(choice).scoring.times,
        dashboard.build_boards(choice)[0].scoring.times,
        replay.read_recorded(choice)[0].trials,
    ]
    ids = [sorted(times["trial_id"]) for times in seen]
    assert ids[0] == ids[1] == ids[2]
    return ids[0]


@pytest.mark.parametrize("command", ["leaderboard", "dashboard", "replay"])
def test_one_bad_file_is_one_line_and_not_the_end_of_the_board(results, command, capfd):
    row(results, 1).write_bytes(row(results, 1).read_bytes()[:-100])
    said = " ".join(said_by(command, results, capfd).split())
    assert said.count(CUT) == 1
    assert f"{PLACE}/digits-adamw-1-0-1.parquet" in said


def test_a_half_written_row_is_left_out_by_all(results):
    row(results, 1).write_bytes(b"PAR1")
    assert len(trials_seen(results)) == 5
    assert "digits-adamw-1-0-1" not in trials_seen(results)


def test_what_sync_tools_leave_makes_no_second_row_for_anybody(results, capfd):
    before, file = trials_seen(results), row(results, 0)
    for name in ("._digits-adamw-0-0-1.parquet", ".DS_Store", ".syncthing.x.parquet.tmp"):
        (file.parent / name).write_bytes(b"\0\5\x16\7")
    for name in ("digits-adamw-0-0-1.sync-conflict-20260102-030405-ABCDEFG", "digits-adamw-0-0-1 (conflicted copy)"):
        shutil.copy(file, file.with_name(f"{name}.parquet"))
    assert trials_seen(results) == before
    assert " ".join(said_by("leaderboard", results, capfd).split()).count(COPY) == 1


def test_a_row_whose_evaluations_are_lost_is_left_out_instead_of_missed(results, capfd):
    row(results, 2, "evaluations").unlink()
    row(results, 1, "evaluations").write_bytes(b"")
    assert trials_seen(results) == [
        "digits-adamw-0-0-1",
        *(f"digits-muon-{study}-0-1" for study in range(3)),
    ]
    said = " ".join(said_by("leaderboard", results, capfd).split())
    assert "left out: 2 trials whose evaluations cannot be read" in said
    assert "out of budget" not in said


def test_links_in_place_of_folders_hide_nothing(results, tmp_path):
    before = trials_seen(results)
    for number, folder in enumerate(("trials/workload=digits", "evaluations/workload=digits/submission=muon")):
        there = tmp_path / f"disk{number}"
        (results / "runs" / folder).rename(there)
        (results / "runs" / folder).symlink_to(there)
    (tmp_path / "linked").symlink_to(results)
    assert trials_seen(results) == trials_seen(tmp_path / "linked") == before


def test_status_and_bench_name_a_row_that_cannot_be_read_and_go_on(tmp_path, capfd):
    arguments = [*STUDIES, f"results={tmp_path}"]
    configs = bench.studies_of(bench.parse(arguments))
    key = give_row(configs[0], status=TrialStatus.OUT_OF_BUDGET)
    give_row(configs[1], status=TrialStatus.DIVERGED)
    row = next(iter(visible(tmp_path / "runs" / "trials", f"**/{key.trial_id}.parquet")))
    row.write_bytes(row.read_bytes()[:-100])
    assert status.main(arguments) == 0
    said = capfd.readouterr().out.replace("\n", "")
    assert "1 done, 0 running, 0 failed, 1 missing, 1 unreadable of 3 studies" in said
    assert said.count(f"{row}: {CUT}") == 1
    assert bench.main(arguments) == 2
    said = capfd.readouterr()
    assert said.out.replace("\n", "").count(f"{row}: {CUT}") == 1
    assert " ".join(said.out.split()).count(CUT) == 2, "where trials are missed, and below the board"
    assert "1 trials have no row" in said.err
    assert row.stat().st_size > 0, "a row is never overwritten"


@pytest.fixture
def barred(results: Path) -> Iterator[list[Path]]:
    """A row and a folder that only others may read."""
    paths = [row(results, 1), results / "runs" / "trials" / "workload=digits" / "submission=muon"]
    for path in paths:
        path.chmod(0)
    yield paths
    for path in paths:
        path.chmod(0o755)


def as_somebody_else(command: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command without root's right to read everything."""
    prefix = []
    if os.geteuid() == 0:
        if shutil.which("setpriv") is None:
            pytest.skip("root may read everything, and there is no setpriv to take that right away")
        prefix = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
    return subprocess.run(
        [*prefix, sys.executable, "-m", f"harness.commands.{command}", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.usefixtures("barred")
@pytest.mark.parametrize("command", ["leaderboard", "dashboard", "replay"])
def test_files_and_folders_that_one_may_not_read_are_one_line(results, command):
    more = ["tracking=off"] if command == "dashboard" else []
    done = as_somebody_else(command, f"results={results}", *more)
    assert done.returncode == 0, done.stderr
    pages = [page.read_text() for page in visible(results, "**/*.html")] if command == "dashboard" else [done.stdout]
    said = " ".join(" ".join(pages).split())
    assert "trials/workload=digits/submission=muon and 1 more: cannot be read (Permission denied)" in said


@pytest.mark.parametrize(
    "folder", [pytest.param(".", marks=pytest.mark.slow), "runs", pytest.param("runs/trials", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("command", ["leaderboard", "dashboard", "replay", "status"])
def test_a_folder_that_one_may_not_look_into_is_named(results, command, folder):
    barred = (results / folder).resolve()
    barred.chmod(0)
    try:
        arguments = STUDIES if command == "status" else []
        done = as_somebody_else(command, f"results={results}", *arguments)
    finally:
        barred.chmod(0o755)
    assert "Traceback" not in done.stderr
    assert done.returncode == (0 if command == "status" else 2)
    said = (done.stdout if command == "status" else done.stderr).replace("\n", "")
    assert f"{barred}: cannot be read (Permission denied)" in said

"""`make reference`: what it runs, in which order, after which kill, and what it says."""

from __future__ import annotations

import io
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness.api import ConfigError, DataError, visible
from harness.command_line import PlainConsole
from harness.commands.boards.reference import composed, fill, main
from harness.config import ReferenceBoardConfig, SuiteConfig, load
from harness.plugins.submission import SUBMISSIONS, load_submission
from harness.records.committed import BoardFile, board_rows
from harness.study.reference.board import ReferenceBoard, place_of
from tests.conftest import SGD, environment
from tests.scoring.scoring_tables import trial_rows
from tests.study.reference.test_board import reference_board, stands
from tests.study.test_study import write_submission

CRASH = "def train(trial, hp):\n    raise ValueError('no such luck')\n"


def filled(board: ReferenceBoard, **wanted: list[str]) -> str:
    """Fill a board and return what was said. Where there is no sandbox, no row belongs on a board."""
    said = io.StringIO()
    try:
        fill([board], PlainConsole(said, width=200), **wanted)
    except DataError as error:
        if "rows without a sandbox" in str(error):
            pytest.skip("this system has no sandbox")
        raise
    return said.getvalue()


def files(results: Path) -> dict[Path, int]:
    """When each file of tables and boards was written."""
    folders = [results / "runs" / "trials", results / "reference"]
    return {path: path.stat().st_mtime_ns for folder in folders for path in visible(folder, "**/*.parquet")}


@pytest.fixture
def submissions(tmp_path: Path) -> list[Path]:
    """Three of them: what they learn is not what is tested."""
    return [write_submission(tmp_path / name, SGD) for name in ("one", "two", "three")]


def test_what_is_missing_runs_and_the_same_call_again_runs_and_writes_nothing(tmp_path, submissions):
    board = reference_board(tmp_path, *submissions)
    said = filled(board)
    assert re.search(r"blobs +6 +- +- +-\n", said), said
    assert "3 of 3 submissions are whole" in said
    started = board.file.read().trials.sort_by("started_at")["study"].to_pylist()
    assert started == [0, 0, 0, 1, 1, 1], "the first study of everybody before the second of anybody"
    before = files(tmp_path)
    again = filled(reference_board(tmp_path, *submissions))
    assert files(tmp_path) == before
    assert again == said[said.index("small") :], "nothing but how the board stands"


def test_a_part_of_a_board_can_be_asked_for(tmp_path, submissions):
    board = reference_board(tmp_path, *submissions)
    said = filled(board, submissions=["two"])
    assert re.search(r"blobs +2 +4 +- +0\.00\n", said), said
    assert {name for (name, _), counts in stands(board).items() if counts == (1, 0, 0)} == {"two"}


def test_a_crash_is_a_row_and_a_study_that_cannot_start_bars_no_other(tmp_path, submissions):
    write_submission(submissions[0], CRASH)
    board = reference_board(tmp_path, *submissions)
    write_submission(submissions[1], SGD, "{learning_rate: [}")  # broken after it was read
    with pytest.raises(DataError, match="2 studies have no rows; the lines above say why"):
        filled(board)
    statuses = {row["submission"]: row["status"] for row in board.file.read().trials.to_pylist()}
    assert statuses["one"] == "crashed"
    assert set(statuses) == {"one", "three"}


# As a person's shell would start it; prints nothing that is waited for.
FILL = """
import sys
from pathlib import Path
from harness.command_line import PlainConsole
from harness.commands.boards.reference import fill
from tests.study.reference.test_board import reference_board
fill([reference_board(Path(sys.argv[1]), *map(Path, sys.argv[2:]))], PlainConsole())
"""


@pytest.mark.parametrize("rows", [pytest.param(0, marks=pytest.mark.slow), 1, pytest.param(4, marks=pytest.mark.slow)])
def test_killed_at_any_moment_it_goes_on_and_runs_nothing_twice(tmp_path, submissions, rows):
    command = [sys.executable, "-c", FILL, str(tmp_path), *map(str, submissions)]
    process = subprocess.Popen(command, env=environment(), cwd=tmp_path, stdout=subprocess.DEVNULL)
    journals, trials = tmp_path / "runs" / "journal", tmp_path / "runs" / "trials"
    while process.poll() is None:
        if len(visible(trials, "**/*.parquet")) >= rows and visible(journals, "*.jsonl"):
            process.send_signal(signal.SIGKILL)
        time.sleep(0.002)
    assert process.wait() == -signal.SIGKILL
    before = files(tmp_path / "runs")
    board = reference_board(tmp_path, *submissions)
    assert len(visible(trials, "**/*.parquet")) < 6
    filled(board)
    assert len(visible(trials, "**/*.parquet")) == 6
    assert {path: files(tmp_path / "runs")[path] for path in before} == before
    assert set(stands(board).values()) == {(1, 0, 0)}


def test_the_tuned_board_has_the_baselines_until_the_other_one_can_choose(tmp_path, capsys):
    assert main(["status=1", "board=mini_external", f"results={tmp_path}"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    baselines = load("reference", "mini_external", ReferenceBoardConfig).submissions
    assert "0 submissions are on mini_plus_self with all their studies" in said
    assert f"{', '.join(baselines)} until then" in said
    assert "0 of 4 submissions are whole" in said
    assert not (tmp_path / "runs" / "trials").exists()


@pytest.mark.slow
def test_the_best_of_the_other_board_belong_on_the_tuned_one_and_whoever_is_there_stays(tmp_path, capsys):
    wide, tuned = (load("reference", name, ReferenceBoardConfig) for name in ("mini_plus_self", "mini_external"))
    assert tuned.best is not None
    names = sorted(set(names_of_closed_division()) - set(tuned.submissions))[: tuned.best.among]
    put(BoardFile(tmp_path, wide.name), wide, {name: 10.0 + place for place, name in enumerate(names)})
    put(BoardFile(tmp_path, tuned.name), tuned, {names[-1]: 10.0}, charged_seconds=10.0, cpu_seconds=5.0)
    assert main(["status=1", f"board={tuned.name}", f"results={tmp_path}"]) == 0
    expected = {*tuned.submissions, *names[: tuned.best.count], names[-1]}
    said = capsys.readouterr().out
    assert f"0 of {len(expected)} submissions are whole" in said
    assert "24 of 24 trials had their processors for less than 90% of the time" in said
    board = composed(tuned, tmp_path, PlainConsole(io.StringIO()), tracking="off")
    assert {place_of(study)[1] for study in board.studies} == expected


def names_of_closed_division() -> list[str]:
    every = [load_submission(path.parent.name) for path in visible(SUBMISSIONS, "*/submission.yaml")]
    return [submission.name for submission in every if submission.division == "closed"]


def put(file: BoardFile, config: ReferenceBoardConfig, seconds: dict[str, float], **changes: object) -> None:
    """Made-up rows of all studies of these submissions, which take so many seconds everywhere."""
    made = [
        trial_rows(workload, name, each, study=study, ruleset=config.ruleset, reference_step_seconds=0.01, **changes)
        for workload in load("suite", config.suite, SuiteConfig).workloads
        for name, each in seconds.items()
        for study in range(3)
    ]
    trials = [trial for trial, _ in made]
    places = {trial["trial_id"]: {name: trial[name] for name in ("workload", "submission")} for trial in trials}
    rows = board_rows(trials, [{**each, **places[each["trial_id"]]} for _, own in made for each in own])
    file.change(lambda board: board.with_rows(rows))


def test_an_unknown_name_is_said_before_anything_runs(tmp_path):
    with pytest.raises(ConfigError, match=r"there is no board 'mini_externel'.* Did you mean 'mini_external'"):
        main(["board=mini_externel", f"results={tmp_path}"])

"""`make verify` from the command line, on rows of a bench, honest and edited; what boards say of what has changed."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harness.api import ConfigError, DataError, visible
from harness.board.site import write_site
from harness.commands import bench, leaderboard
from harness.commands.dashboard import build_boards
from harness.commands.trust import verify
from tests.commands.test_bench import FAST, TRAIN, write

MEMORY = "hardware.memory_gib=4"


@pytest.fixture(scope="module")
def raced(tmp_path_factory) -> Path:
    """The folder of a bench of two submissions, one of the suite's and one that lies in `mine` beside the results."""
    folder = tmp_path_factory.mktemp("raced")
    mine = write(folder / "mine", TRAIN)
    assert bench.main(["workload=digits_mlp", f"submission=adamw,{mine}", f"results={folder / 'results'}", *FAST]) == 0
    return folder


@pytest.fixture
def results(raced, tmp_path) -> Path:
    """A copy of the results that a test may edit."""
    shutil.copytree(raced / "results", tmp_path / "results", symlinks=True)
    return tmp_path / "results"


def file_of(results: Path, submission: str, table: str = "trials") -> Path:
    (path,) = visible(results / "runs" / table, f"workload=*/submission={submission}/*.parquet")
    return path


def edit(path: Path, column: str, change: Callable[[list], list]) -> None:
    table = pq.ParquetFile(path).read()
    values = pa.array(change(table[column].to_pylist()), table.schema.field(column).type)
    pq.write_table(table.set_column(table.column_names.index(column), table.schema.field(column), values), path)


def verified(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, list[str]]:
    code = verify.main([*arguments, MEMORY])
    return code, capsys.readouterr().out.splitlines()


def test_an_honest_trial_holds(results, capsys):
    trial = file_of(results, "adamw").stem
    code, lines = verified(capsys, f"trial={trial}", f"results={results}")
    assert code == 0, lines
    assert lines[0].startswith(f"{trial}  digits_mlp  adamw  holds: ")
    assert "evaluations are the same" in lines[0]


EDITS = {
    "a time": ("trials", "time_to_target", lambda values: [0.5 * value for value in values]),
    "a metric": ("evaluations", "validation", lambda values: [0.5 * value for value in values]),
    "a hyperparameter": ("trials", "hyperparameters", lambda values: [v.replace("0.", "0.1") for v in values]),
}


@pytest.mark.parametrize(("table", "column", "change"), EDITS.values(), ids=EDITS)
def test_an_edited_row_is_found_alone_and_on_its_board(results, capsys, table, column, change):
    edit(file_of(results, "adamw", table), column, change)
    trial = file_of(results, "adamw").stem
    code, lines = verified(capsys, f"trial={trial}", f"results={results}")
    assert code == 1
    assert lines[0].startswith(f"{trial}  digits_mlp  adamw  does not hold: the checksum is of other rows")
    code, lines = verified(capsys, f"board={results}", "submission=adamw")
    assert code == 1
    assert "1 rows read, 1 of them contradict themselves" in lines
    assert lines[-1] == "of 1 drawn: 0 hold, 1 do not, 0 could not be run again"


def test_a_sample_of_a_board_is_drawn_by_chance_and_the_same_one_can_be_drawn_again(results, capsys):
    code, lines = verified(capsys, f"board={results}", "sample=1", f"results={results}")
    assert code == 0, lines
    assert lines[-1] == "of 1 drawn: 1 hold, 0 do not, 0 could not be run again"
    (drawn,) = re.findall(r"^1 of 2 trials drawn by chance: draw=(\d+)$", "\n".join(lines), re.MULTILINE)
    _, again = verified(capsys, f"board={results}", "sample=1", f"draw={drawn}", f"results={results}")
    assert f"1 of 2 trials drawn as it was given: draw={drawn}" in again
    assert again[-2].split()[0] == lines[-2].split()[0]


def test_what_has_changed_since_is_on_the_board_and_such_a_trial_is_not_run_again(raced, results, capsys):
    code = raced / "mine" / "submission.py"
    before = code.read_text()
    choice = leaderboard.Choice(results=str(results))
    assert not [note for note in leaderboard.make_board(choice).notes if "changed since" in note]
    edit(
        file_of(results, "adamw"), "versions", lambda values: [v.replace('"torch": "', '"torch": "0.') for v in values]
    )
    try:
        code.write_text(before + "# another comment\n")
        (note,) = (note for note in leaderboard.make_board(choice).notes if "changed since" in note)
        assert note.startswith("changed since these rows were made: ")
        assert "mine has changed (1 trial)" in note
        assert "torch was 0." in note
        leaderboard.show(choice)
        capsys.readouterr()
        assert note.split(";")[0] in (results / "board" / "leaderboard.md").read_text()
        assert "mine has changed (1 trial)" in write_site(build_boards(choice), results / "site").read_text()
        ended, lines = verified(capsys, f"trial={file_of(results, 'mine').stem}", f"results={results}")
    finally:
        code.write_text(before)
    assert ended == 0
    assert "was not run again: mine is no longer what it was" in lines[0]
    assert "changed since: mine has changed" in lines[0]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "a trial or a board"),
        (["trial=a", "board=b"], "a trial or a board"),
        (["trial=a", "sample=3"], "SAMPLE goes with a board"),
        (["board=results", "sample=none"], "SAMPLE is 'none'"),
    ],
)
def test_bad_input_is_one_clear_error(arguments, words):
    with pytest.raises(ConfigError, match=words):
        verify.main(arguments)


def test_a_trial_that_is_not_there_is_one_clear_error(tmp_path):
    with pytest.raises(DataError, match="there is no trial 'abc'"):
        verify.main(["trial=abc", f"results={tmp_path}"])


HONEST = "adamw,nadamw,nesterov,heavy_ball,muon,schedule_free_adamw,adagrad,lion,normuon,ademamix,adafactor,lamb"


@pytest.mark.slow
def test_an_honest_sample_of_ten_holds(tmp_path, capsys):
    assert bench.main(["workload=digits_mlp", f"submission={HONEST}", f"results={tmp_path}", *FAST]) == 0
    capsys.readouterr()
    code, lines = verified(capsys, f"board={tmp_path}", "sample=10", f"results={tmp_path}")
    assert code == 0, lines
    assert lines[-1] == "of 10 drawn: 10 hold, 0 do not, 0 could not be run again"

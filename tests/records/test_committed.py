"""Committed boards: two files, the same bytes for the same rows, and whole whenever a process is killed."""

from __future__ import annotations

import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harness.api import DataError, visible
from harness.records.committed import BoardFile, BoardRows, board_rows
from harness.records.tables import has_its_checksum, read_parquet
from tests.conftest import ROOT
from tests.scoring.scoring_tables import trial_rows


def rows_of(*cells: tuple[str, str], studies: int = 2, seed: int = 1) -> BoardRows:
    """Two studies of one trial for each (workload, submission), in a shuffled order."""
    made = [trial_rows(*cell, 10.0, study=study, seed=seed) for cell in cells for study in range(studies)]
    trials = [trial for trial, _ in made]
    seen = [
        {**each, "workload": trial["workload"], "submission": trial["submission"]}
        for trial, own in made
        for each in own
    ]
    random.Random(len(cells)).shuffle(trials)
    random.Random(len(cells)).shuffle(seen)
    return board_rows(trials, seen)


def bytes_of(file: BoardFile) -> tuple[bytes, bytes]:
    return file.path("trials").read_bytes(), file.path("evaluations").read_bytes()


def put(file: BoardFile, rows: BoardRows) -> None:
    file.change(lambda board: board.with_rows(rows))


def test_the_same_rows_are_the_same_bytes_in_whatever_order_they_came(tmp_path):
    one, two = BoardFile(tmp_path / "one", "b"), BoardFile(tmp_path / "two", "b")
    put(one, rows_of(("digits", "adamw"), ("digits", "muon"), ("images", "adamw")))
    for cell in [("images", "adamw"), ("digits", "muon"), ("digits", "adamw")]:
        put(two, rows_of(cell))
    assert bytes_of(one) == bytes_of(two)
    put(one, rows_of(("images", "muon")))
    one.change(lambda board: board.without([*board.at("images", "muon", 0), *board.at("images", "muon", 1)]))
    assert bytes_of(one) == bytes_of(two)


def test_a_board_has_the_columns_of_the_two_tables_and_what_was_written_is_read(tmp_path):
    file, rows = BoardFile(tmp_path, "b"), rows_of(("digits", "adamw"))
    put(file, rows)
    back = file.read()
    for table in ("trials", "evaluations"):
        written, read = (getattr(which, table).to_pylist() for which in (rows, back))
        assert sorted(map(repr, written)) == sorted(map(repr, read))
    assert {path.name for path in file.path("trials").parent.iterdir()} == {
        "b.trials.parquet",
        "b.evaluations.parquet",
    }
    assert BoardFile(tmp_path, "another").read().trials.num_rows == 0


def test_no_trial_is_without_its_evaluations_wherever_a_change_is_cut(tmp_path):
    """Each write is a rename: between any two of them lies a state that a kill can leave."""
    file = BoardFile(tmp_path, "b")
    put(file, rows_of(("digits", "adamw"), ("digits", "muon")))
    states: list[tuple[set[str], set[str], set[str]]] = []

    class Watched(BoardFile):
        def _write(self, table: str, rows: pa.Table) -> None:
            super()._write(table, rows)
            board = file.read()
            on_disk = pq.read_table(file.path("evaluations"))["trial_id"].to_pylist()
            ids = [set(each["trial_id"].to_pylist()) for each in (board.trials, board.evaluations)]
            states.append((ids[0], ids[1], set(on_disk)))

    new = rows_of(("digits", "adamw"), studies=1, seed=7)
    Watched(tmp_path, "b").change(lambda board: board.without(board.at("digits", "adamw", 0)).with_rows(new))
    assert all(trials == evaluated for trials, evaluated, _ in states)
    assert states[-1][2] == states[-1][0], "and in the end nothing is left over"
    assert "digits-adamw-0-0-7" in states[-1][0]
    assert "digits-adamw-0-0-1" not in states[-1][0]


def test_a_damaged_board_is_one_clear_error(tmp_path):
    file = BoardFile(tmp_path, "b")
    put(file, rows_of(("digits", "adamw")))
    file.path("trials").write_bytes(file.path("trials").read_bytes()[:-20])
    with pytest.raises(DataError, match=r"b\.trials\.parquet: no whole parquet file"):
        file.read()


def committed() -> list[Path]:
    """Boards of this repository that the harness made itself."""
    found = visible(BoardFile(ROOT / "results", "").path("trials").parent, "*.trials.parquet")
    return [path for path in found if not path.name.startswith("algoperf")]


@pytest.mark.parametrize("path", committed(), ids=lambda path: path.name)
def test_the_committed_boards_hold_what_was_written_once_for_each_trial(path):
    file = BoardFile(ROOT / "results", path.name.removesuffix(".trials.parquet"))
    board = file.read()
    trials, seen = board.trials.to_pylist(), board.evaluations.to_pylist()
    places = [(row["workload"], row["submission"], row["study"], row["trial"]) for row in trials]
    assert len(set(places)) == len(places) > 0
    own: dict[str, list[dict[str, object]]] = {row["trial_id"]: [] for row in trials}
    for row in seen:
        own[row["trial_id"]].append(row)
    assert all(has_its_checksum(row, own[row["trial_id"]]) for row in trials)
    assert all(row["sandboxed"] for row in trials)
    read = read_parquet(file.path("evaluations"), board.evaluations.schema)
    assert len(seen) == read.num_rows, "no evaluation of nobody"

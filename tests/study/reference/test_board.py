"""What belongs on a reference board, what stands on it, and what is put there: with real trials of a small workload."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from harness.config import RulesetConfig
from harness.records.tables import Records, TrialKey
from harness.study.identity import describe, entered_by
from harness.study.reference.board import ReferenceBoard, place_of
from tests.conftest import SGD
from tests.study.test_study import run, study_config, write_submission

STUDIES = 2
RULES = RulesetConfig("two_studies", 1, STUDIES, 1, "defaults", 0.5, "adamw")


def reference_board(results: Path, *submissions: Path) -> ReferenceBoard:
    """Two studies of each submission on blobs, a fifth of a second each."""
    firsts = [describe(study_config(results, each, ruleset=RULES)) for each in submissions]
    studies = [entered_by(each, each.submission, number) for each in firsts for number in range(STUDIES)]
    return ReferenceBoard("small", studies)


def run_all(board: ReferenceBoard) -> None:
    """Run every study and put it on the board. Where there is no sandbox, no row belongs on a board."""
    for study in board.studies:
        run(study.config)
        if not pd.read_parquet(board.runs / "trials")["sandboxed"].all():
            pytest.skip("this system has no sandbox")
        assert board.take(study)


def stands(board: ReferenceBoard) -> dict[tuple[str, int], tuple[int, int, int]]:
    """Trials there, missing and stale, by submission and study."""
    return {place_of(each.study)[1:]: (each.there, each.missing, each.stale) for each in board.standings()}


def ids(board: ReferenceBoard) -> set[str]:
    return set(board.file.read().trials["trial_id"].to_pylist())


@pytest.fixture
def one(tmp_path: Path) -> Path:
    return write_submission(tmp_path / "one", SGD)


@pytest.fixture
def two(tmp_path: Path) -> Path:
    return write_submission(tmp_path / "two", SGD.replace("lr=0.05", "lr=0.1"))


@contextlib.contextmanager
def one_core() -> Iterator[None]:
    """This process on one core, which makes another machine of the same box."""
    before = os.sched_getaffinity(0)
    if len(before) < 2:
        pytest.skip("one core is all there is")
    os.sched_setaffinity(0, {min(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def test_a_study_is_missing_until_it_has_run_and_stands_once_it_was_put_there(tmp_path, one):
    board = reference_board(tmp_path, one)
    assert stands(board) == {("one", 0): (0, 1, 0), ("one", 1): (0, 1, 0)}
    assert not board.take(board.studies[0]), "nothing has run"
    run_all(board)
    assert stands(board) == {("one", 0): (1, 0, 0), ("one", 1): (1, 0, 0)}
    assert all(map(board.stands, board.studies))


def test_a_changed_submission_makes_exactly_its_own_rows_stale_and_its_new_rows_take_their_places(tmp_path, one, two):
    board = reference_board(tmp_path, one, two)
    run_all(board)
    before = ids(board)
    write_submission(two, SGD.replace("lr=0.05", "lr=0.2"))
    board = reference_board(tmp_path, one, two)
    there, stale = (1, 0, 0), (0, 0, 1)
    assert stands(board) == {("one", 0): there, ("one", 1): there, ("two", 0): stale, ("two", 1): stale}
    assert ids(board) == before, "old rows stay until there are new ones"
    run(board.studies[2].config)
    assert board.take(board.studies[2])
    assert stands(board) == {("one", 0): there, ("one", 1): there, ("two", 0): there, ("two", 1): stale}
    after = ids(board)
    assert (len(before - after), len(after - before)) == (1, 1)
    own = set(board.file.read().evaluations["trial_id"].to_pylist())
    assert own <= after, "no evaluation of the rows that are gone"


def test_what_has_run_on_another_machine_stands(tmp_path, one, two):
    with one_core():
        elsewhere = reference_board(tmp_path, one)
        run_all(elsewhere)
    board = reference_board(tmp_path, one, two)
    assert board.studies[0].machine.fingerprint != elsewhere.studies[0].machine.fingerprint
    assert stands(board) == {("one", 0): (1, 0, 0), ("one", 1): (1, 0, 0), ("two", 0): (0, 1, 0), ("two", 1): (0, 1, 0)}


def test_a_trial_that_was_asked_for_again_is_stale_until_its_next_attempt_has_run(tmp_path, one):
    board = reference_board(tmp_path, one)
    run_all(board)
    (first, _) = [row["trial_id"] for row in board.file.read().trials.select(["trial_id"]).to_pylist()]
    Records(tmp_path / "runs").retry(TrialKey("blobs", "one", first))
    again = [each.study for each in board.standings() if each.to_run]
    assert len(again) == 1
    assert not board.take(again[0]), "its old row is not taken once more"
    run(again[0].config)
    assert board.take(again[0])
    assert first not in ids(board)
    assert all(map(board.stands, board.studies))


def test_a_study_that_need_not_run_since_the_others_missed_stands_with_them(tmp_path):
    never = write_submission(tmp_path / "never", "def train(trial, hp):\n    trial.finish()\n")
    board = reference_board(tmp_path, never)
    run_all(board)
    assert set(stands(board).values()) == {(1, 0, 0)}
    assert board.file.read().trials["status"].to_pylist() == ["finished", "pruned"]


def test_rows_of_another_seed_or_of_other_hyperparameters_are_not_taken(tmp_path, one):
    board = reference_board(tmp_path, one)
    for changes in ({"seed": 1}, {"hp": {"learning_rate": 0.2}}):
        run(dataclasses.replace(board.studies[0].config, **changes))
    assert not board.take(board.studies[0])


def test_what_has_left_the_repository_is_dropped_and_what_cannot_be_read_here_stays(tmp_path, one, two):
    run_all(reference_board(tmp_path, one, two))
    left = reference_board(tmp_path, one)
    assert ReferenceBoard("small", left.studies, unreadable=["two"]).drop_gone() == 0
    assert left.drop_gone() == STUDIES
    assert set(left.file.read().trials["submission"].to_pylist()) == {"one"}
    assert left.drop_gone() == 0

"""What the page of a stream says of forgetting: numbers from rows whose every error is known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from harness.board.site import write_site
from harness.board.stages import stage_rows, stage_table
from harness.commands.dashboard import build_boards
from harness.commands.leaderboard import Choice
from tests.scoring.scoring_tables import evaluation_row, trial_rows, write

# Errors on two tasks where the first ends, where the second is half learned, and with the last weights.
FORGETS = [(1, 0.1, 0.5), (0, 0.2, 0.3), (0, 0.4, 0.05)]
KEEPS = [(1, 0.2, 0.5), (0, 0.2, 0.3), (0, 0.15, 0.1)]


def trial_on_stream(
    submission: str, course: list[tuple[int, float, float]], study: int
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    row, _ = trial_rows("stream", submission, 30.0, study=study)
    evaluations = []
    for number, (left, first, second) in enumerate(course):
        others = {"validation_error_stage_0": first, "validation_error_stage_1": second, "test_error_stage_0": 0.9}
        if not left:
            others |= {"validation_backward_transfer": course[0][1] - first}
            others |= {"validation_forgetting": first - min(each[1] for each in course[:1])}
        seen = evaluation_row(row, number, 10.0 * (number + 1), 0.2 if left else 0.05)
        evaluations.append({**seen, "stages_left": left, "other_metrics": json.dumps(others)})
    return row, evaluations


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("results")
    rows = [trial_on_stream("keeps", KEEPS, 0)]
    rows += [trial_on_stream("forgets", FORGETS, study) for study in (0, 1)]
    rows += [trial_on_stream("stops", FORGETS[:1], 0), trial_rows("digits", "keeps", 20.0)]
    write(folder / "runs", rows)
    (board,) = build_boards(Choice(results=str(folder)))
    return board


def test_each_trial_that_came_to_the_last_stage_says_what_it_learned_and_what_was_left(board):
    table = stage_table(board, "stream")
    assert table["submission"].tolist() == ["forgets", "forgets", "keeps"]
    last = table.iloc[-1].to_dict()
    assert [last[f"stage_{stage}_{when}"] for stage in (0, 1) for when in ("learned", "left")] == [0.2, 0.15, 0.1, 0.1]
    assert (last["backward_transfer"], last["forgetting"]) == (pytest.approx(0.05), pytest.approx(-0.05))


def test_a_workload_that_is_no_stream_has_no_such_table(board):
    assert stage_table(board, "digits").empty
    assert stage_rows(stage_table(board, "digits")) == []


def test_who_forgets_least_stands_first(board):
    first, second = stage_rows(stage_table(board, "stream"))
    assert (first["submission"], second["submission"]) == ("keeps", "forgets")
    assert second["trials"] == 2
    assert second["stages"][0] == {"learned": pytest.approx(0.1), "left": pytest.approx(0.4)}
    assert (second["learned"], second["left"]) == (pytest.approx(0.075), pytest.approx(0.225))


def test_the_page_of_a_stream_has_the_table_and_its_csv_and_other_pages_have_none(board, tmp_path: Path):
    write_site([board], tmp_path / "board")
    stream, digits = (
        (tmp_path / "board" / "workloads" / f"{name}.html").read_text("utf-8") for name in ("stream", "digits")
    )
    assert "A stream of 2 tasks" in stream
    assert '<td class="n">0.100 → 0.400</td>' in stream
    assert "What is forgotten" not in digits
    table = pd.read_csv(tmp_path / "board" / "data" / "stages" / "stream.csv")
    assert table["stage_0_left"].tolist() == [0.4, 0.4, 0.15]

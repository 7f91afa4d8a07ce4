"""The dashboard's page on what to use: which rows it answers from, and that its numbers are in the files beside it."""

from __future__ import annotations

import pandas as pd
import pytest

from harness.board.site import write_site
from harness.commands.dashboard import build_boards
from harness.commands.leaderboard import Choice
from tests.board.dashboard_site import SUBMISSIONS, WORKLOADS, build
from tests.scoring.scoring_tables import hyperparameters, trial_rows, write


@pytest.fixture(scope="module")
def board(tmp_path_factory):
    return build(tmp_path_factory.mktemp("results"))


def page_of(board):
    return (board / "advice.html").read_text(encoding="utf-8")


def test_every_page_leads_to_it(board):
    assert 'href="advice.html"' in (board / "index.html").read_text(encoding="utf-8")
    assert 'href="../advice.html"' in (board / "workloads" / "digits.html").read_text(encoding="utf-8")


def test_it_names_the_best_at_each_effort_with_its_numbers(board):
    text = page_of(board)
    answers = pd.read_csv(board / "data" / "advice.csv", keep_default_na=False)
    asked = answers[(answers["memory_limit"] == "any") & (answers["budget"] == 1.0)]
    assert set(asked["group"]) == {"All workloads", *WORKLOADS}
    for answer in asked[asked["best"] != ""].to_dict("records"):
        assert answer["best"] == "muon"
        assert f"{float(answer['speedup']):.2f} \N{MULTIPLICATION SIGN} adamw" in text
        assert f"{100 * float(answer['time_share']):.0f} % of the budget" in text
    assert "rows hold at most 9 trials of a submission" in text


def test_every_submission_and_every_workload_has_its_numbers_in_a_file(board):
    submissions = pd.read_csv(board / "data" / "advice_submissions.csv")
    assert set(submissions["submission"]) == set(SUBMISSIONS)
    best = submissions[submissions["ratio"] == 1.0]["submission"]
    assert set(best) == {"muon"}
    cells = pd.read_csv(board / "data" / "advice_cells.csv")
    one = cells[(cells["effort"] == "1 trial") & (cells["workload"] == "digits") & (cells["submission"] == "muon")]
    # Nine trials of 6 s, more by a tenth with each study and by a fifth with each trial.
    assert one["time"].tolist() == [pytest.approx(6.0 * 1.3)]


def test_a_board_answers_with_rows_of_other_rulesets_on_the_same_machine(tmp_path):
    rows = [trial_rows("w", "adamw", 10.0 + study, study=study, ruleset="self", seed=study) for study in range(3)]
    rows += [
        trial_rows(
            "w", "adamw", 9.0, study=n // 5, trial=n % 5, ruleset="external", hyperparameters=hyperparameters(rate=n)
        )
        for n in range(15)
    ]
    rows.append(trial_rows("w", "adamw", 1.0, ruleset="quick", hardware="cluster"))
    write(tmp_path / "runs", rows)
    boards = build_boards(Choice(results=str(tmp_path)))
    folder = write_site(boards, tmp_path / "board").parent
    answers = pd.read_csv(folder / "data" / "advice.csv", keep_default_na=False)
    assert set(zip(answers["ruleset"], answers["effort"], strict=True)) == {
        ("self", "defaults"),
        ("external", "1 trial"),
        ("external", "5 trials"),
        ("external", "15 trials"),
    }
    assert "1.5 \N{MULTIPLICATION SIGN} budget" in page_of(folder)

"""What a board says about the budgets that its rows were raced within."""

from __future__ import annotations

import pandas as pd

from harness.commands.leaderboard import Choice, show
from harness.scoring.budgets import budget_notes
from tests.scoring.scoring_tables import trial_rows, write


def table(*rows) -> pd.DataFrame:
    return pd.DataFrame([row for row, _ in rows])


def of(submission: str, budget: float, *, study: int = 0, median: float | None = None, workload: str = "digits"):
    return trial_rows(
        workload, submission, 0.5, study=study, max_runtime=budget, reference="adamw",
        reference_step_seconds=budget / 1000, median_step_seconds=median,
    )  # fmt: skip


def test_equal_budgets_need_no_word():
    assert budget_notes(table(of("adamw", 0.6, median=0.00058), of("muon", 0.602), of("muon", 9.0, workload="w"))) == []


def test_budgets_that_differ_are_named_with_whose_they_are():
    notes = budget_notes(table(of("adamw", 2.6), of("muon", 0.6), of("sgd", 0.6), of("sgd", 2.6, study=1)))
    assert notes == [
        "budgets on digits are not equal, and the longer one is an advantage: muon 0.6 s, adamw 2.6 s, sgd 0.6 to 2.6 s"
    ]


def test_a_reference_that_steps_at_another_pace_than_it_was_measured_at_is_named():
    (note,) = budget_notes(table(of("adamw", 1.08, median=0.00024), of("muon", 1.08, median=0.0009)))
    assert note.startswith("budgets on digits are of 1.08 ms a step of adamw, whose trials took 0.24: ")
    assert "make calibrate WORKLOAD=digits" in note
    assert len(budget_notes(table(of("adamw", 0.24, median=0.00108)))) == 1
    assert budget_notes(table(of("muon", 0.24, median=0.00108))) == [], "another submission may step at any pace"


def test_rows_that_do_not_know_their_reference_are_compared_among_themselves_alone():
    rows = [trial_rows("digits", name, 5.0, median_step_seconds=9.0) for name in ("adamw", "muon")]
    assert budget_notes(table(*rows)) == []


def test_a_board_says_that_its_rows_raced_within_other_budgets(tmp_path):
    write(tmp_path / "runs", [of("adamw", 2.6), of("muon", 0.6)])
    show(Choice(results=str(tmp_path)))
    assert "budgets on digits are not equal" in (tmp_path / "board" / "leaderboard.md").read_text()


def test_budgets_of_rows_of_several_machines_are_compared_machine_by_machine():
    quick, slow = table(of("adamw", 0.6), of("sgd", 0.6)), table(of("muon", 2.4))
    assert len(budget_notes(pd.concat([quick, slow]))) == 1
    assert budget_notes(pd.concat([quick.assign(machine="one"), slow.assign(machine="two")])) == []

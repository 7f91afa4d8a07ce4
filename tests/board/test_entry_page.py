"""What a submission's page says of it, in numbers that can be worked out by hand, and in files beside it."""

from __future__ import annotations

import dataclasses
import re

import pandas as pd
import pytest

from harness.board.entry import explained
from harness.board.site import write_site
from harness.commands.dashboard import build_boards
from harness.commands.leaderboard import Choice
from harness.plugins.search import parse_space
from harness.scoring.clock.parts import time_parts
from harness.scoring.settings.edges import Range
from harness.study.settings.searched import searched
from tests.board.dashboard_site import build, record
from tests.scoring.scoring_tables import hyperparameters, tables, trial_rows, write

TIMES = "\N{MULTIPLICATION SIGN}"


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    build(folder)
    return folder


@pytest.fixture(scope="module")
def board(results):
    return build_boards(Choice(results=str(results)))[0]


def page_of(results, submission):
    return (results / "board" / "submissions" / f"{submission}.html").read_text(encoding="utf-8")


def test_it_names_those_to_whom_it_loses_with_interval_and_by_how_much(board, results):
    rivals = {row["workload"]: row for row in explained(board, "sgd")["rivals"]}
    on_digits = rivals["digits"]
    assert on_digits["faster"] == 2
    # Everybody's studies are slower by the same tenths, so that the ratios are those of the bases: 30, 10 and 6.
    named = [(each["name"], each["factor"]) for each in on_digits["others"]]
    assert named == [("muon", f"5.00 {TIMES}"), ("adamw", f"3.00 {TIMES}")]
    low, high = map(float, on_digits["others"][0]["interval"].split(" to "))
    assert low < 5.0 < high
    assert explained(board, "muon")["rivals"] == []
    assert "Nobody is faster on a scored workload." in page_of(results, "muon")
    table = pd.read_csv(results / "board" / "data" / "losses.csv").set_index(["submission", "workload", "other"])
    assert table.loc[("sgd", "digits", "muon"), "factor"] == pytest.approx(5.0)


def test_it_says_what_the_best_of_k_trials_can_be_expected_to_take(board, results):
    best_of = explained(board, "sgd")["best_of"]
    (row,) = [row for row in best_of["rows"] if row["workload"] == "digits"]
    # 30 s, and a tenth of that more for each study and two for each trial: the mean of the nine, and the least.
    assert best_of["ks"] == [1, 2, 5, 9]
    assert (row["cells"][0]["text"], row["cells"][-1]["text"]) == ("39.0 s", "30.0 s")
    assert [cell["text"] for row in best_of["rows"] if row["workload"] == "fashion" for cell in row["cells"]] == [
        "never"
    ] * 4
    table = pd.read_csv(results / "board" / "data" / "best_of_k.csv")
    chosen = table[(table["submission"] == "sgd") & (table["workload"] == "digits") & (table["k"] == 1)]
    assert chosen["expected_seconds"].item() == pytest.approx(39.0)


def test_it_says_how_wide_the_good_learning_rates_are(board):
    rates = {row["workload"]: row for row in explained(board, "sgd")["rates"]}
    # 1, 0.1 and 0.01 take 33, 39 and 45 s in the median: of the three the first owns a quarter of the range.
    assert (rates["digits"]["width"], rates["digits"]["best"], rates["digits"]["tried"]) == ("25 %", "1", "0.01 to 1")
    assert rates["fashion"]["width"] == "no trial has reached"


def test_it_says_how_many_tuned_points_lie_at_the_edge_of_what_was_searched(board, results):
    told = explained(board, "sgd")
    assert told["edges_unknown"] == ""
    rates, momentum = told["edges"]
    assert (rates["hyperparameter"], rates["range"]) == ("learning_rate", "0.001 to 1")
    assert (rates["tuned"], rates["tuned_low"], rates["tuned_high"]) == (3, 0, 3)
    assert rates["expected"] == "1.0"  # a third of the points that were tried
    assert (momentum["tuned_low"], momentum["tuned_high"]) == (0, 0)
    points = pd.read_csv(results / "board" / "data" / "tuned_points.csv")
    assert points[points["edge"] == "high"]["value"].tolist() == [1.0] * 3


def test_where_its_files_are_not_as_they_were_it_says_that_edges_are_not_known(board, results):
    assert "rows hold no search range" in explained(board, "muon")["edges_unknown"]
    assert "rows hold no search range" in page_of(results, "muon")


def test_a_directory_that_has_changed_since_says_nothing_of_the_rows(tmp_path):
    record(tmp_path / "runs")
    with (tmp_path / "sgd" / "submission.yaml").open("a", encoding="utf-8") as file:
        file.write("# changed\n")
    board = build_boards(Choice(results=str(tmp_path)))[0]
    assert "sgd" not in board.ranges
    assert explained(board, "sgd")["unread"]["names"] == ["idle"]  # the profile is of the files that ran


def test_it_says_which_hyperparameters_are_never_read_or_that_nobody_has_looked(board, results):
    assert explained(board, "sgd")["unread"] == {"names": ["idle"], "workloads": 1}
    assert re.search(
        r"In the profiled steps of 1 workload, at the defaults: <strong>idle</strong>", page_of(results, "sgd")
    )
    assert pd.read_csv(results / "board" / "data" / "step_profiles.csv")["unread"].tolist() == ["idle"]
    assert explained(board, "muon")["unread"]["names"] is None
    assert "make profile SUBMISSION=muon" in page_of(results, "muon")


def test_it_shows_a_step_by_its_parts_and_where_they_were_measured(board, results):
    (parts,) = explained(board, "sgd")["parts"]
    assert (parts["workload"], parts["step"], parts["place"]) == ("digits", "30 ms", "")
    assert [each["text"] for each in parts["shares"]] == ["3 %", "33 %", "50 %", "10 %", "3 %"]
    elsewhere = dataclasses.replace(board, profiles=board.profiles.assign(hardware_fingerprint="other"))
    assert explained(elsewhere, "sgd")["parts"][0]["place"] == "on another machine (desk)"
    assert "Forward, backward and update: not known." in page_of(results, "muon")


def test_a_profile_of_other_files_is_not_shown(tmp_path):
    record(tmp_path / "runs")
    profile = next((tmp_path / "runs" / "profiles").rglob("*.json"))
    profile.write_text(re.sub(r'"submission_hash": "\w+"', '"submission_hash": "old"', profile.read_text()), "utf-8")
    assert build_boards(Choice(results=str(tmp_path)))[0].profiles.empty


def test_it_says_what_trials_take_of_time_memory_and_energy(board, results):
    takes = explained(board, "sgd")["takes"]
    row = next(row for row in takes["rows"] if row["workload"] == "digits")
    assert {name: row[name] for name in takes["names"]} == {
        "Step": "30 ms",
        "p90 / median": "1.10",
        f"{TIMES} reference step": "1.50",
        "First step": "2.00 s",
        "of the charge": "2 %",
        "Processor": "80 %",
        "Evaluation": "20 %",
        "Other": "13 %",
        "State": "4.0 B",
        "Peak, host": "500 MB",
        "Energy": "5,000 J",
        "Power": "50 W",
    }
    assert explained(board, "muon")["takes"]["names"] == ["Peak, host"]
    assert "No energy was recorded: the device does not report it." in page_of(results, "muon")


def test_what_trials_take_is_in_seconds_whatever_unit_the_board_is_in():
    took = {"charged_seconds": 10.0, "cpu_seconds": 5.0, "total_seconds": 20.0, "evaluation_seconds": 5.0}
    trials, _ = tables([trial_rows("w", "s", 10.0, **took)])
    in_steps = trials.assign(charged_seconds=1000.0, units_per_second=100.0)
    for read in (trials, in_steps):
        (row,) = time_parts(read).to_dict("records")
        assert (row["cpu_share"], row["evaluation_share"], row["other_share"]) == pytest.approx((0.5, 0.25, 0.25))


def test_a_search_space_says_from_where_to_where_numbers_were_searched():
    defaults = {"lr": 0.1, "layers": 2, "rule": "a", "momentum": 0.5}
    written = {
        "lr": {"min": 0.01, "max": 1.0, "scaling": "log"},
        "layers": {"values": [4, 1, 2]},
        "rule": {"values": ["a", "b"]},
    }
    assert searched(parse_space(written, defaults=defaults, where="x")) == {
        "lr": Range(0.01, 1.0, is_log=True),
        "layers": Range(1.0, 4.0, values=(1.0, 2.0, 4.0)),
    }
    points = [{"lr": 0.1}, {"lr": 0.3, "momentum": 0.5}]
    assert searched(parse_space(points, defaults=defaults, where="x")) == {"lr": Range(0.1, 0.3, values=(0.1, 0.3))}


def test_a_board_of_one_study_and_one_submission_claims_nothing(tmp_path):
    write(tmp_path / "runs", [trial_rows("digits", "only", 10.0, hyperparameters=hyperparameters(lr=0.1))])
    board = build_boards(Choice(results=str(tmp_path)))[0]
    page = (write_site([board], tmp_path / "board").parent / "submissions" / "only.html").read_text(encoding="utf-8")
    assert "To whom" not in page
    assert "No learning rate was tried at three values or more" in page
    assert "nan" not in page.lower()

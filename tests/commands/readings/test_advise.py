"""`make advise`: what it reads, what it prints, what a mistake says."""

from __future__ import annotations

import io
import math
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harness.api import ConfigError, DataError
from harness.command_line import PlainConsole
from harness.commands.readings.advise import parse_question, rows_of, show
from harness.records.tables import EVALUATIONS, PARTITIONS, TRIALS, versioned
from tests.conftest import ROOT
from tests.scoring.scoring_tables import trial_rows, write


def printed(results, *arguments, width=120):
    console = PlainConsole(io.StringIO(), width=width, record=True)
    show(parse_question([f"results={results}", *arguments]), console)
    return console.export_text()


def flat(results, *arguments):
    """What is printed, without its line breaks."""
    return " ".join(printed(results, *arguments, width=400).split())


def write_board(results, name, rows):
    """A committed board: both tables with their partition columns, in a file each."""
    folder = results / "reference" / "boards"
    folder.mkdir(parents=True, exist_ok=True)
    trials = [trial for trial, _ in rows]
    place = ("workload", "submission")
    evaluations = [row | {key: trial[key] for key in place} for trial, seen in rows for row in seen]
    for table, schema, content in (("trials", TRIALS, trials), ("evaluations", EVALUATIONS, evaluations)):
        schema = versioned(pa.unify_schemas([schema, PARTITIONS]))
        pq.write_table(pa.Table.from_pylist(content, schema), folder / f"{name}.{table}.parquet")


def study(workload, submission, *seconds, **changes):
    return [
        trial_rows(workload, submission, each, study=n, seed=n, ruleset="self", **changes)
        for n, each in enumerate(seconds)
    ]


@pytest.fixture
def results(tmp_path):
    rows = []
    for workload in ("fashion_mnist_cnn", "fashion_mnist_vit", "kjv_char_lm"):
        rows += study(workload, "adamw", 30.0, 33.0, 36.0)
        rows += study(workload, "muon", 10.0, 11.0, 12.0)
        rows += study(workload, "sgd", 30.0, math.inf, math.inf)
    write(tmp_path / "runs", rows)
    return tmp_path


def test_what_to_use_is_said_for_all_workloads_and_for_each_family(results):
    text = flat(results)
    assert "all workloads: fashion_mnist_cnn, fashion_mnist_vit, kjv_char_lm" in text
    assert "images: fashion_mnist_cnn, fashion_mnist_vit" in text
    assert "language: kjv_char_lm" in text
    assert "defaults: muon is told apart from all 2 others" in text
    assert "3.00 \N{MULTIPLICATION SIGN} adamw" in text
    assert "0 % miss, 0 of 9" in text
    assert "self: 27 trials of 3 submissions, hardware desk (01234567), times in seconds" in text


def test_one_workload_has_its_time_and_no_families(results):
    text = flat(results, "workload=kjv_char_lm")
    # Rows of the ruleset self have raced within one and a half times the workload's budget.
    assert "11.0 s, 16 % of the budget" in text
    assert "images" not in text


def test_a_budget_is_a_share_of_the_workloads_own(results):
    assert "defaults, 0.75 \N{MULTIPLICATION SIGN} budget" in flat(results, "budget=0.75")
    assert "rows do not reach that far" not in flat(results, "budget=3"), "muon has never missed"


def test_a_suite_answers_from_the_workloads_that_have_rows(results):
    text = flat(results, "suite=mini")
    assert "suite mini: fashion_mnist_cnn, fashion_mnist_vit, kjv_char_lm" in text
    assert "no rows of interface_de_en, flights_delay" in text


def test_rows_that_are_ranked_by_value_say_nothing_of_time(tmp_path):
    write(tmp_path / "runs", [trial_rows("kjv_char_lm", "adamw", 5.0, ruleset="data")])
    with pytest.raises(DataError, match="ranks by best value"):
        printed(tmp_path)


@pytest.mark.parametrize("width", [60, 100, 160])
def test_no_line_is_wider_than_the_terminal(results, width):
    assert max(len(line) for line in printed(results, width=width).splitlines()) <= width


def test_rows_of_a_committed_board_answer_with_those_of_this_machine(tmp_path):
    around = {"reference_step_seconds_before": 0.01, "reference_step_seconds_after": 0.01}
    slow = {"reference_step_seconds_before": 0.04, "reference_step_seconds_after": 0.04}
    write_board(tmp_path, "mini_self", study("kjv_char_lm", "adamw", 10.0, 11.0, 12.0, **around))
    write(tmp_path / "runs", study("kjv_char_lm", "mine", 4.0, 4.4, 4.8, hardware_fingerprint="laptop", **slow))
    text = flat(tmp_path)
    assert "mine is told apart from the other one" in text
    assert "10.00 \N{MULTIPLICATION SIGN} adamw" in text, "a machine a quarter as fast took four tenths of the time"
    assert "110 ref steps" in text
    assert "hardware several machines" in text


def test_rows_without_the_unit_are_named_and_cost_the_others_nothing(tmp_path):
    around = {"reference_step_seconds_before": 0.01, "reference_step_seconds_after": 0.01}
    write_board(tmp_path, "published", [trial_rows("ogbg", "adamw", 9.0, ruleset="algoperf_v0_5")])
    write(tmp_path / "runs", study("kjv_char_lm", "adamw", 10.0, 11.0, 12.0, **around))
    text = flat(tmp_path, "unit=reference_steps")
    assert "only adamw has rows here" in text
    assert "algoperf_v0_5: no row says what it took in reference steps (adamw)" in text


def test_a_board_alone_answers_and_a_trial_on_two_boards_counts_once(tmp_path):
    rows = study("kjv_char_lm", "adamw", 10.0, 11.0)
    write_board(tmp_path, "one", rows)
    write_board(tmp_path, "two", rows)
    assert "self: 2 trials of 1 submissions" in flat(tmp_path)


def test_a_trial_that_was_run_again_here_has_nothing_of_the_one_of_the_same_id_on_a_board(tmp_path):
    write_board(tmp_path, "one", study("kjv_char_lm", "adamw", 10.0))
    (trial, curve), *others = study("kjv_char_lm", "adamw", 10.0)
    assert not others
    crashed = {"status": "crashed", "time_to_target": math.inf, "charged_seconds": 5.0}
    write(tmp_path / "runs", [(trial | crashed, curve[:1])])  # before the evaluation that hits on the board
    question = parse_question([f"results={tmp_path}"])
    ((rows,), _) = rows_of(question)
    assert rows.scoring.times["evaluations"].tolist() == [1]
    assert rows.scoring.times["time_to_target"].tolist() == [math.inf]


def test_trials_whose_settings_are_not_known_are_the_best_of_so_many_all_the_same(tmp_path):
    rows = [
        trial_rows("lm", "adamw", 10.0 + n + t, study=n, trial=t, ruleset="plain") for n in range(3) for t in range(5)
    ]
    write(tmp_path / "runs", rows)
    text = flat(tmp_path)
    assert "5 trials" in text
    assert "defaults" not in text


def test_development_runs_answer_only_where_there_is_nothing_else(results):
    quick = [trial_rows("kjv_char_lm", "lion", 1.0, ruleset="quick")]
    write(results / "runs", quick)
    assert "lion" not in flat(results, "workload=kjv_char_lm")
    assert "only lion has rows here" in flat(results, "workload=kjv_char_lm", "ruleset=quick")
    write(results / "other" / "runs", quick)
    assert "only lion has rows here" in flat(results / "other")


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("budget=0", "BUDGET is '0'"),
        ("budget=half", "BUDGET is 'half'"),
        ("unit=hours", "UNIT is 'hours'"),
        ("workload=kjv_char", "Did you mean 'kjv_char_lm'"),
        ("suite=minni", "there is no suite 'minni'"),
        ("ruleset=external", "ruleset 'external': no row has it"),
        ("reference=adamv", "reference 'adamv': no row has it. Did you mean 'adamw'"),
        ("colour=red", "there is no option 'colour'"),
    ],
)
def test_a_mistake_is_named(results, argument, said):
    with pytest.raises(ConfigError, match=said):
        printed(results, argument)


def test_without_rows_it_says_what_makes_some(tmp_path):
    with pytest.raises(DataError, match="make bench"):
        printed(tmp_path)


def test_answering_loads_no_torch():
    code = "import sys, harness.commands.readings.advise; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "False"

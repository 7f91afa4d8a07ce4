"""`make leaderboard`: which rows are ranked together, what is printed, what a mistake says."""

from __future__ import annotations

import datetime
import io
import math
import re
import subprocess
import sys

import pytest

from harness.api import ConfigError, DataError
from harness.command_line import PlainConsole
from harness.commands.leaderboard import Choice, main, parse_choice, show
from tests.conftest import environment
from tests.scoring.scoring_tables import FIRST_DAY, trial_rows, write

LATER = FIRST_DAY + datetime.timedelta(days=1)


def printed(runs, *, width=100, **choice):
    console = PlainConsole(io.StringIO(), width=width, record=True)
    show(Choice(results=str(runs.parent), **choice), console)
    return console.export_text()


def flat(runs):
    """What is printed, without its line breaks."""
    return " ".join(printed(runs, width=400).split())


@pytest.fixture
def runs(tmp_path):
    rows = [trial_rows("digits", "adamw", 10.0), trial_rows("digits", "muon", 5.0)]
    rows += [trial_rows("fashion", "adamw", 1200.0, max_runtime=2000.0), trial_rows("fashion", "muon", math.inf)]
    write(tmp_path / "runs", rows)
    return tmp_path / "runs"


def test_the_board_shows_scores_ranks_times_steps_and_the_word_for_a_miss(runs):
    text = printed(runs)
    assert re.search(r"1 +│ adamw +│ 0\.8333", text)
    assert re.search(r"2 +│ muon +│ 0\.5000", text)
    for words in ("10.0 s", "100 steps", "5.00 s", "1,200 s", "out of budget"):
        assert words in text
    assert "inf" not in text
    assert "nan" not in text


@pytest.mark.parametrize("width", [60, 80, 140])
def test_no_line_is_wider_than_the_terminal(tmp_path, width):
    names = [f"a_workload_with_a_rather_long_name_{n}" for n in range(9)]
    write(tmp_path / "runs", [trial_rows(w, s, 10.0) for w in names for s in ("schedule_free_adamw", "muon")])
    text = printed(tmp_path / "runs", width=width)
    assert max(len(line) for line in text.splitlines() if str(tmp_path) not in line) <= width
    assert text.count("10.0 s") == 18


def test_the_markdown_page_holds_the_same_table(runs):
    printed(runs)
    page = (runs.parent / "board" / "leaderboard.md").read_text()
    assert "| 1 | adamw | 0.8333 |" in page
    assert "| fashion | **1,200 s, 12,000 steps** | out of budget |" in page


def test_rows_that_were_evaluated_by_steps_are_never_ranked(runs):
    write(runs, [trial_rows("digits", "sgd", 1.0, evaluate_every_steps=100)])
    text = printed(runs)
    assert "sgd" not in text
    assert "left out: 1 trial evaluated by steps" in text


@pytest.mark.parametrize(
    "change",
    [{"hardware": "cluster"}, {"hardware_fingerprint": "ffff"}, {"ruleset": "external"}, {"division": "open"}],
)
def test_rows_of_other_hardware_rulesets_or_divisions_are_named_and_not_ranked_together(runs, change):
    write(runs, [trial_rows("digits", "sgd", 1.0, trial_id="other", started_at=LATER, **change)])
    text = printed(runs)
    assert re.search(r"1 +│ sgd +│ 1\.0000", text), "the combination used last is ranked"
    assert "adamw" not in text
    assert "not ranked with these" in text


def test_a_board_of_the_open_division_says_so_and_how_large_the_networks_are(runs):
    sizes = {"predictor_parameters": 1_234_567, "predictor_bytes": 4_938_300}
    opened = trial_rows("digits", "boosted", 1.0, trial_id="other", started_at=LATER, division="open", **sizes)
    write(runs, [opened])
    text = printed(runs)
    assert text.startswith("open division, ruleset quick")
    assert re.search(r"boosted +│ 1\.0000 .*│ +1,234,567 │ +4,938,300 │", text)
    closed = printed(runs, division="closed")
    assert "adamw" in closed
    assert "boosted" not in closed
    assert "bytes" not in closed


def test_another_combination_is_chosen_by_its_name(runs):
    write(runs, [trial_rows("digits", "sgd", 1.0, trial_id="other", started_at=LATER, hardware="cluster")])
    assert "adamw" in printed(runs, hardware="desk")


@pytest.mark.parametrize(
    "change",
    [{"submission_hash": "s2"}, {"hyperparameters": '{"rate": 1}'}, {"seed": 2}, {"workload_hash": "w2"}],
)
def test_of_several_contents_of_one_submission_the_newest_counts(tmp_path, change):
    old = trial_rows("digits", "adamw", 10.0, trial_id="old")
    new = trial_rows("digits", "adamw", 20.0, trial_id="new", started_at=LATER, **change)
    write(tmp_path / "runs", [old, new])
    text = printed(tmp_path / "runs")
    assert "20.0 s" in text
    assert "10.0 s" not in text
    assert "left out: 1 trial" in text


def test_workloads_and_submissions_can_be_chosen(runs):
    text = printed(runs, workload="digits", submission="muon")
    assert "5.00 s" in text
    assert "adamw" not in text
    assert "fashion" not in text


def test_a_workload_that_a_submission_has_not_run_is_said_and_counts_as_missed(runs):
    write(runs, [trial_rows("digits", "sgd", 5.0)])
    text = printed(runs)
    assert "not run" in text
    assert "sgd was not run on fashion: counted as missed" in text
    assert re.search(r"sgd +│ 0\.5000", text)


def test_a_smoke_test_is_shown_and_a_line_says_that_it_is_not_scored(runs):
    write(runs, [trial_rows("digits_mlp", "adamw", 0.25), trial_rows("digits_mlp", "muon", 0.5)])
    text = printed(runs)
    assert "0.250 s" in text
    assert "digits_mlp is a smoke test: shown, not scored" in text
    assert re.search(r"1 +│ adamw +│ 0\.8333", text), "as without it"


def test_a_board_can_be_read_in_reference_steps_and_in_cpu_seconds(tmp_path):
    def row(submission, seconds, pace):
        around = dict.fromkeys(("reference_step_seconds_before", "reference_step_seconds_after"), pace)
        return trial_rows("w", submission, seconds, charged_seconds=seconds, cpu_seconds=seconds / 2, **around)

    # On a machine that had become four times as slow.
    write(tmp_path / "runs", [row("adamw", 10.0, 0.01), row("muon", 20.0, 0.04)])
    assert re.search(r"1 +│ adamw +│ 1\.0000", printed(tmp_path / "runs"))
    steps = printed(tmp_path / "runs", unit="reference_steps")
    assert re.search(r"1 +│ muon +│ 1\.0000", steps)
    assert "by reference steps" in steps
    assert "500 ref steps" in steps
    assert "5.00 CPU s" in printed(tmp_path / "runs", unit="cpu_seconds")
    page = (tmp_path / "board" / "leaderboard.md").read_text(encoding="utf-8")
    assert "by CPU seconds" in page
    with pytest.raises(ConfigError, match=r"unit is 'hours'\. Use one of seconds, cpu_seconds, reference_steps"):
        printed(tmp_path / "runs", unit="hours")


def test_entries_without_the_unit_are_named_and_the_others_are_ranked(tmp_path):
    known = {"cpu_seconds": 5.0, "charged_seconds": 10.0}
    silent = [trial_rows("digits", name, 10.0) for name in ("muon", "soap")]
    write(tmp_path / "runs", [trial_rows("digits", "adamw", 10.0, **known), *silent])
    said = " ".join(printed(tmp_path / "runs", width=400, unit="cpu_seconds").split())
    assert "5.00 CPU s" in said
    assert (
        "do not say what they took in CPU seconds: 1 trial of muon, 1 trial of soap; not on this board: muon, soap"
        in said
    )
    with pytest.raises(
        DataError, match=r"reference steps \(adamw, muon, soap\)\. Use unit=seconds, or choose other rows"
    ):
        printed(tmp_path / "runs", unit="reference_steps")


def test_disturbed_trials_are_counted_and_named(runs):
    write(runs, [trial_rows("digits", "sgd", 7.0, reference_drift=1.4)])
    text = flat(runs)
    assert re.search(r"of them disturbed .* sgd │ 1 │ │ 1 │ 1 │", text)
    assert "1 of 5 trials are disturbed" in text


def test_fewer_studies_than_the_others_is_said(tmp_path):
    rows = [trial_rows("w", "a", 10.0, study=study) for study in range(3)] + [trial_rows("w", "b", 10.0)]
    write(tmp_path / "runs", rows)
    assert "unfinished, so that times and scores can still change: b on w (1 of 3 studies" in flat(tmp_path / "runs")


def test_a_bench_that_was_cut_off_is_said_where_what_is_missing_could_change_a_number(tmp_path):
    half = [trial_rows("w", "half", time, study=n, ruleset="self") for n, time in enumerate([10.0, math.inf])]
    lost = [trial_rows("w", "lost", math.inf, study=n, ruleset="self") for n in range(2)]
    write(tmp_path / "runs", half + lost)
    text = flat(tmp_path / "runs")
    assert "can still change: half on w (2 of 3 studies, 2 of 3 trials)" in text
    assert "lost on w (" not in text  # two of three have missed: the median is infinite whatever the third would give


def test_studies_of_fewer_trials_than_the_ruleset_plans_are_said(tmp_path):
    write(tmp_path / "runs", [trial_rows("w", "a", 10.0, study=n, ruleset="external") for n in range(3)])
    assert "a on w (3 of 3 studies, 3 of 15 trials)" in flat(tmp_path / "runs")


def test_a_study_that_is_the_fastest_already_is_not_called_unfinished(tmp_path):
    seconds = {0: [10.0], 1: [20.0] * 5, 2: [30.0] * 5}
    rows = [
        trial_rows("w", "a", time, study=study, trial=trial, ruleset="external")
        for study, times in seconds.items()
        for trial, time in enumerate(times)
    ]
    write(tmp_path / "runs", rows)
    assert "unfinished" not in flat(tmp_path / "runs")


@pytest.mark.parametrize(("workloads", "is_said"), [("uvw", True), ("uvwx", False)])
def test_a_board_of_fewer_than_four_workloads_says_that_its_intervals_are_rough(tmp_path, workloads, is_said):
    rows = [trial_rows(name, "a", 10.0 + study, study=study) for name in workloads for study in range(3)]
    write(tmp_path / "runs", rows)
    assert ("intervals are rough" in flat(tmp_path / "runs")) == is_said


def test_a_board_says_what_misses_do_to_intervals_of_studies_of_one_trial(tmp_path):
    rows = [trial_rows("w", "a", 10.0 if study else math.inf, study=study) for study in range(3)]
    write(tmp_path / "runs", rows)
    assert "studies of one trial, and some miss" in flat(tmp_path / "runs")


def test_several_studies_give_intervals_and_tiers_and_a_single_one_none(tmp_path):
    rows = [
        trial_rows(workload, submission, seconds + study, study=study)
        for workload in "uvw"
        for submission, seconds in (("quick", 20.0), ("slow", 60.0))
        for study in range(3)
    ]
    write(tmp_path / "runs", rows)
    text = printed(tmp_path / "runs")
    assert re.search(r"1 +│ quick +│ 1\.0000 │ 0\.\d+ to 1\.000 │ +1 │", text)
    assert re.search(r"2 +│ slow +│ 0\.3\d+ │ 0\.\d+ to 0\.\d+ │ +2 │", text)
    write(tmp_path / "single" / "runs", rows[::3])
    assert "interval" not in printed(tmp_path / "single" / "runs")


def test_a_cell_of_a_single_study_is_marked_and_takes_no_interval_away(tmp_path):
    rows = [
        trial_rows(workload, submission, seconds + study, study=study)
        for workload in "uvw"
        for submission, seconds in (("quick", 20.0), ("slow", 60.0))
        for study in range(3)
        if (workload, submission) != ("w", "slow") or study == 0
    ]
    write(tmp_path / "runs", rows)
    text = printed(tmp_path / "runs", width=200)
    assert re.search(r"1 +│ quick +│ 1\.0000 │ +[01]\.\d+ to 1\.000 │ +1 │", text)
    assert re.search(r"2 +│ slow +│ 0\.3\d+ │ 0\.\d+ to 0\.\d+ † │ +[12] │", text)
    assert "† a single study, so that the intervals take the spread that others have: slow on w" in text


def test_the_board_says_how_trials_ended(runs):
    assert re.search(r"muon +│ +1 │ +1 │ +2 │", printed(runs))


def test_chosen_workloads_alone_are_scored_also_where_the_rules_name_more(tmp_path):
    rows = [trial_rows(workload, "adam", 10.0, ruleset="algoperf_v0_6") for workload in ("wmt", "ogbg")]
    write(tmp_path / "runs", rows)
    assert "1 of 1" in printed(tmp_path / "runs", workload="wmt")
    assert "2 of 8" in printed(tmp_path / "runs")


def test_an_unknown_name_lists_the_near_ones(runs):
    with pytest.raises(ConfigError, match="Did you mean 'digits'"):
        show(Choice(results=str(runs.parent), workload="digit"))


def test_an_unknown_argument_lists_the_near_ones():
    with pytest.raises(ConfigError, match="Did you mean 'workload'"):
        parse_choice(["workloads=digits"])


def test_a_bad_metric_names_the_folder_and_the_column(tmp_path):
    trial, evaluations = trial_rows("digits", "adamw", 10.0)
    evaluations[0]["validation"] = None
    write(tmp_path / "runs", [(trial, evaluations)])
    with pytest.raises(DataError, match=r"runs/evaluations/workload=digits/submission=adamw: column 'validation'"):
        show(Choice(results=str(tmp_path)))


@pytest.mark.parametrize(("argument", "words"), [("results=nowhere", "make bench"), ("colour=red", "colour")])
def test_nothing_recorded_and_a_mistake_end_with_one_line_and_exit_code_two(tmp_path, argument, words):
    command = [sys.executable, "-m", "harness.commands.leaderboard", argument]
    done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True)
    assert done.returncode == 2
    assert words in done.stderr.decode()
    assert done.stderr.count(b"\n") == 1


def test_the_command_prints_the_board_and_ends_with_zero(runs, capsys):
    assert main([f"results={runs.parent}", "submission=adamw"]) == 0
    assert "adamw" in capsys.readouterr().out

"""Newcomers on a reference board: which board fits, what is said, and that nobody else's rows become theirs."""

from __future__ import annotations

import datetime
import io
import math
import re
from pathlib import Path

import pytest

from harness.api import ConfigError, visible
from harness.command_line import PlainConsole
from harness.commands import bench, dashboard
from harness.commands.leaderboard import Choice, make_board, read_trials, show
from harness.records.committed import BoardFile, boards_folder
from harness.records.committed import board_rows as board_file_rows
from harness.records.tables import read_rows
from harness.scoring.placing.fit import FIT_COLUMNS, Fit, best_fit, fit_to
from harness.scoring.rules import load_rules
from harness.scoring.selection import comparable
from tests.scoring.scoring_tables import tables, trial_rows, write

RULES = load_rules("timetrial_v3")
WORKLOADS = ("images", "text", "graphs", "speech")
LUCK = (1.0, 1.03, 0.98)
SKILL = {"nadamw": 1.0, "adamw": 1.1, "muon": 0.7, "sgd": 2.0, "lion": 1.3}
SELF = {"ruleset": "self", "ruleset_version": 2, "workload_version": 1, "reference": "adamw"}


def pace(seconds_per_step, **changes):
    """What a machine of this pace writes into every row: its step of the reference, and the budget that follows."""
    around = dict.fromkeys(
        ("reference_step_seconds", "reference_step_seconds_before", "reference_step_seconds_after"), seconds_per_step
    )
    budget = {"max_runtime": 10_000 * seconds_per_step, "eval_period": 100 * seconds_per_step}
    return {**SELF, **around, **budget, **changes}


BOARD_MACHINE = pace(0.01, hardware_fingerprint="b0a4d", device="Board CPU", sandboxed=True)
LAPTOP = pace(0.04, hardware_fingerprint="1a909", device="Laptop CPU", sandboxed=True)


def three_studies(submission, steps, machine, *, workloads=WORKLOADS, where="", **changes):
    """Rows of a submission that takes so many reference steps, or by workload, on a machine, evaluated often."""
    rows = []
    for number, workload in enumerate(workloads):
        for study in range(3):
            luck = LUCK[(study + number + len(submission)) % 3]
            wanted = steps[workload] if isinstance(steps, dict) else steps
            trial, evaluations = trial_rows(
                workload,
                submission,
                luck * wanted * machine["reference_step_seconds"],
                study=study,
                seed=study,
                trial_id=f"{where}{workload}-{submission}-{study}",
                **{**machine, **changes},
            )
            evaluations[0]["charged_seconds"] = 0.99 * evaluations[1]["charged_seconds"]
            rows.append((trial, evaluations))
    return rows


def board_rows(names=tuple(SKILL), **changes):
    return [row for name in names for row in three_studies(name, 1000.0 * SKILL[name], BOARD_MACHINE, **changes)]


def commit(results, name, trials, evaluations):
    """A board as make reference writes it; its path."""
    BoardFile(results, name).change(lambda _: board_file_rows(trials, evaluations))
    return str(boards_folder(results) / name)


def committed(tmp_path, rows, *, name="plus_self"):
    """The same from rows that are made up."""
    seen = [row | {name: trial[name] for name in ("workload", "submission")} for trial, curve in rows for row in curve]
    return commit(tmp_path / "elsewhere", name, [trial for trial, _ in rows], seen)


def read_selection(results):
    return comparable(read_trials(results / "runs", FIT_COLUMNS))


def printed(results, **choice):
    console = PlainConsole(io.StringIO(), width=500, record=True)
    show(Choice(results=str(results), **choice), console)
    return console.export_text().splitlines()


@pytest.fixture
def board(tmp_path):
    return committed(tmp_path, board_rows())


def test_a_newcomer_on_a_slower_machine_is_placed_by_reference_steps(tmp_path, board):
    steps = {"images": 700.0, "text": 800.0, "graphs": 750.0, "speech": 1500.0}
    write(tmp_path / "runs", three_studies("my_rule", steps, LAPTOP))
    lines = printed(tmp_path, against=board)
    assert re.fullmatch(
        r"my_rule: place 2 of 6, tier \d; 1\.1\d times nadamw \(1\.\d\d to 1\.\d\d\); loses on speech",
        lines[-1].strip(),
    )
    assert (
        "on the reference board plus_self: 5 submissions on Board CPU, its 4 workloads, in reference steps" in lines[-3]
    )
    assert lines[-2].startswith("made on another machine than the board: ")
    page = (tmp_path / "board" / "leaderboard.md").read_text(encoding="utf-8")
    assert page.splitlines()[-1] == f"- {lines[-1].strip()}"


def test_a_newcomer_has_the_name_of_an_entry_beside_it_and_no_row_of_the_other(tmp_path, board):
    write(tmp_path / "runs", three_studies("sgd", 1500.0, LAPTOP, where="laptop-"))
    last = printed(tmp_path, against=board)[-1]
    assert last.startswith("sgd (here): place 5 of 6, tier ")
    assert last.strip().endswith("the board's own sgd: place 6")
    assert "0.67 times nadamw" in last


def test_rows_that_are_the_boards_own_are_no_newcomers(tmp_path, board):
    write(tmp_path / "runs", three_studies("sgd", 2000.0, BOARD_MACHINE))
    assert printed(tmp_path, against=board)[-1].strip() == "not placed, as their rows are the board's own: sgd"


def test_a_trial_that_is_run_again_on_a_machine_like_the_boards_is_a_newcomers(tmp_path, board):
    rows = three_studies("sgd", 1500.0, BOARD_MACHINE)
    for trial, _ in rows:
        trial["started_at"] += datetime.timedelta(days=1)
    write(tmp_path / "runs", rows)
    *_, before, last = printed(tmp_path, against=board)
    assert last.startswith("sgd (here): place 5 of 6, tier ")
    assert last.strip().endswith("the board's own sgd: place 6")
    assert "another machine" not in before


def test_each_of_several_newcomers_is_placed_as_if_it_were_alone(tmp_path, board):
    rows = {"one": three_studies("one", 1150.0, LAPTOP), "two": three_studies("two", 400.0, LAPTOP)}
    write(tmp_path / "alone" / "runs", rows["one"])
    write(tmp_path / "both" / "runs", [*rows["one"], *rows["two"]])
    both = printed(tmp_path / "both", against=board)
    assert both[-2] == printed(tmp_path / "alone", against=board)[-1]
    assert both[-1].startswith("two: place 1 of 6, tier 1; 2.50 times nadamw")


def test_what_a_newcomer_has_not_run_is_no_miss_of_its_own(tmp_path, board):
    both = [*three_studies("one", 900.0, LAPTOP), *three_studies("two", 900.0, LAPTOP, workloads=WORKLOADS[:-1])]
    write(tmp_path / "runs", both)
    last = printed(tmp_path, against=board)[-1].strip()
    assert last.startswith("two: place ")
    assert f"not run on {WORKLOADS[-1]}: counted as missed" in last
    assert "(missed)" not in last


def test_a_missed_workload_is_named_among_those_that_it_loses_on(tmp_path, board):
    steps = dict.fromkeys(WORKLOADS, 1000.0) | {"text": math.inf}
    write(tmp_path / "runs", three_studies("my_rule", steps, LAPTOP))
    lines = printed(tmp_path, against=board)
    assert lines[-1].strip().endswith("loses on text (missed)")
    assert "some trials miss, so that places are wider than 95 % of cases need" in lines


def test_a_board_of_more_workloads_is_taken_on_the_common_ones_and_one_with_the_same_before_it(tmp_path):
    small = WORKLOADS[:2]
    write(tmp_path / "runs", three_studies("my_rule", 900.0, LAPTOP, workloads=small))
    plus = committed(tmp_path, board_rows())
    lines = printed(tmp_path, against=plus)
    assert "2 of its 4 workloads (images, text)" in "".join(lines)
    assert "not run here: graphs, speech" in lines
    assert "places are rough: on fewer than 4 workloads they hold in less than 95 % of cases" in lines


def test_entries_that_lack_a_common_workload_are_left_out_and_named(tmp_path):
    rows = [*board_rows(("nadamw", "adamw", "muon")), *board_rows(("sgd",), workloads=WORKLOADS[:3])]
    path = committed(tmp_path, rows)
    write(tmp_path / "runs", three_studies("my_rule", 900.0, LAPTOP))
    lines = printed(tmp_path, against=path)
    assert "not among its entries here, as they have not run all of these workloads: sgd" in lines
    assert "of 4, tier" in lines[-1]


def test_a_workload_that_few_entries_have_run_is_no_part_of_the_board_yet(tmp_path):
    names = ("nadamw", "adamw", "muon", "sgd")
    rows = [*board_rows(names, workloads=WORKLOADS[:3]), *board_rows(("nadamw",), workloads=WORKLOADS[3:])]
    path = committed(tmp_path, rows)
    write(tmp_path / "runs", three_studies("my_rule", 900.0, LAPTOP))
    lines = printed(tmp_path, against=path)
    assert "not on the board: speech" in lines
    assert "of 5, tier" in lines[-1]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"workload_hash": "w2", "workload_version": 2}, "text (version 2, there 1)"),
        ({"workload_hash": "w2", "data_hash": "d2"}, "text (other data)"),
        ({"workload_hash": "w2", "target_validation": 0.2}, "text (target 0.2, there 0.1)"),
        (
            {"workload_hash": "w2", "max_runtime": 200.0},
            "text (a budget of 5,000 steps in 50 evaluations, there 10,000",
        ),
        ({"workload_hash": "w2"}, "text (other settings)"),
        ({"reference": "nadamw"}, "text (steps of nadamw, there of adamw)"),
    ],
)
def test_a_workload_in_another_form_is_left_out_and_said(tmp_path, board, change, words):
    rows = three_studies("my_rule", 900.0, LAPTOP, workloads=("images", "graphs", "speech"))
    rows += three_studies("my_rule", 900.0, LAPTOP, workloads=("text",), **change)
    write(tmp_path / "runs", rows)
    text = "\n".join(printed(tmp_path, against=board))
    assert f"not compared with: {words}" in text
    assert "3 of its 4 workloads (graphs, images, speech)" in text


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"ruleset": "external"}, "plus_self has no rows of ruleset external v2, closed division"),
        ({"ruleset_version": 3}, "plus_self has no rows of ruleset self v3, closed division"),
        ({"division": "open"}, "plus_self has no rows of ruleset self v2, open division"),
        (
            {"workload_hash": "w2", "data_hash": "d2"},
            "plus_self has none of these workloads in this form: graphs (other",
        ),
    ],
)
def test_where_no_board_fits_one_line_says_so_and_nothing_else_changes(tmp_path, board, change, words):
    write(tmp_path / "runs", three_studies("my_rule", 900.0, LAPTOP, **change))
    lines, without = (printed(tmp_path, against=against) for against in (board, "none"))
    assert lines[: len(without)] == without
    assert len(lines) == len(without) + 1
    assert lines[-1].startswith(f"not placed on a reference board: {words}")


def test_rows_that_know_no_step_of_the_reference_are_not_placed_and_the_line_says_why(tmp_path, board):
    bare = dict.fromkeys(name for name in LAPTOP if name.startswith("reference_step"))
    write(tmp_path / "runs", three_studies("my_rule", 900.0, LAPTOP, **bare))
    last = printed(tmp_path, against=board)[-1].strip()
    assert last == "my_rule: not placed, as 12 of 12 trials do not say what a step of the reference took"


def test_a_board_without_the_baseline_gives_a_place_alone(tmp_path):
    path = committed(tmp_path, board_rows(("adamw", "sgd")))
    write(tmp_path / "runs", three_studies("my_rule", 1500.0, LAPTOP))
    assert printed(tmp_path, against=path)[-1].strip() == "my_rule: place 2 of 3, tier 2"


def test_single_studies_have_a_place_and_no_interval(tmp_path):
    single = [row for row in board_rows() if row[0]["study"] == 0]
    path = committed(tmp_path, single)
    write(tmp_path / "runs", [row for row in three_studies("my_rule", 600.0, LAPTOP) if row[0]["study"] == 0])
    last = printed(tmp_path, against=path)[-1].strip()
    assert last == "my_rule: place 1 of 6; 1.65 times nadamw; single studies show no interval"


def test_a_sandbox_that_only_the_board_had_is_said(tmp_path, board):
    write(tmp_path / "runs", three_studies("my_rule", 900.0, LAPTOP, sandboxed=False))
    assert "these rows were made without a sandbox, the board's in one" in printed(tmp_path, against=board)


def test_a_damaged_board_takes_no_table_away(tmp_path, board):
    write(tmp_path / "runs", three_studies("my_rule", 900.0, LAPTOP))
    BoardFile(tmp_path / "elsewhere", "plus_self").path("evaluations").write_bytes(b"PAR1")
    last = printed(tmp_path, against=board)[-1]
    assert last.startswith("not placed on a reference board: ")
    assert "no whole parquet file" in last


def test_a_board_that_is_not_there_is_said_before_anything_is_ranked(tmp_path, board):
    write(tmp_path / "runs", three_studies("my_rule", 900.0, LAPTOP))
    with pytest.raises(ConfigError, match=r"boards has no such board\. Did you mean 'plus_self'"):
        printed(tmp_path, against=board.replace("plus", "pluss"))


def test_of_several_boards_the_one_that_fits_is_taken(tmp_path):
    write(tmp_path / "runs", three_studies("my_rule", 900.0, LAPTOP, workloads=WORKLOADS[:2]))
    rows = read_selection(tmp_path)
    boards = {
        "tuned": board_rows(ruleset="external"),
        "large": board_rows(),
        "small": board_rows(workloads=WORKLOADS[:2]),
        "tiny": board_rows(workloads=WORKLOADS[:1]),
    }
    found = [fit_to(name, tables(each)[0], rows, RULES) for name, each in boards.items()]
    assert [isinstance(fit, Fit) for fit in found] == [False, True, True, True]
    assert best_fit(found[1:]).name == "small"
    assert best_fit([found[3], found[1]]).name == "large"


SHORT = [
    *("workload=deep_linear", "ruleset=self", "workload.target.validation=1e9", "workload.budget.steps=100"),
    *("tracking=off", "hardware.memory_gib=4", "++hardware.seconds_per_step.deep_linear=0.0006"),
]


def test_a_bench_ends_with_the_place_of_its_newcomer(tmp_path, capfd):
    assert bench.main([*SHORT, "submission=nadamw", f"results={tmp_path / 'there'}", "against=none"]) == 0
    assert "reference board" not in capfd.readouterr().out
    rows, seen = (read_rows(tmp_path / "there" / "runs", table) for table in ("trials", "evaluations"))
    path = commit(tmp_path / "elsewhere", "there", [row | {"hardware_fingerprint": "another"} for row in rows], seen)
    assert bench.main([*SHORT, "submission=adamw", f"results={tmp_path / 'here'}", f"against={path}"]) == 0
    said = " ".join(capfd.readouterr().out.split())
    assert "on the reference board there: 1 submission on " in said
    assert re.search(
        r"adamw: place [12]( to 2)? of 2, tier [12]; \d\.\d\d times nadamw \(\d\.\d\d to \d+\.\d\d\)$", said
    )


def test_a_bench_against_no_board_that_is_there_ends_before_anything_runs(tmp_path, capfd):
    assert bench.main([*SHORT, "submission=adamw", f"results={tmp_path}", f"against={tmp_path / 'mini'}"]) == 2
    assert f"{tmp_path} has no such board. Known: none." in capfd.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_a_suite_is_run_under_the_ruleset_of_its_reference_board_unless_another_is_given():
    asked = ["suite=mini", "submission=adamw", "tracking=off"]
    rulesets = [
        {config.ruleset.name for config in bench.studies_of(bench.parse([*asked, *more]))}
        for more in ([], ["ruleset=quick"])
    ]
    assert rulesets == [{"self"}, {"quick"}]


# --- a committed board itself ---


def test_a_committed_board_is_shown_as_the_rows_that_it_was_made_of_are(tmp_path, board):
    write(tmp_path / "runs", board_rows())
    run_here = printed(tmp_path, against="none")
    shown = printed(tmp_path, board=board)
    assert shown[:-3] == run_here[:-3]
    assert shown[-3].split() == ["trials", f"{board}.trials.parquet"]
    page = tmp_path / "boards" / "plus_self" / "leaderboard.md"
    assert "| nadamw" in page.read_text(encoding="utf-8")


def test_of_a_board_that_still_grows_what_few_have_run_yet_is_said_and_not_ranked(tmp_path):
    begun = three_studies("muon", 700.0, BOARD_MACHINE, workloads=("photos",))
    growing = committed(tmp_path, [*board_rows(), *begun], name="mini_plus_self")
    lines = printed(tmp_path, board=growing)
    assert any(
        "photos is not ranked, as 1 of 5 entries have run there yet: WORKLOAD=photos shows it" in x for x in lines
    )
    assert not any("was not run on photos" in line for line in lines)
    assert any("4 of 4" in line for line in lines)
    [site] = dashboard.build_boards(Choice(board=growing, results=str(tmp_path)))
    assert "photos" not in site.scoring.ratios.columns
    assert [note for note in site.notes if "photos is not ranked" in note]
    # Whoever asks for it sees it, and a board that make reference does not fill is shown as it is.
    assert any("1 of 1" in line for line in printed(tmp_path, board=growing, workload="photos"))
    other = committed(tmp_path, [*board_rows(), *begun], name="another")
    assert any("was not run on photos: counted as missed" in line for line in printed(tmp_path, board=other))


def test_a_board_that_was_filled_on_several_machines_is_ranked_whole_in_reference_steps(tmp_path):
    rest = [name for name in SKILL if name != "muon"]
    away = three_studies("muon", 700.0, LAPTOP)
    filled = committed(tmp_path, [*board_rows(rest), *away], name="mini_plus_self")
    lines = printed(tmp_path, board=filled)
    assert "several machines" in lines[0]
    assert "reference steps" in lines[0]
    assert any(
        f"trials of 2 machines ({len(board_rows(rest))} of b0a4d, {len(away)} of 1a909), compared in" in line
        for line in lines
    )
    assert make_board(Choice(board=filled)).scoring.scores.index[0] == "muon"
    [site] = dashboard.build_boards(Choice(board=filled, results=str(tmp_path)))
    assert set(site.scoring.scores.index) == set(SKILL)
    # Seconds of two machines are never ranked together.
    assert set(make_board(Choice(board=filled, unit="seconds")).scoring.scores.index) in ({"muon"}, set(rest))
    assert set(make_board(Choice(board=filled, hardware="b0a4d")).scoring.scores.index) == set(rest)


def test_pages_of_a_committed_board_lie_beside_those_of_the_rows_here_and_nothing_beside_the_board(tmp_path, board):
    committed_here = visible(Path(board).parent, "**/*")
    assert dashboard.main([f"board={board}", f"results={tmp_path}", "tracking=offline"]) == 0
    assert (tmp_path / "boards" / "plus_self" / "index.html").exists()
    assert not (tmp_path / "board").exists()
    assert visible(Path(board).parent, "**/*") == committed_here


def test_a_name_of_no_committed_board_is_said_with_those_that_there_are(tmp_path, board):
    with pytest.raises(ConfigError, match=r"BOARD is .*plus_selv.* has no such board.*plus_self"):
        printed(tmp_path, board=board.replace("plus_self", "plus_selv"))

"""`make dashboard` without a browser: which boards there are, what the pages and their data say, what is served."""

from __future__ import annotations

import datetime
import json
import math
import re
import subprocess
import sys
import urllib.error
import urllib.request
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

from harness.api import ConfigError, DataError, visible
from harness.board import facts, series, trial_table
from harness.board.boards import file_names
from harness.board.site import write_site
from harness.board.wandb_board import profile_table, publish
from harness.commands import dashboard
from harness.commands.dashboard import build_boards
from harness.commands.leaderboard import Choice
from harness.scoring.comparison import compare
from harness.scoring.rules import readings_of
from tests.board.dashboard_site import CRASHED, SUBMISSIONS, TRIALS, build, record
from tests.conftest import ROOT
from tests.scoring.scoring_tables import FIRST_DAY, trial_rows, write


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    build(folder)
    return folder


@pytest.fixture(scope="module")
def boards(results):
    return build_boards(Choice(results=str(results)))


def data_of(folder, name):
    """What a page receives from one of its data scripts."""
    call = re.fullmatch(
        r"timetrial\.receive\((.*?),(\".*\")\);\n", (folder / f"data/{name}.js").read_text(encoding="utf-8")
    )
    return json.loads(json.loads(call[2]))


class Links(HTMLParser):
    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, _tag, attributes):
        self.found += [value for name, value in attributes if name in ("href", "src")]


def pages(folder):
    return visible(folder, "**/*.html")


def test_every_ruleset_and_hardware_is_a_board_the_one_used_last_first(boards):
    assert [board.selection.combination["hardware"] for board in boards] == ["desk", "cluster"]


def test_the_open_division_has_a_board_of_its_own_with_the_size_of_each_network(tmp_path):
    sizes = {"predictor_parameters": 1_234_567, "predictor_bytes": 4_938_300}
    rows = [trial_rows("digits", "adamw", 60.0), trial_rows("digits", "own", 20.0, division="open", **sizes)]
    write(tmp_path / "runs", rows)
    boards = build_boards(Choice(results=str(tmp_path)))
    assert [(board.is_open, board.submissions) for board in boards] in (
        [(False, ["adamw"]), (True, ["own"])],
        [(True, ["own"]), (False, ["adamw"])],
    )
    assert ["open division" in board.label for board in boards] == [board.is_open for board in boards]
    (opened,) = build_boards(Choice(results=str(tmp_path), division="open"))
    page = write_site([opened], tmp_path / "board").read_text(encoding="utf-8")
    assert '<td class="n">1,234,567</td><td class="n">4,938,300</td>' in page
    assert "Bytes" in page
    table = pd.read_csv(tmp_path / "board" / "data" / "leaderboard.csv")
    assert table["predictor_parameters"].tolist() == [1_234_567]
    closed = build_boards(Choice(results=str(tmp_path), division="closed"))
    assert "Bytes" not in write_site(closed, tmp_path / "board").read_text(encoding="utf-8")


def test_rules_with_two_readings_give_two_boards_that_name_them(tmp_path):
    write(tmp_path / "runs", [trial_rows("ogbg", "a", 10.0, ruleset="algoperf_v0_5")])
    boards = build_boards(Choice(results=str(tmp_path)))
    assert [board.scoring.rules.reading for board in boards] == ["as_published", "as_written"]
    page = write_site(boards, tmp_path / "board").read_text(encoding="utf-8")
    assert "Two readings of the rules" in page
    assert "As written score" in page


def test_chosen_workloads_alone_are_scored_where_the_rules_name_more(tmp_path):
    rows = [trial_rows(name, "a", 10.0, ruleset="algoperf_v0_5", trial=n) for name in ("ogbg", "wmt") for n in (0, 1)]
    write(tmp_path / "runs", rows)
    boards = build_boards(Choice(results=str(tmp_path), workload="ogbg"))
    assert [list(board.scoring.ratios.columns) for board in boards] == [["ogbg"], ["ogbg"]]
    assert not [note for board in boards for note in board.notes if "counted as missed" in note]
    assert write_site(boards, tmp_path / "board").exists()
    # Of a family without a row nobody has a search; the page of advice is written all the same.
    assert write_site(build_boards(Choice(results=str(tmp_path))), tmp_path / "all").exists()


def test_pages_say_which_trial_stands_for_a_study(tmp_path):
    write(tmp_path / "runs", [trial_rows("ogbg", "a", 10.0, ruleset="algoperf_v0_5")])
    published, written = build_boards(Choice(results=str(tmp_path)))
    assert published.trial_of_study == "trial that reached the target at the fewest evaluations"
    assert written.trial_of_study == "fastest trial"
    page = write_site([published], tmp_path / "board").read_text(encoding="utf-8")
    assert f"the median over studies of the {published.trial_of_study}." in page
    assert "fastest trial" not in page


def test_a_smoke_test_that_was_reached_is_no_score_and_not_called_a_miss(tmp_path):
    missed = trial_rows("fashion_mnist_cnn", "a", math.inf, ruleset="self")
    write(tmp_path / "runs", [trial_rows("digits_mlp", "a", 5.0, ruleset="self"), missed])
    (board,) = build_boards(Choice(results=str(tmp_path)))
    assert facts.headline_sentence(board) == "No submission has a score yet: none has reached a target that counts."


def test_the_page_shows_frozen_scores_which_stay_when_another_entry_comes(tmp_path):
    rows = [trial_rows("digits", "adamw", 60.0), trial_rows("digits", "muon", 80.0)]
    found = []
    for number, fastest in enumerate(([], [trial_rows("digits", "faster", 20.0)])):
        results = tmp_path / str(number)
        write(results / "runs", rows + fastest)
        boards = build_boards(Choice(results=str(results)))
        page = write_site(boards, results / "board").read_text(encoding="utf-8")
        assert "Frozen score" in page
        found.append(boards[0].uncertainty.frozen.loc["adamw", "frozen_score"])
        assert f"{found[-1]:.4f}" in page
    budget = boards[0].scoring.times["max_runtime"].iloc[0]
    assert found == [pytest.approx((4 - 60.0 / (budget / 4)) / 3)] * 2


def test_a_frozen_score_stays_when_another_submission_is_edited(tmp_path):
    mine = trial_rows("digits", "adamw", 60.0, started_at=FIRST_DAY + datetime.timedelta(days=1), max_runtime=120.0)
    first = trial_rows("digits", "muon", 80.0, started_at=FIRST_DAY)
    edited = trial_rows(
        "digits", "muon", 70.0, started_at=FIRST_DAY + datetime.timedelta(days=2), submission_hash="s2", seed=2
    )
    frozen = []
    for number, rows in enumerate(([mine, first], [mine, first, edited])):
        write(tmp_path / str(number) / "runs", rows)
        for named in (None, "adamw"):
            board = build_boards(Choice(results=str(tmp_path / str(number)), submission=named))[0]
            frozen.append(board.uncertainty.frozen.loc["adamw", "frozen_score"])
    assert frozen == [pytest.approx((4 - 60.0 / 25.0) / 3)] * 4


def test_what_diagnostics_found_of_a_boards_trials_has_a_page_with_a_row_for_each_entry(results):
    folder = results / "board"
    page = (folder / "solutions.html").read_text(encoding="utf-8")
    assert page.count('<th scope="row">') == len(SUBMISSIONS) + 1
    assert '<th scope="row">start of trials</th><td>initial</td><td class="n">2.3</td><td class="n">7.5</td>' in page
    assert "not at equal training loss" in page
    assert ">Solutions</a>" in (folder / "index.html").read_text(encoding="utf-8")
    data = data_of(folder, "solutions/digits")
    assert data["titles"] == ["training loss", "sharpness", "norm", "stable rank of the change"]
    assert len(data["points"]) == 2 * len(SUBMISSIONS)
    assert data["points"][1] == {
        "submission": "adamw", "trial": data["points"][0]["trial"], "weights": "last", "values": [1.15, 15.0, None, 1.0]
    }  # fmt: skip
    assert len(pd.read_csv(folder / "data" / "solutions.csv")) == 10 * len(SUBMISSIONS)


def test_a_board_whose_trials_nobody_diagnosed_has_no_page_of_solutions(results):
    (cluster,) = (results / "board" / "also").iterdir()
    assert not (cluster / "solutions.html").exists()
    assert ">Solutions</a>" not in (cluster / "index.html").read_text(encoding="utf-8")


def test_the_page_compares_every_pair_head_to_head(results, boards):
    text = (results / "board" / "index.html").read_text(encoding="utf-8")
    first, second = boards[0].submissions[:2]
    speedup = compare(boards[0].scoring, first, second).speedup
    assert f">{speedup:.2f}</td>" in text
    assert f">{1 / speedup:.2f}</td>" in text


@pytest.mark.parametrize("name", ["algoperf_v0_5", "algoperf_v0_5_self", "algoperf_v0_6_self"])
def test_readings_are_those_of_the_rules_that_others_are_based_on(name):
    assert readings_of(name) == ["as_published", "as_written"]


def test_a_dashboard_can_be_read_in_reference_steps(tmp_path):
    around = dict.fromkeys(("reference_step_seconds_before", "reference_step_seconds_after"), 0.01)
    write(tmp_path / "runs", [trial_rows("w", name, 10.0, **around) for name in ("adamw", "muon")])
    (board,) = build_boards(Choice(results=str(tmp_path), unit="reference_steps"))
    assert "by reference steps" in board.label
    page = write_site([board], tmp_path / "site")
    assert ">1,000 ref steps<" in page.read_text(encoding="utf-8")
    table = pd.read_csv(tmp_path / "site" / "data" / "times.csv")
    assert table["unit"].unique().tolist() == ["reference_steps"]
    assert table["time_to_target"].tolist() == pytest.approx([1000.0] * 2)
    assert set(table["way_to_target"]) == {1.0}


def test_rows_without_the_unit_are_named_and_cost_the_others_nothing(tmp_path):
    around = dict.fromkeys(("reference_step_seconds_before", "reference_step_seconds_after"), 0.01)
    silent = {"hardware": "cluster", "hardware_fingerprint": "fedcba9876543210"}
    rows = [
        *(trial_rows("w", name, 10.0, **around) for name in ("adamw", "muon")),
        trial_rows("w", "sgd", 10.0),
        *(trial_rows("w", name, 10.0, **silent) for name in ("lion", "soap")),
    ]
    write(tmp_path / "runs", rows)
    said = []
    (board,) = build_boards(Choice(results=str(tmp_path), unit="reference_steps"), say=said.append)
    assert board.submissions == ["adamw", "muon"]
    assert said == [
        "no board of quick v1 on cluster (fedcba98): no row says what it took in reference steps (lion, soap)"
    ]
    assert set(said) < set(board.notes)
    assert any(note.endswith("not on this board: sgd") for note in board.notes)
    with pytest.raises(DataError, match=r"no row says what it took in CPU seconds \(.*\)\. Use unit=seconds"):
        build_boards(Choice(results=str(tmp_path), unit="cpu_seconds"))


def test_rules_without_readings_have_one():
    assert readings_of("timetrial_v2") == [None]


def test_every_link_and_every_file_that_a_page_needs_is_there(results):
    folder = results / "board"
    assert len(pages(folder)) == 2 + 3 + 3 + 3 + 1 + 1 + 1
    for page in pages(folder):
        links = Links()
        links.feed(page.read_text(encoding="utf-8"))
        for link in links.found:
            assert not re.match(r"[a-z]+:|//", link), f"{page}: {link} leaves the disk"
            target = link.partition("#")[0]
            assert not target or (page.parent / target).is_file(), f"{page}: {link}"
        for name in " ".join(re.findall(r'data-sources="([^"]*)"', page.read_text(encoding="utf-8"))).split():
            up = re.search(r'data-up="([^"]*)"', page.read_text(encoding="utf-8"))[1]
            assert (page.parent / up / "data" / f"{name}.js").is_file(), f"{page}: {name}"


def test_plotly_is_written_once(results):
    assert len(visible(results / "board", "**/plotly*.js")) == 1


def test_the_page_shows_the_scores_that_the_scoring_gives(results, boards):
    text = (results / "board" / "index.html").read_text(encoding="utf-8")
    for submission, score in boards[0].scoring.scores["score"].items():
        row = re.search(rf"submissions/{submission}\.html\">{submission}</a></th>\s*<td[^>]*>([^<]*)", text)
        assert row[1] == f"{score:.4f}"


def test_the_first_sentence_names_the_leader_and_how_firm_the_lead_is(boards):
    assert facts.headline_sentence(boards[0]).startswith("muon leads with a score of 1.000 (95 % interval")


def test_without_a_second_study_nothing_claims_an_interval(tmp_path):
    write(tmp_path / "runs", [trial_rows("digits", "adamw", 10.0), trial_rows("digits", "muon", 5.0)])
    boards = build_boards(Choice(results=str(tmp_path)))
    text = write_site(boards, tmp_path / "board").read_text(encoding="utf-8")
    assert "no spread is known" in text
    assert "95 % interval" not in text
    assert "nan" not in text.lower().replace("nanotime", "")


def test_the_heat_map_is_darkest_for_the_fastest_and_names_a_miss(boards):
    cells = {
        row["submission"]: dict(zip(boards[0].workloads, row["cells"], strict=True))
        for row in facts.heat_map(boards[0])
    }
    assert cells["muon"]["digits"]["heat"] == "1.00"
    assert 0 < float(cells["adamw"]["digits"]["heat"]) < 1
    assert cells["sgd"]["fashion"]["text"] == "out of budget"


def test_an_entry_whose_absence_moves_ranks_is_named(tmp_path):
    # b is so fast on u that a, second there, gains nothing from it; without b it overtakes c.
    seconds = {"a": (40.0, 57.0), "b": (10.0, 33.0), "c": (51.0, 47.0)}
    rows = [trial_rows(w, name, times[n]) for name, times in seconds.items() for n, w in enumerate("uv")]
    write(tmp_path / "runs", rows)
    board = build_boards(Choice(results=str(tmp_path)))[0]
    assert {row["submission"]: row["moved_by"] for row in facts.firmness_rows(board)} == {"a": "b", "b": "", "c": "b"}


def test_a_board_says_how_many_trials_ended_before_a_harder_target(tmp_path):
    rows = [trial_rows("u", name, seconds) for name, seconds in (("a", 40.0), ("b", 50.0))]
    for trial, evaluations in rows:
        evaluations[-1]["validation"] = trial["target_validation"]
    write(tmp_path / "runs", rows)
    board = build_boards(Choice(results=str(tmp_path)))[0]
    assert facts.trials_cut_off(board) == 2
    page = write_site([board], tmp_path / "board").read_text(encoding="utf-8")
    assert "2 trials ended on reaching the target before a harder one" in page


def test_profile_data_hold_null_where_a_workload_is_missed(results):
    profile = data_of(results / "board", "profile")
    assert profile["ratios"]["sgd"][profile["workloads"].index("fashion")] is None
    assert profile["ratios"]["muon"] == [1, 1]


def test_curve_data_mark_the_median_study_and_end_at_the_hit(results, boards):
    curves = data_of(results / "board", "curves/digits")["curves"]
    median = [curve for curve in curves if curve["is_median"] and curve["submission"] == "adamw"]
    assert [curve["study"] for curve in median] == [1]
    assert median[0]["seconds"][-1] == boards[0].scoring.seconds.loc["adamw", "digits"]


def test_a_long_curve_is_thinned_around_its_target():
    number = np.arange(5000)
    kept = series._thinned(number, 2500.0)
    assert len(kept) <= series.CURVE_POINTS + 2
    assert {0, 2499, 2500, 4999} <= set(kept.tolist())


def test_settings_data_leave_out_hyperparameters_that_never_change(tmp_path):
    rows = [
        trial_rows("w", "a", 5.0 + n, trial=n, hyperparameters=json.dumps({"rate": n, "fixed": 1})) for n in range(3)
    ]
    write(tmp_path / "runs", rows)
    times = build_boards(Choice(results=str(tmp_path)))[0].scoring.times
    assert series.settings_series(times, by="submission")["a"]["values"] == {"rate": [0, 1, 2]}


def test_many_trials_are_drawn_as_a_sample_that_says_so(boards):
    times = pd.concat([boards[0].scoring.times] * 200, ignore_index=True)
    drawn = series.settings_series(times, by="submission")
    assert sum(len(group["seconds"]) for group in drawn.values()) <= series.SCATTER_POINTS
    assert sum(len(group["seconds"]) + group["left_out"] for group in drawn.values()) == len(times)


def test_the_trial_table_holds_every_trial_with_status_and_reason(results):
    chunk = data_of(results / "board", "trials/0")
    assert chunk["rows"] == TRIALS
    crashed = chunk["words"]["status"].index("crashed")
    rows = [n for n, code in enumerate(chunk["columns"]["status"]) if code == crashed]
    assert len(rows) == CRASHED
    assert {chunk["words"]["reason"][chunk["columns"]["reason"][n]] for n in rows} == {"out of memory"}


def test_the_trial_table_comes_in_chunks_that_together_hold_all_rows(boards):
    times = pd.concat([boards[0].scoring.times] * 1000, ignore_index=True)
    assert [chunk["rows"] for chunk in trial_table.chunks(times)] == [20_000, 20_000, len(times) - 40_000]


def test_downloads_hold_the_rows_behind_the_figures(results, boards):
    data = results / "board" / "data"
    assert len(pd.read_parquet(data / "trials.parquet")) == TRIALS
    assert len(pd.read_parquet(data / "curves" / "digits.parquet")) == 2 * TRIALS // 2
    times = pd.read_csv(data / "times.csv").set_index(["submission", "workload"])
    assert times.loc[("muon", "digits"), "time_to_target"] == boards[0].scoring.seconds.loc["muon", "digits"]


def test_no_data_script_holds_a_number_that_json_does_not_know(results):
    for path in visible(results / "board", "**/data/**/*.js"):
        assert not re.search(r"[:,\[](NaN|-?Infinity)[,\]}]", path.read_text(encoding="utf-8")), path


def test_names_that_are_code_stay_text(tmp_path):
    write(tmp_path / "runs", [trial_rows("w", "<img src=x onerror=alert(1)>", 5.0), trial_rows("w", "a b&c", 6.0)])
    page = write_site(build_boards(Choice(results=str(tmp_path))), tmp_path / "board")
    assert "<img src=x" not in page.read_text(encoding="utf-8")
    assert len(visible(page.parent / "submissions", "*.html")) == 2


def test_file_names_are_safe_and_differ():
    names = file_names(["a b", "a/b", "A-b", "..", "ok_1.5"])
    assert names["ok_1.5"] == "ok_1.5"
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+", name) and name.strip(".") for name in names.values())
    assert len({name.lower() for name in names.values()}) == 5


def test_a_second_call_leaves_no_page_of_an_entry_that_is_gone(tmp_path):
    record(tmp_path / "runs")
    write_site(build_boards(Choice(results=str(tmp_path))), tmp_path / "board")
    write_site(build_boards(Choice(results=str(tmp_path), submission="adamw")), tmp_path / "board")
    assert [page.stem for page in visible(tmp_path / "board" / "submissions", "*.html")] == ["adamw"]


def test_the_command_writes_the_site_and_says_where(tmp_path, capsys):
    record(tmp_path / "runs")
    assert dashboard.main([f"results={tmp_path}", "tracking=off"]) == 0
    assert str(tmp_path / "board" / "index.html") in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("submission=adam", "Did you mean"),
        ("reference=adamv", "reference 'adamv': no row has it"),
        ("port=x", "port='x'"),
        ("tracking=offlin", "offline"),
        ("colour=1", "colour"),
    ],
)
def test_a_mistake_says_what_to_use_instead(results, argument, message):
    with pytest.raises(ConfigError, match=message):
        dashboard.main([f"results={results}", argument])


def test_nothing_recorded_is_said(tmp_path):
    with pytest.raises(DataError, match="make bench"):
        dashboard.main([f"results={tmp_path}"])


def test_pages_are_served_to_this_machine_alone(results):
    code = "import sys, pathlib, harness.commands.dashboard as d; "
    code += "d.serve(pathlib.Path(sys.argv[1]), d.PlainConsole(), port=0)"
    started = [sys.executable, "-u", "-c", code, str(results / "board")]
    with subprocess.Popen(started, stdout=subprocess.PIPE, text=True, cwd=ROOT) as server:
        try:
            address = re.search(r"http://127\.0\.0\.1:(\d+)/", server.stdout.readline())
            with urllib.request.urlopen(address[0] + "index.html", timeout=10) as answer:
                assert b"Leaderboard" in answer.read()
            elsewhere = address[0].replace("127.0.0.1", "127.0.0.2")
            with pytest.raises(urllib.error.URLError):
                urllib.request.urlopen(elsewhere, timeout=10)
        finally:
            server.terminate()


def test_wandb_gets_an_offline_run_of_each_board_with_its_tables(boards, tmp_path):
    said = []
    publish(boards, mode="offline", project="timetrial", entity=None, results=tmp_path, say=said.append)
    runs = visible(tmp_path / "wandb", "offline-run-*")
    assert not said
    assert len(runs) == len(boards)
    tables = {path.name.split("_")[0] for path in visible(tmp_path / "wandb", "offline-run-*/files/media/table/*.json")}
    assert {"leaderboard", "times", "profiles"} <= tables


def test_wandb_that_fails_is_said_once_and_hurts_nothing(boards, tmp_path):
    (tmp_path / "wandb").write_text("a file where W&B wants a folder")
    said = []
    publish(boards, mode="offline", project="timetrial", entity=None, results=tmp_path, say=said.append)
    assert len(said) == 1
    assert "going on without it" in said[0]


def test_the_profile_table_ends_at_the_share_of_workloads_reached(boards):
    table = profile_table(boards[0])
    reached = boards[0].scoring.ratios.map(math.isfinite).mean(axis=1)
    assert table.iloc[:, -1].to_dict() == reached.to_dict()
    assert set(table.index) == set(SUBMISSIONS)


def test_templates_and_assets_are_declared_as_package_data():
    settings = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert '"harness.board" = ["assets/*", "templates/*"]' in settings
    assert {
        path.parent.name
        for path in visible(ROOT / "harness" / "board", "**/*.*")
        if path.suffix in (".html", ".css", ".js")
    } == {
        "assets",
        "templates",
    }

"""What a plain training script wrote: CSV, JSON and lines of JSON become rows, and what cannot be read is named."""

from __future__ import annotations

import json
import math

import pandas as pd
import pytest

from harness.api import ConfigError, DataError
from harness.commands.imports.import_csv import main, parse_race
from harness.commands.leaderboard import Choice, make_board
from harness.records.tables import read_table

WANTED = {"workload": "my_lm", "metric": "loss", "target": "3.0", "hardware": "1x RTX 4090"}
RECORDS = [
    {"step": 100, "seconds": 10.0, "loss": 4.0, "lr": 0.1},
    {"step": 150, "seconds": 15.0, "train_loss": 3.4},
    {"step": 200, "seconds": 20.0, "loss": 2.9, "lr": 0.05},
]


def csv_of(records):
    names = list(dict.fromkeys(name for record in records for name in record))
    lines = [",".join(names), *(",".join(str(record.get(name, "")) for name in names) for record in records)]
    return "\n".join(lines) + "\n"


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def imported(tmp_path, **changes):
    given = WANTED | {"logs": str(tmp_path / "logs"), "results": str(tmp_path / "results")} | changes
    main([f"{name}={value}" for name, value in given.items()])
    runs = tmp_path / "results" / "runs"
    return read_table(runs, "trials").set_index("submission"), read_table(runs, "evaluations")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("run.csv", csv_of(RECORDS)),
        ("run.json", json.dumps(RECORDS)),
        ("run.json", json.dumps({"seed": 7, "evaluations": RECORDS})),
        ("run.jsonl", "\n".join(json.dumps(record) for record in RECORDS)),
    ],
)
def test_every_form_of_a_log_gives_the_same_evaluations(tmp_path, name, text):
    write(tmp_path / "logs" / "adam" / name, text)
    trials, evaluations = imported(tmp_path)
    trial = trials.loc["adam"]
    assert (trial["status"], trial["time_to_target"], trial["steps_to_target"]) == ("reached", 20.0, 200)
    assert (trial["workload"], trial["hardware"], trial["max_runtime"]) == ("my_lm", "1x RTX 4090", math.inf)
    assert evaluations["validation"].tolist() == [4.0, 2.9]
    assert [json.loads(others) for others in evaluations["other_metrics"]] == [{"lr": 0.1}, {"lr": 0.05}]
    assert trial["seed"] == (7 if "seed" in text else -1)


def test_files_of_a_folder_are_studies_of_one_submission_and_are_ranked(tmp_path):
    for submission, factor in (("fast", 1.0), ("slow", 2.0)):
        for seed in range(3):
            run = [record | {"seconds": (factor + 0.01 * seed) * record["seconds"]} for record in RECORDS]
            write(tmp_path / "logs" / submission / f"seed{seed}.csv", csv_of(run))
    trials, _ = imported(tmp_path)
    assert trials.loc["fast", "study"].tolist() == [0, 1, 2]
    board = make_board(Choice(results=str(tmp_path / "results")))
    assert board.scoring.scores["rank"].to_dict() == {"fast": 1, "slow": 2}
    assert board.scoring.seconds["my_lm"].to_dict() == pytest.approx({"fast": 20.2, "slow": 40.2})
    assert board.uncertainty is not None


def test_one_file_may_hold_the_runs_of_many_submissions(tmp_path):
    runs = [record | {"submission": name, "study": study} for name in "ab" for study in (1, 2) for record in RECORDS]
    write(tmp_path / "logs" / "all.csv", csv_of(runs))
    trials, _ = imported(tmp_path)
    assert sorted(zip(trials.index, trials["study"], strict=True)) == [("a", 1), ("a", 2), ("b", 1), ("b", 2)]


def test_a_trial_that_misses_is_kept_with_the_way_it_ended(tmp_path):
    far = [record | {"loss": 5.0} for record in RECORDS]
    write(tmp_path / "logs" / "ended" / "run.csv", csv_of([record | {"seconds": 1.0} for record in far]))
    write(tmp_path / "logs" / "late" / "run.csv", csv_of(far))
    write(tmp_path / "logs" / "nan" / "run.csv", csv_of([*far[:2], far[2] | {"loss": "nan"}]))
    write(tmp_path / "logs" / "silent" / "run.csv", csv_of([RECORDS[1]]))
    trials, _ = imported(tmp_path, budget="20")
    assert trials["status"].to_dict() == {
        "ended": "finished",
        "late": "out_of_budget",
        "nan": "diverged",
        "silent": "crashed",
    }


def test_a_metric_that_should_be_large_is_read_as_such(tmp_path):
    write(tmp_path / "logs" / "adam" / "run.csv", csv_of(RECORDS))
    trials, _ = imported(tmp_path, goal="max", target="4.0")
    assert trials.loc["adam", "steps_to_target"] == 100


def test_rows_that_raced_to_another_target_are_not_ranked_with_the_rest(tmp_path):
    for submission, target in (("first", "3.0"), ("second", "3.5")):
        write(tmp_path / submission / submission / "run.csv", csv_of(RECORDS))
        imported(tmp_path, logs=str(tmp_path / submission), target=target)
    board = make_board(Choice(results=str(tmp_path / "results")))
    assert len(board.scoring.scores) == 1
    assert any("of an older form of a workload" in note for note in board.notes)


def test_importing_twice_gives_the_same_rows(tmp_path):
    write(tmp_path / "logs" / "adam" / "run.csv", csv_of(RECORDS))
    for once, twice in zip(imported(tmp_path), imported(tmp_path), strict=True):
        pd.testing.assert_frame_equal(once, twice)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("run.csv", "step,loss\n1,2.0\n", r"run\.csv: record 2: 'seconds' is missing"),
        ("run.csv", "step,seconds,loss\n1,x,2.0\n", r"run\.csv: record 2 cannot be read"),
        ("run.csv", "step,seconds,loss\n1,9,4\n2,8,4\n", "record 3 .*seconds are less than in the record before"),
        ("run.csv", "step,seconds,loss,submission\n1,9,4,a/b\n", "has a slash in it"),
        ("run.json", "[1, 2]", "neither a list of records nor one under 'evaluations'"),
        ("run.json", "{", "not JSON"),
        ("run.jsonl", "[]\n", "record 1 holds no names and values"),
        ("run.txt", "", "no file there ends in"),
    ],
)
def test_a_log_that_cannot_be_read_names_the_file_and_the_record(tmp_path, name, text, words):
    write(tmp_path / "logs" / "adam" / name, text)
    with pytest.raises(DataError, match=words):
        imported(tmp_path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"hardware": ""}, "hardware= is missing"),
        ({"target": "low"}, "target='low'. Use a number"),
        ({"goal": "less"}, "goal='less'"),
        ({"budget": "0"}, "budget='0'"),
        ({"workload": "a/b"}, "has a slash in it"),
    ],
)
def test_arguments_that_say_too_little_are_named(change, words):
    with pytest.raises(ConfigError, match=words):
        parse_race(WANTED | {"logs": "here"} | change)


def test_each_file_is_a_study_of_the_submission_that_it_names_itself(tmp_path):
    for seed, seconds in ((0, 100.0), (1, 105.0)):
        run = {"submission": "my_rule", "seed": seed, "evaluations": [{"step": 10, "seconds": seconds, "loss": 2.9}]}
        write(tmp_path / "logs" / f"seed{seed}.json", json.dumps(run))
    trials, evaluations = imported(tmp_path)
    assert list(zip(trials.index, trials["study"], trials["time_to_target"], strict=True)) == [
        ("my_rule", 0, 100.0),
        ("my_rule", 1, 105.0),
    ]
    assert len(evaluations) == 2


@pytest.mark.parametrize("named", ["", "study"])
def test_a_csv_of_a_spreadsheet_begins_with_a_byte_order_mark(tmp_path, named):
    records = [({named: 4} if named else {}) | record for record in RECORDS]
    write(tmp_path / "logs" / "adam" / "run.csv", "\ufeff" + csv_of(records))
    trials, _ = imported(tmp_path)
    assert trials.loc["adam", ["study", "status"]].tolist() == [4 if named else 0, "reached"]

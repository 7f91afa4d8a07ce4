"""Logs of modded-nanogpt's third track: what the importer makes of lines of validation, whatever lies around them."""

from __future__ import annotations

import json
import math

import pytest

from harness.api import DataError
from harness.commands.imports.import_nanogpt import main
from harness.commands.leaderboard import Choice, make_board
from harness.records.tables import read_table

HEAD = """import torch  # the source of the run stands first
        print0(f"step:{step}/{train_steps} val_loss:{val_loss:.5f} train_time:{training_time:.3f}s")
====================
Running PyTorch 2.10.0+cu128 compiled for CUDA 12.8
Running on device_name=NVIDIA H100 80GB HBM3 with world_size=8
"""


def line(step, loss, seconds, *, planned=300):
    return f"step:{step}/{planned} val_loss:{loss} train_time:{seconds:.3f}s step_avg:1.00ms"


def write(path, *lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(HEAD + "\n".join(lines) + "\n", encoding="utf-8")


def imported(tmp_path):
    main([f"logs={tmp_path / 'logs'}", f"results={tmp_path / 'results'}"])
    runs = tmp_path / "results" / "runs"
    return read_table(runs, "trials"), read_table(runs, "evaluations")


def test_a_run_is_charged_its_steps_and_keeps_its_true_seconds(tmp_path):
    training = "step:126/300 train_time:198.309s step_avg:1573.88ms"
    lines = [line(0, "10.82584", 0.0), line(125, "3.40000", 60.0), training, line(250, "3.28000", 85.0)]
    write(tmp_path / "logs" / "muon" / "a.txt", *lines)
    trials, evaluations = imported(tmp_path)
    trial = trials.iloc[0]
    assert (trial["submission"], trial["status"], trial["steps_to_target"]) == ("muon", "reached", 250)
    assert (trial["time_to_target"], trial["total_seconds"]) == (250.0, 85.0)
    assert trial["median_step_seconds"] == pytest.approx((60.0 / 125 + 25.0 / 125) / 2)
    assert json.loads(trial["versions"])["device_name"] == "NVIDIA H100 80GB HBM3"
    assert evaluations["validation"].tolist() == [10.82584, 3.4, 3.28]
    assert [json.loads(each)["train_time"] for each in evaluations["reported"]] == [0.0, 60.0, 85.0]


def test_runs_of_different_machines_are_ranked_together_by_steps(tmp_path):
    for submission, steps in (("soon", 250), ("late", 275)):
        for seed in range(3):
            path = tmp_path / "logs" / submission / f"{seed}.txt"
            write(path, line(125, "3.4", 60.0), line(steps + seed, "3.27", 1000.0 * seed + 90.0))
            if seed:
                path.write_text(path.read_text().replace("H100 80GB HBM3", "L40S"))
    imported(tmp_path)
    board = make_board(Choice(results=str(tmp_path / "results")))
    assert board.scoring.seconds["nanogpt_track_3"].to_dict() == {"late": 276.0, "soon": 251.0}


def test_a_file_of_several_runs_gives_as_many_studies(tmp_path):
    run = [line(125, "3.4", 60.0), line(250, "3.2", 85.0), line(250, "3.2", 85.0)]
    write(tmp_path / "logs" / "muon" / "a.txt", *run, *run)
    trials, _ = imported(tmp_path)
    assert trials["study"].tolist() == [0, 1]
    assert trials["steps"].tolist() == [250, 250]


def test_a_run_whose_loss_is_lost_after_its_target_is_ranked_by_its_hit(tmp_path):
    write(tmp_path / "logs" / "solo.txt", line(125, "3.27", 60.0), line(250, "nan", 85.0))
    imported(tmp_path)
    board = make_board(Choice(results=str(tmp_path / "results")))
    assert board.scoring.seconds["nanogpt_track_3"].to_dict() == {"solo": 125.0}


@pytest.mark.parametrize(
    ("last", "status"),
    [((300, "3.3"), "finished"), ((250, "3.3"), "crashed"), ((250, "nan"), "diverged"), ((250, "3.1"), "reached")],
)
def test_a_run_ends_as_its_log_says(tmp_path, last, status):
    write(tmp_path / "logs" / "solo.txt", line(125, "3.4", 60.0), line(*last, 85.0))
    trials, _ = imported(tmp_path)
    assert trials["submission"].tolist() == ["solo"]
    assert trials["status"].tolist() == [status]
    assert math.isfinite(trials["time_to_target"].iloc[0]) == (status == "reached")


def test_a_folder_without_such_lines_is_said(tmp_path):
    write(tmp_path / "logs" / "notes.txt", "nothing was trained")
    with pytest.raises(DataError, match="no log of modded-nanogpt found"):
        imported(tmp_path)

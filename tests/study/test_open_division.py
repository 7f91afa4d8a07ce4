"""Studies of the open division: their rows, where they may run, and that no board has them beside closed ones."""

from __future__ import annotations

import dataclasses
import io
import re
from pathlib import Path

import pytest

from harness.api import ConfigError, visible
from harness.command_line import PlainConsole
from harness.commands import bench, leaderboard
from harness.config import WorkloadConfig, load
from harness.records.tables import read_rows
from harness.study.identity import describe
from harness.study.verification.consistency import contradictions
from harness.study.verification.rerun import Recorded
from harness.study.verification.verify import verify
from tests.commands.test_bench import FAST
from tests.conftest import SGD
from tests.open_sources import PREDICTOR, TRAIN, write_open
from tests.study.test_study import run, study_config, write_submission


def recorded(results: Path) -> Recorded:
    (row,) = read_rows(results / "runs", "trials")
    return Recorded(row, read_rows(results / "runs", "evaluations"))


@pytest.fixture(scope="module")
def raced(tmp_path_factory: pytest.TempPathFactory):
    """The configuration of an open trial by steps that was run, and what it left."""
    folder = tmp_path_factory.mktemp("raced")
    config = study_config(folder / "results", write_open(folder / "own"))
    config = dataclasses.replace(config, evaluate_every_steps=40)
    run(config)
    return config, recorded(folder / "results")


def test_a_row_says_its_division_and_the_size_of_the_network_that_was_judged(raced):
    config, found = raced
    row = found.row
    assert (row["division"], row["status"]) == ("open", "reached")
    assert (row["predictor_parameters"], row["predictor_bytes"]) == (46, 4 * 46 + len('{"width": 4}'))
    assert contradictions(row, found.evaluations) == []
    assert visible(config.results / "runs" / "scratch", "*") == []


def test_a_row_of_one_division_with_the_size_of_the_other_contradicts_itself(raced):
    _, found = raced

    def said(**changes: object) -> list[str]:
        return contradictions({**found.row, **changes}, found.evaluations)

    assert "division is closed, but it has the size of a network of its own" in said(division="closed")
    assert "division is open, but the network that was judged has no size" in said(predictor_bytes=None)


def test_an_open_trial_comes_out_the_same_again_and_its_size_too(raced):
    config, found = raced
    config = dataclasses.replace(config, evaluate_every_steps=None)
    said = verify(describe(config), found, (), PlainConsole(io.StringIO()))
    assert (said.faults, said.not_run) == ([], None)
    smaller = Recorded({**found.row, "predictor_parameters": 4}, found.evaluations)
    said = verify(describe(config), smaller, (), PlainConsole(io.StringIO()))
    assert said.faults == ["predictor_parameters is 4, but run again 46"]


def test_an_open_submission_is_refused_where_inputs_are_not_all_before_anything_runs(tmp_path):
    folder = write_open(tmp_path / "own")
    config = study_config(tmp_path / "results", folder, workload=load("workload", "kjv_char_lm", WorkloadConfig))
    with pytest.raises(ConfigError, match=r"of the open division, which kjv_char_lm does not have: .* WORKLOAD="):
        describe(config)
    config = study_config(tmp_path / "results", folder)
    two = dataclasses.replace(config.hardware, devices=2)
    with pytest.raises(ConfigError, match=r"needs hardware.devices=1, not 2"):
        describe(dataclasses.replace(config, hardware=two))


def test_who_replays_runs_on_streams_alone(tmp_path):
    replay = load("workload", "fashion_stream", WorkloadConfig)
    assert describe(study_config(tmp_path / "results", "replay_adamw", workload=replay)).submission.division == "replay"
    with pytest.raises(
        ConfigError, match=r"of the replay division, which kjv_char_lm does not have: .* WORKLOAD=fashion_stream"
    ):
        describe(
            study_config(tmp_path / "results", "replay_adamw", workload=load("workload", "kjv_char_lm", WorkloadConfig))
        )


def test_a_reference_is_of_the_closed_division(tmp_path):
    config = study_config(tmp_path / "results", write_submission(tmp_path / "plain", SGD))
    ruleset = dataclasses.replace(config.ruleset, reference=str(write_open(tmp_path / "own")))
    with pytest.raises(ConfigError, match=r"ruleset.reference is own, which is of the open division"):
        describe(dataclasses.replace(config, ruleset=ruleset))
    ruleset = dataclasses.replace(config.ruleset, reference="replay_adamw")
    with pytest.raises(ConfigError, match=r"ruleset.reference is replay_adamw, which is of the replay division"):
        describe(dataclasses.replace(config, ruleset=ruleset))


@pytest.mark.slow
def test_a_bench_of_both_divisions_ends_with_a_board_of_each(tmp_path, capfd):
    plain = write_submission(tmp_path / "plain", SGD)
    own = write_open(
        tmp_path / "own", TRAIN.replace('{"width": 4}', '{"width": 4, "inputs": 64, "classes": 10}'),
        PREDICTOR.replace("(self, width)", "(self, width, inputs, classes)")
        .replace("Linear(8,", "Linear(inputs,").replace("(width, 2)", "(width, classes)"),
    )  # fmt: skip
    results = tmp_path / "results"
    asked = ["workload=digits_mlp", f"submission={plain},{own}", f"results={results}", "ruleset.budget_factor=0.2"]
    assert bench.main([*asked, "ruleset.name=short", *FAST]) == 0
    said = capfd.readouterr().out
    closed, opened = said.split("open division, ruleset short")
    assert "\u2502 plain " in closed
    assert "\u2502 own " not in closed
    assert "\u2502 own " in opened
    assert "\u2502 plain " not in opened
    assert "parameters" in opened
    assert "parameters" not in closed
    pages = {name: (results / "board" / name).read_text() for name in ("leaderboard.md", "leaderboard_open.md")}
    assert ["own" in pages["leaderboard.md"], "plain" in pages["leaderboard_open.md"]] == [False, False]
    leaderboard.main([f"results={results}"])
    said = " ".join(capfd.readouterr().out.split())
    assert said.startswith("open division, ruleset short")
    assert re.search(r"not ranked with these, choose by ruleset=, division= or hardware=: .* division=closed", said)
    leaderboard.main([f"results={results}", "division=closed"])
    assert capfd.readouterr().out.startswith("ruleset short")

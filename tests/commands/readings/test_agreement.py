"""`make agreement`: two folders of rows, or two readings of one, through the front door."""

from __future__ import annotations

import io
import re

import pandas as pd
import pytest

from harness.api import ConfigError
from harness.command_line import PlainConsole
from harness.commands.readings.agreement import answer, parse, show
from harness.records.committed import BoardFile, board_rows
from harness.scoring.agreement.names import Sameness
from tests.scoring.scoring_tables import tables, trial_rows, write

TIMES = {"nadamw": 10.0, "muon": 5.0, "lion": 12.0, "adamw": 16.0, "sgd": 19.0}
SAMENESS = Sameness()


def rows(times, *, workloads, **changes):
    return [
        trial_rows(workload, name, seconds * (1.0 + 0.01 * study), study=study, max_runtime=1000.0, **changes)
        for workload in workloads
        for name, seconds in times.items()
        for study in range(2)
    ]


@pytest.fixture
def cheap(tmp_path):
    write(tmp_path / "cheap" / "runs", rows(TIMES, workloads=["fashion_mnist_cnn", "kjv_char_lm"]))
    return tmp_path / "cheap"


@pytest.fixture
def dear(tmp_path):
    other = {name: 10 * seconds for name, seconds in TIMES.items()} | {"shampoo": 30.0}
    other["muon_torch"] = other.pop("muon")
    text = other | {"nadamw": 200.0}  # the slowest but one
    write(
        tmp_path / "dear" / "runs", rows(other, workloads=["imagenet_resnet"]) + rows(text, workloads=["finewebedu_lm"])
    )
    return tmp_path / "dear"


def asked(*arguments, sameness=SAMENESS):
    return answer(parse(list(arguments)), sameness)


def printed(found, folder, *, width=140):
    console = PlainConsole(io.StringIO(), width=width, record=True)
    show(found, console, folder=folder)
    return console.export_text()


def test_two_boards_are_compared_overall_and_by_family_and_the_csv_holds_what_is_printed(cheap, dear, tmp_path):
    found = asked(f"a={cheap}", f"b={dear}", "names=muon:muon_torch")
    taus = found.pairs.set_index("what")["tau"]
    assert taus.index.tolist() == ["all", "images", "language"]
    assert taus["images"] == 1.0
    # On text nadamw is level with sgd behind lion and adamw: two pairs of ten turned about.
    assert 0.3 < taus["language"] < 0.9
    assert found.scores["name_b"].tolist()[0] == "muon_torch"
    assert (found.pairs["submissions"] == 5).all()
    text = printed(found, tmp_path / "board")
    assert re.search(r"images +│ +1 and 1 +│ +5 +│ +1\.00", text)
    assert "muon_torch" in text
    written = pd.read_csv(tmp_path / "board" / "agreement.csv").set_index("what")
    assert written["tau"].to_dict() == pytest.approx(taus.to_dict())
    assert pd.read_csv(tmp_path / "board" / "agreement_scores.csv")["submission"].tolist()[0] == "muon"


def test_three_common_submissions_cannot_tell(cheap, dear, tmp_path):
    found = asked(f"a={cheap}", f"b={dear}", "submission=nadamw,lion,adamw")
    text = printed(found, tmp_path / "board")
    assert "cannot tell" in text
    assert "nan" not in text


def test_methods_are_matched_by_the_names_of_the_file(cheap, dear):
    found = asked(f"a={cheap}", f"b={dear}", sameness=Sameness(methods={"muon": ["muon_torch"]}))
    assert dict(zip(found.scores["submission"], found.scores["name_b"], strict=True))["muon"] == "muon_torch"


def test_two_rulesets_of_one_folder_are_compared(tmp_path):
    both = rows(TIMES, workloads=["kjv_char_lm"], ruleset="self") + rows(
        {name: 25.0 - seconds for name, seconds in TIMES.items()},
        workloads=["kjv_char_lm"],
        ruleset="external",
        seed=2,
    )
    write(tmp_path / "runs", both)
    found = asked(f"a={tmp_path}", "ruleset_a=self", "ruleset_b=external")
    assert found.pairs.set_index("what").loc["all", "tau"] == pytest.approx(-1.0)


def test_a_board_in_seconds_is_compared_with_itself_in_reference_steps(tmp_path):
    # The machine was twice as slow while muon ran: by its own pace it was the faster of the two.
    pace = dict.fromkeys(TIMES, 0.01) | {"muon": 0.001}
    found = [
        row
        for name, seconds in TIMES.items()
        for row in rows(
            {name: seconds},
            workloads=["kjv_char_lm"],
            reference_step_seconds_before=pace[name],
            reference_step_seconds_after=pace[name],
        )
    ]
    write(tmp_path / "runs", found)
    taus = asked(f"a={tmp_path}", "unit_b=reference_steps").pairs["tau"]
    # muon falls from the first place to the last, behind four others.
    assert taus[0] == pytest.approx(1.0 - 2 * 4 / 10, abs=0.15)


def test_one_size_is_compared_with_the_next_and_speed_ups_are_given_by_size(tmp_path):
    large = {name: seconds * (1.0 if name == "nadamw" else 1.2) for name, seconds in TIMES.items()}
    write(tmp_path / "runs", rows(TIMES, workloads=["kjv_char_lm"]) + rows(large, workloads=["kjv_char_lm_deep"]))
    found = asked(f"a={tmp_path}", "ladder=kjv_char_lm,kjv_char_lm_deep")
    assert found.pairs["what"].tolist() == ["kjv_char_lm to kjv_char_lm_deep"]
    muon = found.speedups[found.speedups["submission"] == "muon"].set_index("workload")
    assert muon["speedup"].tolist() == pytest.approx([2.0, 2.0 / 1.2], rel=0.01)
    assert muon["parameters"].tolist() == [345218, 382180]
    assert "345,218 parameters" in printed(found, tmp_path / "board")


def test_a_ladder_under_rules_without_a_baseline_asks_for_one(tmp_path):
    write(tmp_path / "runs", rows(TIMES, workloads=["kjv_char_lm"]) + rows(TIMES, workloads=["kjv_char_lm_deep"]))
    ladder = [f"a={tmp_path}", "ladder=kjv_char_lm,kjv_char_lm_deep", "scoring=timetrial_v2"]
    with pytest.raises(ConfigError, match="timetrial_v2 name no baseline"):
        asked(*ladder)
    assert "nadamw" in asked(*ladder, "over=muon").speedups["submission"].tolist()


def test_a_ladder_of_one_step_is_refused(cheap):
    with pytest.raises(ConfigError, match="LADDER has one step, kjv_char_lm"):
        parse([f"a={cheap}", "ladder=kjv_char_lm"])


def test_the_same_rows_twice_are_refused_with_what_to_give(cheap):
    with pytest.raises(ConfigError, match="A and B are the same rows"):
        parse([f"a={cheap}"])


def test_names_that_are_no_pairs_are_refused(cheap, dear):
    with pytest.raises(ConfigError, match="'muon' is no pair"):
        parse([f"a={cheap}", f"b={dear}", "names=muon"])


def test_boards_without_a_common_submission_are_refused(cheap, tmp_path):
    write(tmp_path / "other" / "runs", rows({"soap": 3.0}, workloads=["finewebedu_lm"]))
    with pytest.raises(ConfigError, match="no submission in common"):
        asked(f"a={cheap}", f"b={tmp_path / 'other'}")


def test_a_board_that_is_neither_a_folder_nor_committed_is_refused(cheap, tmp_path):
    with pytest.raises(ConfigError, match="'nowhere' is no folder of rows and no board in"):
        asked(f"a={cheap}", "b=nowhere", f"results={tmp_path}")


def test_a_committed_board_is_compared_with_a_folder_of_rows(cheap, tmp_path):
    found = rows({name: 2 * seconds for name, seconds in TIMES.items()}, workloads=["imagenet_resnet"])
    trials, evaluations = tables(found)
    BoardFile(tmp_path, "self").change(
        lambda _: board_rows(trials.to_dict("records"), evaluations.to_dict("records")),
    )
    pairs = asked(f"a={cheap}", "b=self", f"results={tmp_path}").pairs.set_index("what")
    assert pairs.loc["all", "tau"] == 1.0
    assert pairs.loc["all", "workloads_b"] == 1
    with pytest.raises(ConfigError, match="Did you mean 'self'"):
        asked(f"a={cheap}", "b=selv", f"results={tmp_path}")

"""make ablation: what the tables say of made-up rows, bad ladders, and the ladder that is here."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch

from benchmarks import ablation
from benchmarks.ablation import ladder_of, points
from harness.api import ConfigError, DataError, Hyperparameters
from harness.config import names_in
from harness.plugins.conformance.problems import PROBLEMS
from harness.plugins.conformance.rehearsal import Rehearsal
from harness.plugins.search import resolve_overrides
from harness.plugins.submission import load_submission
from submissions.champion.submission import train as train_champion
from submissions.nadamw.submission import train as train_nadamw
from tests.scoring.scoring_tables import trial_rows, write

MISSED = float("inf")
SEEDS = 3
WORKLOADS = "fashion_mnist_cnn", "flights_delay"
LADDER = """
name: made_up
submission: adamw
levels:
  - {name: base, says: as it is}
  - {name: faster, says: twice as fast, hp: {learning_rate: 0.01}}
  - {name: more, says: a part more, hp: {learning_rate: 0.02}}
  - {name: aside, says: a side step, over: faster, hp: {learning_rate: 0.03}}
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    written = tmp_path / "made_up.yaml"
    written.write_text(LADDER, encoding="utf-8")
    return written


def rows(path: Path, level: str, *seconds: float, workload: str = WORKLOADS[0], **changes: object):
    """A study of one trial for each of `seconds`, a hundred of which are 10,000 reference steps."""
    facts = {"ruleset": "self", "reference_step_seconds": 0.01, "hyperparameters": points(ladder_of(str(path)))[level]}
    return [
        trial_rows(workload, level, each, study=study, seed=study + 7, **{**facts, **changes})
        for study, each in enumerate(seconds)
    ]


def reported(path: Path, recorded: list, *arguments: str) -> tuple[pd.DataFrame, pd.DataFrame, str]:
    """Both tables by level, and the page, of these rows."""
    results = path.parent
    write(results / "ablation" / "made_up" / "runs", recorded)
    asked = [f"ladder={path}", f"workload={','.join(WORKLOADS)}", f"results={results}", f"folder={results / 'out'}"]
    assert ablation.main([*asked, "report=only", *arguments]) == 0
    levels = pd.read_csv(results / "out" / "made_up.csv", keep_default_na=True).set_index("level")
    times = pd.read_csv(results / "out" / "made_up_workloads.csv").set_index(["workload", "level"])
    return levels, times, (results / "out" / "ablation.md").read_text(encoding="utf-8")


def everywhere(path: Path, **seconds: tuple[float, ...]) -> list:
    """Rows of these levels on both workloads."""
    cells = [(level, each, name) for name in WORKLOADS for level, each in seconds.items()]
    return [row for level, each, name in cells for row in rows(path, level, *each, workload=name)]


BASE = (8.0, 10.0, 12.0)
HALF = (4.0, 5.0, 6.0)
QUARTER = (2.0, 2.5, 3.0)


def test_a_level_in_half_the_time_has_twice_the_speed_over_the_first_and_over_the_one_before(path: Path):
    levels, times, page = reported(path, everywhere(path, base=BASE, faster=HALF, more=QUARTER, aside=HALF))
    assert levels["first_speed"].dropna().to_dict() == pytest.approx({"faster": 2.0, "more": 4.0, "aside": 2.0})
    assert levels["over_speed"].dropna().to_dict() == pytest.approx({"faster": 2.0, "more": 2.0, "aside": 1.0})
    assert levels["over"].dropna().to_dict() == {"faster": "base", "more": "faster", "aside": "faster"}
    assert (levels["first_low"] < levels["first_speed"]).loc[["faster", "more", "aside"]].all()
    assert levels.loc["faster", "first_p"] < 0.05
    assert levels.loc["aside", "over_p"] == 1.0
    assert times["reference_steps"]["flights_delay"].to_dict() == pytest.approx(
        {"base": 1000.0, "faster": 500.0, "more": 250.0, "aside": 500.0}
    )
    assert "| `faster` | twice as fast | 2.00 (" in page
    assert "| `flights_delay` | 1,000 | 500 | 250 | 500 |" in page
    assert "Workloads: 2; seeds each: 3 (`SEED=0`)" in page


def test_a_miss_stands_at_the_whole_budget_and_is_counted(path: Path):
    missed = (MISSED, MISSED, 6.0)
    levels, times, page = reported(path, everywhere(path, base=BASE, faster=missed, more=HALF, aside=HALF))
    assert levels["misses"].to_dict() == {"base": 0, "faster": 4, "more": 0, "aside": 0}
    assert levels["targets"].to_dict() == {"base": 2, "faster": 0, "more": 2, "aside": 2}
    assert levels.loc["faster", "first_speed"] < 1.0
    assert times["reference_steps"]["flights_delay"]["faster"] == MISSED
    assert "| `fashion_mnist_cnn` | 1,000 | missed 2 of 3 | 500 | 500 |" in page


def test_a_level_without_rows_on_a_workload_is_named_and_compared_on_the_others(path: Path):
    recorded = everywhere(path, base=BASE, faster=HALF)
    recorded += rows(path, "more", *QUARTER, workload="flights_delay")
    levels, _, page = reported(path, recorded)
    assert levels.loc["more", ["first_speed", "over_speed"]].tolist() == pytest.approx([4.0, 2.0])
    assert levels["first_workloads"].dropna().to_dict() == {"faster": 2, "more": 1}
    assert levels["lacks"].dropna().to_dict() == {"more": "fashion_mnist_cnn", "aside": ",".join(WORKLOADS)}
    assert "`more` has no rows on fashion_mnist_cnn" in page
    assert "`aside` has no rows on fashion_mnist_cnn, flights_delay" in page
    assert pd.isna(levels.loc["aside", "first_speed"])


def test_rows_of_another_seed_or_of_other_hyperparameters_of_a_level_are_no_rows_of_it(path: Path, capsys):
    recorded = everywhere(path, base=BASE, faster=HALF)
    recorded += rows(path, "more", *QUARTER, study_seed=1)
    recorded += rows(path, "aside", *QUARTER, hyperparameters="{}")
    levels, _, _ = reported(path, recorded)
    assert levels["trials"].to_dict() == {"base": 6, "faster": 6, "more": 0, "aside": 0}
    assert "left out: 3 trials of levels that had other hyperparameters" in capsys.readouterr().out


def test_without_a_row_there_is_one_clear_error(path: Path):
    with pytest.raises(DataError, match=r"has no rows of the ladder made_up of seed 4 on .* without report=only"):
        reported(path, everywhere(path, base=BASE), "seed=4")


def test_the_page_says_where_nothing_was_measured(tmp_path: Path):
    assert ablation.page(tmp_path).endswith("Not measured yet.\n")


def test_the_page_is_the_one_that_the_tables_make():
    assert ablation.PAGE.read_text(encoding="utf-8") == ablation.page()


@pytest.mark.parametrize(
    ("written", "instead", "words"),
    [
        ("name: aside", "name: faster", r"the level 'faster' comes twice"),
        ("name: aside", "name: a side", r"'a side' names a folder.* small letters"),
        ("over: faster", "over: fastr", r"over 'fastr', no level above it\. Did you mean 'faster'"),
        ("rate: 0.03", "rat: 0.03", r"aside: hp names 'learning_rat'.* Did you mean 'learning_rate'"),
    ],
)
def test_a_bad_level_is_one_clear_error(path: Path, written: str, instead: str, words: str):
    path.write_text(LADDER.replace(written, instead), encoding="utf-8")
    with pytest.raises(ConfigError, match=words):
        ablation.main([f"ladder={path}", "report=only"])


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("ladder=champio", r"there is no ladder 'champio'\. Did you mean 'champion'"),
        ("ladder=nowhere/champion.yaml", r"there is no ladder 'nowhere/champion.yaml'"),
        ("workload=flights_dela", r"there is no workload 'flights_dela'\. Did you mean 'flights_delay'"),
        ("seed=one", r"SEED is 'one'"),
        ("report=all", r"report='all'\. Use report=only"),
        ("leves=a", r"there is no option 'leves'"),
    ],
)
def test_bad_input_is_one_clear_error(argument: str, words: str, tmp_path: Path):
    with pytest.raises(ConfigError, match=words):
        ablation.main([argument, f"results={tmp_path}"])


def test_a_ladder_of_one_level_is_none(path: Path):
    path.write_text(LADDER.partition("  - {name: faster")[0], encoding="utf-8")
    with pytest.raises(ConfigError, match=r"levels has 1\. Name a baseline"):
        ladder_of(str(path))


@pytest.mark.parametrize("name", names_in("ladder"))
def test_the_hyperparameters_of_every_ladder_are_those_of_its_submissions(name: str):
    ladder = ladder_of(name)
    assert ladder.name == name
    assert len(set(points(ladder).values())) == len(ladder.levels), "no two levels are the same"


def test_levels_race_under_their_own_names_in_one_folder(path: Path):
    folder = path.parent / "raced"
    studies = ablation.studies_of(ladder_of(str(path)), ["fashion_mnist_cnn"], 3, folder)
    names = [Path(study.submission).name for study in studies]
    assert names == ["base", "faster", "more", "aside"] * SEEDS
    assert {load_submission(study.submission).folder for study in studies} == {load_submission("adamw").folder}
    assert {(study.seed, study.ruleset.name, study.results) for study in studies} == {(3, "self", folder)}
    assert [study.hp for study in studies[:2]] == [{}, {"learning_rate": 0.01}]


@pytest.mark.parametrize("problem", PROBLEMS)
def test_the_champion_with_everything_off_is_nadamw_bit_for_bit(problem: str):
    first = ladder_of("champion").levels[0]
    off = resolve_overrides(load_submission("champion").hyperparameters, first.hp)
    champion = Rehearsal(PROBLEMS[problem]()).run(train_champion, off)
    defaults = Hyperparameters(load_submission("nadamw").hyperparameters)
    nadamw = Rehearsal(PROBLEMS[problem]()).run(train_nadamw, defaults)
    assert champion.losses == nadamw.losses
    for ours, theirs in zip(champion.weights, nadamw.weights, strict=True):
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)

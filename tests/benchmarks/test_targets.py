"""How a target follows from runs, how it gets into the YAML, and the whole procedure on a workload of milliseconds."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import target_easing, target_rule, targets, workload_tables
from benchmarks.target_log import read_runs
from benchmarks.target_runs import Run
from harness import config
from harness.api import Budget, ConfigError, Target
from harness.config import WorkloadConfig
from tests.blobs import Blobs

ERROR = Target("error", "min", 0.5)
ACCURACY = Target("accuracy", "max", 0.5)


def runs(*values: float, submission: str = "adamw") -> list[Run]:
    return [
        Run(
            workload="w",
            submission=submission,
            hyperparameters={},
            seed=seed,
            validation=value,
            loss=value,
            test=value + 0.01,
            step=20,
            curve=[(10, 0.9), (20, value)],
            train_seconds=1.0,
            evaluation_seconds=0.1,
        )
        for seed, value in enumerate(values)
    ]


# --- the rule ---


def test_the_target_is_the_median_of_the_best_method_where_two_reach_it_often_enough():
    best = runs(0.10, 0.10, 0.12, 0.12, 0.15)
    second = runs(0.11, 0.11, 0.12, 0.12, 0.2, submission="nadamw")
    chosen = target_rule.choose(ERROR, [*best, *second])
    assert (chosen.target.validation, chosen.median, chosen.best) == (0.12, 0.12, "adamw")
    assert chosen.reached == {"adamw": 4, "nadamw": 4}


def test_the_target_is_eased_to_what_two_methods_reach_on_four_seeds_of_five():
    best = runs(0.1, 0.1, 0.1, 0.1, 0.1)
    second = runs(0.11, 0.12, 0.13, 0.14, 0.9, submission="nadamw")
    third = runs(0.5, 0.5, 0.5, 0.5, 0.5, submission="nesterov")
    chosen = target_rule.choose(ERROR, [*third, *best, *second])
    assert (chosen.target.validation, chosen.median) == (0.14, 0.1)
    assert chosen.reached == {"adamw": 5, "nadamw": 4, "nesterov": 0}


def test_a_metric_that_should_be_large_is_eased_downwards():
    best, second = runs(0.9, 0.9, 0.9, 0.9, 0.9), runs(0.8, 0.85, 0.86, 0.87, 0.1, submission="nadamw")
    assert target_rule.choose(ACCURACY, [*best, *second]).target.validation == 0.8


def test_the_test_target_is_the_worst_of_the_best_methods_runs_that_reach_the_validation_target():
    best, second = runs(0.1, 0.12, 0.3), runs(0.1, 0.12, 0.12, submission="nadamw")
    assert target_rule.choose(ERROR, [*best, *second]).target.test == pytest.approx(0.31)
    best, second = runs(0.1, 0.11, 0.11, 0.11, 0.3), runs(*[0.11] * 5, submission="nadamw")
    assert target_rule.choose(ERROR, [*best, *second]).target.test == pytest.approx(0.12)


def test_a_method_with_fewer_seeds_is_told_of_but_sets_no_target():
    best, second = runs(0.12, 0.12, 0.13), runs(0.13, 0.13, 0.13, submission="nadamw")
    lucky, unlucky = runs(0.1, submission="nesterov"), runs(0.5, submission="heavy_ball")
    chosen = target_rule.choose(ERROR, [*lucky, *unlucky, *best, *second])
    assert (chosen.target.validation, chosen.best) == (0.13, "adamw")
    assert chosen.reached == {"adamw": 3, "nadamw": 3, "nesterov": 1, "heavy_ball": 0}
    assert list(chosen.runs)[:2] == ["adamw", "nadamw"]


@pytest.mark.parametrize(("target", "nothing"), [(ERROR, float("inf")), (ACCURACY, float("-inf"))])
def test_a_workload_that_one_method_alone_learns_has_no_target(target: Target, nothing: float):
    with pytest.raises(ConfigError, match="fewer than two of adamw, nadamw"):
        target_rule.choose(target, [*runs(0.1, 0.1), *runs(0.1, nothing, submission="nadamw")])


@pytest.mark.parametrize(
    ("value", "goal", "expected"),
    [(1.5712, "min", 1.58), (0.10031, "min", 0.101), (0.022, "min", 0.022), (0.8768, "max", 0.876), (0.0, "min", 0.0)],
)
def test_a_value_is_rounded_to_the_easier_side(value: float, goal: str, expected: float):
    assert target_rule.rounded(value, goal) == expected


# --- easing until ten seeds separate ---


def racing(submission: str, *, late: list[int]) -> list[Run]:
    """Runs that are all at 0.3 at step 60 of 90, and at 0.1 at the steps of `late`."""
    curves = [[(step, 0.1 if step >= hit else 0.3 if step >= 60 else 0.9) for step in range(10, 91, 2)] for hit in late]
    return [
        replace(run, curve=curve, step=hit)
        for run, curve, hit in zip(runs(*[0.1] * len(late), submission=submission), curves, late, strict=True)
    ]


def test_a_target_that_chance_decides_is_eased_to_the_hardest_that_ten_seeds_can_time():
    settings = replace(blobs(), budget=Budget(120, 12))
    chance = [62, 90, 64, 88, 66, 86, 68, 84, 70, 82]
    found = [*racing("adamw", late=chance), *racing("nadamw", late=chance[::-1])]
    chosen = target_rule.choose(ERROR, found)
    eased = target_easing.eased_to_separate(chosen, settings)
    assert (chosen.target.validation, eased.target.validation) == (0.1, 0.3)
    assert (eased.often_reached, eased.reached) == (0.1, {"adamw": 10, "nadamw": 10})
    lines = target_rule.target_lines(eased, settings, points=2)
    assert (
        "# Eased to 0.3, the hardest target with which these runs ask for ten seeds to tell a tenth of speed apart."
        in lines
    )


def test_a_target_that_ten_seeds_can_time_is_kept():
    found = [*racing("adamw", late=[80] * 10), *racing("nadamw", late=[84] * 10)]
    chosen = target_rule.choose(ERROR, found)
    kept = target_easing.eased_to_separate(chosen, replace(blobs(), budget=Budget(120, 12)))
    assert (kept.target, kept.reached) == (chosen.target, chosen.reached)


def test_where_ten_seeds_can_time_no_target_it_is_the_one_that_needs_the_fewest():
    settings = replace(blobs(), budget=Budget(120, 12))
    chance, less = [62, 90, 64, 88, 66, 86, 68, 84, 70, 82], [44, 60, 46, 58, 50, 56, 44, 60, 46, 58]
    curves = [
        [(step, 0.1 if step >= late else 0.3 if step >= early else 0.9) for step in range(10, 91, 2)]
        for late, early in zip(chance, less, strict=True)
    ]
    found = [
        replace(run, curve=curve, step=late)
        for name, order in (("adamw", 1), ("nadamw", -1))
        for run, curve, late in zip(runs(*[0.1] * 10, submission=name), curves[::order], chance[::order], strict=True)
    ]
    eased = target_easing.eased_to_separate(target_rule.choose(ERROR, found), settings)
    assert eased.target.validation == 0.3
    assert eased.seeds_needed is not None
    assert eased.seeds_needed > 10
    lines = target_rule.target_lines(eased, settings, points=2)
    assert (
        f"# Eased to 0.3, where these runs ask for {eased.seeds_needed} seeds to tell a tenth of speed apart, "
        "the fewest of all targets." in lines
    )


def test_no_target_is_eased_into_the_first_third_of_a_run():
    chance = [62, 90, 64, 88, 66, 86, 68, 84, 70, 82]
    found = [*racing("adamw", late=chance), *racing("nadamw", late=chance[::-1])]
    chosen = target_rule.choose(ERROR, found)
    assert target_easing.eased_to_separate(chosen, replace(blobs(), budget=Budget(400, 40))) == chosen


# --- the YAML ---

YAML = """# What it is.
name: w
options: {size: 3}  # a reason
# An old provenance.
# provisional
target: {metric: error, goal: min, validation: 0.5}

# hashes
data:
  train: aa
"""


def test_a_block_takes_the_place_of_the_key_and_of_its_comments_alone():
    written = target_rule.with_lines(YAML, "target", ["# New.", "target: {metric: error, goal: min, validation: 0.1}"])
    assert written == YAML.replace("# An old provenance.\n# provisional", "# New.").replace("0.5", "0.1")


def test_comments_stay_above_a_key_that_brings_none():
    assert target_rule.with_lines(YAML, "target", ["target: 1"]) == YAML.replace(
        "target: {metric: error, goal: min, validation: 0.5}", "target: 1"
    )


def test_a_key_over_several_lines_is_replaced_whole():
    long = YAML.replace("{metric: error, goal: min, validation: 0.5}", "\n  metric: error\n  goal: min")
    assert target_rule.with_lines(long, "target", ["target: 1"]) == YAML.replace(
        "{metric: error, goal: min, validation: 0.5}", "1"
    )


@pytest.mark.parametrize("text", [YAML.replace("target:", "goal:"), YAML.replace("target: {", "target: {\n")])
def test_a_yaml_whose_other_keys_would_suffer_is_left_alone(text: str):
    with pytest.raises(ConfigError, match="target"):
        target_rule.with_lines(text, "target", ["target: 1"])


# --- the whole procedure ---


def blobs() -> WorkloadConfig:
    return config.build(
        WorkloadConfig,
        {
            "name": "blobs",
            "version": 1,
            "entry": "tests.blobs.Blobs",
            "options": {},
            "parameters": 18,
            "batch_size": 32,
            "eval_batch_size": 256,
            "target": {"metric": "error", "goal": "min", "validation": 0.5},
            "budget": {"steps": 32, "evaluations": 4},
            "data": {split: Blobs().load(split, Path()).digest() for split in ("train", "validation", "test")},
        },
        "blobs.yaml",
    )


@pytest.fixture
def extent(tmp_path: Path) -> targets.Extent:
    (tmp_path / "blobs.yaml").write_text("name: blobs  # kept\ntarget: {validation: 0.5}\nbudget: {steps: 1}\n")
    return targets.Extent(points=2, seeds=(1, 2, 3), results=tmp_path, reference=tmp_path / "kept", workloads=tmp_path)


def test_a_target_is_set_written_and_reached(extent: targets.Extent, tmp_path: Path):
    chosen = targets.set_target(blobs(), extent)
    assert sorted(chosen.reached) == ["adamw", "heavy_ball", "nadamw", "nesterov"]
    assert sorted(chosen.reached.values())[-2] == 3  # at least 80 % of three seeds
    assert chosen.target.validation < 0.1  # chance is 0.5
    written = (tmp_path / "blobs.yaml").read_text()
    assert written.startswith("name: blobs  # kept\n# Set by make targets, ")
    assert f"\ntarget: {{metric: error, goal: min, validation: {chosen.target.validation}, test: " in written
    assert "\nbudget: {steps: 32, evaluations: 4}  # 4/3 of the 24 steps" in written


def test_what_was_run_is_not_run_again_and_more_points_add_to_it(extent: targets.Extent, tmp_path: Path):
    first = targets.set_target(blobs(), extent)
    lines = (tmp_path / "blobs.jsonl").read_text()
    assert targets.set_target(blobs(), extent) == first
    assert (tmp_path / "blobs.jsonl").read_text() == lines
    # A line of an older form, and a last line that a crash cut short, count as not done.
    lines = '{"key": "k", "seed": 0}\n' + lines
    (tmp_path / "blobs.jsonl").write_text(lines[:-20])
    assert targets.set_target(blobs(), extent).reached == first.reached
    targets.set_target(blobs(), replace(extent, points=3))
    added = (tmp_path / "blobs.jsonl").read_text().removeprefix(lines[:-20]).splitlines()
    searched = [json.loads(line)["submission"] for line in added[1:] if json.loads(line)["seed"] == 0]
    assert sorted(searched) == ["adamw", "heavy_ball", "nadamw", "nesterov"]


def test_another_workload_of_the_same_name_is_run_anew(extent: targets.Extent, tmp_path: Path):
    targets.set_target(blobs(), extent)
    count = len((tmp_path / "blobs.jsonl").read_text().splitlines())
    targets.set_target(replace(blobs(), options={"batch_norm": True}), extent)
    assert len((tmp_path / "blobs.jsonl").read_text().splitlines()) == 2 * count


def test_the_runs_behind_a_target_are_kept_with_their_curves(extent: targets.Extent, tmp_path: Path):
    chosen = targets.set_target(blobs(), extent)
    kept = read_runs(tmp_path / "kept" / "blobs.jsonl")
    assert len(kept) == 4 * 3
    five = targets.set_target(blobs(), replace(extent, seeds=(1, 2, 3, 4, 5)))
    assert [len(each) for each in five.runs.values()] == [5, 5, 3, 3]
    assert [step for step, _ in kept[0].curve] == [8, 16, 24]
    reached = [run.step_to(chosen.target) is not None for run in kept]
    assert sum(reached) == sum(chosen.reached.values())


def test_a_variant_is_run_by_the_best_two_methods_of_its_base_at_their_points(extent: targets.Extent, tmp_path: Path):
    base = targets.set_target(blobs(), extent)
    (tmp_path / "wide.yaml").write_text("defaults: [blobs, _self_]\nname: wide\ntarget: {validation: 0.5}\n")
    variant = replace(blobs(), name="wide", options={"hidden": 16}, variant_of="blobs")
    chosen = targets.set_target(variant, extent)
    assert set(chosen.runs) == set(list(base.runs)[:2])
    assert all(runs[0].hyperparameters == base.runs[name][0].hyperparameters for name, runs in chosen.runs.items())
    assert "Nothing searched: the best methods and points of blobs" in (tmp_path / "wide.yaml").read_text()


def test_a_variant_of_a_workload_without_a_target_gets_none(extent: targets.Extent):
    with pytest.raises(ConfigError, match="make targets WORKLOAD=blobs"):
        targets.set_target(replace(blobs(), name="wide", variant_of="blobs"), extent)


@pytest.mark.slow
def test_two_processes_find_what_one_finds(extent: targets.Extent, tmp_path: Path):
    alone = targets.set_target(blobs(), extent)
    shared = targets.set_target(blobs(), replace(extent, jobs=2, results=tmp_path / "two"))
    assert (shared.target, shared.reached) == (alone.target, alone.reached)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "say which workload"),
        (["workload=digits_mpl"], "Did you mean 'digits_mlp'"),
        (["workload=digits_mlp", "points=0"], "POINTS is '0'"),
        (["workload=digits_mlp", "jops=2"], "Did you mean 'jobs'"),
    ],
)
def test_a_wrong_argument_is_answered(arguments: list[str], complaint: str):
    with pytest.raises(ConfigError, match=complaint):
        targets.main(arguments)


def test_the_table_of_workloads_shows_what_the_yaml_files_say():
    # Where it does not: python -m benchmarks.workload_tables
    page = workload_tables.PAGE.read_text()
    assert workload_tables.with_tables(page) == page

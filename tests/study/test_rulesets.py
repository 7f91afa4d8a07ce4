"""The tuning rulesets, live pruning, status and retry: which points are run, which are not, and what is said."""

from __future__ import annotations

import dataclasses
import datetime
import json
import math

import pandas as pd
import pytest
from rich.console import Console

from harness.api import ConfigError, TrialStatus
from harness.commands import bench, retry, status
from harness.config import HardwareConfig, PruningConfig, RulesetConfig, load, names_in
from harness.race.outcome import Outcome
from harness.records.tables import Records, TrialKey
from harness.study.budget import trial_spec
from harness.study.identity import describe, trial_key, trial_seed
from harness.study.machine.calibration import NOT_MEASURED, Sandwich
from harness.study.pruning import no_longer_beaten, no_longer_lost
from harness.study.rows import trial_row
from tests.commands.test_bench import FAST
from tests.conftest import SGD
from tests.plugins.test_submission_loading import GROUPS
from tests.study.test_study import run, study_config, write_submission

THREE, FOUR = (RulesetConfig("self", 1, studies, 1, "defaults", 1.0, "adamw") for studies in (3, 4))
TUNED = RulesetConfig("external", 1, 3, 2, "search_space", 1.0, "adamw")
SPACE = "{learning_rate: 0.05}\nsearch_space: {learning_rate: {min: 0.01, max: 0.1, scaling: log}}"
NEVER = "def train(trial, hp):\n    for batch in trial.batches():\n        pass\n"
SLOW = HardwareConfig("local", "cpu", 1, 2.0, {"blobs": 0.002})


def trials_of(results):
    return pd.read_parquet(results / "runs" / "trials").sort_values(["submission", "study", "trial"])


def test_external_gives_three_studies_of_five_points_and_self_three_of_the_defaults_with_half_as_much_time_again():
    external, own = (load("ruleset", name, RulesetConfig) for name in ("external", "self"))
    assert (external.studies, external.trials, external.tuning, external.budget_factor) == (3, 5, "search_space", 1.0)
    assert (own.studies, own.trials, own.tuning, own.budget_factor) == (3, 1, "defaults", 1.5)


def test_a_schedule_fills_the_budget_that_its_ruleset_gives(tmp_path):
    source = SGD.replace("optimizer.zero_grad()", "trial.log(hint=trial.step_hint, seconds=trial.budget_seconds)")
    submission = write_submission(tmp_path / "schedule", source)
    ruleset = RulesetConfig("self", 2, 3, 1, "defaults", 1.5, "adamw")
    run(study_config(tmp_path, submission, ruleset=ruleset))
    told = json.loads(pd.read_parquet(tmp_path / "runs" / "evaluations")["reported"].iloc[-1])
    assert told["seconds"] == pytest.approx(1.5 * 400 * 0.0025)
    assert told["hint"] == 540  # 0.9 * 1.5 * 400


def test_the_points_of_a_submission_are_the_same_on_every_workload_and_differ_between_studies(tmp_path):
    submission = write_submission(tmp_path / "tuned", SGD, SPACE)
    config = study_config(tmp_path, submission, ruleset=TUNED)
    other = dataclasses.replace(config, workload=dataclasses.replace(config.workload, name="other"))
    assert describe(config).points == describe(other).points
    points = [describe(dataclasses.replace(config, study=study)).points for study in range(3)]
    rates = [point["learning_rate"] for study in points for point in study]
    assert len(set(rates)) == 6
    assert all(0.01 <= rate <= 0.1 for rate in rates)
    assert describe(dataclasses.replace(config, seed=1)).points != points[0]


def test_a_hyperparameter_on_the_command_line_is_written_over_every_point(tmp_path):
    submission = write_submission(tmp_path / "tuned", SGD, SPACE)
    points = describe(study_config(tmp_path, submission, ruleset=TUNED, hp={"learning_rate": 0.5})).points
    assert points == [{"learning_rate": 0.5}] * 2


def test_a_condition_on_what_is_overridden_counts_for_the_points_of_a_study(tmp_path):
    space = "search_space:\n  warmup: {min: 0.1, max: 0.2, when: {rule: [cosine]}}\n"
    defaults = "{learning_rate: 0.05, rule: constant, warmup: 0.0}"
    submission = write_submission(tmp_path / "tuned", SGD, f"{defaults}\n{space}")
    points = describe(study_config(tmp_path, submission, ruleset=TUNED, hp={"rule": "cosine"})).points
    assert all(point["rule"] == "cosine" and 0.1 <= point["warmup"] <= 0.2 for point in points)


def test_the_rows_of_a_study_have_its_points_and_the_seeds_of_every_submission(tmp_path):
    submission = write_submission(tmp_path / "tuned", SGD, SPACE)
    config = study_config(tmp_path, submission, ruleset=TUNED, pruning=PruningConfig("none"))
    run(config)
    rows = trials_of(tmp_path)
    assert [json.loads(text) for text in rows["hyperparameters"]] == describe(config).points
    assert rows["seed"].tolist() == [trial_seed(TUNED, "blobs", 0, trial, 0) for trial in range(2)]
    assert set(rows["status"]) == {"reached"}


def test_studies_stop_when_the_median_can_no_longer_be_finite(tmp_path):
    submission = write_submission(tmp_path / "never", NEVER, SPACE)
    for study in range(3):
        run(study_config(tmp_path, submission, ruleset=TUNED, hardware=SLOW, study=study))
    rows = trials_of(tmp_path)
    assert rows["status"].tolist() == ["out_of_budget"] * 4 + ["pruned"] * 2
    last = rows.iloc[-1]
    assert last["pruned_by"] == "2 of 3 studies have missed: the median over studies is infinite"
    assert (last["charged_seconds"], last["steps"], math.isinf(last["time_to_target"])) == (0.0, 0, True)
    assert rows["sandboxed"].nunique() == 1, "a trial that was not run is ranked with those that say so"


def give_row(
    config, *, status: TrialStatus, pruned_by: str | None = None, around: Sandwich = NOT_MEASURED, trial=0, **changes
) -> TrialKey:
    """The row of a trial of a study that ended without an evaluation."""
    study, records = describe(config), Records(config.results / "runs")
    key = trial_key(study, trial, records)
    spec = trial_spec(
        config,
        study.submission,
        study.points[trial],
        seed=1,
        target=config.workload.target,
        max_runtime=1.0,
        eval_period=0.1,
    )
    outcome = Outcome(status, "a test", pruned_by=pruned_by)
    row = trial_row(study, trial, key, spec, outcome, datetime.datetime.now(datetime.UTC), around)
    records.finish(key, row | changes, [])
    return key


def test_a_study_that_crashed_is_no_miss_and_the_third_one_runs(tmp_path):
    submission = write_submission(tmp_path / "plain", SGD)
    studies = [study_config(tmp_path, submission, ruleset=THREE, study=number) for number in range(3)]
    for config in studies[:2]:
        give_row(config, status=TrialStatus.CRASHED)
    run(studies[2])
    assert trials_of(tmp_path)["status"].tolist() == ["crashed", "crashed", "reached"]


@pytest.mark.parametrize("missed", [0, 1])
def test_studies_that_were_not_run_since_others_had_failed_are_freed_once_these_run_again(tmp_path, missed):
    """As an earlier version left them: two of four studies gave no time, so that the other two were not run."""
    submission = write_submission(tmp_path / "plain", SGD)
    studies = [study_config(tmp_path, submission, ruleset=FOUR, study=number) for number in range(4)]
    missing = [TrialStatus.OUT_OF_BUDGET] * missed + [TrialStatus.CRASHED] * (2 - missed)
    failed = [give_row(config, status=status) for config, status in zip(studies[:2], missing, strict=True)][missed:]
    pruned = [give_row(config, status=TrialStatus.PRUNED, pruned_by="2 of 4 studies") for config in studies[2:]]
    records = Records(tmp_path / "runs")
    for key in failed:
        records.retry(key)
    assert [no_longer_lost(describe(config), records) for config in studies] == [[], [], [pruned[0]], [pruned[1]]]


def test_trials_that_were_stopped_at_a_hit_are_freed_once_its_trial_runs_again(tmp_path):
    submission = write_submission(tmp_path / "tuned", SGD, SPACE)
    ruleset = dataclasses.replace(TUNED, trials=4)
    config = study_config(tmp_path, submission, ruleset=ruleset)
    first = give_row(config, status=TrialStatus.REACHED, time_to_target=10.0, charged_seconds=10.0)
    stopped = {
        "status": TrialStatus.PRUNED,
        "pruned_by": "an earlier trial of the study had reached the target by then",
    }
    beaten = give_row(config, trial=1, charged_seconds=10.0, **stopped)
    give_row(config, trial=2, status=TrialStatus.REACHED, time_to_target=8.0, charged_seconds=8.0)
    give_row(config, trial=3, charged_seconds=8.0, **stopped)
    study, records = describe(config), Records(tmp_path / "runs")
    records.retry(first)
    assert no_longer_beaten(study, records) == []
    records.retry(trial_key(study, 2, records))
    give_row(config, status=TrialStatus.REACHED, time_to_target=9.0, charged_seconds=9.0)
    # The one that was stopped at 8 s might have hit by 9 s.
    assert no_longer_beaten(study, records) == [trial_key(study, 3, records)]
    assert beaten not in no_longer_beaten(study, records)


def test_an_element_or_a_member_of_a_group_that_is_given_is_not_drawn_over_and_is_in_the_row(tmp_path):
    folder = tmp_path / "grouped"
    folder.mkdir()
    (folder / "submission.yaml").write_text(GROUPS, encoding="utf-8")
    given = ["hp.matrices.learning_rate=0.05", "hp.rest.betas.1=0.97", f"results={tmp_path}", *FAST]
    configs = bench.studies_of(bench.parse(["workload=digits_mlp", f"submission={folder}", "ruleset=external", *given]))
    points = [point for config in configs for point in describe(config).points]
    assert {(point["matrices.learning_rate"], point["rest.betas"][1]) for point in points} == {(0.05, 0.97)}
    give_row(configs[0], status=TrialStatus.CRASHED)
    overrides = json.loads(trials_of(tmp_path).iloc[0]["overrides"])
    assert overrides == {"matrices.learning_rate": 0.05, "rest.betas": [0.9, 0.97]}


def test_studies_that_were_not_run_since_others_had_missed_stay(tmp_path):
    submission = write_submission(tmp_path / "plain", SGD)
    studies = [study_config(tmp_path, submission, ruleset=THREE, study=number) for number in range(3)]
    for config in studies[:2]:
        give_row(config, status=TrialStatus.OUT_OF_BUDGET)
    give_row(studies[2], status=TrialStatus.PRUNED, pruned_by="2 of 3 studies")
    assert no_longer_lost(describe(studies[2]), Records(tmp_path / "runs")) == []


def test_without_pruning_every_trial_runs_to_its_end(tmp_path):
    submission = write_submission(tmp_path / "never", NEVER, SPACE)
    for study in range(3):
        run(
            study_config(tmp_path, submission, ruleset=TUNED, hardware=SLOW, study=study, pruning=PruningConfig("none"))
        )
    assert trials_of(tmp_path)["status"].tolist() == ["out_of_budget"] * 6


def test_against_the_board_a_trial_stops_where_nothing_is_left_to_gain(tmp_path):
    fast = write_submission(tmp_path / "fast", SGD)
    never = write_submission(tmp_path / "never", NEVER)
    ruleset = RulesetConfig("mine", 1, 1, 1, "defaults", 1.0, "adamw")
    long = HardwareConfig("local", "cpu", 1, 2.0, {"blobs": 0.02})
    for submission in (fast, never):
        # Evaluations come every 1 s of the long budget; the board knows of a hit at the first of them.
        run(study_config(tmp_path, submission, ruleset=ruleset, hardware=long, pruning=PruningConfig("board")))
    rows = trials_of(tmp_path).set_index("submission")
    best = rows.loc["fast", "time_to_target"]
    assert rows.loc["never", "status"] == "pruned"
    assert 4 * best <= rows.loc["never", "charged_seconds"] < rows.loc["never", "max_runtime"]
    assert "best median on this board" in rows.loc["never", "pruned_by"]


def test_a_crashed_trial_is_run_again_under_a_new_id_and_its_old_row_stays(tmp_path, capfd):
    bad = write_submission(tmp_path / "bad", "def train(trial, hp):\n    raise ValueError('no')\n")
    arguments = ["workload=digits_mlp", f"submission={bad}", f"results={tmp_path}", *FAST]
    assert bench.main(arguments) == 1
    assert bench.main(arguments) == 1
    assert len(trials_of(tmp_path)) == 1
    assert status.main(arguments) == 0
    assert "0 done, 0 running, 1 failed, 0 missing of 1 studies" in capfd.readouterr().out
    assert retry.main(["status=crashed", *arguments]) == 1
    rows = trials_of(tmp_path)
    assert rows["trial_id"].nunique() == 2
    assert rows["started_at"].nunique() == 2
    assert "1 trials with status crashed are run again" in capfd.readouterr().out
    assert bench.main(arguments) == 1
    assert len(trials_of(tmp_path)) == 2


def test_retry_runs_what_failed_and_what_was_not_run_because_of_it(tmp_path, capfd):
    arguments = ["workload=digits_mlp", "submission=adamw", "ruleset=self", f"results={tmp_path}", *FAST]
    configs = bench.studies_of(bench.parse(arguments))
    for config in configs[:2]:
        give_row(config, status=TrialStatus.CRASHED)
    give_row(configs[2], status=TrialStatus.PRUNED, pruned_by="2 of 3 studies have missed")
    assert retry.main(["status=crashed", *arguments]) == 0
    said = capfd.readouterr().out
    assert "2 trials with status crashed are run again" in said
    assert "1 trials that were not run because studies had missed are run" in said
    assert trials_of(tmp_path)["trial_id"].nunique() == 6
    assert status.main(arguments) == 0
    assert "3 done, 0 running, 0 failed, 0 missing" in capfd.readouterr().out


def test_a_disturbed_trial_is_run_again_whatever_it_came_to_and_one_beside_it_is_not(tmp_path, capfd):
    arguments = ["workload=digits_mlp", "submission=adamw", "ruleset=self", f"results={tmp_path}", *FAST]
    for config, after in zip(bench.studies_of(bench.parse(arguments)), (0.9, 1.1, 1.5), strict=True):
        give_row(config, status=TrialStatus.REACHED, around=Sandwich(1.0, after))
    assert status.main(arguments) == 0
    said = capfd.readouterr().out
    assert "3 reached, 1 of them disturbed" in " ".join(said.split())
    assert "make retry STATUS=disturbed" in said
    assert retry.main(["status=disturbed", *arguments]) == 0
    assert "1 trials with status disturbed are run again" in capfd.readouterr().out
    assert trials_of(tmp_path).groupby("study")["trial_id"].nunique().tolist() == [1, 1, 2]


def test_a_result_is_not_run_again_until_it_pleases():
    with pytest.raises(ConfigError, match="'out_of_budget' are not run again"):
        retry.main(["status=out_of_budget", "workload=digits_mlp"])
    with pytest.raises(ConfigError, match="STATUS=crashed"):
        retry.main(["workload=digits_mlp"])


def test_the_status_counts_studies_that_are_done_running_and_missing(tmp_path, capfd):
    arguments = ["workload=digits_mlp", "submission=adamw", "ruleset=self", f"results={tmp_path}", *FAST]
    configs = bench.studies_of(bench.parse(arguments))
    run(configs[0])
    records = Records(tmp_path / "runs")
    with records.journal(trial_key(describe(configs[1]), 0)):
        assert [status.state_of(config).state for config in configs] == ["done", "running", "missing"]
        assert status.main(arguments) == 0
    assert "1 done, 1 running, 0 failed, 1 missing of 3 studies" in capfd.readouterr().out
    assert status.state_of(configs[1]).state == "missing"


def test_status_looks_at_the_workload_that_stands_in_for_one_without_data(tmp_path, capfd, monkeypatch):
    monkeypatch.setenv("TIMETRIAL_DATA", str(tmp_path / "empty"))
    arguments = ["suite=quick", "submission=adamw", f"results={tmp_path}", *FAST]
    request = bench.parse(arguments)
    (name, stand_in), *_ = request.fallbacks.items()
    console = Console()
    assert status.with_stand_ins(request, console).workloads == request.workloads, "nothing has run in its place"
    (config,) = bench.studies_of(dataclasses.replace(request, workloads=[stand_in]))
    give_row(config, status=TrialStatus.CRASHED)
    assert status.with_stand_ins(request, console).workloads == [
        stand_in if each == name else each for each in request.workloads
    ]
    assert f"{name}: its data are not here, {stand_in} stands in for it" in capfd.readouterr().out


def test_a_ruleset_that_was_changed_needs_a_name_of_its_own():
    arguments = ["workload=digits_mlp", "submission=adamw", "ruleset=external", "ruleset.studies=1"]
    with pytest.raises(ConfigError, match=r"ruleset\.name=mine"):
        bench.studies_of(bench.parse(arguments))
    configs = bench.studies_of(bench.parse([*arguments, "ruleset.name=mine"]))
    assert [config.ruleset.name for config in configs] == ["mine"]


@pytest.mark.parametrize(("key", "value"), [("studies", 0), ("trials", 0), ("budget_factor", 0)])
def test_numbers_that_make_no_ruleset_are_refused(key, value):
    arguments = ["workload=digits_mlp", "submission=adamw", "ruleset.name=mine", f"ruleset.{key}={value}"]
    with pytest.raises(ConfigError, match=key):
        bench.studies_of(bench.parse(arguments))


def test_every_ruleset_can_be_loaded():
    for name in names_in("ruleset"):
        assert load("ruleset", name, RulesetConfig).name == name

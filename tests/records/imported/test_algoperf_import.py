"""AlgoPerf's logs: what the importer makes of a directory, and published scores from two archives of real logs."""

from __future__ import annotations

import io
import json
import math

import pandas as pd
import pytest

from harness.api import ConfigError, DataError
from harness.command_line import PlainConsole
from harness.commands.imports.import_algoperf import Import, main, parse_import, run_import
from harness.commands.leaderboard import Choice, chosen_rules, make_board, read_evaluations, read_trials
from harness.config import ROOT
from harness.records.board_files import board_named
from harness.records.committed import BoardFile
from harness.records.tables import read_table
from harness.scoring.rules import load_rules
from harness.scoring.score import score_tables
from harness.scoring.selection import comparable
from harness.scoring.times import trial_times
from harness.scoring.uncertainty import bootstrap
from tests.conftest import SHARED

PUBLISHED = {
    "shampoo_submission": 0.7784,
    "schedule_free_adamw": 0.7077,
    "generalized_adam": 0.6383,
    "cyclic_lr": 0.6301,
    "nadamp": 0.5909,
    "baseline": 0.5707,
    "amos": 0.4918,
    "caspr_adaptive": 0.4722,
    "lawa_queue": 0.3699,
    "lawa_ema": 0.3384,
    "schedule_free_prodigy": 0.0,
}

HEADER = "accumulated_eval_time,global_step,score,total_duration,test/wer,validation/ctc_loss,validation/wer"


def write_trial(logs, path, lines, hparams=None, meta=None):
    folder = logs / path
    folder.mkdir(parents=True)
    if lines is not None:
        (folder / "eval_measurements.csv").write_text("\n".join([HEADER, *lines]) + "\n")
    (folder / "hparams.json").write_text(json.dumps(hparams or {"learning_rate": 0.1}))
    if meta is not None:
        (folder / "meta_data_0.json").write_text(json.dumps(meta))


@pytest.fixture
def targets(tmp_path):
    entry = {"target_metric_name": "wer", "validation_target_value": 0.1, "step_hint": 1}
    workloads = {"librispeech_conformer": entry, "librispeech_conformer_layernorm": entry}
    path = tmp_path / "targets.json"
    path.write_text(json.dumps({"benchmark_version": "0.5", "workloads": workloads}))
    return path


def imported(logs, targets, tmp_path):
    run_import(Import(logs, targets, tmp_path / "results", workers=1), PlainConsole())
    runs = tmp_path / "results" / "runs"
    return read_table(runs, "trials").set_index("trial_id"), read_table(runs, "evaluations")


def test_a_log_becomes_the_rows_of_both_tables(tmp_path, targets):
    lines = ["1,1,2.5,4,0.9,9,0.8", "2,101,102.5,110,0.2,3,0.15", "3,201,202.5,210,0.1,2,0.1"]
    write_trial(tmp_path / "logs", "external_tuning/adam/study_3/librispeech_conformer_jax/trial_2", lines)
    trials, evaluations = imported(tmp_path / "logs", targets, tmp_path)
    trial = trials.iloc[0]
    where = trial[["workload", "submission", "study", "trial"]].tolist()
    assert where == ["librispeech_conformer", "adam", 3, 2]
    assert (trial["status"], trial["source"], trial["ruleset"]) == ("reached", "algoperf", "algoperf_v0_5")
    assert (trial["time_to_target"], trial["steps_to_target"], trial["max_runtime"]) == (202.5, 201, 61068)
    assert (trial["first_step_seconds"], trial["median_step_seconds"]) == (2.5, 1.0)
    assert json.loads(trial["hyperparameters"]) == {"learning_rate": 0.1}
    assert evaluations["validation"].tolist() == [0.8, 0.15, 0.1]
    assert evaluations["validation_loss"].tolist() == [9, 3, 2]
    assert evaluations["test"].tolist() == [0.9, 0.2, 0.1]


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        (None, "crashed"),
        ([], "crashed"),
        (["1,1,2.5,4,0.9,9,0.8"], "crashed"),
        (["1,1,2.5,4,0.9,9,0.8", "1,9,60000,4,0.9,9,0.8"], "out_of_budget"),
        (["1,1,2.5,4,0.9,9,0.8", "1,9,60,4,nan,nan,nan"], "diverged"),
    ],
)
def test_a_trial_that_misses_is_kept_with_the_way_it_ended(tmp_path, targets, lines, status):
    write_trial(tmp_path / "logs", "adam/study_0/librispeech_conformer_jax/trial_1", lines)
    trials, _ = imported(tmp_path / "logs", targets, tmp_path)
    assert trials["status"].tolist() == [status]
    assert trials["time_to_target"].tolist() == [math.inf]


A100 = {"gpu_count": 4, "gpu_model_name": "NVIDIA A100-SXM4-40GB", "workload.max_allowed_runtime_sec": 43680}
V100 = {"gpu_count": 8, "gpu_model_name": "Tesla V100-SXM2-16GB", "workload.max_allowed_runtime_sec": 61068}


def test_a_variant_has_the_budget_of_its_base_unless_its_logs_say_another(tmp_path, targets):
    name = "adam/study_0/librispeech_conformer_layernorm_pytorch"
    write_trial(tmp_path / "logs", f"{name}/trial_1", None)
    trials, _ = imported(tmp_path / "logs", targets, tmp_path)
    assert trials["max_runtime"].tolist() == [61068]
    assert trials["seed"].tolist() == [-1]
    write_trial(tmp_path / "other", f"{name}/trial_1", None)
    write_trial(
        tmp_path / "other", f"{name}/trial_2", None, meta={"workload.max_allowed_runtime_sec": 7, "rng_seed": 5}
    )
    trials, _ = imported(tmp_path / "other", targets, tmp_path / "there")
    assert trials["max_runtime"].tolist() == [7, 7]
    assert trials["seed"].tolist() == [-1, 5]


def test_logs_of_the_hardware_and_budgets_of_the_rules_keep_the_rules(tmp_path, targets):
    write_trial(tmp_path / "logs", "adam/study_0/librispeech_conformer_jax/trial_1", None, meta=V100)
    trials, _ = imported(tmp_path / "logs", targets, tmp_path)
    where = trials[["ruleset", "hardware", "max_runtime"]].to_numpy().tolist()
    assert where == [["algoperf_v0_5", "8x V100 16 GB", 61068]]


def test_logs_of_other_hardware_are_a_ruleset_of_their_own_and_the_import_says_why(tmp_path, targets):
    lines = ["1,1,2.5,4,0.9,9,0.8", "2,101,102.5,110,0.1,3,0.1"]
    write_trial(tmp_path / "logs", "adam/study_0/librispeech_conformer_jax/trial_1", lines, meta=A100)
    said = io.StringIO()
    run_import(Import(tmp_path / "logs", targets, tmp_path / "results", workers=1), PlainConsole(said, width=300))
    assert "hardware 8x V100 16 GB, the logs say 4x NVIDIA A100-SXM4-40GB" in said.getvalue()
    assert "budget in seconds of librispeech_conformer 61068, the logs say 43680" in said.getvalue()
    board = make_board(Choice(results=str(tmp_path / "results")))
    assert board.selection.combination["ruleset"] == "algoperf_v0_5_4x_nvidia_a100_sxm4_40gb"
    assert board.selection.combination["hardware"] == "4x NVIDIA A100-SXM4-40GB"
    assert board.scoring.rules.reading == "as_published"


def test_budgets_of_other_hardware_are_not_taken_for_those_of_this_one(tmp_path, targets):
    said = {name: A100[name] for name in ("gpu_count", "gpu_model_name")}
    write_trial(tmp_path / "logs", "adam/study_0/librispeech_conformer_jax/trial_1", None, meta=said)
    trials, _ = imported(tmp_path / "logs", targets, tmp_path)
    assert trials["max_runtime"].tolist() == [math.inf]


@pytest.mark.parametrize("other", [V100, A100 | {"workload.max_allowed_runtime_sec": 50000}])
def test_logs_of_two_rounds_are_not_mixed(tmp_path, targets, other):
    for trial, meta in (("trial_1", A100), ("trial_2", other)):
        write_trial(tmp_path / "logs", f"adam/study_0/librispeech_conformer_jax/{trial}", None, meta=meta)
    with pytest.raises(DataError, match=r"trial_2/meta_data_0\.json: .* logs of two rounds are not mixed"):
        imported(tmp_path / "logs", targets, tmp_path)


def test_logs_under_other_rules_are_not_imported_over_the_first(tmp_path, targets):
    for folder, budget in (("logs", 43680), ("other", 50000)):
        meta = A100 | {"workload.max_allowed_runtime_sec": budget}
        write_trial(tmp_path / folder, "adam/study_0/librispeech_conformer_jax/trial_1", None, meta=meta)
    imported(tmp_path / "logs", targets, tmp_path)
    with pytest.raises(DataError, match="imported here under other rules"):
        imported(tmp_path / "other", targets, tmp_path)


def test_what_is_scored_is_what_the_targets_file_names(tmp_path, targets):
    content = json.loads(targets.read_text())
    content["base_workloads"] = ["librispeech_conformer"]
    content["held_out_workloads"] = ["librispeech_conformer_layernorm"]
    targets.write_text(json.dumps(content))
    lines = ["1,1,2.5,4,0.9,9,0.8", "2,101,102.5,110,0.1,3,0.1"]
    for workload in ("librispeech_conformer", "librispeech_conformer_layernorm"):
        write_trial(tmp_path / "logs", f"adam/study_0/{workload}_jax/trial_1", lines, meta=A100)
    imported(tmp_path / "logs", targets, tmp_path)
    rules = make_board(Choice(results=str(tmp_path / "results"))).scoring.rules
    assert rules.workloads == ("librispeech_conformer",)
    assert rules.held_out == {"librispeech_conformer_layernorm": "librispeech_conformer"}


def test_a_base_workload_that_no_log_and_no_round_has_is_said_and_not_scored(tmp_path, targets):
    content = json.loads(targets.read_text())
    content["workloads"]["novel_lm"] = content["workloads"]["librispeech_conformer"]
    content["base_workloads"] = [*load_rules("algoperf_v0_5").workloads, "novel_lm"]
    content["workloads"] |= dict.fromkeys(content["base_workloads"], content["workloads"]["novel_lm"])
    targets.write_text(json.dumps(content))
    write_trial(tmp_path / "logs", "adam/study_0/librispeech_conformer_jax/trial_1", None)
    said = io.StringIO()
    run_import(Import(tmp_path / "logs", targets, tmp_path / "results", workers=1), PlainConsole(said, width=300))
    assert "not scored, in no log and no round of algoperf_v0_5: novel_lm" in said.getvalue()
    assert read_table(tmp_path / "results" / "runs", "trials")["ruleset"].tolist() == ["algoperf_v0_5"]


def test_logs_become_a_board_that_holds_what_the_tables_would(tmp_path, targets):
    lines = ["1,1,2.5,4,0.9,9,0.8", "2,101,102.5,110,0.2,3,0.15", "3,201,202.5,210,0.1,2,0.1"]
    for submission in ("adam", "lamb"):
        write_trial(tmp_path / "logs", f"{submission}/study_0/librispeech_conformer_jax/trial_1", lines)
    logs, results = tmp_path / "logs", tmp_path / "results"
    assert main([f"logs={logs}", f"targets={targets}", f"results={results}", "board=algoperf"]) == 0
    assert not (results / "runs" / "trials").exists(), "there and nowhere else"
    board = BoardFile(results, "algoperf").read()
    for table, key in (("trials", ["trial_id"]), ("evaluations", ["trial_id", "evaluation"])):
        imported(logs, targets, tmp_path)
        expected = read_table(results / "runs", table).sort_values(key, ignore_index=True)
        if table == "evaluations":
            expected["other_metrics"] = "{}"
        found = getattr(board, table).to_pandas().sort_values(key, ignore_index=True)
        pd.testing.assert_frame_equal(found, expected[found.columns.tolist()], check_dtype=False)


def test_logs_with_rules_of_their_own_and_logs_of_two_rulesets_make_no_board(tmp_path, targets):
    given = [f"targets={targets}", f"results={tmp_path / 'results'}", "board=algoperf"]
    write_trial(tmp_path / "own", "adam/study_0/librispeech_conformer_jax/trial_1", None, meta=A100)
    with pytest.raises(DataError, match="its logs have rules of their own"):
        main([f"logs={tmp_path / 'own'}", *given])
    for ruleset in ("external_tuning", "self_tuning"):
        write_trial(tmp_path / "both", f"{ruleset}/adam/study_0/librispeech_conformer_jax/trial_1", None)
    with pytest.raises(DataError, match="algoperf_v0_5 and algoperf_v0_5_self make no one board"):
        main([f"logs={tmp_path / 'both'}", *given])
    assert not BoardFile(tmp_path / "results", "algoperf").path("trials").exists()


@pytest.mark.parametrize(("steps", "status"), [(900, "crashed"), (1000, "finished"), (1001, "finished")])
def test_a_trial_that_ended_at_the_step_hint_of_its_log_has_finished(tmp_path, targets, steps, status):
    lines = ["1,1,2.5,4,0.9,9,0.8", f"2,{steps},102.5,110,0.9,3,0.8"]
    meta = A100 | {"workload.step_hint": 1000, "workload.eval_period_time_sec": 100}
    write_trial(tmp_path / "logs", "adam/study_0/librispeech_conformer_jax/trial_1", lines, meta=meta)
    trials, _ = imported(tmp_path / "logs", targets, tmp_path)
    assert trials["status"].tolist() == [status]


def test_self_tuning_logs_are_a_ruleset_of_their_own_with_three_times_the_budget(tmp_path, targets):
    for ruleset in ("external_tuning", "self_tuning"):
        write_trial(tmp_path / "logs", f"{ruleset}/adam/study_0/librispeech_conformer_jax/trial_1", None)
    trials, _ = imported(tmp_path / "logs", targets, tmp_path)
    assert trials.set_index("ruleset")["max_runtime"].to_dict() == {
        "algoperf_v0_5": 61068,
        "algoperf_v0_5_self": 3 * 61068,
    }


def test_importing_twice_gives_the_same_rows(tmp_path, targets):
    write_trial(tmp_path / "logs", "adam/study_0/librispeech_conformer_jax/trial_1", ["1,1,2.5,4,0.9,9,0.8"])
    once = imported(tmp_path / "logs", targets, tmp_path)
    twice = imported(tmp_path / "logs", targets, tmp_path)
    pd.testing.assert_frame_equal(once[0], twice[0])
    pd.testing.assert_frame_equal(once[1], twice[1])


def test_a_torn_log_names_file_and_line(tmp_path, targets):
    write_trial(tmp_path / "logs", "adam/study_0/librispeech_conformer_jax/trial_1", ["1,1,2.5,4,0.9,9,0.8", "1,x"])
    with pytest.raises(DataError, match=r"trial_1/eval_measurements.csv: line 3"):
        imported(tmp_path / "logs", targets, tmp_path)


def test_a_log_without_the_metric_of_the_target_names_the_column(tmp_path, targets):
    write_trial(tmp_path / "logs", "adam/study_0/librispeech_conformer_jax/trial_1", ["1,1,2.5,4,0.9,9,0.8"])
    targets.write_text(targets.read_text().replace('"wer"', '"ssim"'))
    with pytest.raises(DataError, match="column 'validation/ssim' is missing"):
        imported(tmp_path / "logs", targets, tmp_path)


def test_a_directory_without_logs_and_a_missing_argument_are_said(tmp_path, targets):
    with pytest.raises(DataError, match="no AlgoPerf logs found"):
        main([f"logs={tmp_path}", f"targets={targets}"])
    with pytest.raises(ConfigError, match="targets= is missing"):
        parse_import([f"logs={tmp_path}"])


def test_the_archive_gives_the_eleven_published_scores(archive_runs):
    trials = read_trials(archive_runs)
    rules = load_rules("algoperf_v0_5", reading="as_published")
    scores = score_tables(trials, read_evaluations(archive_runs, trials), rules).scores["score"]
    assert scores.to_dict() == pytest.approx(PUBLISHED, abs=1e-4)


def test_in_the_archive_a_workload_without_an_evaluation_is_no_gain_in_speed(archive_runs):
    trials = read_trials(archive_runs)
    rules = load_rules("algoperf_v0_5", reading="as_published")
    scoring = score_tables(trials, read_evaluations(archive_runs, trials), rules)
    speedups = bootstrap(scoring, resamples=100, reference="baseline").speedups["speedup"]
    assert speedups["caspr_adaptive"] == pytest.approx(1.322, abs=5e-4)


def test_as_written_differs_from_as_published_by_less_than_half_a_point_and_keeps_the_order(archive_runs):
    selection = comparable(read_trials(archive_runs))
    choice = Choice(results=str(archive_runs.parent), reading="as_written")
    evaluations = read_evaluations(archive_runs, selection.trials)
    written = score_tables(selection.trials, evaluations, chosen_rules(selection, choice)).scores["score"]
    assert (written - pd.Series(PUBLISHED)).abs().max() < 0.005
    assert written.index.tolist() == list(PUBLISHED)
    assert written["lawa_ema"] == pytest.approx(0.3431, abs=1e-4)


def test_every_logged_trial_of_a_workload_is_kept_and_its_time_is_that_of_its_evaluations(archive_runs):
    trials = read_table(archive_runs, "trials")
    assert len(trials) == 3881
    assert trials["status"].value_counts().to_dict() == {
        "reached": 1691,
        "out_of_budget": 1316,
        "crashed": 862,
        "diverged": 12,
    }
    recomputed = trial_times(trials, read_evaluations(archive_runs, trials), enforce_budget=False)
    assert (recomputed["time_to_target"] == trials["time_to_target"]).all()


def test_the_committed_board_is_what_the_archive_says(archive_runs):
    board = board_named("algoperf_v05_external", "BOARD")
    for table, key in (("trials", ["trial_id"]), ("evaluations", ["trial_id", "evaluation"])):
        expected = read_table(archive_runs, table).sort_values(key, ignore_index=True)
        if table == "evaluations":
            expected["other_metrics"] = "{}"
        found = read_table(board.path, table).sort_values(key, ignore_index=True)
        pd.testing.assert_frame_equal(found[expected.columns.tolist()], expected, check_dtype=False)


@pytest.fixture(scope="session")
def a100_runs(tmp_path_factory):
    """The tables of four submissions on other hardware than the rounds', with a language model among the workloads."""
    archive = SHARED / "data" / "algoperf_a100_self_logs_four.tar.xz"
    if not archive.exists():
        pytest.skip(f"{archive} is absent. Set TIMETRIAL_SHARED to the folder that holds data/.")
    results = tmp_path_factory.mktemp("a100")
    targets = SHARED / "data" / "algoperf_v06_workload_targets.json"
    run_import(Import(archive, targets, results, workers=1), PlainConsole(io.StringIO()))
    return results / "runs"


def test_the_archive_of_a100_logs_gives_the_scores_of_algoperfs_own_scorer(a100_runs):
    board = make_board(Choice(results=str(a100_runs)))
    scores = json.loads((SHARED / "data" / "algoperf_a100_self_scores_four.json").read_text())["scores"]
    assert board.scoring.scores["score"].to_dict() == pytest.approx(scores, abs=5e-7)
    assert board.selection.combination["hardware"] == "4x NVIDIA A100-SXM4-40GB"
    assert len(board.scoring.rules.workloads) == 9
    assert "finewebedu_lm" in board.scoring.ratios.columns


def test_logs_whose_rules_are_those_of_a_file_in_conf_become_a_board_without_what_no_score_needs(a100_runs, tmp_path):
    data = SHARED / "data"
    logs = f"logs={data / 'algoperf_a100_self_logs_four.tar.xz'}"
    targets = f"targets={data / 'algoperf_v06_workload_targets.json'}"
    assert main([logs, targets, f"results={tmp_path}", "workers=1", "board=four"]) == 0
    board = BoardFile(tmp_path, "four").read()
    assert board.trials.num_rows == len(read_table(a100_runs, "trials")) == 108
    assert set(board.evaluations["other_metrics"].to_pylist()) == {"{}"}
    assert (ROOT / "conf" / "scoring" / f"{board.trials['ruleset'][0].as_py()}.yaml").exists()
    from_board = make_board(Choice(board=str(tmp_path / "reference" / "boards" / "four")))
    from_tables = make_board(Choice(results=str(a100_runs)))
    pd.testing.assert_frame_equal(from_board.scoring.scores, from_tables.scoring.scores)


def test_in_the_archive_of_a100_logs_budgets_are_those_of_the_logs_and_trials_end_as_they_did(a100_runs):
    trials = read_table(a100_runs, "trials")
    assert trials.groupby("workload")["max_runtime"].unique().map(list).to_dict() == {
        "criteo1tb": [13372.5],
        "fastmri": [4117.5],
        "finewebedu_lm": [47950.5],
        "imagenet_resnet": [74877.0],
        "imagenet_vit": [96438.0],
        "librispeech_conformer": [65520.0],
        "librispeech_deepspeech": [55423.5],
        "ogbg": [16954.5],
        "wmt": [24171.0],
    }
    assert trials["status"].value_counts().to_dict() == {
        "reached": 53,
        "out_of_budget": 44,
        "finished": 10,
        "crashed": 1,  # it logged no evaluation
    }
    assert (trials.loc[trials["status"] == "finished", "submission"] == "muon_torch").all()

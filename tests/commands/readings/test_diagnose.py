"""`make diagnose`: runs what is missing with its weights kept, reads them off, and computes nothing twice."""

from __future__ import annotations

import pandas as pd
import pytest

from harness.api import ConfigError, DataError
from harness.commands import bench
from harness.commands.readings import diagnose
from harness.diagnostics.readouts import DIAGNOSTICS
from tests.commands.test_bench import FAST, TRAIN, write
from tests.conftest import SGD

QUICK = "only=probe,weights,collapse"


def arguments(folder, *more):
    return ["workload=digits_mlp", f"results={folder / 'results'}", "evaluate_every_steps=40", *FAST, *more]


@pytest.fixture(scope="module")
def diagnosed(tmp_path_factory):
    """Two submissions, one of which does nothing, diagnosed; and what was said."""
    folder = tmp_path_factory.mktemp("diagnosed")
    write(folder / "idle", TRAIN)
    write(folder / "sgd", SGD.replace("lr=0.05", "lr=0.5"))
    submissions = f"submission={folder / 'idle'},{folder / 'sgd'}"
    given = arguments(folder, submissions, "workload.budget.steps=80", QUICK)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "200")
        assert diagnose.main(given) == 0
    return folder, given, pd.read_csv(folder / "results" / "diagnostics.csv")


def value(table, submission, weights, diagnostic, name):
    rows = table.set_index(["submission", "weights", "diagnostic", "name"])["value"]
    return rows[submission, weights, diagnostic, name]


def test_a_submission_that_does_nothing_ends_where_it_began(diagnosed):
    _, _, table = diagnosed
    assert value(table, "idle", "last", "weights", "change_norm/all") == 0.0
    assert value(table, "idle", "last", "weights", "norm_over_initial/all") == 1.0
    for name in ("loss", "gradient_norm"):
        assert value(table, "idle", "last", "probe", name) == value(table, "idle", "initial", "probe", name)


def test_one_that_learns_is_told_apart_and_both_began_with_the_same_weights(diagnosed):
    _, _, table = diagnosed
    assert value(table, "sgd", "last", "probe", "loss") < 0.9 * value(table, "sgd", "initial", "probe", "loss")
    assert value(table, "sgd", "last", "weights", "change_norm/all") > 0.01
    first = table[table["weights"] == "initial"].pivot(
        index=["diagnostic", "name"], columns="submission", values="value"
    )
    assert (first["idle"] == first["sgd"]).all()


def test_the_table_says_what_each_number_is_from(diagnosed):
    folder, _, table = diagnosed
    assert list(table.columns) == [
        "workload", "submission", "trial_id", "weights", "diagnostic", "name", "value", "examples", "seconds"
    ]  # fmt: skip
    assert set(table["diagnostic"]) == set(QUICK.removeprefix("only=").split(","))
    assert set(table["examples"]) == {997}  # the whole training split
    assert (table["seconds"] > 0).all()
    parts = pd.read_parquet(folder / "results" / "diagnostics")
    assert len(parts) == len(table)


def test_what_is_known_is_not_computed_again_and_what_is_asked_for_beside_it_is_added(diagnosed, capfd):
    folder, given, table = diagnosed
    assert diagnose.main([*given[:-1], QUICK.replace("collapse", "calibration")]) == 0
    said = capfd.readouterr().out
    assert "calibration" in said
    assert " collapse " not in said.partition("digits_mlp: what was found")[0]
    both = pd.read_csv(folder / "results" / "diagnostics.csv")
    assert len(both) > len(table)
    kept = both[both["diagnostic"] != "calibration"].reset_index(drop=True)
    pd.testing.assert_frame_equal(kept, table)
    assert "not at equal training loss" in said
    assert "stable rank of the change" in said


def test_trials_that_began_alike_are_told_how_far_they_went_apart(diagnosed, capfd):
    folder, given, _ = diagnosed
    assert diagnose.main([*given[:-1], "only=rates,connectivity"]) == 0
    said = capfd.readouterr().out
    assert "digits_mlp sgd: rates  not here: its trials have 1 learning rates; 3 tell something" in said
    assert "digits_mlp idle and sgd: connectivity  barrier" in said
    pair = pd.read_csv(folder / "results" / "diagnostics.csv").query("diagnostic == 'connectivity'")
    assert set(pair["name"]) == {"barrier", "barrier_matched"}
    assert (pair["trial_id"].str.count(r"\+") == 1).all()


@pytest.mark.slow
def test_every_diagnostic_reads_off_a_trial_and_ratios_are_of_its_own_rate(tmp_path):
    given = arguments(tmp_path, "submission=nesterov,adamw", "workload.budget.steps=80")
    for rate in ("0.001", "0.01", "0.1"):
        assert diagnose.main([*given, f"hp.learning_rate={rate}"]) == 0
    table = pd.read_csv(tmp_path / "results" / "diagnostics.csv")
    # Ten classes, one term, and neither a solution, nor a course, nor where the signal is, is known; nothing is made.
    not_here = {
        "bias",
        "conflicts",
        "course",
        "sampling",
        "samples",
        "attribution",
        "fidelity",
        "diffroar",
        "level_sets",
    }
    assert set(table["diagnostic"]) == {*DIAGNOSTICS, *diagnose.ACROSS} - not_here
    assert table["value"].notna().mean() > 0.99
    ratios = table.query("weights == 'initial' and name == 'sharpness_ratio' and submission == 'nesterov'")["value"]
    assert sorted(ratios / ratios.min()) == pytest.approx([1, 10, 100])


def test_a_trial_that_was_run_without_its_weights_is_named_with_what_to_do(tmp_path):
    folder = write(tmp_path / "idle", TRAIN)
    given = arguments(tmp_path, f"submission={folder}", "workload.budget.steps=40")
    assert bench.main(given) == 0
    with pytest.raises(DataError, match=r"no weights were kept of digits_mlp idle, trial .*set RESULTS to another"):
        diagnose.main([*given, QUICK])


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("only=sharpnes", r"there is no diagnostic 'sharpnes'. Did you mean 'sharpness'"),
        ("keep_weights=none", "leaves nothing to look at"),
    ],
)
def test_what_cannot_be_asked_for_is_said_before_anything_runs(tmp_path, given, words):
    with pytest.raises(ConfigError, match=words):
        diagnose.main(arguments(tmp_path, "submission=adamw", given))
    assert not (tmp_path / "results").exists()

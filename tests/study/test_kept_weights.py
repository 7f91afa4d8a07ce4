"""`keep_weights`: what was judged lies in a file that says which it is, and nothing else of the trial is different."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pandas as pd
import pytest

from harness.api import ConfigError
from harness.config import StudyConfig
from harness.race.evaluation import evaluate
from harness.records.tables import TrialKey
from harness.records.weights import Weights, read_weights
from harness.study.identity import describe, trial_key
from tests.blobs import Blobs
from tests.conftest import SGD
from tests.open_sources import write_open
from tests.study.test_study import run, study_config, write_submission

# Ends far worse than it was on the way.
UNDOES_ITSELF = SGD.replace(
    "optimizer.step()",
    """optimizer.step()
            if trial.step == 30:
                torch.nn.init.zeros_(trial.model[1].weight)
                optimizer.param_groups[0]['lr'] = 0.0""",
)


def by_steps(folder: Path, source: str, **changes: object) -> StudyConfig:
    config = study_config(folder / "results", write_submission(folder / "sgd", source), **changes)
    workload = dataclasses.replace(
        config.workload,
        target=dataclasses.replace(config.workload.target, validation=-1.0),
        budget=dataclasses.replace(config.workload.budget, steps=60),
    )
    return dataclasses.replace(config, workload=workload, evaluate_every_steps=10)


def key_of(config: StudyConfig) -> TrialKey:
    return trial_key(describe(config), 0)


def kept(config: StudyConfig) -> tuple[Weights | None, pd.DataFrame]:
    evaluations = pd.read_parquet(config.results / "runs" / "evaluations").sort_values("evaluation")
    return read_weights(config.results / "runs", key_of(config)), evaluations


def loss_of(weights: Weights) -> float:
    workload = Blobs()
    model = workload.build_model()
    model.load_state_dict(weights.state)
    return evaluate(workload, model, workload.load("validation", Path()), 256)["loss"]


@pytest.mark.parametrize("which", ["last", "best"])
def test_the_weights_that_are_kept_are_those_of_the_evaluation_that_they_name(tmp_path, which):
    config = by_steps(tmp_path, UNDOES_ITSELF, keep_weights=which)
    run(config)
    weights, evaluations = kept(config)
    place = -1 if which == "last" else evaluations["validation"].reset_index(drop=True).idxmin()
    expected = evaluations.iloc[place]
    assert (weights.which, weights.evaluation, weights.step) == (which, expected["evaluation"], expected["step"])
    assert loss_of(weights) == pytest.approx(expected["validation_loss"], rel=1e-6)
    assert (weights.step == 60) == (which == "last")


def test_a_trial_is_the_same_trial_whether_its_weights_are_kept_or_not(tmp_path):
    config = by_steps(tmp_path, SGD)
    keeping = dataclasses.replace(config, keep_weights="last")
    assert key_of(config) == key_of(keeping)
    run(config)
    assert kept(config)[0] is None
    run(keeping)  # it has its row: nothing runs
    assert kept(keeping)[0] is None


def test_of_the_open_division_no_weights_can_be_kept(tmp_path):
    config = study_config(tmp_path / "results", write_open(tmp_path / "own"), keep_weights="last")
    with pytest.raises(ConfigError, match=r"keep_weights is last, and own is of the open division"):
        describe(config)

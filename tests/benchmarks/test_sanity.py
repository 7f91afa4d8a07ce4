"""The plain models, and how the workloads are compared with them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from benchmarks import sanity
from benchmarks.plain_models import ConvolutionalGru, IsomorphismNetwork
from harness import config
from harness.api import ConfigError, Hyperparameters
from harness.config import WorkloadConfig
from harness.plugins.entries import create_workload
from harness.plugins.submission import load_submission
from tests.benchmarks.test_targets import blobs
from workloads.data.smiles import read_smiles
from workloads.molecules_gnn import encoded, packed


def test_the_plain_speech_network_has_the_size_that_it_had_when_the_data_were_chosen():
    model = ConvolutionalGru()
    assert sum(weight.numel() for weight in model.parameters()) == pytest.approx(85_000, rel=0.01)
    assert model(torch.randn(2, 160, 40), torch.tensor([160, 90])).shape == (2, 40, 11)


def test_the_plain_graph_network_scores_a_molecule_alike_in_any_company():
    model = IsomorphismNetwork().eval()
    molecules = encoded([(read_smiles(smiles), {}) for smiles in ("CCO", "c1ccccc1", "[Na+].[Cl-]")])
    together = model(**packed(molecules), graphs=3)
    for row in range(3):
        alone = model(**packed({name: values[row : row + 1] for name, values in molecules.items()}), graphs=1)
        torch.testing.assert_close(alone[0], together[row])


@pytest.mark.parametrize("name", sanity.known())
def test_every_workload_of_the_list_exists_and_has_its_metric_and_plain_model(name: str):
    settings = config.load("workload", name, WorkloadConfig)
    assert all(each.metric in (settings.target.metric, "loss") for each in sanity.RECORDED if each.workload == name)
    for each in sanity.TRAINED:
        if each.workload == name:
            plain = each.settings(settings)
            assert create_workload(plain.entry, plain.options).build_model()


@pytest.mark.parametrize("name", sanity.CHOSEN)
def test_a_chosen_point_changes_hyperparameters_that_its_method_has(name: str):
    chosen = sanity.CHOSEN[name]
    defaults = load_submission(chosen.method).hyperparameters
    plan = sanity.best_plan(config.load("workload", name, WorkloadConfig))
    assert plan.submission == chosen.method
    assert plan.hyperparameters == {**defaults, **chosen.changes}
    assert plan.hyperparameters.keys() == defaults.keys()


def test_of_several_runs_of_a_time_the_best_counts():
    plans = [
        replace(plan, hyperparameters=Hyperparameters({**plan.hyperparameters, "learning_rate": rate}))
        for plan in sanity.plain_plans()[:1]
        for rate in (1e-9, 0.01)
    ]
    best = sanity.trained_for(1.0, blobs(), plans)
    assert best.hyperparameters["learning_rate"] == 0.01
    steps = [step for step, _ in best.curve]
    assert steps == [steps[0], 2 * steps[0], 3 * steps[0]]


def test_a_workload_without_a_plain_model_is_refused():
    with pytest.raises(ConfigError, match="no plain model is known for deep_linear"):
        list(sanity.outcomes("deep_linear"))


@pytest.mark.parametrize(
    ("goal", "value", "is_as_good"), [("min", 0.1, True), ("min", 0.11, False), ("max", 0.2, True)]
)
def test_as_good_goes_by_the_metrics_goal(goal: str, value: float, is_as_good: bool):
    assert sanity.Outcome("w", "adamw", "m", goal, value, 1.0, 0.1, 1.0, False).is_as_good == is_as_good

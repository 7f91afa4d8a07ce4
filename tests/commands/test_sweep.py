"""`make sweep`: every class of a library is entered, or named with the reason why not."""

from __future__ import annotations

import pandas as pd
import pytest

from harness.api import ConfigError, visible
from harness.commands import bench
from harness.commands.authors import sweep

FAST = ["tracking=off", "hardware.memory_gib=4", "++hardware.seconds_per_step.digits_mlp=0.0006"]
SHORT = ["workload=digits_mlp", "workload.budget.steps=200"]


def test_a_class_that_cannot_run_stops_a_bench_before_any_trial(tmp_path, capfd):
    folder = tmp_path / "muon_alone"
    folder.mkdir()
    (folder / "submission.yaml").write_text(
        "title: a test\nauthors: nobody\nentry: torch.optim.Muon\nhyperparameters: {}\n", encoding="utf-8"
    )
    assert bench.main([*SHORT, f"submission={folder}", f"results={tmp_path / 'results'}", *FAST]) == 2
    said = capfd.readouterr().err
    assert f"{folder}/submission.yaml: ValueError: Muon only supports 2D parameters" in said
    assert ". This works: groups: {matrices: torch.optim.Muon, rest: torch.optim.AdamW}" in said
    assert not visible(tmp_path, "**/*.parquet")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["workload=digits_mlp"], "which library"),
        (["library=torch.optim", "submission=adamw"], "enters the classes of LIBRARY alone"),
        (["library=nowhere_at_all"], "cannot be imported"),
    ],
)
def test_what_is_asked_for_wrongly_is_one_error(arguments, complaint):
    with pytest.raises(ConfigError, match=complaint):
        sweep.main(arguments)


@pytest.mark.slow
def test_every_class_of_torch_runs_or_is_named_with_a_reason(tmp_path, capfd):
    assert sweep.main(["library=torch.optim", *SHORT, f"results={tmp_path}", *FAST]) == 0
    said = capfd.readouterr().out
    trials = pd.read_parquet(tmp_path / "runs" / "trials")
    assert set(trials["status"]) <= {"reached", "out_of_budget", "diverged", "finished"}
    assert {"torch.optim.LBFGS", "torch.optim.Muon", "torch.optim.SGD"} <= set(trials["submission"])
    assert f"{len(trials)} of {len(trials) + 2} classes ran" in said
    assert "torch.optim.SparseAdam takes sparse gradients alone, which the model of no workload has. This works" in said
    assert "torch.optim.Optimizer: entry is 'torch.optim.Optimizer', which is an abstract class" in said

"""`make audit`: what it says of an honest submission, of one with a sign, and of what is asked for wrongly."""

from __future__ import annotations

import pytest

from harness.api import ConfigError
from harness.commands.trust import audit

FAST = ["workload=deep_linear", "tracking=off", "hardware.memory_gib=4", "++hardware.seconds_per_step.deep_linear=0.05"]
SHORT = ["workload.target.validation=5.0", "workload.budget.steps=400", "workload.budget.evaluations=8"]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["workload=digits_mlp"], "which submission"),
        (["submission=adamw", "seeds=0"], "SEEDS is '0'"),
        (["submission=adamw", "twin=x"], "TWIN is 'x'"),
        (["submission=adamww"], "Did you mean 'adamw'"),
        (["submission=adamw", "workload=nothing_at_all"], "there is no workload"),
    ],
)
def test_what_is_asked_for_wrongly_is_one_error(arguments, complaint):
    with pytest.raises(ConfigError, match=complaint):
        audit.main(arguments)


@pytest.mark.slow
def test_an_honest_submission_has_no_sign_and_differs_nowhere(tmp_path, capfd):
    assert audit.main(["submission=adamw", "seeds=5", "twin=5", f"results={tmp_path}", *FAST, *SHORT]) == 0
    said = capfd.readouterr().out
    assert "adamw: no signs of foreknowledge in its source" in said
    assert said.count("deep_linear  seed") == said.count("deep_linear (twin)  seed") == 5
    assert said.endswith("adamw: agrees on 1 of 1 workloads\n")
    assert not list(tmp_path.rglob("*.parquet"))


@pytest.mark.slow
def test_a_submission_that_knows_the_workload_has_a_sign_and_differs(tmp_path, capfd):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "submission.yaml").write_text("title: a\nauthors: b\nhyperparameters: {}\n", encoding="utf-8")
    (folder / "submission.py").write_text(
        "import torch\n\n"
        "def train(trial, hp):\n"
        "    known = sum(p.numel() for p in trial.model.parameters()) == 8192\n"
        "    optimizer = torch.optim.SGD(trial.model.parameters(), lr=0.04 if known else 0.01)\n"
        "    for batch in trial.batches():\n"
        "        optimizer.zero_grad()\n"
        "        trial.loss(batch).backward()\n"
        "        optimizer.step()\n",
        encoding="utf-8",
    )
    results = tmp_path / "results"
    assert audit.main([f"submission={folder}", "seeds=5", "twin=5", f"results={results}", *FAST, *SHORT]) == 1
    said = capfd.readouterr().out
    assert "submission.py:4: compares what tells workloads apart with what it knows" in said
    assert said.endswith("mine: differs on 1 of 1 workloads\n")

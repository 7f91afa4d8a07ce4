"""A trial on blobs that nobody judges, under the conditions that a test names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from harness.api import Target
from harness.trial.conversation import Conditions, Go
from harness.trial.trial import Trial
from tests.blobs import Blobs


def trial_on_blobs(options: Mapping[str, Any] | None = None, kind: type[Blobs] = Blobs, **conditions: Any) -> Trial:
    """`options`: those of Blobs, or of a `kind` of them, in which it is another than usual."""
    workload = kind(**{"hidden": 16, **(options or {})})
    torch.manual_seed(1)
    usual: dict[str, Any] = {
        "seed": 1,
        "device": torch.device("cpu"),
        "batch_size_hint": 32,
        "step_hint": 90,
        "target": Target("error", "min", 0.02),
        "budget_seconds": 10.0,
        "eval_period": 1.0,
        "evaluate_every_steps": 1000,
    }
    made = Conditions(**{**usual, **conditions})
    trial = Trial(workload, workload.build_model(), workload.load("train", Path()), made, lambda *_: None)
    trial.go(Go(0.0))
    return trial

"""One part of the proof, in the process that runs it alone: what it finds is kept in its file as it comes."""

from __future__ import annotations

import datetime
import importlib
import json
import platform
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from harness.config import ROOT
from harness.race import device as devices
from harness.study.machine.hardware import cpu_model, git_revision

FUNCTIONS = {
    "gpu_tests": "benchmarks.gpu_proof.on_tests.gpu_tests",
    "freezing": "benchmarks.gpu_proof.on_freezing.freezing",
    "trials": "benchmarks.gpu_proof.on_trials.trials",
    "energy": "benchmarks.gpu_proof.on_speed.energy",
    "throughput": "benchmarks.gpu_proof.on_speed.throughput",
    "calibration": "benchmarks.gpu_proof.on_trials.calibration",
    "optimizers": "benchmarks.gpu_proof.on_speed.optimizers",
    "ranks": "benchmarks.gpu_proof.on_freezing.ranks",
}
"""What each part calls, with the Part that it is."""


@dataclass(frozen=True)
class Part:
    """A part that runs. `is_small`: to see that it runs, not what it finds."""

    name: str
    path: Path
    device: torch.device
    is_small: bool

    def keep(self, result: Any) -> None:
        """Write down what has been found up to now."""
        content = {
            "part": self.name,
            "device": devices.name_of(self.device),
            "is_small": self.is_small,
            "cpu": cpu_model(),
            "torch": str(torch.__version__),
            "python": platform.python_version(),
            "git_revision": git_revision(ROOT),
            "measured_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "result": result,
        }
        beside = self.path.with_suffix(".tmp")
        beside.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        beside.replace(self.path)


def run(part: Part) -> None:
    """Run it and keep what it returns. Raises whatever it raises."""
    module, _, name = FUNCTIONS[part.name].rpartition(".")
    part.keep(getattr(importlib.import_module(module), name)(part))


if __name__ == "__main__":
    run(Part(sys.argv[1], Path(sys.argv[2]), devices.resolve(sys.argv[3]), bool(sys.argv[4])))

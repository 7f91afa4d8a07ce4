"""Data that are made when they are read are the same whatever number of threads makes them, in another process too."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from harness.api import SPLITS
from harness.config import WorkloadConfig, base_workloads, load
from harness.plugins.entries import create_workload
from tests.conftest import ROOT

PROGRAM = """
import json, sys, torch
from pathlib import Path
from harness.config import WorkloadConfig, load
from harness.plugins.entries import create_workload
torch.set_num_threads(2)
found = {}
for name in sys.argv[1:]:
    settings = load("workload", name, WorkloadConfig)
    workload = create_workload(settings.entry, settings.options)
    found[name] = {split: workload.load(split, Path("/nonexistent")).digest() for split in settings.content}
print(json.dumps(found))
"""


def generated() -> dict[str, WorkloadConfig]:
    known = {name: load("workload", name, WorkloadConfig) for name in base_workloads()}
    return {
        name: each
        for name, each in known.items()
        if each.entry.startswith("workloads.frontier.") and not create_workload(each.entry, each.options).sources()
    }


@pytest.mark.slow
def test_another_process_with_other_threads_and_another_hash_seed_makes_the_same_data():
    settings = generated()
    assert len(settings) > 3
    environment = {**os.environ, "OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "2", "PYTHONHASHSEED": "7"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *settings],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    expected = {name: {split: each.content[split] for split in SPLITS} for name, each in settings.items()}
    assert json.loads(done.stdout) == expected

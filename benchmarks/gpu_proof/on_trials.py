"""Refereed trials through the road of `make bench`, and the budgets of this machine."""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
from pathlib import Path
from typing import Any, Literal

import torch

from benchmarks.gpu_proof.part import Part
from benchmarks.gpu_proof.subjects import WORKLOAD as SMALLEST
from harness.api import SPLITS, Budget, HarnessError, SplitName, one_line
from harness.command_line import PlainConsole
from harness.commands import bench
from harness.commands.calibrate import Frozen
from harness.config import StudyConfig, WorkloadConfig, base_workloads, load, names_in
from harness.plugins.data import data_folder, is_present
from harness.plugins.entries import create_workload
from harness.records.tables import Records
from harness.study.budget import measure
from harness.study.identity import describe, trial_key
from harness.study.study import run_study

WORKLOADS = ("fashion_mnist_cnn", "kjv_char_lm", "cifar10_resnet")
_STEPS, _SMALL_STEPS = 600, 8
_FEW = {"train": 4096, "held_out": 1024}
_SMALL_FEW = {"train": 64, "held_out": 32}
_SMALL_STEP_SECONDS = 0.4
_COLUMNS = (
    "status", "reason", "steps", "charged_seconds", "evaluation_seconds", "total_seconds", "first_step_seconds",
    "median_step_seconds", "p90_step_seconds", "best_validation", "time_to_target", "peak_host_bytes",
    "peak_device_bytes", "energy_joules", "max_runtime", "reference_step_seconds", "precision", "compiled", "frozen",
    "sandboxed",
)  # fmt: skip


def trials(part: Part) -> dict[str, Any]:
    """The row of one trial of AdamW on each of WORKLOADS; on made-up examples where the data are not here."""
    result: dict[str, Any] = {}
    for name in WORKLOADS:
        if name not in names_in("workload"):
            result[name] = {"left_out": "there is no such workload yet"}
        else:
            result[name] = _row(part, name)
        part.keep(result)
    failed = [name for name, row in result.items() if row.get("status") in ("crashed", "refused") or "error" in row]
    if failed:
        raise RuntimeError(f"no sound trial on {', '.join(failed)}: {result[failed[0]]}")
    return result


def _row(part: Part, name: str) -> dict[str, Any]:
    results = Path(tempfile.mkdtemp())
    try:
        config, is_made_up = _study(part, name, results)
        study = describe(config)
        run_study(study, PlainConsole())
        records = Records(results / "runs")
        row = records.trial(trial_key(study, 0, records))
        logs = sorted((results / "runs" / "logs").glob("*.txt"))
        return {
            "made_up_examples": is_made_up,
            **{column: _jsonable(row[column]) for column in _COLUMNS},
            "log": logs[0].read_text(encoding="utf-8")[-2000:] if logs else "",
        }
    except HarnessError as error:
        return {"error": one_line(error)}
    finally:
        shutil.rmtree(results, ignore_errors=True)


def _study(part: Part, name: str, results: Path) -> tuple[StudyConfig, bool]:
    """The study, and whether its examples are made up. Its budget has at most some hundreds of steps."""
    config = _composed(part, name, results)
    workload = config.workload
    is_made_up = not is_present(create_workload(workload.entry, workload.options), data_folder()) or part.is_small
    if is_made_up:
        few = _SMALL_FEW if part.is_small else _FEW
        workload = dataclasses.replace(
            workload,
            entry="workloads.made_up.workload.MadeUp",
            options={"entry": workload.entry, "options": workload.options, **few},
            batch_size=min(workload.batch_size, few["train"] // 4),
            eval_batch_size=min(workload.eval_batch_size, few["held_out"]),
        )
        made = create_workload(workload.entry, workload.options)
        content: dict[SplitName | Literal["weights"], str] = {
            split: made.load(split, data_folder()).digest() for split in SPLITS
        }
        workload = dataclasses.replace(workload, data=content)
    steps = _SMALL_STEPS if part.is_small else _STEPS
    budget = Budget(min(workload.budget.steps, steps), min(workload.budget.evaluations, 4))
    hardware = config.hardware
    if part.is_small:  # a budget is measured for some seconds, which says nothing here
        hardware = dataclasses.replace(hardware, seconds_per_step={name: _SMALL_STEP_SECONDS})
    workload = dataclasses.replace(workload, budget=budget)
    return dataclasses.replace(config, workload=workload, hardware=hardware), is_made_up


def _composed(part: Part, name: str, results: Path) -> StudyConfig:
    hardware = "cuda" if part.device.type == "cuda" else "local"
    request = bench.parse(
        [f"workload={name}", "submission=adamw", f"hardware={hardware}", "tracking=off", f"results={results}"]
    )
    return bench.compose(request, name, request.submissions[0])


def calibration(part: Part) -> dict[str, Any]:
    """Seconds per step of the reference on every workload whose data are here, frozen under the device's name."""
    result: dict[str, Any] = {"frozen_in": None, "seconds_per_step": {}, "busy": []}
    here = [SMALLEST] if part.is_small else [name for name in base_workloads() if _has_data(name)]
    name = frozen_name(part.device)
    frozen = Frozen(name) if name is not None else None
    results = Path(tempfile.mkdtemp())
    try:
        for workload in here:
            study = describe(_composed(part, workload, results))
            if frozen is not None:
                frozen.check(study)
            reading = measure(study, PlainConsole()).reading
            if not reading.is_quiet:
                result["busy"].append(workload)
                continue
            result["seconds_per_step"][workload] = reading.seconds_per_step
            if frozen is not None:  # each as it comes: time may run out
                frozen.write(study, {workload: reading.seconds_per_step}, {workload: study.config.workload.version})
                frozen = Frozen(frozen.name)
                result |= {"frozen_in": frozen.where, "content": frozen.path.read_text(encoding="utf-8")}
            part.keep(result)
    finally:
        shutil.rmtree(results, ignore_errors=True)
    return result


def frozen_name(device: torch.device) -> str | None:
    """What the file in conf/hardware is called: `h200` for an NVIDIA H200; None for a CPU, which has no such name."""
    if device.type != "cuda":
        return None
    words = torch.cuda.get_device_name(device).lower().replace("nvidia", "").split()
    return words[0].partition("-")[0]


def _has_data(name: str) -> bool:
    config = load("workload", name, WorkloadConfig)
    return is_present(create_workload(config.entry, config.options), data_folder())


def _jsonable(value: Any) -> Any:
    """JSON has no infinite numbers."""
    return str(value) if isinstance(value, float) and not abs(value) < float("inf") else value

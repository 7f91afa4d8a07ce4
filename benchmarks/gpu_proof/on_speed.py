"""Speed and energy on this device: training steps of the full workloads, update rules, joules."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
import time
from typing import Any

import torch

from benchmarks import optimizers as rules
from benchmarks import throughput as training
from benchmarks.gpu_proof.part import Part
from benchmarks.gpu_proof.subjects import WORKLOAD as SMALLEST
from harness.api import one_line
from harness.config import names_in, values_of
from harness.race import device as devices

_FULL = "workloads.full."
"""Where the classes of the full tier lie."""
_FEW_PARAMETERS = 12_000_000


def full_workloads() -> list[str]:
    """Names of the workloads of the full tier, variants aside."""
    said = {name: values_of("workload", name) for name in names_in("workload")}
    return [
        name
        for name, values in said.items()
        if str(values["entry"]).startswith(_FULL) and values.get("variant_of") is None
    ]


def throughput(part: Part) -> list[dict[str, Any]]:
    """A row for each full workload, in bfloat16, compiled and not; and a small one, which is there always.

    First all as they are, since compiling takes longest. In little: those with few parameters, on two examples, not
    compiled.
    """
    names = [SMALLEST, *full_workloads()]
    asked = training.Asked(names, part.device.type, precision="bf16", seconds=3.0)
    if part.is_small:
        names = [name for name in names if values_of("workload", name)["parameters"] <= _FEW_PARAMETERS]
        asked = dataclasses.replace(asked, precision="float32", batch_size=2, seconds=0.1, compiles=(False,))
    rows: list[dict[str, Any]] = []
    for way in asked.compiles:
        for name in names:
            one = dataclasses.replace(asked, workloads=[name], compiles=[way])
            rows += training.each(one, print, limit_seconds=30.0 if part.is_small else 60.0)
            part.keep(rows)
    return rows


def optimizers(part: Part) -> list[dict[str, Any]]:
    """Step times of the update rules of submissions on the tensors of a GPT-2 small, beside AdamW's."""
    is_cuda = part.device.type == "cuda"
    name, shapes = next(iter((rules.CUDA_TENSORS if is_cuda else rules.CPU_TENSORS).items()))
    classes = [found for found in rules.classes_of([]) if rules.is_timed(found[1])]
    rows: list[dict[str, Any]] = []
    for rule, kind in classes[:2] if part.is_small else classes:
        try:
            rounds, turn = (1, 0.01) if part.is_small else (3, rules.TURN_SECONDS)
            found = rules.compared(rule, kind, shapes(), device=part.device, rounds=rounds, turn_seconds=turn)
            rows.append(dataclasses.asdict(found) | {"shapes": name})
        except Exception as error:  # of a class of anybody's
            rows.append({"name": rule, "shapes": name, "reason": f"{type(error).__name__}: {one_line(error)}"})
        part.keep(rows)
    return rows


def energy(part: Part) -> dict[str, Any]:
    """Joules of some seconds of products of matrices, by NVML's counter, and the power that nvidia-smi tells."""
    meter = devices.EnergyMeter(part.device)
    seconds = 0.2 if part.is_small else 3.0
    size = 4096 if part.device.type == "cuda" else 256
    matrix = torch.randn(size, size, device=part.device)
    if meter.joules is not None:
        meter.start()
    began = time.monotonic()
    products, watts = 0, None
    while time.monotonic() - began < seconds:
        for _ in range(20):
            matrix = torch.nn.functional.normalize(matrix @ matrix)
            products += 1
        devices.synchronize(part.device)
        if watts is None and time.monotonic() - began > seconds / 2:
            watts = _watts()
    spent = time.monotonic() - began
    if meter.joules is not None:
        meter.stop()
    joules = meter.joules
    return {
        "seconds": spent,
        "products": products,
        "joules": joules,
        "watts": joules / spent if joules is not None else None,
        "watts_by_nvidia_smi": watts,
    }


def _watts() -> float | None:
    """Power of the first GPU at this moment, where nvidia-smi is there and tells it."""
    if shutil.which("nvidia-smi") is None:
        return None
    query = ["nvidia-smi", "--query-gpu=power.draw", "--format=csv,noheader,nounits"]
    done = subprocess.run(query, capture_output=True, encoding="utf-8", check=False)
    try:
        return float(done.stdout.splitlines()[0])
    except (IndexError, ValueError):
        return None

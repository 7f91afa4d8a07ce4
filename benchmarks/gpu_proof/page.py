"""Writes docs/throughput.md from the JSON files of `make gpu-proof`. Measures nothing.

After a change there: python -m benchmarks.gpu_proof.page
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.throughput import COLUMNS, cells
from harness.api import visible
from harness.config import ROOT

RESULTS = ROOT / "results" / "reference" / "gpu"
PAGE = ROOT / "docs" / "throughput.md"

Found = Mapping[str, Any]
"""What one part has written: who measured what, and its `result`."""

_HEAD = """\
# Speed on GPUs

Written by `make gpu-proof` from the files of `results/reference/gpu`; do not edit it by hand.

`make gpu-proof` runs, in at most ten minutes on one NVIDIA GPU: the tests that need one; whether a trainer with a CUDA
context can be stopped by signal, and the same trial with and without; a refereed trial on three workloads; training
speed of the full workloads, compiled and not; the seconds per step of this machine, frozen in `conf/hardware`; step
times of the update rules on the tensors of a GPT-2 small; the same trial on two devices where there are two; energy.
A bare machine with Python 3.12 and torch needs what `make gpu-wheels` has put into `.gpu_wheels` elsewhere, and no
network. `DEVICE=cpu SMALL=1` shows that the script runs, and nothing of speed. `make throughput WORKLOAD=a,b` measures
single workloads.
"""
_NONE = """
**There are no GPU figures yet.** No line of the CUDA path has run on a device: no GPU has been at hand. Nothing here
is estimated in their place.
"""


def page(results: Path = RESULTS) -> str:
    """The whole page, from the folders of devices in `results`."""
    sections = [_device(folder) for folder in _folders(results)]
    return _HEAD + ("".join(sections) if sections else _NONE)


def _folders(results: Path) -> list[Path]:
    return sorted({path.parent for path in visible(results, "*/*.json")}) if results.is_dir() else []


def _device(folder: Path) -> str:
    parts: dict[str, Found] = {
        path.stem: json.loads(path.read_text(encoding="utf-8")) for path in visible(folder, "*.json")
    }
    measured = [part for part in parts.values() if part.get("device")]
    if not measured:
        return f"\n## {folder.name}\n\nNo part came to a result.\n"
    first = measured[0]
    head = (
        f"\n## {first['device']}\n\n{first['cpu']}, torch {first['torch']}, Python {first['python']}, "
        f"revision {first['git_revision']}, {first['measured_at'][:10]}.\n\n"
    )
    states = [["part", "state", "seconds", "why"], ["---", "---", "---:", "---"]]
    states += [[name, part["state"], f"{part['seconds']:.0f}", _cell(part["reason"])] for name, part in parts.items()]
    return head + _lines(states) + "".join(_results(parts))


def _results(parts: Mapping[str, Found]) -> Iterator[str]:
    """A paragraph or table for each part that has found something."""
    writers: dict[str, Callable[[Any], str]] = {
        "throughput": _throughput,
        "trials": _trials,
        "freezing": _freezing,
        "calibration": _calibration,
        "optimizers": _optimizers,
        "ranks": _ranks,
        "energy": _energy,
    }
    for name, write in writers.items():
        if name in parts and parts[name]["result"]:
            yield f"\n{write(parts[name]['result'])}"


def _throughput(rows: Sequence[Found]) -> str:
    align = ["---", "---", *["---:"] * (len(COLUMNS) - 2)]
    said = [f"- `{row['workload']}`, {_way(row)}: {row['reason']}" for row in rows if "reason" in row]
    precisions = ", ".join(sorted({row["precision"] for row in rows if "precision" in row}))
    text = f"Training on made-up batches, passes in {precisions or 'no precision'}:\n\n"
    text += _lines([COLUMNS, align, *(cells(dict(row)) for row in rows)])
    text += (
        "\nData: share of a step that gathering and moving its batch takes, with nothing ahead. Operations are of\n"
        "matrix products, convolutions and attention; the peak is that of the device's data sheet.\n"
    )
    return text + ("\n" + "\n".join(said) + "\n" if said else "")


def _way(row: Found) -> str:
    return "compiled" if row["is_compiled"] else "not compiled"


def _trials(rows: Mapping[str, Found]) -> str:
    table = [
        [
            "trial of `adamw` on",
            "examples",
            "status",
            "steps",
            "charged s",
            "first step s",
            "ms/step",
            "device GiB",
            "joules",
        ],
        ["---", "---", "---", *["---:"] * 6],
    ]
    for name, row in rows.items():
        if "status" not in row:
            table.append([f"`{name}`", _cell(row.get("left_out") or row.get("error")), *["-"] * 7])
            continue
        memory = row["peak_device_bytes"]
        table.append(
            [
                f"`{name}`",
                "made up" if row["made_up_examples"] else "true",
                str(row["status"]),
                f"{row['steps']}",
                _number(row["charged_seconds"], 1.0, 2),
                _number(row["first_step_seconds"], 1.0, 2),
                _number(row["median_step_seconds"], 1e3, 2),
                _number(memory, 2.0**-30, 2),
                _number(row["energy_joules"], 1.0, 0),
            ]
        )
    return _lines(table)


def _freezing(found: Found) -> str:
    process = found["process"]
    ways = ("waits", "is stopped")
    trials = [f"{way}: {found[way]['status']}, {found[way]['reason']}" for way in ways if way in found]
    meanwhile = process["seconds_of_work_of_another_process_meanwhile"]
    return (
        f"A stopped process goes on where it was: {_yes(process['goes_on_where_it_was'])}. What it had queued ran\n"
        f"on while it was stopped: {_yes(process['queued_work_ran_while_stopped'])}. Work of another process took\n"
        f"{meanwhile:.3g} s meanwhile. Trials whose trainer waits or is stopped: {'; '.join(trials) or 'none'}.\n"
        f"Both learn the same: {_yes(found.get('learns_the_same'))}.\n"
    )


def _calibration(found: Found) -> str:
    values = ", ".join(f"`{name}` {seconds * 1e3:.3g}" for name, seconds in found["seconds_per_step"].items())
    busy = f" The machine was busy on {', '.join(found['busy'])}." if found["busy"] else ""
    where = found["frozen_in"] or "no file"
    return f"Milliseconds per step of the reference: {values or 'none'}. Frozen in: {where}.{busy}\n"


def _optimizers(rows: Sequence[Found]) -> str:
    table = [
        ["update rule", "tensors", "ms/step", "to AdamW fused", "to foreach", "state, bytes"],
        ["---", "---", *["---:"] * 4],
    ]
    for row in rows:
        if "reason" in row:
            table.append([row["name"], _cell(row["reason"]), *["-"] * 4])
            continue
        numbers = [
            _number(row["seconds"], 1e3, 3),
            *(f"{row[key]:.2f}" for key in ("to_fused", "to_foreach", "state_bytes")),
        ]
        table.append([row["name"], f"{row['shapes']}, {row['tensors']}", *numbers])
    return _lines(table)


def _ranks(found: Found) -> str:
    if "left_out" in found:
        return f"Two devices: left out, {found['left_out']}.\n"
    states = ", ".join(f"{name}: {found[name]['status']}" for name in ("on 1", "on 2") if name in found)
    apart = found.get("losses_apart")
    by = "-" if apart is None else f"{apart:.1e}"
    return f"The same trial on one and two devices: {states}; losses are apart by {by}.\n"


def _energy(found: Found) -> str:
    return (
        f"Power under matrix products: {_number(found['watts'], 1.0, 0)} W by the device's counter, "
        f"{_number(found['watts_by_nvidia_smi'], 1.0, 0)} W by nvidia-smi.\n"
    )


def _number(value: Any, factor: float, digits: int) -> str:
    return f"{value * factor:,.{digits}f}" if isinstance(value, int | float) else "-"


def _yes(value: object) -> str:
    return "not known" if value is None else "yes" if value else "no"


def _cell(text: object) -> str:
    return " ".join(str(text or "").replace("|", "/").split())


def _lines(rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    sys.exit(0)

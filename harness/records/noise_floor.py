"""How much the machine alone moves a time: the A/A ratio of sandwiched runs, kept by machine, shown on each board."""

from __future__ import annotations

import json
import math
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from scipy.special import stdtrit

from harness.api import DataError
from harness.scoring.selection import Selection


@dataclass(frozen=True)
class NoiseFloor:
    """Ratio of a candidate's seconds per step to those of the runs around it, over sandwiches with one seed.

    `low`, `high`: 95 % interval of the ratio (Student, on logarithms). `spread`: what two single runs of the same code
    may differ by, as a factor, in 95 % of cases. `date`: when it was measured, ISO.
    """

    workload: str
    submission: str
    sandwiches: int
    ratio: float
    low: float
    high: float
    spread: float
    date: str


def noise_floor(workload: str, submission: str, seconds: list[float], date: str) -> NoiseFloor:
    """From the seconds per step of runs in the order reference, candidate, reference, ... , reference.

    Each candidate is set against the geometric mean of its two neighbours, so that a machine that slowly warms up or
    fills with other work does not count as a difference. Raises DataError for fewer than two sandwiches.
    """
    logs = np.log(np.array(seconds))
    around, inside = logs[::2], logs[1::2]
    if len(inside) < 2 or len(around) != len(inside) + 1:
        raise DataError(f"{len(seconds)} runs make no two sandwiches. Use rounds=2 or more.")
    ratios = inside - (around[:-1] + around[1:]) / 2
    rounds = len(ratios)
    # A ratio has the variance of 1.5 runs, its own and half of one, and neighbours share a quarter of a run: their
    # variance around their own mean is that of 1.5 - 0.5 / rounds runs, that of their mean of (2 - 0.5 / rounds) /
    # rounds. Taken for independent, they would give an interval that holds the truth in 92 to 94 % of cases.
    run = float(ratios.var(ddof=1)) / (1.5 - 0.5 / rounds)
    quantile = float(stdtrit(rounds - 1, 0.975))
    reach = quantile * math.sqrt(run * (2.0 - 0.5 / rounds) / rounds)
    single = quantile * math.sqrt(2.0 * run)
    centre = float(ratios.mean())
    return NoiseFloor(
        workload,
        submission,
        rounds,
        math.exp(centre),
        math.exp(centre - reach),
        math.exp(centre + reach),
        math.exp(single),
        date,
    )


def keep(results: Path, fingerprint: str, floor: NoiseFloor) -> Path:
    """Remember it in `results/noise/<fingerprint>.json`, in place of an earlier one of that workload."""
    path = results / "noise" / f"{fingerprint}.json"
    floors = {**_read(path), floor.workload: floor}
    content = json.dumps({name: asdict(each) for name, each in floors.items()}, indent=2)
    beside = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text(content + "\n", encoding="utf-8")
        beside.replace(path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise DataError(f"{path}: cannot write ({error.strerror}). Check the disk and run again.") from None
    return path


def floor_of(results: Path, fingerprint: str, workload: str) -> NoiseFloor | None:
    """What was measured of a workload on a machine; None where nothing was. Raises DataError for a bad file."""
    return _read(results / "noise" / f"{fingerprint}.json").get(workload)


def noise_notes(results: Path, selection: Selection) -> list[str]:
    """One line for each ranked workload whose noise floor was measured on the machine of these rows.

    A file that cannot be read is one line.
    """
    try:
        floors = _read(results / "noise" / f"{selection.combination['hardware_fingerprint']}.json")
    except DataError as error:
        return [str(error)]
    return [
        f"noise floor on {name}: A/A ratio {floor.low:.3f} to {floor.high:.3f} "
        f"in {floor.sandwiches} sandwiches; two runs of the same code "
        f"differ by up to {100 * (floor.spread - 1):.1f} %"
        for name, floor in sorted(floors.items())
        if name in set(selection.trials["workload"])
    ]


def _read(path: Path) -> dict[str, NoiseFloor]:
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        return {name: NoiseFloor(**values) for name, values in kept.items()}
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}). Ask its owner for the right to do so.") from None
    except (ValueError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: not readable ({error}). Remove it; make noise measures again.") from None

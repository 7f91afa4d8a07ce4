"""The results of claims as files, one each, and what keeps them from being read under another rule than theirs."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy
import torch

from benchmarks.claims.claim import Claim, Measured, Reading
from harness.api import ConfigError, DataError
from harness.config import ROOT
from harness.study.machine.hardware import cpu_model

FOLDER = ROOT / "results" / "reference" / "claims"


def measured(claim: Claim, readings: Sequence[Reading]) -> Measured:
    """The readings of the claim's seeds, in their order, as they are to be written down."""
    names = list(readings[0].beside)
    return Measured(
        claim=claim.name,
        experiment=claim.experiment,
        quantity=claim.quantity,
        rule=str(claim.holds),
        seeds=claim.seeds,
        numbers=[_short(reading.number) for reading in readings],
        beside={name: [_short(reading.beside[name]) for reading in readings] for name in names},
        versions={"python": platform.python_version(), "torch": torch.__version__, "numpy": numpy.__version__},
        machine=cpu_model() if claim.is_timed else None,
    )


def write(result: Measured, folder: Path = FOLDER) -> None:
    """One small file, in the claim's name."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(asdict(result), indent=1, ensure_ascii=False)
    (folder / f"{result.claim}.json").write_text(text + "\n", encoding="utf-8")


def read(claim: Claim, folder: Path = FOLDER) -> Measured | None:
    """What was measured for the claim; None where nothing was.

    Raises DataError for a damaged file, and ConfigError where experiment, rule or seeds were others: a rule is written
    before its number.
    """
    path = folder / f"{claim.name}.json"
    if not path.exists():
        return None
    try:
        result = Measured(**json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise DataError(f"{path} is damaged ({error}). Measure it again: make claims CLAIM={claim.name}") from error
    for what, then, now in (
        ("experiment", result.experiment, claim.experiment),
        ("number", result.quantity, claim.quantity),
        ("rule", result.rule, str(claim.holds)),
        ("seeds", result.seeds, claim.seeds),
    ):
        if then != now:
            raise ConfigError(
                f"{path} was measured with {then!r} as its {what}, and the claim has {now!r} now. "
                f"Measure it again: make claims CLAIM={claim.name}"
            )
    return result


def _short(number: float) -> float:
    return float(f"{number:.6g}")

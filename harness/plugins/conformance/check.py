"""What was looked at and what was found, as one line of a report."""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from harness.api import HarnessError, one_line

_TEXT_AT_MOST = 300


class Outcome(StrEnum):
    """What became of a check. `not_run`: what it builds on had failed."""

    PASSED = "passed"
    FAILED = "failed"
    NOT_RUN = "not_run"


@dataclass(frozen=True)
class Check:
    """One thing that a submission must keep to, and whether it does."""

    name: str
    outcome: Outcome
    said: str
    """What is wrong, where, and what to do; of a check that passed, what was looked at."""
    problem: str | None = None
    """The tiny problem that it was tried on; None: none, or all of them."""


def judged(name: str, fault: str | None, otherwise: str, problem: str | None = None) -> Check:
    """A check that failed where there is a fault, and else passed."""
    return Check(name, Outcome.PASSED if fault is None else Outcome.FAILED, fault or otherwise, problem)


def what_was_raised(error: BaseException, folder: Path) -> str:
    """One line: what went wrong, and the innermost place in the files of `folder`."""
    text = one_line(error)[:_TEXT_AT_MOST]
    if not isinstance(error, HarnessError):
        text = f"{type(error).__name__}: {text}".removesuffix(": ")
    frames = [each for each in traceback.extract_tb(error.__traceback__) if Path(each.filename).is_relative_to(folder)]
    return f"{text} ({Path(frames[-1].filename).relative_to(folder)}:{frames[-1].lineno})" if frames else text


def line_of(path: Path, text: str) -> str:
    """`path:line` of the first line of a file that begins with `text`, blanks aside; the path alone where none does."""
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if line.strip().startswith(text):
            return f"{path.name}:{number}"
    return path.name

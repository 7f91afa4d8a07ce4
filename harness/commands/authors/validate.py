"""Says whether a submission keeps the contract, as its reviewer would ask; `make validate SUBMISSION=dir JSON=file`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any

from rich.console import Console

from harness import command_line
from harness.api import ConfigError, path_of
from harness.command_line import PlainConsole
from harness.commands.authors.refereed import RULESETS, run_under
from harness.plugins.conformance.check import Check, Outcome
from harness.plugins.conformance.files import check_files
from harness.plugins.conformance.process import check_training_of
from harness.plugins.submission import find_submission, listed, load_submission
from harness.records.tables import disk_errors

_MARKS = {Outcome.PASSED: "passed", Outcome.FAILED: "FAILED", Outcome.NOT_RUN: "not run"}


@dataclass(frozen=True)
class Report:
    """What was found of one submission. `measured` and `trials` are there to be read, and decide nothing."""

    submission: str
    checks: list[Check]
    measured: dict[str, float]
    trials: dict[str, dict[str, int]]
    """Of each ruleset, how many trials ended how."""

    @property
    def passed(self) -> bool:
        """Whether every check did."""
        return all(check.outcome is Outcome.PASSED for check in self.checks)

    def message(self) -> dict[str, Any]:
        """This as JSON has it."""
        return {**asdict(self), "passed": self.passed}


def main(arguments: Sequence[str]) -> int:
    """`submission=x,y [json=file]`; returns 0 where all checks of all of them passed, else 1.

    Raises ConfigError where there is no such directory, DataError where the file cannot be written.
    """
    given = command_line.options(arguments, ("submission", "json"))
    names = listed(given.get("submission", ""))
    if not names:
        raise ConfigError("which submission? For example make validate SUBMISSION=path/to/my_rule JSON=report.json")
    for name in names:
        find_submission(name)
    console, reports = PlainConsole(), []
    for name in names:
        reports.append(validate(name))
        show(reports[-1], console)
    if given.get("json"):
        path = path_of(given["json"])
        with disk_errors(path):
            path.write_text(json.dumps([each.message() for each in reports], indent=2) + "\n", encoding="utf-8")
    failed = [report.submission for report in reports if not report.passed]
    if len(names) > 1:
        console.print(f"{len(names) - len(failed)} of {len(names)} submissions passed", soft_wrap=True)
    if failed:
        console.print(f"failed: {', '.join(failed)}", soft_wrap=True)
    return 1 if failed else 0


def validate(name_or_path: str) -> Report:
    """What every check says of a submission; those of its training, and its trials, where it can be read.

    Runs no line of the submission in this process.
    """
    name = find_submission(name_or_path).name
    checks = check_files(name_or_path)
    if checks[0].outcome is not Outcome.PASSED:
        return Report(name, checks, {}, {})
    submission = load_submission(name_or_path)
    found = check_training_of(submission)
    refereed = [run_under(ruleset, submission) for ruleset in RULESETS]
    return Report(
        name,
        [*checks, *found.checks, *(each.check for each in refereed)],
        found.measured,
        {ruleset: each.ends for ruleset, each in zip(RULESETS, refereed, strict=True)},
    )


def show(report: Report, console: Console) -> None:
    """One line for each check, and one for each problem that it fails on."""
    console.print(f"{report.submission}")
    for line in _lines(report.checks):
        console.print(f"  {line}", soft_wrap=True)
    if report.measured:
        console.print(f"  reported {_measured(report.measured)}", soft_wrap=True)
    counts = [sum(check.outcome is outcome for check in report.checks) for outcome in Outcome]
    console.print(f"  {counts[0]} checks passed, {counts[1]} failed, {counts[2]} not run\n", soft_wrap=True)


def _lines(checks: Sequence[Check]) -> Iterator[str]:
    # Of a check on several problems, one line stands for all that end alike and say the same.
    def place(check: Check) -> tuple[str, Outcome, str]:
        return check.name, check.outcome, check.said

    order = {check.name: number for number, check in reversed(list(enumerate(checks)))}
    for (name, outcome, said), group in groupby(sorted(checks, key=lambda each: order[each.name]), key=place):
        problems = [check.problem for check in group if check.problem is not None]
        on = f" (on {', '.join(problems)})" if problems else ""
        yield f"{_MARKS[outcome]:<8} {name:<22} {said}{on}"


def _measured(measured: dict[str, float]) -> str:
    low, high = measured["lowest_step_time_over_adamw"], measured["highest_step_time_over_adamw"]
    return (
        f"{measured['state_bytes_per_parameter']:.1f} bytes of state per parameter "
        f"(AdamW: {measured['adamw_state_bytes_per_parameter']:.1f}); on this tiny model a step takes "
        f"{measured['step_time_over_adamw']:.2f} times that of torch's fused AdamW ({low:.2f} to {high:.2f})"
    )


if __name__ == "__main__":
    sys.exit(command_line.run(main))

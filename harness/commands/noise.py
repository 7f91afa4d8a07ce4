"""Measures the noise floor: the reference, a candidate, the reference ... with one seed; `make noise WORKLOAD=w`."""

from __future__ import annotations

import datetime
import sys
from collections.abc import Sequence

from rich.console import Console

from harness import command_line
from harness.api import ConfigError
from harness.command_line import PlainConsole
from harness.commands import bench
from harness.records.noise_floor import keep, noise_floor
from harness.study.budget import measure_step_seconds
from harness.study.identity import describe
from harness.study.study import judge_of

_ROUNDS = 5
_RUN_SECONDS = 10


def main(arguments: Sequence[str]) -> int:
    """`make noise WORKLOAD=a,b [SUBMISSION=candidate ARGS="rounds=5 seconds=10"]`; else it races itself.

    Raises ConfigError without a workload or for fewer than two rounds. Nothing of it becomes a row.
    """
    console = PlainConsole()
    given = dict(argument.partition("=")[::2] for argument in arguments)
    rounds, seconds = given.pop("rounds", str(_ROUNDS)), given.pop("seconds", str(_RUN_SECONDS))
    if not rounds.isdigit() or int(rounds) < 2:
        raise ConfigError(f"rounds={rounds!r}. Use a whole number of sandwiches, at least 2.")
    if not seconds.isdigit() or int(seconds) < 1:
        raise ConfigError(f"seconds={seconds!r}. Use a whole number of seconds for each run, at least 1.")
    if "workload" not in given:
        raise ConfigError("make noise needs a workload. Use make noise WORKLOAD=name.")
    candidate = given.pop("submission", None)
    for workload in command_line.names(given["workload"]):
        rest = [f"{key}={value}" for key, value in given.items() if key != "workload"]
        _measure(console, [*rest, f"workload={workload}"], candidate, int(rounds), int(seconds))
    return 0


def _measure(console: Console, arguments: list[str], candidate: str | None, rounds: int, seconds: int) -> None:
    request = bench.parse([*arguments, *([f"submission={candidate}"] if candidate else [])])
    name = request.workloads[0]
    first = bench.compose(request, name, request.submissions[0])
    reference = describe(bench.compose(request, name, first.ruleset.reference))
    other = describe(first) if candidate else reference
    console.print(
        f"{name}: {rounds} sandwiches of {other.submission.name} between {reference.submission.name}, "
        f"{2 * rounds + 1} runs of {seconds} s each"
    )
    judge = judge_of(first.workload, reference.machine)
    found = []
    for number in range(2 * rounds + 1):
        study = other if number % 2 else reference
        found.append(measure_step_seconds(study, judge, seconds=seconds))
        console.print(f"  {study.submission.name:<20} {1e3 * found[-1]:.4g} ms per step")
    floor = noise_floor(name, other.submission.name, found, datetime.date.today().isoformat())
    console.print(
        f"{name}: ratio {floor.ratio:.4f}, 95 % interval {floor.low:.4f} to {floor.high:.4f}; "
        f"two runs of the same code differ by up to {100 * (floor.spread - 1):.1f} %"
    )
    if not candidate:
        path = keep(reference.config.results, reference.machine.fingerprint, floor)
        console.print(f"kept in {path}; boards of this machine show it", soft_wrap=True)


if __name__ == "__main__":
    sys.exit(command_line.run(main))

"""`make import-csv`: what a plain training script wrote, as CSV or JSON, as tables that every board can show."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from harness import command_line
from harness.api import ConfigError, DataError, Target, path_of
from harness.command_line import PlainConsole
from harness.records.imported.plain_logs import RULESET, PlainRace, import_plain_logs

_RESULTS = Path("results/imported")
_NEEDED = ("logs", "workload", "metric", "target", "hardware")
_MORE = ("goal", "budget", "submission", "results")


def parse_race(values: Mapping[str, str]) -> PlainRace:
    """What was raced, from the arguments. Raises ConfigError where one is missing or of no use."""
    for key in _NEEDED:
        if not values.get(key):
            raise ConfigError(
                f"{key}= is missing. Use make import-csv LOGS=file-or-folder WORKLOAD=name METRIC=loss TARGET=3.28 "
                "HARDWARE='1x RTX 4090'."
            )
    for key in ("workload", "submission"):
        if "/" in values.get(key, ""):
            raise ConfigError(f"{key}={values[key]!r} has a slash in it, which no name of a folder can have.")
    if values.get("goal", "min") not in ("min", "max"):
        raise ConfigError(f"goal={values['goal']!r}. Use min for losses, max for accuracies.")
    target = Target(values["metric"], "max" if values.get("goal") == "max" else "min", _number(values, "target"))
    budget = _number(values, "budget") if values.get("budget") else math.inf
    if budget <= 0.0:
        raise ConfigError(f"budget={values['budget']!r}. Use a positive number of seconds.")
    return PlainRace(values["workload"], target, values["hardware"], budget, values.get("submission") or None)


def _number(values: Mapping[str, str], key: str) -> float:
    try:
        number = float(values[key])
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ConfigError(f"{key}={values[key]!r}. Use a number.")
    return number


def main(arguments: Sequence[str]) -> int:
    """`make import-csv LOGS=... WORKLOAD=... METRIC=... TARGET=... HARDWARE=...`. Raises HarnessError for bad input."""
    values = command_line.options(arguments, [*_NEEDED, *_MORE])
    race = parse_race(values)
    logs, results = path_of(values["logs"]), path_of(values.get("results", str(_RESULTS)))
    if not logs.exists():
        raise DataError(f"{logs}: there is no such file or folder. Set LOGS to what the script wrote.")
    counts = import_plain_logs(logs, runs=results / "runs", race=race)
    ended = ", ".join(f"{count} {status.replace('_', ' ')}" for status, count in sorted(counts.items()))
    console = PlainConsole()
    console.print(f"imported {sum(counts.values()):,} trials into {results / 'runs'}: {ended}", soft_wrap=True)
    console.print(
        f"rank them: make leaderboard RULESET={RULESET} RESULTS={shlex.quote(str(results))}",
        soft_wrap=True,
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(command_line.run(main))

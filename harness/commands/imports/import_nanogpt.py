"""`make import-nanogpt`: logs of modded-nanogpt's third track, steps to a loss of 3.28, as tables for every board."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from harness import command_line
from harness.api import ConfigError, DataError, path_of
from harness.command_line import PlainConsole
from harness.records.imported.nanogpt_logs import find_runs, import_runs

_RESULTS = Path("results/nanogpt")


def main(arguments: Sequence[str]) -> int:
    """`make import-nanogpt LOGS=...`. Raises HarnessError where it cannot be done."""
    values = command_line.options(arguments, ["logs", "results"])
    if "logs" not in values:
        raise ConfigError("logs= is missing. Use make import-nanogpt LOGS=directory.")
    logs, results = path_of(values["logs"]), path_of(values.get("results", str(_RESULTS)))
    if not logs.exists():
        raise DataError(f"{logs}: there is no such file or folder. Set LOGS to logs of modded-nanogpt.")
    counts = import_runs(find_runs(logs), runs=results / "runs")
    ended = ", ".join(f"{count} {status.replace('_', ' ')}" for status, count in sorted(counts.items()))
    console = PlainConsole()
    console.print(f"imported {sum(counts.values()):,} runs into {results / 'runs'}: {ended}", soft_wrap=True)
    console.print("the track counts steps: each is charged as one second, whatever it took", soft_wrap=True)
    console.print(f"rank them: make leaderboard RESULTS={shlex.quote(str(results))}", soft_wrap=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(command_line.run(main))

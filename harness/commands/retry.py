"""Runs failed trials again under new trial ids; `make retry STATUS=crashed`. The old rows stay."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from harness import command_line
from harness.api import ConfigError, near_matches
from harness.command_line import PlainConsole
from harness.commands import bench
from harness.commands.status import FAILED
from harness.records.tables import Records
from harness.study.identity import describe, trial_key


def main(arguments: Sequence[str]) -> int:
    """`make retry STATUS=crashed [SUITE= WORKLOAD= ...]`, otherwise as make bench, whose exit code it returns.

    Raises ConfigError for a status that is a result: running such a trial until it comes out better would be cheating.
    """
    given = dict(argument.partition("=")[::2] for argument in arguments if argument.startswith("status="))
    if "status" not in given:
        raise ConfigError(f"retry needs a status. Use make retry STATUS={FAILED[0]}.")
    statuses = given["status"].split(",")
    for status in statuses:
        if status not in FAILED:
            raise ConfigError(
                f"trials with status {status!r} are not run again: it is a result, or unknown. "
                f"{near_matches(status, FAILED)} Another seed is another trial: make bench SEED=1."
            )
    console = PlainConsole()
    rest = [argument for argument in arguments if not argument.startswith("status=")]
    marked = 0
    for config in bench.studies_of(bench.parse(rest)):
        records, study = Records(config.results / "runs"), describe(config)
        for trial in range(config.ruleset.trials):
            key = trial_key(study, trial, records)
            if records.is_done(key) and records.trial(key)["status"] in statuses:
                records.retry(key)
                marked += 1
    console.print(f"{marked} trials with status {' or '.join(statuses)} are run again; their old rows stay")
    return bench.bench(rest, console)


if __name__ == "__main__":
    sys.exit(command_line.run(main))

"""Runs failed or disturbed trials again under new trial ids; `make retry STATUS=crashed`. The old rows stay.

Trials that were not run because of such failures are run too.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from harness import command_line
from harness.api import FAILED, ConfigError, near_matches
from harness.command_line import PlainConsole
from harness.commands import bench
from harness.commands.status import with_stand_ins
from harness.records.tables import Records, Row
from harness.scoring.clock.disturbance import DISTURBED, is_disturbed
from harness.scoring.rules import load_rules, rules_of
from harness.study.identity import Study, describe
from harness.study.pruning import no_longer_beaten, no_longer_lost
from harness.study.standing import standing_of

_AGAIN = (*FAILED, DISTURBED)


def main(arguments: Sequence[str]) -> int:
    """`make retry STATUS=crashed [SUITE= WORKLOAD= ...]`, otherwise as make bench, whose exit code it returns.

    `disturbed` is no status: the machine changed its pace around such a trial, whatever it came to. Raises ConfigError
    for a status that is a result: running such a trial until it comes out better would be cheating.
    """
    given = dict(argument.partition("=")[::2] for argument in arguments if argument.startswith("status="))
    if "status" not in given:
        raise ConfigError(f"retry needs a status. Use make retry STATUS={FAILED[0]}.")
    statuses = given["status"].split(",")
    for status in statuses:
        if status not in _AGAIN:
            raise ConfigError(
                f"trials with status {status!r} are not run again: it is a result, or unknown. "
                f"{near_matches(status, _AGAIN)} Another seed is another trial: make bench SEED=1."
            )
    console = PlainConsole()
    rest = [argument for argument in arguments if not argument.startswith("status=")]
    configs = bench.studies_of(with_stand_ins(bench.parse(rest), console))
    studies = [(describe(config), Records(config.results / "runs")) for config in configs]
    failed, unreadable = 0, dict[str, None]()
    for study, records in studies:
        standing = standing_of(study, records)
        unreadable |= dict.fromkeys(standing.unreadable)
        for key, row in standing.rows.items():
            if row["status"] in statuses or (DISTURBED in statuses and _is_disturbed(study, row)):
                records.retry(key)
                failed += 1
    freed, unstopped = 0, 0
    for study, records in studies:  # once all that failed are marked, in whichever study
        for key in no_longer_lost(study, records):
            records.retry(key)
            freed += 1
        for key in no_longer_beaten(study, records):
            records.retry(key)
            unstopped += 1
    for line in unreadable:
        console.print(line, soft_wrap=True)
    console.print(f"{failed} trials with status {' or '.join(statuses)} are run again; their old rows stay")
    if freed:
        console.print(f"{freed} trials that were not run because studies had missed are run: these had failed")
    if unstopped:
        console.print(f"{unstopped} trials that were stopped at the time of one of these are run again")
    return bench.bench(rest, console)


def _is_disturbed(study: Study, row: Row) -> bool:
    return is_disturbed(row["reference_drift"], load_rules(rules_of(study.config.ruleset.name)).drift_limit)


if __name__ == "__main__":
    sys.exit(command_line.run(main))

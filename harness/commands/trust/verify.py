"""Verifies recorded rows: `make verify TRIAL=id`, or `BOARD=folder SAMPLE=10` for a sample drawn after the fact.

Every row is read for contradictions; those of the sample are run again and compared. Nothing is recorded.
"""

from __future__ import annotations

import functools
import json
import random
import secrets
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow.compute as pc
from rich.console import Console

from harness import command_line
from harness.api import ConfigError, DataError, HarnessError
from harness.command_line import PlainConsole
from harness.commands import bench
from harness.commands.leaderboard import Choice, bad_tables_named, read_trials
from harness.records.tables import Row, read_rows
from harness.scoring.checks import OURS
from harness.scoring.selection import comparable
from harness.study.folders import known_place
from harness.study.identity import Study, describe
from harness.study.verification.changes import Present
from harness.study.verification.consistency import contradictions
from harness.study.verification.rerun import Recorded
from harness.study.verification.verify import Verification, verify

_SAMPLE = 10
_OF_ROWS = ("suite", "workload", "submission", "ruleset", "division", "hardware")
_OWN = ("trial", "board", "sample", "draw", "results", *_OF_ROWS)


def main(arguments: Sequence[str]) -> int:
    """`make verify TRIAL=id [RESULTS=folder]` or `make verify BOARD=folder [SAMPLE=10 SUITE= WORKLOAD= ...]`.

    What is left of the arguments is for the runs, as make bench takes it. Returns 0 where nothing was found that does
    not hold, 1 where something was. Raises ConfigError for bad input, DataError where there is no such trial or board.
    """
    console = PlainConsole()
    pairs = [argument.partition("=") for argument in arguments]
    given = {key: value for key, equals, value in pairs if equals and key in _OWN}
    rest = [argument for argument in arguments if argument.partition("=")[0] not in given]
    if ("trial" in given) == ("board" in given):
        raise ConfigError("verify needs a trial or a board. Use make verify TRIAL=id, or BOARD=results SAMPLE=10.")
    if "trial" in given and (unfit := sorted(given.keys() - {"trial", "results"})):
        raise ConfigError(f"{unfit[0].upper()} goes with a board. Use make verify TRIAL=id, and RESULTS=folder.")
    results = given.get("results", "results")
    rest.append(f"results={results}")
    if "trial" in given:
        return _verify_trial(given["trial"], Choice(results=results).runs, rest, console)
    named = {name: given[name] for name in _OF_ROWS if name in given}
    return _verify_board(Choice(results=given["board"], **named), given, rest, console)


def _verify_trial(trial_id: str, runs: Path, rest: Sequence[str], console: Console) -> int:
    found = _recorded(runs, [trial_id], _said_once(console))
    if not found:
        raise DataError(f"{runs}: there is no trial {trial_id!r}. Set RESULTS to the folder that its row is in.")
    return 1 if _say(found[0], Present(runs), runs, rest, console) == _EDITED else 0


def _verify_board(choice: Choice, given: Mapping[str, str], rest: Sequence[str], console: Console) -> int:
    runs = choice.runs
    wanted = command_line.whole_number(given, "sample", _SAMPLE)
    left_out = _said_once(console)
    trials = read_trials(runs, left_out=left_out)
    with bad_tables_named(runs):
        selection = comparable(
            trials,
            ruleset=choice.ruleset,
            division=choice.division,
            hardware=choice.hardware,
            workloads=choice.workloads,
            submissions=choice.submissions,
        )
    ours = selection.trials[selection.trials["source"] == OURS]
    if ours.empty:
        raise DataError(f"{runs}: no row of this board was raced here: imported rows cannot be run again.")
    for note in selection.notes:
        console.print(note, soft_wrap=True)
    board = _recorded(runs, ours["trial_id"].tolist(), left_out)
    bad = [(each, found) for each in board if (found := contradictions(each.row, each.evaluations))]
    for each, found in bad:
        _print(each, _EDITED, found, console)
    console.print(f"{len(board)} rows read, {len(bad)} of them contradict themselves")
    # Rows that were never run have nothing to be run for.
    ran = sorted(set(ours.loc[ours["charged_seconds"] > 0.0, "trial_id"]))
    drawn = _draw(ran, wanted, given, console)
    contradict = {each.row["trial_id"] for each, _ in bad}
    sample = [each for each in board if each.row["trial_id"] in drawn and each.row["trial_id"] not in contradict]
    present = Present(runs)
    ends = [_say(each, present, runs, rest, console) for each in sample]
    ends += [_EDITED] * len(contradict & drawn)
    console.print(
        f"of {len(drawn)} drawn: {ends.count(_HOLDS)} hold, {ends.count(_EDITED)} do not, "
        f"{ends.count(_NOT_RUN)} could not be run again"
    )
    return 1 if bad or _EDITED in ends else 0


def _draw(trial_ids: Sequence[str], wanted: int, given: Mapping[str, str], console: Console) -> set[str]:
    """The ids of a sample of at most `wanted` trials; by a number from the system's entropy unless one is given."""
    written = given.get("draw")
    if written is not None and not written.isdecimal():
        raise ConfigError(f"draw is {written!r}. Use the number that an earlier sample was drawn with.")
    number = secrets.randbits(64) if written is None else int(written)
    count = min(wanted, len(trial_ids))
    # Known to nobody before now; said, so that others can see that it was the only one.
    how = "by chance" if written is None else "as it was given"
    console.print(f"{count} of {len(trial_ids)} trials drawn {how}: draw={number}")
    return set(random.Random(number).sample(list(trial_ids), count))


def _said_once(console: Console) -> Callable[[str], object]:
    """Prints a line about what cannot be read; tables are read more than once."""
    return functools.cache(lambda line: console.print(line, soft_wrap=True))


def _recorded(runs: Path, trial_ids: Sequence[str], left_out: Callable[[str], object]) -> list[Recorded]:
    """The trials of these ids, in their order, that can be read."""
    wanted = pc.field("trial_id").isin(list(trial_ids))
    trials, evaluations = (read_rows(runs, table, wanted, left_out=left_out) for table in ("trials", "evaluations"))
    of_trial: dict[str, list[Row]] = {row["trial_id"]: [] for row in trials}
    for row in sorted(evaluations, key=lambda each: int(each["evaluation"])):
        of_trial.setdefault(row["trial_id"], []).append(row)
    by_id = {row["trial_id"]: Recorded(row, of_trial[row["trial_id"]]) for row in trials}
    return [by_id[each] for each in trial_ids if each in by_id]


_HOLDS, _EDITED, _NOT_RUN = "holds", "does not hold", "was not run again"


def _say(recorded: Recorded, present: Present, runs: Path, rest: Sequence[str], console: Console) -> str:
    """Verify a trial and print a line, whose verdict is returned."""
    changes = present.changes_since(recorded.row)
    try:
        found = _verified(recorded, changes, runs, rest, console)
    except HarnessError as error:
        found = Verification(not_run=str(error))
    since = [f"changed since: {'; '.join(changes)}"] if changes else []
    if found.faults:
        return _print(recorded, _EDITED, [*found.faults, *since], console)
    if found.not_run is not None:
        return _print(recorded, _NOT_RUN, [found.not_run, *since], console)
    return _print(recorded, _HOLDS, [*found.said, *since], console)


def _verified(
    recorded: Recorded, changes: Sequence[str], runs: Path, rest: Sequence[str], console: Console
) -> Verification:
    row = recorded.row
    if row["source"] != OURS:
        return Verification(not_run=f"it was imported from {row['source']}")
    if found := contradictions(row, recorded.evaluations):
        return Verification(found)
    return verify(study_of(row, runs, rest), recorded, changes, console)


def study_of(row: Row, runs: Path, rest: Sequence[str]) -> Study:
    """The study of a row as it is here now. `rest`: more arguments of make bench. Raises ConfigError."""
    place = known_place(row["submission"], runs)
    if place is None:
        raise ConfigError(f"{row['submission']}: its directory is not here")
    asked = [f"workload={row['workload']}", f"ruleset={row['ruleset']}", f"hardware={row['hardware']}"]
    request = bench.parse([*asked, f"submission={place.given_as}", *rest])
    config = bench.compose(request, row["workload"], place.given_as)
    return describe(
        replace(
            config,
            study=row["study"],
            seed=max(0, row["study_seed"]),
            hp=json.loads(row["overrides"] or "{}"),
            hardware=replace(config.hardware, threads=row["threads"]),
            evaluate_every_steps=row["evaluate_every_steps"],
        )
    )


def _print(recorded: Recorded, end: str, words: Sequence[str], console: Console) -> str:
    key = recorded.key
    console.print(f"{key.trial_id}  {key.workload}  {key.submission}  {end}: {'; '.join(words)}", soft_wrap=True)
    return end


if __name__ == "__main__":
    sys.exit(command_line.run(main))

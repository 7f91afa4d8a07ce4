"""`make dashboard`: from the parquet tables to a static site under `results/board/`, and the same boards to W&B."""

from __future__ import annotations

import contextlib
import functools
import http.server
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console

from harness import command_line
from harness.api import ConfigError, DataError, HarnessError
from harness.board.boards import DashboardBoard, combinations, score_board
from harness.board.site import write_site
from harness.board.wandb_board import publish
from harness.command_line import PlainConsole
from harness.commands.leaderboard import (
    Choice,
    bad_tables_named,
    chosen_rules,
    more_notes,
    read_evaluations,
    read_trials,
    reference_of,
)
from harness.config import TrackingConfig, load
from harness.diagnostics.table import all_readouts
from harness.plugins.submission import load_submission
from harness.records.step_profiles import read_profiles
from harness.records.tables import TRIALS, disk_errors
from harness.scoring.clock.units import in_unit, lacking_note, lacks_unit, rates
from harness.scoring.rules import readings_of, rules_of
from harness.scoring.selection import Selection, check_reference, comparable, with_evaluations
from harness.scoring.settings.edges import Range
from harness.study.folders import known_place
from harness.study.settings.searched import searched

_CHOICES = (
    *("suite", "workload", "submission", "ruleset", "division", "hardware", "scoring", "reading", "unit", "results"),
    "board",
)
_PORT = 8000
_AS_IT_RAN = ["workload", "submission", "workload_hash", "submission_hash"]


def build_boards(
    choice: Choice, *, reference: str | None = None, say: Callable[[str], object] = lambda _: None
) -> list[DashboardBoard]:
    """Every board that the rows have: one per ruleset, division and hardware, and per reading; the one used last first.

    `say` hears of each that cannot be read in the chosen unit, and so do the notes of the others. Raises DataError
    where there is nothing to rank or a table is bad, ConfigError for a name that no row has.
    """
    notes: list[str] = []
    without_unit: list[tuple[Selection, str]] = []
    trials = read_trials(choice.runs, TRIALS.names, left_out=notes.append)
    choice, trials = choice.of_growing(trials, notes).on_one_scale(trials, notes)
    profiles = read_profiles(choice.runs)
    readouts = all_readouts(choice.folder)
    with bad_tables_named(choice.runs):
        named = {"workloads": choice.workloads, "submissions": choice.submissions}
        # Once over everything, so that a name that no row has is an error as on the terminal.
        comparable(trials, ruleset=choice.ruleset, division=choice.division, hardware=choice.hardware, **named)
        check_reference(reference, trials)
        boards: list[DashboardBoard] = []
        by_value: dict[str, None] = {}
        for rows in combinations(_chosen(trials, choice)):
            selection = comparable(rows, hardware=choice.hardware)
            unread: list[str] = []
            evaluations = read_evaluations(choice.runs, selection.trials, left_out=unread.append)
            selection = with_evaluations(selection, evaluations)
            name = choice.scoring or rules_of(selection.combination["ruleset"], runs=choice.runs)
            for reading in [choice.reading] if choice.reading else readings_of(name, runs=choice.runs):
                rules = chosen_rules(selection, replace(choice, reading=reading))
                if rules.measure != "time_to_target":
                    by_value[selection.combination["ruleset"]] = None
                    continue
                if lacks_unit(selection.trials, rules.unit):
                    without_unit.append((selection, rules.unit))
                    break
                read, seen = in_unit(selection, evaluations, rules.unit)
                known = reference or reference_of(selection.combination["ruleset"])
                board = score_board(
                    read, seen, rules, notes=read.notes, reference=known, recorded=_recorded_in(trials, rules.unit)
                )
                board = replace(board, readouts=_of_trials(readouts, board))
                more = [*notes, *unread, *more_notes(board.scoring, selection, choice.runs)]
                boards.append(
                    replace(
                        board,
                        notes=[*board.notes, *more],
                        ranges=_ranges(selection.trials, choice.runs),
                        profiles=profiles.merge(selection.trials[_AS_IT_RAN].drop_duplicates(), on=_AS_IT_RAN),
                        streams=_of_streams(choice.runs, selection.trials, evaluations),
                    )
                )
        if without_unit and not boards:
            in_unit(without_unit[0][0], evaluations, without_unit[0][1])  # raises
    absent = [f"no board of {_named(each)}: {lacking_note(each.trials, unit)}" for each, unit in without_unit]
    for line in absent:
        say(line)
    elsewhere = [f"{name} is ranked by best values: make leaderboard RULESET={name} shows it" for name in by_value]
    if elsewhere and not boards:
        raise DataError(f"{choice.runs}: {'; '.join(elsewhere)}.")
    return [replace(board, notes=[*board.notes, *absent, *elsewhere]) for board in boards]


def _of_streams(runs: Path, trials: pd.DataFrame, evaluations: pd.DataFrame) -> pd.DataFrame | None:
    """The evaluations of streams of tasks with all their metrics, whose texts take long to read; or None."""
    staged = trials[trials["trial_id"].isin(evaluations.loc[evaluations["stages_left"] > 0, "trial_id"])]
    return read_evaluations(runs, staged, ["other_metrics"]) if len(staged) else None


def _ranges(trials: pd.DataFrame, runs: Path) -> dict[str, dict[str, Range]]:
    """What was searched over, of each submission that is here with the files that it ran with."""
    found = {}
    for name, hashes in trials.groupby("submission", observed=True)["submission_hash"]:
        try:
            place = known_place(str(name), runs)
            submission = None if place is None else load_submission(place.given_as)
        except (HarnessError, OSError):  # what has become of it since is no matter of these rows
            continue
        if submission is not None and set(hashes) == {submission.content_hash}:
            found[str(name)] = searched(submission.space)
    return found


def _named(selection: Selection) -> str:
    combination = selection.combination
    return f"{combination['ruleset']} v{combination['ruleset_version']} on {selection.hardware}"


def _of_trials(readouts: pd.DataFrame, board: DashboardBoard) -> pd.DataFrame | None:
    """The readouts of single trials of a board; None where there is none."""
    found = readouts[readouts["trial_id"].isin(board.scoring.times["trial_id"])]
    return None if found.empty else found


def serve(folder: Path, console: Console, *, port: int = _PORT) -> None:
    """Serve the pages to this machine alone until Ctrl-C. Raises ConfigError where the port is taken."""
    handler = functools.partial(_QuietHandler, directory=str(folder))
    try:
        server = http.server.ThreadingHTTPServer(("127.0.0.1", port), handler)
    except OSError as error:
        raise ConfigError(f"port {port} of 127.0.0.1: {error.strerror}. Choose another one: port=8001.") from None
    console.print(f"serving http://127.0.0.1:{server.server_port}/ until Ctrl-C", soft_wrap=True)
    with server, contextlib.suppress(KeyboardInterrupt):
        server.serve_forever()


class _QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: a line for each file would bury the address."""


def _chosen(trials: pd.DataFrame, choice: Choice) -> pd.DataFrame:
    """The rows that the choice names; every row where it names none."""
    keep = pd.Series(True, trials.index)
    for column, names in (
        ("workload", choice.workloads),
        ("submission", choice.submissions),
        ("ruleset", None if choice.ruleset is None else [choice.ruleset]),
        ("division", None if choice.division is None else [choice.division]),
    ):
        if names is not None:
            keep &= trials[column].isin(names)
    if choice.hardware is not None:
        of_name = trials["hardware"] == choice.hardware
        keep &= of_name | trials["hardware_fingerprint"].str.startswith(choice.hardware)
    return trials[keep]


def _recorded_in(trials: pd.DataFrame, unit: str) -> pd.DataFrame:
    """All recorded rows with their budgets in `unit`; not a number where a row does not say."""
    return trials.assign(max_runtime=trials["max_runtime"] * rates(trials, unit))


def main(arguments: Sequence[str]) -> int:
    """Entry of `make dashboard`."""
    values = command_line.options(arguments, (*_CHOICES, "reference", "tracking", "serve", "port"))
    choice = Choice(**{name: values[name] for name in _CHOICES if name in values})
    port = values.get("port", str(_PORT))
    if not port.isdigit():
        raise ConfigError(f"port={port!r}. Use a number such as {_PORT}.")
    tracking = load("tracking", values.get("tracking", "offline"), TrackingConfig)
    console = PlainConsole()
    started = time.monotonic()
    boards = build_boards(
        choice, reference=values.get("reference"), say=lambda line: console.print(line, soft_wrap=True)
    )
    folder = choice.pages
    with disk_errors(folder):
        page = write_site(boards, folder)
    trials = sum(len(board.scoring.times) for board in boards)
    seconds = time.monotonic() - started
    console.print(f"{len(boards)} boards of {trials:,} trials written in {seconds:.1f} s: {page}", soft_wrap=True)
    publish(
        boards,
        mode=tracking.mode,
        project=tracking.project,
        entity=tracking.entity,
        results=choice.folder,
        say=lambda line: console.print(line, soft_wrap=True),
    )
    if values.get("serve", "0") not in ("", "0"):
        serve(folder, console, port=int(port))
    return 0


if __name__ == "__main__":
    sys.exit(command_line.run(main))

"""`make import-algoperf`: AlgoPerf logs, as a directory or an archive, become tables that every board can show."""

from __future__ import annotations

import os
import re
import shlex
import tarfile
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

from rich.console import Console

from harness import command_line
from harness.api import ConfigError, DataError, path_of, visible
from harness.command_line import PlainConsole
from harness.config import names_in
from harness.records.committed import BoardFile, board_rows
from harness.records.imported.algoperf_logs import LoggedTrial, find_trials, import_logs
from harness.records.imported.algoperf_rules import (
    TargetsFile,
    logged_rules,
    read_targets,
    target_notes,
    what_logs_say,
    write_rules,
)
from harness.records.tables import read_rows
from harness.scoring.rules import ScoringRules, load_rules, rules_file

# What stays one file name, and one name in conf/.
_BOARD = re.compile(r"[A-Za-z0-9_]+")


@dataclass(frozen=True)
class Import:
    """What to import and where to: `logs` is a directory or a tar archive of one.

    `board`: these rows as a committed board of this name, in `reference/boards` of `results`, and nowhere else.
    """

    logs: Path
    targets: Path
    results: Path = Path("results/algoperf")
    workers: int = os.cpu_count() or 1
    board: str | None = None


def parse_import(arguments: Sequence[str]) -> Import:
    """The import from `key=value` arguments. Raises ConfigError for anything else, or where one is missing."""
    values = command_line.options(arguments, [known_field.name for known_field in fields(Import)])
    for key in ("logs", "targets"):
        if key not in values:
            raise ConfigError(f"{key}= is missing. Use make import-algoperf LOGS=directory TARGETS=file.json.")
    workers = values.get("workers", str(Import.workers))
    if not workers.isdigit() or int(workers) < 1:
        raise ConfigError(f"workers={workers!r}. Use a whole number of processes, at least 1.")
    logs, targets = path_of(values["logs"]), path_of(values["targets"])
    board = values.get("board")
    if board is not None and not _BOARD.fullmatch(board):
        raise ConfigError(f"BOARD is {board!r}. Use letters, digits and underscores, such as algoperf_v05_external.")
    results = values.get("results", "results" if board is not None else str(Import.results))
    return Import(logs, targets, path_of(results), int(workers), board)


def run_import(wanted: Import, console: Console) -> dict[str, int]:
    """Import and return the number of trials by status. Raises DataError where logs or targets cannot be read."""
    if wanted.logs.is_file():
        with tempfile.TemporaryDirectory(prefix="timetrial-import-") as folder:
            try:
                with tarfile.open(wanted.logs) as archive:
                    archive.extractall(folder, filter="data")
            except (tarfile.TarError, EOFError, OSError) as error:
                raise DataError(f"{wanted.logs}: not a readable tar archive ({error}).") from None
            return _import_folder(wanted, Path(folder), console)
    if not wanted.logs.is_dir():
        raise DataError(f"{wanted.logs}: there is no such directory or archive. Set LOGS to AlgoPerf's logs.")
    return _import_folder(wanted, wanted.logs, console)


def _import_folder(wanted: Import, folder: Path, console: Console) -> dict[str, int]:
    targets = read_targets(wanted.targets)
    trials = find_trials(folder)
    strays = len(list(folder.rglob("study_*/trial_*")))
    if strays:
        console.print(f"left out, in no <workload>_<framework> folder: {strays} trial folders", soft_wrap=True)
    unknown = sorted({trial.workload for trial in trials} - set(targets.targets))
    if unknown:
        console.print(f"left out, no target in {wanted.targets}: {', '.join(unknown)}", soft_wrap=True)
    runs = wanted.results / "runs"
    kinds = sorted({trial.is_self_tuning for trial in trials})
    rules = {
        kind: _rules(kind, [each for each in trials if each.is_self_tuning is kind], targets, runs, console)
        for kind in kinds
    }
    return import_logs(trials, runs=runs, targets=targets.targets, rules=rules, workers=wanted.workers)


def _rules(
    is_self_tuning: bool, trials: list[LoggedTrial], targets: TargetsFile, runs: Path, console: Console
) -> ScoringRules:
    """The rules of the trials of one kind of tuning, with a line for each thing that the version's own contradict."""
    known = load_rules(f"algoperf_v{targets.version.replace('.', '_')}{'_self' if is_self_tuning else ''}")
    found = logged_rules(known, targets, what_logs_say(trials), sorted({trial.workload for trial in trials}))
    for note in [*found.notes, *target_notes(trials, targets)]:
        console.print(note, soft_wrap=True)
    if found.differs:
        write_rules(runs, known, found)
    return found.rules


def main(arguments: Sequence[str]) -> int:
    """`make import-algoperf LOGS=... TARGETS=...`. Raises HarnessError where it cannot be done."""
    wanted = parse_import(arguments)
    started = time.monotonic()
    console = PlainConsole()
    if wanted.board is None:
        counts, into = run_import(wanted, console), str(wanted.results / "runs")
    else:
        counts, into = _import_board(wanted, wanted.board, console)
    seconds = time.monotonic() - started
    ended = ", ".join(f"{count} {status.replace('_', ' ')}" for status, count in sorted(counts.items()))
    console.print(f"imported {sum(counts.values()):,} trials in {seconds:.1f} s into {into}: {ended}", soft_wrap=True)
    if wanted.board is None:
        console.print(f"rank them: make leaderboard RESULTS={shlex.quote(str(wanted.results))}", soft_wrap=True)
    return 0


def _import_board(wanted: Import, name: str, console: Console) -> tuple[dict[str, int], str]:
    """Import into a board, in place of what it held. Raises DataError where the logs have rules of their own."""
    with tempfile.TemporaryDirectory(prefix="timetrial-board-") as folder:
        runs = Path(folder) / "runs"
        counts = run_import(replace(wanted, results=Path(folder), board=None), console)
        own = [path.stem for path in visible(rules_file(runs, "").parent, "*.yaml")]
        if not all(each in names_in("scoring") and load_rules(each) == load_rules(each, runs=runs) for each in own):
            raise DataError(
                f"{wanted.logs}: its logs have rules of their own, as the lines above say, and a board holds rows "
                "alone. Write these rules into conf/scoring first, or import without BOARD."
            )
        # Other metrics, here losses on part of the training split, are half of the bytes and no part of any score.
        evaluations = [{**row, "other_metrics": "{}"} for row in read_rows(runs, "evaluations")]
        rows = board_rows(read_rows(runs, "trials"), evaluations)
        rulesets = sorted(set(rows.trials["ruleset"].to_pylist()))
        if len(rulesets) > 1:
            raise DataError(f"{wanted.logs}: logs of {' and '.join(rulesets)} make no one board. Set LOGS to one kind.")
        file = BoardFile(wanted.results, name)
        file.change(lambda _: rows)
    size = sum(file.path(table).stat().st_size for table in ("trials", "evaluations"))
    return counts, f"{file.path('trials').parent}, board {name}, {size / 1e6:.1f} MB"


if __name__ == "__main__":
    raise SystemExit(command_line.run(main))

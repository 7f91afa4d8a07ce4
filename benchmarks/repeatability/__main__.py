"""`make repeatability`: which unit of time repeats, by workload, and whether a busy machine changes a board's order.

`WORKLOAD=a,b`, else the suite mini_plus; `ARGS='repetitions=10 conditions=quiet,disturbed share=1.0'` (share: of the
budget's steps); `ARGS='mode=boards submission=a,b'` for boards. `folder=` keeps tables and page elsewhere.
"""

from __future__ import annotations

import dataclasses
import datetime
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from rich.console import Console

from benchmarks.repeatability import boards, page
from benchmarks.repeatability.trials import CONDITIONS, repeated, table_of, variation
from harness import command_line
from harness.api import ConfigError, near_matches, path_of
from harness.command_line import PlainConsole
from harness.commands import bench
from harness.config import ROOT, values_of
from harness.records.tables import disk_errors
from harness.study.identity import describe
from harness.study.machine.hardware import this_machine

# Not the reference itself, whose steps are the unit: matrix products beside its own kind of work.
_SUBMISSION = "muon"
_FIELD = "adamw,nadamw,nesterov,muon,lion,soap,schedule_free_adamw,adafactor"
_RACED = "fashion_mnist_cnn,icl_regression,flights_delay"
_REPETITIONS = 10


def main(arguments: Sequence[str]) -> int:
    """Measure, write the tables and the page. Raises ConfigError for bad input, DataError where a run fails."""
    names = ("workload", "submission", "repetitions", "conditions", "share", "mode", "folder", "results")
    given = command_line.options(arguments, names)
    mode = given.get("mode", "trials")
    if mode not in ("trials", "boards"):
        raise ConfigError(f"mode={mode!r}. {near_matches(mode, ('trials', 'boards'))}")
    folder = path_of(given["folder"]) if given.get("folder") else page.FOLDER
    results = path_of(given.get("results") or str(ROOT / "results")) / "repeatability"
    console = PlainConsole()
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    (_boards if mode == "boards" else _trials)(given, folder, results, console)
    written = page.PAGE if folder == page.FOLDER else folder / page.PAGE.name
    with disk_errors(written):
        written.write_text(page.page(folder), encoding="utf-8")
    console.print(f"written: {folder}, {written}", soft_wrap=True)
    return 0


def _trials(given: dict[str, str], folder: Path, results: Path, console: Console) -> None:
    conditions = command_line.names(given.get("conditions", ",".join(CONDITIONS)))
    for name in conditions:
        if name not in CONDITIONS:
            raise ConfigError(f"conditions: there is no {name!r}. {near_matches(name, CONDITIONS)}")
    repetitions, share = _count(given.get("repetitions", str(_REPETITIONS))), _share(given.get("share", "1.0"))
    submission = given.get("submission", _SUBMISSION)
    workloads = command_line.names(given.get("workload", "")) or values_of("suite", "mini_plus")["workloads"]
    for workload in workloads:
        runs = []
        for condition in conditions:
            threads = 2 if condition == "two_threads" else 1
            asked = [f"workload={workload}", f"submission={submission}", f"results={results}", "tracking=off"]
            request = bench.parse([*asked, "ruleset=quick", f"hardware.threads={threads}"])
            study = describe(bench.compose(request, workload, request.submissions[0]))
            console.print(f"{workload}, {study.submission.name}, {condition}:")
            runs += repeated(
                study, condition=condition, repetitions=repetitions, share=share, console=console, say=console.print
            )
        _keep(table_of(runs), folder)
    found = variation(pd.read_csv(folder / "runs.csv"))
    found.to_csv(folder / "units.csv", index=False, lineterminator="\n")
    console.print(found.to_string(index=False))


def _keep(runs: pd.DataFrame, folder: Path) -> None:
    """Write the runs in place of earlier ones of the same workload, submission and condition."""
    path = folder / "runs.csv"
    key = ["workload", "submission", "condition"]
    if path.exists():
        known = pd.read_csv(path)
        again = pd.MultiIndex.from_frame(known[key]).isin(pd.MultiIndex.from_frame(runs[key]))
        runs = pd.concat([known[~again], runs]) if (~again).any() else runs
    runs.sort_values([*key, "number"]).to_csv(path, index=False, lineterminator="\n")


def _boards(given: dict[str, str], folder: Path, results: Path, console: Console) -> None:
    workloads = command_line.names(given.get("workload", _RACED))
    submissions = command_line.names(given.get("submission", _FIELD))
    boards.race(workloads, submissions, results, console)
    machine = this_machine("local", "auto", 1, None)
    about = {
        "submission_names": ", ".join(submissions),
        "workload_names": ", ".join(workloads),
        "machine": machine.description,
        "date": datetime.date.today().isoformat(),
    }
    found = pd.DataFrame([dataclasses.asdict(each) | about for each in boards.agreements(results)])
    found.to_csv(folder / "boards.csv", index=False, lineterminator="\n")
    console.print(found[["unit", "tau", "submissions", "disturbed_trials", "trials"]].to_string(index=False))


def _count(text: str) -> int:
    if not text.isdigit() or int(text) < 2:
        raise ConfigError(f"repetitions={text!r}. Use a whole number, at least 2.")
    return int(text)


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = 0.0
    if not 0.0 < share <= 1.0:
        raise ConfigError(f"share={text!r}. Use a number above 0, at most 1.")
    return share


if __name__ == "__main__":
    sys.exit(command_line.run(main))

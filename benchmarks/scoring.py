"""Scale: 100,000 synthetic trials with two million evaluations, from parquet to intervals; and the importer's speed.

Prints seconds of each phase and the peak memory of the scoring process; at the end make advise, start to end, on a
committed board of 50 submissions x 10 workloads x 3 studies. Arguments: `submissions=200 workloads=20
studies=5 trials=5 evaluations=20 resamples=10000 logs=5000 folder=` (a folder to keep the tables in); or, alone,
`recorded=results/algoperf`: reading and scoring what has been recorded or imported there, three times.
"""

from __future__ import annotations

import datetime
import functools
import json
import multiprocessing
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from harness.command_line import PlainConsole
from harness.commands.imports.import_algoperf import Import, run_import
from harness.commands.leaderboard import Choice, chosen_rules, read_evaluations, read_trials
from harness.records.tables import EVALUATIONS, TRIALS, Records, TrialKey, versioned
from harness.scoring.rules import load_rules
from harness.scoring.score import score_tables
from harness.scoring.selection import comparable
from harness.scoring.uncertainty import bootstrap

MAX_RUNTIME = 1000.0
TARGET = 0.1


@dataclass(frozen=True)
class Size:
    """How much is made: submissions x workloads x studies x trials, and evaluations of each trial."""

    submissions: int = 200
    workloads: int = 20
    studies: int = 5
    trials: int = 5
    evaluations: int = 20
    resamples: int = 10_000
    logs: int = 5_000


def write_tables(runs: Path, size: Size) -> None:
    """Synthetic tables through the same door as imported ones: curves that fall to and below the target, some not."""
    rng = np.random.default_rng(0)
    records = Records(runs)
    for workload in range(size.workloads):
        for submission in range(size.submissions):
            trials, evaluations = cell_tables(rng, f"w{workload:03}", f"s{submission:03}", size)
            records.write_partition(TrialKey(f"w{workload:03}", f"s{submission:03}", "synthetic"), trials, evaluations)


def cell_tables(rng: np.random.Generator, workload: str, submission: str, size: Size) -> tuple[pa.Table, pa.Table]:
    """Both tables of one workload and submission."""
    count, length = size.studies * size.trials, size.evaluations
    pace = rng.uniform(0.3, 1.5) * rng.lognormal(0.0, 0.1, count)  # share of the budget at which the target is met
    seconds = np.broadcast_to(np.linspace(1.0, length, length) * MAX_RUNTIME / length, (count, length))
    values = TARGET + 0.5 * (pace[:, None] - seconds / MAX_RUNTIME) + rng.normal(0.0, 0.005, (count, length))
    hit = values <= TARGET
    reached = hit.any(axis=1)
    first = hit.argmax(axis=1)
    time_to_target = np.where(reached, seconds[np.arange(count), first], np.inf)
    ids = [f"{workload}-{submission}-{number}" for number in range(count)]
    studies, trials = np.divmod(np.arange(count), size.trials)
    columns: dict[str, Any] = {
        "trial_id": ids,
        "study": studies,
        "trial": trials,
        "seed": studies * 100 + trials,
        "hyperparameters": [json.dumps({"learning_rate": float(rate)}) for rate in 10 ** rng.uniform(-4, -1, count)],
        "status": np.where(reached, "reached", "out_of_budget"),
        "time_to_target": time_to_target,
        "steps_to_target": time_to_target * 10,
        "examples_to_target": time_to_target * 1000,
        "best_validation": values.min(axis=1),
        "steps": np.full(count, int(MAX_RUNTIME) * 10),
        "examples": np.full(count, int(MAX_RUNTIME) * 1000),
        "charged_seconds": np.full(count, MAX_RUNTIME),
    }
    number = np.tile(np.arange(length), count)
    curve: dict[str, Any] = {
        "trial_id": np.repeat(ids, length),
        "evaluation": number,
        "step": (seconds * 10).astype(int).reshape(-1),
        "examples": (seconds * 1000).astype(int).reshape(-1),
        "charged_seconds": seconds.reshape(-1),
        "validation": values.reshape(-1),
    }
    return _filled(columns, TRIALS, count), _filled(curve, EVALUATIONS, count * length)


def write_board(results: Path, size: Size) -> None:
    """The same rows as a committed board: one file for each table."""
    rng = np.random.default_rng(0)
    folder = results / "reference" / "boards"
    folder.mkdir(parents=True)
    both: dict[str, list[pa.Table]] = {"trials": [], "evaluations": []}
    for number in range(size.workloads * size.submissions):
        workload, submission = f"w{number % size.workloads:03}", f"s{number // size.workloads:03}"
        for name, table in zip(both, cell_tables(rng, workload, submission, size), strict=True):
            for column, value in (("workload", workload), ("submission", submission)):
                table = table.append_column(column, pa.array([value] * len(table)))
            both[name].append(table)
    for name, tables in both.items():
        pq.write_table(pa.concat_tables(tables), folder / f"synthetic.{name}.parquet")


def _filled(columns: dict[str, Any], schema: pa.Schema, count: int) -> pa.Table:
    """A table with one value in every column that is not given: null where the schema allows it."""
    same: dict[str, Any] = {
        "target_goal": "min",
        "target_validation": TARGET,
        "max_runtime": MAX_RUNTIME,
        "hardware": "synthetic",
        "ruleset": "external",
        "other_metrics": "{}",
        "reported": "{}",
        "started_at": datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC),
    }
    arrays = []
    for field in schema:
        values = columns.get(field.name)
        if values is None:
            empty = "" if pa.types.is_string(field.type) else False if pa.types.is_boolean(field.type) else 0
            value = same.get(field.name, None if field.nullable else empty)
            arrays.append(pa.array([value] * count, field.type))
        else:
            arrays.append(pa.array(values, field.type))
    return pa.Table.from_arrays(arrays, schema=versioned(schema))


def write_logs(folder: Path, count: int, evaluations: int) -> Path:
    """AlgoPerf logs of so many trials, and the targets file beside them, which is returned."""
    header = "accumulated_submission_time,global_step,score,total_duration,validation/loss,validation/wer\n"
    lines = "".join(f"{n},{n * 10},{n * 10.5},{n * 11},{1 / n},{1 / n}\n" for n in range(1, evaluations + 1))
    for number in range(count):
        submission, rest = divmod(number, 25)
        trial = folder / "logs" / f"s{submission}" / f"study_{rest // 5}" / "speech_jax" / f"trial_{rest % 5}"
        trial.mkdir(parents=True)
        (trial / "eval_measurements.csv").write_text(header + lines, encoding="utf-8")
        (trial / "hparams.json").write_text('{"learning_rate": 0.1}', encoding="utf-8")
    targets = folder / "targets.json"
    workloads = {"speech": {"target_metric_name": "wer", "validation_target_value": 0.1}}
    targets.write_text(json.dumps({"benchmark_version": "0.6", "workloads": workloads}), encoding="utf-8")
    return targets


def timed(what: str, work: Callable[[], Any]) -> Any:
    """Do it; print seconds on the wall, and of processors that this process and those it waited for have used; and the
    most memory that this process has had."""
    started, cpu = time.perf_counter(), sum(os.times()[:4])
    result = work()
    seconds, busy = time.perf_counter() - started, sum(os.times()[:4]) - cpu
    print(f"{what:36} {seconds:7.2f} s {busy:7.2f} CPU s {peak_gibibytes():5.2f} GiB", flush=True)
    return result


def peak_gibibytes() -> float:
    """The most memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def score_phase(runs: Path, size: Size) -> None:
    """Read, score and bootstrap in this process."""
    print(f"{'imports alone':36} {peak_gibibytes():37.2f} GiB")
    trials = timed("read trials", lambda: comparable(read_trials(runs)).trials)
    evaluations: Any = timed("read evaluations", lambda: read_evaluations(runs, trials))
    print(f"{len(trials):,} trials, {len(evaluations):,} evaluations")
    scoring = timed("score", lambda: score_tables(trials, evaluations, load_rules("timetrial_v2")))
    timed(f"bootstrap, {size.resamples:,} resamples", lambda: bootstrap(scoring, resamples=size.resamples))


def score_recorded(choice: Choice) -> None:
    """From parquet to scores, as a board does it; the first time also imports what it needs."""
    for attempt in ("first", "second", "third"):
        selection = timed(f"read trials, {attempt} time", lambda: comparable(read_trials(choice.runs)))
        evaluations = timed("read evaluations", functools.partial(read_evaluations, choice.runs, selection.trials))
        rules = chosen_rules(selection, choice)
        timed("score", functools.partial(score_tables, selection.trials, evaluations, rules))


def main(arguments: list[str]) -> None:
    """Each phase in a process of its own, so that memory is that of the phase."""
    options = dict(argument.split("=", 1) for argument in arguments)
    if "recorded" in options:
        score_recorded(Choice(results=options["recorded"]))
        return
    kept = options.pop("folder", "")
    size = Size(**{name: int(value) for name, value in options.items()})
    spawn = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(kept or temporary)
        if size.logs:
            targets = timed(
                f"write {size.logs:,} AlgoPerf logs", lambda: write_logs(folder, size.logs, size.evaluations)
            )
            workers = os.cpu_count() or 1
            wanted = Import(folder / "logs", targets, folder / "imported", workers)
            timed(f"import them, {workers} processes", lambda: run_import(wanted, PlainConsole()))
        runs = folder / "runs"
        if not runs.exists():
            timed("write the synthetic tables", lambda: write_tables(runs, size))
        child = spawn.Process(target=score_phase, args=(runs, size))
        child.start()
        child.join()
        if child.exitcode:
            sys.exit(child.exitcode)
        time_advice(folder / "advice")


def time_advice(results: Path) -> None:
    """The command as a person calls it, imports and all, where studies have one trial and where they have five."""
    for trials in (1, 5):
        board = Size(submissions=50, workloads=10, studies=3, trials=trials)
        write_board(results / str(trials), board)
        command = [sys.executable, "-m", "harness.commands.readings.advise", f"results={results / str(trials)}"]
        what = f"advise, {board.submissions * board.workloads * board.studies * trials:,} trials"
        timed(what, functools.partial(subprocess.run, command, check=True, stdout=subprocess.DEVNULL))


if __name__ == "__main__":
    main(sys.argv[1:])

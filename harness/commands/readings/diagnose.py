"""Reads off the weights of trials what their training algorithms found; `make diagnose`. Nothing of it is scored.

Trials without a row are run first, as `make bench` runs them, with their weights kept. What has been computed of a
trial is not computed again.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow.compute as pc
import torch
from rich.console import Console
from torch import Tensor

from harness import command_line
from harness.api import ConfigError, DataError, near_matches
from harness.board import fingerprint
from harness.board.fingerprint import INITIAL
from harness.command_line import PlainConsole
from harness.commands import bench
from harness.config import StudyConfig
from harness.diagnostics.connectivity import pair_readouts
from harness.diagnostics.probe import NotHere
from harness.diagnostics.rates import rate_readouts
from harness.diagnostics.readouts import DIAGNOSTICS, Reading, Subject, finite, readings
from harness.diagnostics.table import Row, all_readouts, read_readouts, write_csv, write_readouts
from harness.plugins import data
from harness.plugins.entries import create_workload
from harness.records.tables import Records, TrialKey, read_table
from harness.records.weights import Weights, read_weights
from harness.study.identity import Study, describe, workload_hash
from harness.study.standing import standing_of

_KEEP = "keep_weights"
ACROSS = ("rates", "connectivity")
"""Diagnostics of several trials."""


def main(arguments: Sequence[str]) -> int:
    """`make diagnose WORKLOAD=a,b SUBMISSION=x,y [ONLY=sharpness,weights]`, otherwise as make bench.

    Returns 1 where a trial has no weights to look at. Raises ConfigError for an unknown diagnostic, and as make bench.
    """
    console = PlainConsole()
    only = [each for each in arguments if each.startswith("only=")]
    names = _names(only[-1].partition("=")[2]) if only else [*DIAGNOSTICS, *ACROSS]
    rest = [each for each in arguments if each not in only]
    if f"{_KEEP}=none" in rest:
        raise ConfigError(
            f"{_KEEP}=none leaves nothing to look at. Use {_KEEP}=last, which is the default here, or best."
        )
    if not any(each.startswith(f"{_KEEP}=") for each in rest):
        rest.append(f"{_KEEP}=last")
    studies, _ = bench.run_missing(bench.parse(rest), console)
    return _diagnose(studies, names, console)


def _names(text: str) -> list[str]:
    found = command_line.names(text)
    for name in found:
        if name not in (*DIAGNOSTICS, *ACROSS):
            raise ConfigError(f"there is no diagnostic {name!r}. {near_matches(name, [*DIAGNOSTICS, *ACROSS])}")
    return found


@dataclass(frozen=True)
class _Kept:
    """A trial with the weights that were kept of it."""

    key: TrialKey
    seed: int
    weights: Weights


class _Task:
    """One workload with its training split, read once, and the weights that its trials begin with."""

    def __init__(self, study: Study) -> None:
        config = study.config.workload
        self._workload = create_workload(config.entry, config.options)
        self._train_set = data.load_verified(self._workload, "train", data.data_folder(), config.content["train"])
        self._batch_size = config.batch_size
        self._initial: dict[int, Subject] = {}

    def subject(self, seed: int, state: Mapping[str, Tensor] | None) -> Subject:
        """`state`: None: the initial weights, which are those of all trials with this seed."""
        if state is None and seed in self._initial:
            return self._initial[seed]
        subject = Subject(self._workload, self._train_set, state, seed=seed, batch_size=self._batch_size)
        if state is None:
            self._initial[seed] = subject
        return subject


def _diagnose(configs: list[StudyConfig], names: list[str], console: Console) -> int:
    studies = [describe(config) for config in configs]
    results = configs[0].results
    # Those of trials: on a busy machine one thread more spins while it waits, and 30 s of work did not end in 285.
    torch.set_num_threads(max(study.machine.threads for study in studies))
    tasks: dict[str, _Task] = {}
    looked_at: list[_Kept] = []
    without: list[str] = []
    for study in studies:
        name = study.config.workload.name
        for key, row in standing_of(study, Records(results / "runs")).rows.items():
            kept = read_weights(results / "runs", key)
            if kept is None:
                without.append(f"{name} {study.submission.name}, trial {key.trial_id} ({row['status']})")
                continue
            if name not in tasks:
                tasks[name] = _Task(study)
            states: dict[str, Mapping[str, Tensor] | None] = {INITIAL: None, kept.which: kept.state}
            of_one = [each for each in names if each in DIAGNOSTICS]
            _read_off(study, tasks[name], key, row, states, of_one, console)
            looked_at.append(_Kept(key, row["seed"], kept))
    if looked_at:
        if "rates" in names:
            _rates(studies, looked_at, console)
        if "connectivity" in names:
            _connectivity(studies, tasks, looked_at, console)
        path = write_csv(results)
        table = all_readouts(results)
        fingerprint.print_readouts(table[table["trial_id"].isin([each.key.trial_id for each in looked_at])], console)
        console.print(f"all readouts: {path}", soft_wrap=True)
    if without:
        raise DataError(
            f"no weights were kept of {'; '.join(without)}. A trial with a row is not run again: set RESULTS to "
            "another folder, where it is run with its weights kept, or SEED to another number."
        )
    return 0


def _read_off(
    study: Study,
    task: _Task,
    key: TrialKey,
    row: Mapping[str, Any],
    states: Mapping[str, Mapping[str, Tensor] | None],
    names: list[str],
    console: Console,
) -> None:
    """Compute what is not known of a trial yet; each diagnostic is on the disk as soon as it is known."""
    results = study.config.results
    known = read_readouts(results, key)
    for weights, state in states.items():
        missing = [name for name in names if (weights, name) not in {(r["weights"], r["diagnostic"]) for r in known}]
        if not missing:
            continue
        console.print(f"{key.workload} {key.submission} {key.trial_id}, {weights} weights", soft_wrap=True)
        subject = task.subject(row["seed"], state)
        for reading in readings(subject, missing, json.loads(row["hyperparameters"])):
            said = f"not here: {reading.not_here}" if reading.not_here else f"{len(reading.numbers)} numbers"
            console.print(f"  {reading.diagnostic:<14} {reading.seconds:7.1f} s  {said}", soft_wrap=True)
            known += _rows(key, weights, reading)
            write_readouts(results, key, known)
        subject.probe.release()


def _rates(studies: list[Study], looked_at: list[_Kept], console: Console) -> None:
    """How much the learning rate matters to each submission, from all its trials on the workload as it is."""
    for study in {(study.config.workload.name, study.submission.name): study for study in studies}.values():
        workload, submission, runs = study.config.workload.name, study.submission.name, study.config.results / "runs"
        of_it = (pc.field("workload") == workload) & (pc.field("submission") == submission)
        trials = read_table(
            runs, "trials", filter=of_it & (pc.field("workload_hash") == workload_hash(study.config.workload))
        )
        evaluations = read_table(runs, "evaluations", filter=of_it)
        own = [each for each in looked_at if (each.key.workload, each.key.submission) == (workload, submission)]
        initial = [
            row["value"]
            for each in own
            for row in read_readouts(study.config.results, each.key)
            if (row["weights"], row["diagnostic"], row["name"]) == (INITIAL, "probe", "loss")
        ]
        if not initial:
            continue
        try:
            numbers, reason = rate_readouts(trials, evaluations, initial=initial[0]), None
        except NotHere as not_here:
            numbers, reason = {}, str(not_here)
        _say(console, f"{workload} {submission}", Reading("rates", numbers, 0, 0.0, reason))
        if numbers:
            key = TrialKey(workload, submission, "rates")
            write_readouts(study.config.results, key, _rows(key, "trials", Reading("rates", numbers, 0, 0.0)))


def _connectivity(studies: list[Study], tasks: dict[str, _Task], looked_at: list[_Kept], console: Console) -> None:
    """The barrier between each two trials of a workload that have the seed or the submission in common."""
    results = studies[0].config.results
    for one, other in itertools.combinations(looked_at, 2):
        is_alike = one.seed == other.seed or one.key.submission == other.key.submission
        if one.key.workload != other.key.workload or not is_alike:
            continue
        key = dataclasses.replace(one.key, trial_id=f"{one.key.trial_id}+{other.key.trial_id}")
        if read_readouts(results, key):
            continue
        began = time.perf_counter()
        probe = tasks[one.key.workload].subject(one.seed, one.weights.state).probe
        numbers = pair_readouts(probe, one.weights.state, other.weights.state)
        reading = Reading("connectivity", numbers, len(probe), time.perf_counter() - began)
        _say(console, f"{key.workload} {one.key.submission} and {other.key.submission}", reading)
        write_readouts(results, key, _rows(key, one.weights.which, reading))


def _say(console: Console, what: str, reading: Reading) -> None:
    said = f"not here: {reading.not_here}" if reading.not_here else ""
    numbers = ", ".join(f"{name} {fingerprint.number_text(value)}" for name, value in reading.numbers.items())
    console.print(f"{what}: {reading.diagnostic}  {said}{numbers}", soft_wrap=True)


def _rows(key: TrialKey, weights: str, reading: Reading) -> Iterator[Row]:
    for name, value in reading.numbers.items():
        yield {
            "trial_id": key.trial_id,
            "weights": weights,
            "diagnostic": reading.diagnostic,
            "name": name,
            "value": finite(value),
            "examples": reading.examples,
            "seconds": reading.seconds,
        }


if __name__ == "__main__":
    sys.exit(command_line.run(main))

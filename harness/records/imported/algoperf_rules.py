"""The rules of imported AlgoPerf logs: what the targets file and the logs say, held against the file of that version.

Where `conf/scoring` says otherwise, the rows are no rows of that round: they get a ruleset of their own, whose rules
are written beside the tables, so that they are never ranked with the others.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from harness.api import DataError, Target
from harness.records.imported.algoperf_logs import LoggedTrial
from harness.records.imported.values import json_file
from harness.records.tables import disk_errors
from harness.scoring.rules import ScoringRules, rules_file

_MINIMISED = ("loss", "wer", "ppl", "error_rate", "ce_loss", "ctc_loss", "l1_loss")
_MAXIMISED = ("accuracy", "ssim", "mean_average_precision", "bleu")
_SLUG_LENGTH = 60


@dataclass(frozen=True)
class TargetsFile:
    """AlgoPerf's targets file. `base`, `held_out`: names of workloads; None where the file does not say."""

    path: Path
    version: str
    targets: dict[str, Target]
    base: list[str] | None
    held_out: list[str] | None


@dataclass(frozen=True)
class Said:
    """What the logs of one ruleset say themselves: hardware (empty: nothing), and seconds by workload, unscaled."""

    hardware: str = ""
    max_runtime: Mapping[str, float] = field(default_factory=dict)
    eval_period: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class LoggedRules:
    """Rules for the rows of some logs, and what to say of them. `differs`: where the version's own rules contradict."""

    rules: ScoringRules
    notes: list[str]
    differs: list[str]


def read_targets(path: Path) -> TargetsFile:
    """AlgoPerf's JSON file of targets.

    Raises DataError where it is no such file, names a metric of unknown direction, or a base workload without a target.
    """
    try:
        content = json_file(path)
    except DataError as error:
        raise DataError(f"{error} Set TARGETS to AlgoPerf's targets file.") from None
    try:
        version = str(content["benchmark_version"])
        entries = {
            workload: (str(entry["target_metric_name"]), float(entry["validation_target_value"]))
            for workload, entry in content["workloads"].items()
        }
        base, held_out = (_names(content.get(name)) for name in ("base_workloads", "held_out_workloads"))
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise DataError(f"{path}: not a file of AlgoPerf targets ({type(error).__name__}: {error}).") from None
    targets = {}
    for workload, (metric, value) in entries.items():
        if metric not in (*_MINIMISED, *_MAXIMISED):
            raise DataError(f"{path}: {workload} has metric {metric!r}, of which nobody said whether less is better.")
        targets[workload] = Target(metric, "min" if metric in _MINIMISED else "max", value)
    for workload in [*(base or []), *(held_out or [])]:
        if workload not in targets:
            raise DataError(
                f"{path}: {workload} is named among those that are scored and has no target. Mend the file."
            )
    return TargetsFile(path, version, targets, base, held_out)


def what_logs_say(trials: Iterable[LoggedTrial]) -> Said:
    """Hardware, budgets and evaluation periods from the logs of one ruleset.

    Raises DataError where two of them contradict each other: such logs are of two rounds, and are not mixed.
    """
    hardware: dict[str, tuple[str, Path | None]] = {}
    seconds: dict[str, dict[str, tuple[float, Path | None]]] = {
        "max_allowed_runtime_sec": {},
        "eval_period_time_sec": {},
    }
    for trial in trials:
        said = trial.said
        gpus, model = said.text("gpu_count"), said.text("gpu_model_name")
        if gpus and model:
            _agree(hardware, "hardware", f"{gpus}x {model}", said.path, what="hardware")
        for name, found in seconds.items():
            value = said.seconds(f"workload.{name}")
            if value is not None:
                _agree(found, trial.workload, value, said.path, what=f"workload.{name} of {trial.workload}")
    budgets, periods = ({name: value for name, (value, _) in found.items()} for found in seconds.values())
    return Said(next((name for name, _ in hardware.values()), ""), budgets, periods)


def logged_rules(known: ScoringRules, targets: TargetsFile, said: Said, logged: Sequence[str]) -> LoggedRules:
    """The rules of logs of the workloads `logged`: `known`, unless the targets file or the logs say otherwise.

    A base workload of the targets file that neither the logs nor `known` have is not scored: targets files are shared
    by rounds with and without it.
    """
    notes: list[str] = []
    base, held_out = list(known.workloads), dict(known.held_out)
    if targets.base is not None:
        base = [name for name in targets.base if name in logged or name in known.workloads]
        unscored = [name for name in targets.base if name not in base]
        if unscored:
            notes.append(f"not scored, in no log and no round of {known.name}: {', '.join(unscored)}")
    if targets.held_out is not None:
        held_out = {variant: _base_of(variant, targets) for variant in targets.held_out}
    differs = _differences(known, base, held_out, said)
    is_elsewhere = bool(said.hardware) and not _is_same_hardware(said.hardware, known.hardware)
    # Budgets of other hardware say nothing of this one.
    budgets = {} if is_elsewhere else dict(known.max_runtime)
    periods = {} if is_elsewhere else dict(known.eval_period)
    changes: dict[str, Any] = {
        "max_runtime": budgets | dict(said.max_runtime),
        "eval_period": periods | dict(said.eval_period),
    }
    hardware = said.hardware if is_elsewhere else known.hardware or said.hardware
    changes["hardware"] = hardware
    if differs:
        name = f"{known.name}_{_slug(hardware)}"
        changes |= {"name": name, "workloads": tuple(base), "held_out": held_out}
        notes += [f"conf/scoring/{known.name}.yaml says otherwise: {each}" for each in differs]
        notes.append(f"not mixed with its rows: these are of the ruleset {name}")
    rules = known.with_reading(**changes)
    unknown = sorted(name for name in {*logged} & {*targets.targets} if rules.budget(name)[0] == float("inf"))
    if unknown:
        notes.append(f"no budget is known of {', '.join(unknown)}: nothing there counts as late")
    return LoggedRules(rules, notes, differs)


def write_rules(runs: Path, known: ScoringRules, found: LoggedRules) -> None:
    """Write rules that differ from `known` beside the tables, for the boards that are made of them.

    Raises DataError where rows of that name were imported under other rules.
    """
    rules = found.rules
    path = rules_file(runs, rules.name)
    settings = {
        "based_on": known.name,
        "name": rules.name,
        "hardware": rules.hardware,
        "workloads": list(rules.workloads),
        "held_out": dict(rules.held_out),
        "max_runtime": dict(rules.max_runtime),
        "eval_period": dict(rules.eval_period),
    }
    title = f"# Written by make import-algoperf, because conf/scoring/{known.name}.yaml says otherwise. Seconds.\n"
    text = title + yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and path.read_text(encoding="utf-8") != text:
            raise DataError(
                f"{path}: rows of {rules.name} were imported here under other rules, and are not mixed with these. "
                "Set RESULTS to another folder."
            )
        path.write_text(text, encoding="utf-8")


def target_notes(trials: Iterable[LoggedTrial], targets: TargetsFile) -> list[str]:
    """A line for each workload whose trials raced to another target than the file's, which is the one that counts."""
    raced: dict[str, set[float]] = {}
    for trial in trials:
        value = trial.said.number("workload.validation_target_value")
        counted = targets.targets.get(trial.workload)
        if value is not None and counted is not None and value != counted.validation:
            raced.setdefault(trial.workload, set()).add(value)
    return [
        f"{workload} raced to {', '.join(f'{value:g}' for value in sorted(values))}, and "
        f"{targets.targets[workload].validation:g} of {targets.path.name} is what counts"
        for workload, values in sorted(raced.items())
    ]


def _differences(known: ScoringRules, base: list[str], held_out: Mapping[str, str], said: Said) -> list[str]:
    """What the version's own rules contradict, in words."""
    found = []
    if said.hardware and not _is_same_hardware(said.hardware, known.hardware):
        found.append(f"hardware {known.hardware}, the logs say {said.hardware}")
    for word, named, scored in (("score", base, known.workloads), ("hold out", held_out, known.held_out)):
        more, less = sorted({*named} - {*scored}), sorted({*scored} - {*named})
        if more:
            found.append(f"it does not {word} {', '.join(more)}, which the targets file names")
        if less:
            found.append(f"it does {word} {', '.join(less)}, which the targets file does not name")
    for what, logged, of_round in (
        ("budget", said.max_runtime, known.max_runtime),
        ("evaluation period", said.eval_period, known.eval_period),
    ):
        other = [
            f"{name} {of_round[of]:g}, the logs say {seconds:g}"
            for name, seconds in sorted(logged.items())
            if (of := known.held_out.get(name, name)) in of_round and of_round[of] != seconds
        ]
        if other:
            found.append(f"{what} in seconds of {', '.join(other)}")
    return found


def _agree(found: dict[str, tuple[Any, Path | None]], key: str, value: Any, path: Path | None, *, what: str) -> None:
    first, where = found.setdefault(key, (value, path))
    if first != value:
        raise DataError(
            f"{path}: {what} is {value}, and {first} in {where}: logs of two rounds are not mixed. "
            "Set LOGS to one of them at a time."
        )


def _is_same_hardware(one: str, other: str) -> bool:
    """Whether one name says what the other does, or less: `8x Tesla V100-SXM2-16GB` is `8x V100 16 GB`."""
    words = [{*re.findall(r"[0-9]+(?:x|gb)(?![a-z0-9])|[a-z0-9]+", _joined(name))} for name in (one, other)]
    return words[0] <= words[1] or words[1] <= words[0]


def _joined(name: str) -> str:
    return re.sub(r"([0-9]) (gb)", r"\1\2", name.lower())


def _slug(hardware: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", hardware.lower()).strip("_")[:_SLUG_LENGTH]


def _base_of(variant: str, targets: TargetsFile) -> str:
    """The workload that a variant is named after. Raises DataError where there is none."""
    named = [name for name in targets.base or targets.targets if variant.startswith(f"{name}_")]
    if not named:
        raise DataError(f"{targets.path}: {variant} is held out and named after no base workload. Mend the file.")
    return max(named, key=len)


def _names(value: Any) -> list[str] | None:
    if value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise ValueError("base_workloads and held_out_workloads are lists of names")
    return value

"""Entry point: checks what is asked for, runs what is missing as Hydra jobs (one per study), ends with the ranking."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from harness import command_line
from harness.api import ConfigError, DataError, Division, HarnessError, near_matches, path_of
from harness.command_line import PlainConsole, complain
from harness.commands import leaderboard
from harness.commands.boards.against import boards_against
from harness.config import CONF, StudyConfig, SuiteConfig, WorkloadConfig, load, names_in, values_of
from harness.plugins import data
from harness.plugins.entries import create_workload
from harness.plugins.submission import listed, load_submission
from harness.study.compose import quoted, study_config
from harness.study.entry_check import check_entries
from harness.study.folders import check_folders
from harness.study.launch import StudyReport, launch

_LAUNCHER = "hydra/launcher"
_GROUPS = ("suite", "workload", "ruleset", "hardware", "tracking", _LAUNCHER)


@dataclass(frozen=True)
class Request:
    """What the command line asks for: which workloads and submissions, and what holds for all of them.

    `overrides`: what Hydra reads. `results`: None where the command line names no folder. `against`: which reference
    board the rows are placed on, as `leaderboard.Choice` has it.
    """

    workloads: list[str]
    submissions: list[str]
    overrides: list[str]
    fallbacks: dict[str, str]
    results: Path | None
    against: str | None = None


def main(arguments: Sequence[str]) -> int:
    """Run and rank; returns the exit code: 0 fine, 1 a trial crashed, 2 bad input or a refused trial.

    130 and 143 after SIGINT and SIGTERM: what is finished has its row, and a second one kills.
    """
    console = PlainConsole()
    try:
        with command_line.ended_by_signals():
            return bench(list(arguments), console)
    except (HarnessError, OSError) as error:
        complain(error)
        return 2
    except KeyboardInterrupt as error:
        console.print("\nstopped. The same command goes on from here.")
        return command_line.stopped_code(error)


def bench(arguments: list[str], console: Console) -> int:
    """`main` without the handling of errors. Raises HarnessError."""
    request = parse(arguments)
    return _report(*run_missing(request, console), console, request.against)


def run_missing(request: Request, console: Console) -> tuple[list[StudyConfig], list[StudyReport | None]]:
    """Run all that was asked for and has no row; returns the studies, and how each ended. Raises HarnessError."""
    workloads = dict.fromkeys(_with_data(name, request.fallbacks, console) for name in request.workloads)
    request = replace(request, workloads=list(workloads))
    studies = studies_of(request)
    check_entries(studies)
    return studies, launch(studies, request.overrides, console)


def studies_of(request: Request) -> list[StudyConfig]:
    """The configuration of every study that was asked for.

    Raises ConfigError; also where a submission has the name of another one in the results folder.
    """
    first = compose(request, request.workloads[0], request.submissions[0])
    check_folders(request.submissions, first.results / "runs")
    return [
        replace(composed, study=study)
        for workload in request.workloads
        for submission in request.submissions
        for composed in [compose(request, workload, submission)]
        for study in range(first.ruleset.studies)
    ]


def parse(arguments: list[str]) -> Request:
    """Split the command line into what is swept over and what is Hydra's. Raises ConfigError for unknown names."""
    overrides, chosen = [], {}
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals:
            raise ConfigError(f"{argument!r} is no key=value. For example: make bench WORKLOAD=NAME ARGS='seed=1'.")
        if key in ("workload", "submission", "suite", "results", "against"):
            chosen[key] = value
        elif key.startswith("hp."):
            # Which ones there are depends on the submission, not on conf/, and so do their types: text until then.
            overrides.append(f"++{key}={quoted(value)}")
        else:
            overrides.append(argument)
    suite = load("suite", chosen.get("suite", "quick"), SuiteConfig)
    if suite.ruleset and not any(override.startswith("ruleset=") for override in overrides):
        overrides.append(f"ruleset={suite.ruleset}")
    workloads = command_line.names(chosen.get("workload", "")) or suite.workloads
    for name in workloads:
        load("workload", name, WorkloadConfig)
    named = listed(chosen.get("submission", "")) or suite.submissions
    # A job may start in another folder: `given_as` finds a submission from there, too.
    submissions = list(dict.fromkeys(load_submission(each).given_as for each in named))
    if any(override.startswith("study=") for override in overrides):
        raise ConfigError("study is set by make bench, which runs every study of the ruleset. Leave it out.")
    _check_keys(overrides, workloads[0])
    fallbacks = suite.fallbacks if "workload" not in chosen else {}
    results = path_of(chosen["results"]) if chosen.get("results") else None
    against = chosen.get("against")
    boards_against(against)  # before anything runs
    return Request(workloads, submissions, overrides, fallbacks, results, against)


def compose(request: Request, workload: str, submission: str) -> StudyConfig:
    """The checked configuration of the first study of a submission on a workload. Raises ConfigError."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            composed = hydra_compose("bench", [*request.overrides, f"workload={workload}", "study=0"])
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(f"{' '.join(str(error).split())}. See conf/ for what can be set.") from None
    return study_config(composed, submission=submission, results=request.results)


def _report(
    studies: list[StudyConfig], reports: list[StudyReport | None], console: Console, against: str | None
) -> int:
    """The ranking of what was asked for; the exit code says whether every trial has a sound row."""
    came = [(config, report) for config, report in zip(studies, reports, strict=True) if report is not None]
    recorded = [config for config, report in came if report.statuses]
    statuses = [status for _, report in came for status in report.statuses]
    missing = sum(report.missing for _, report in came)
    first = studies[0]
    if first.evaluate_every_steps is not None:
        console.print("evaluated by steps: a development run, which is never ranked")
    elif recorded:
        asked_for = {trial_id for _, report in came for trial_id in report.trial_ids}
        for division, configs in _by_division(recorded).items():
            choice = leaderboard.Choice(
                ruleset=first.ruleset.name,
                division=division,
                workload=",".join(dict.fromkeys(config.workload.name for config in configs)),
                submission=",".join(dict.fromkeys(config.submission for config in configs)),
                against=against,
                results=str(first.results),
            )
            leaderboard.show(choice, console, trial_ids=asked_for)
    if lost := reports.count(None):
        raise DataError(
            f"{lost} of {len(reports)} studies were lost with their jobs; the lines above say why. "
            "What had a row keeps it: run the same command again."
        )
    if missing:
        raise DataError(
            f"{missing} trials have no row; the errors above say why. Mend that and run the same command again."
        )
    if "refused" in statuses:
        return 2
    return 1 if "crashed" in statuses else 0


def _by_division(studies: list[StudyConfig]) -> dict[Division, list[StudyConfig]]:
    """The studies of each division, the closed one first: each has a board of its own."""
    found: dict[Division, list[StudyConfig]] = {}
    for config in studies:
        found.setdefault(load_submission(config.submission).division, []).append(config)
    return {division: found[division] for division in sorted(found)}


def _with_data(name: str, fallbacks: dict[str, str], console: Console) -> str:
    """The workload itself where its data are here or can be fetched, else the one that stands in for it."""
    config = load("workload", name, WorkloadConfig)
    workload = create_workload(config.entry, config.options)
    folder = data.data_folder()
    if data.is_present(workload, folder):
        return name
    try:
        data.fetch(workload, folder, console.print)
    except DataError as error:
        if name not in fallbacks:
            raise
        console.print(f"{name}: {error}", soft_wrap=True)
        console.print(f"using {fallbacks[name]} in its place")
        return _with_data(fallbacks[name], {}, console)
    return name


def _check_keys(overrides: list[str], workload: str) -> None:
    """Raise ConfigError for a key that the configuration does not have, or a group file that is not there."""
    from omegaconf import OmegaConf

    known = {*_GROUPS, *_flat(OmegaConf.to_container(OmegaConf.load(CONF / "bench.yaml")))}
    known |= {f"workload.{key}" for key in _flat(values_of("workload", workload))}
    groups = {"ruleset": "quick", "hardware": "local", "tracking": "offline", _LAUNCHER: "basic"}
    for override in overrides:
        key, _, value = override.partition("=")
        if key in groups:
            groups[key] = value
            names = [*names_in(key), "basic"] if key == _LAUNCHER else names_in(key)
            if value not in names:
                raise ConfigError(f"there is no {key} {value!r}. {near_matches(value, names)}")
    for group, name in groups.items():
        path = CONF / group / f"{name}.yaml"
        if path.exists():  # the launcher `basic` is Hydra's own
            known |= {f"{group.replace('/', '.')}.{key}" for key in _flat(OmegaConf.to_container(OmegaConf.load(path)))}
    for override in overrides:
        key = override.partition("=")[0]
        if key.startswith(("+", "~", "hydra")) and not key.startswith((_LAUNCHER, "hydra.launcher")):
            continue
        if key not in known:
            raise ConfigError(f"there is no setting {key!r}. {near_matches(key, known)}")


def _flat(tree: Any, prefix: str = "") -> list[str]:
    keys = []
    for key, value in tree.items():
        if key in ("defaults", "hydra"):
            continue
        keys.append(f"{prefix}{key}")
        if isinstance(value, dict):
            keys.extend(_flat(value, f"{prefix}{key}."))
    return keys


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

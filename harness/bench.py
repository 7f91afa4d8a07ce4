"""Entry point: checks what is asked for, runs what is missing as Hydra jobs (one per study), ends with the ranking."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from harness import data, leaderboard
from harness.api import ConfigError, DataError, HarnessError, near_matches
from harness.config import (
    CONF,
    HardwareConfig,
    PruningConfig,
    RulesetConfig,
    StudyConfig,
    SuiteConfig,
    TrackingConfig,
    WorkloadConfig,
    build,
    load,
    names_in,
)
from harness.identity import describe, trial_key
from harness.plugins import create_workload
from harness.records import Records
from harness.study import run_study
from harness.submission import load_submission

_GROUPS = ("suite", "workload", "ruleset", "hardware", "tracking")


@dataclass(frozen=True)
class Request:
    """What the command line asks for: which workloads and submissions, and what holds for all of them."""

    workloads: list[str]
    submissions: list[str]
    overrides: list[str]
    fallbacks: dict[str, str]


def main(arguments: Sequence[str]) -> int:
    """Run and rank; returns the exit code: 0 fine, 1 a trial crashed, 2 bad input or a refused trial."""
    console = Console(highlight=False)
    try:
        return bench(list(arguments), console)
    except HarnessError as error:
        line = f"error: {' '.join(str(error).split())}"
        Console(stderr=True, highlight=False).print(line, style="red", markup=False, soft_wrap=True)
        return 2
    except KeyboardInterrupt:
        console.print("\nstopped. The same command goes on from here.")
        return 130


def bench(arguments: list[str], console: Console) -> int:
    """`main` without the handling of errors. Raises HarnessError."""
    request = parse(arguments)
    workloads = [_with_data(name, request.fallbacks, console) for name in request.workloads]
    request = Request(workloads, request.submissions, request.overrides, {})
    studies = studies_of(request)
    _warn({reason for config in studies for reason in describe(config).unofficial}, studies[0].hardware.name, console)
    _launch(request, studies[0].ruleset.studies)
    return _report(studies, console)


def _warn(unofficial: set[str], hardware: str, console: Console) -> None:
    """Say before anything runs that rows will not be official under the name of this hardware, and why."""
    if unofficial:
        reasons = "; ".join(sorted(unofficial))
        console.print(f"rows will be unofficial, as this is not {hardware}: {reasons}", style="yellow", soft_wrap=True)


def studies_of(request: Request) -> list[StudyConfig]:
    """The configuration of every study that was asked for. Raises ConfigError."""
    first = compose(request.overrides, request.workloads[0], request.submissions[0], 0)
    return [
        compose(request.overrides, workload, submission, study)
        for workload in request.workloads
        for submission in request.submissions
        for study in range(first.ruleset.studies)
    ]


def parse(arguments: list[str]) -> Request:
    """Split the command line into what is swept over and what is Hydra's. Raises ConfigError for unknown names."""
    overrides, chosen = [], {}
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals:
            raise ConfigError(f"{argument!r} is no key=value. For example: make bench WORKLOAD=NAME ARGS='seed=1'.")
        if key in ("workload", "submission", "suite"):
            chosen[key] = value
        elif key.startswith("hp."):
            overrides.append(f"++{argument}")  # which ones there are depends on the submission, not on conf/
        else:
            overrides.append(argument)
    suite = load("suite", chosen.get("suite", "quick"), SuiteConfig)
    workloads = _names(chosen.get("workload")) or suite.workloads
    for name in workloads:
        load("workload", name, WorkloadConfig)
    submissions = _names(chosen.get("submission")) or suite.submissions
    for submission in submissions:
        load_submission(submission)
    _check_keys(overrides, workloads[0])
    return Request(workloads, submissions, overrides, suite.fallbacks if "workload" not in chosen else {})


def compose(overrides: list[str], workload: str, submission: str, study: int) -> StudyConfig:
    """The checked configuration of one study. Raises ConfigError."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    sweep = [f"workload={workload}", f"submission={_quoted(submission)}", f"study={study}"]
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            composed = hydra_compose("bench", [*overrides, *sweep])
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(f"{' '.join(str(error).split())}. See conf/ for what can be set.") from None
    return study_config(composed)


def study_config(composed: Any) -> StudyConfig:
    """Hydra's composed configuration as frozen dataclasses. Raises ConfigError."""
    from omegaconf import OmegaConf

    values: dict[str, Any] = OmegaConf.to_container(composed, resolve=True)  # type: ignore[assignment]
    name = values["workload"]["name"]
    where = "conf/bench.yaml and the command line"
    return build(
        StudyConfig,
        {
            "workload": build(WorkloadConfig, values["workload"], f"conf/workload/{name}.yaml and the command line"),
            "ruleset": _unchanged(build(RulesetConfig, values["ruleset"], "conf/ruleset and the command line")),
            "hardware": build(HardwareConfig, values["hardware"], "conf/hardware and the command line"),
            "tracking": build(TrackingConfig, values["tracking"], "conf/tracking and the command line"),
            "pruning": build(PruningConfig, values["pruning"], where),
            **{key: values[key] for key in ("submission", "study", "seed", "hp", "evaluate_every_steps")},
            "results": Path(values["results"]).resolve(),
        },
        where,
    )


def _unchanged(ruleset: RulesetConfig) -> RulesetConfig:
    """The ruleset. Raises ConfigError where it has the name of a file and another content: a name means one thing."""
    if ruleset.name in names_in("ruleset") and ruleset != load("ruleset", ruleset.name, RulesetConfig):
        raise ConfigError(
            f"the ruleset {ruleset.name} was changed on the command line. Give it a name of its own: ruleset.name=mine."
        )
    return ruleset


def _launch(request: Request, studies: int) -> None:
    """Let Hydra's multirun and its launcher distribute the studies."""
    import hydra

    submissions = ",".join(_quoted(name) for name in request.submissions)
    sweep = [f"workload={','.join(request.workloads)}", f"submission={submissions}"]
    sweep.append(f"study={','.join(map(str, range(studies)))}")
    given, sys.argv = sys.argv, [sys.argv[0], "--multirun", *request.overrides, *sweep]
    try:
        hydra.main(config_path=str(CONF), config_name="bench", version_base="1.3")(_job)()
    finally:
        sys.argv = given


def _job(composed: Any) -> None:
    """One Hydra job: a study that cannot run says why, and the next one goes on."""
    console = Console(highlight=False)
    config = study_config(composed)
    try:
        run_study(config, console)
    except HarnessError as error:
        title = f"{config.workload.name} {config.submission} study {config.study}"
        console.print(f"{title}: error: {error}", style="red", markup=False, soft_wrap=True)


def _report(studies: list[StudyConfig], console: Console) -> int:
    """The ranking and where the rows are; the exit code says whether every trial has a sound one."""
    statuses, missing = [], 0
    for config in studies:
        records = Records(config.results / "runs")
        study = describe(config)
        for trial in range(config.ruleset.trials):
            key = trial_key(study, trial, records)
            if records.is_done(key):
                statuses.append(records.trial(key)["status"])
            else:
                missing += 1
    first = studies[0]
    if first.evaluate_every_steps is not None:
        console.print("evaluated by steps: a development run, which is never ranked")
    elif statuses:
        choice = leaderboard.Choice(
            ruleset=first.ruleset.name,
            workload=",".join(dict.fromkeys(config.workload.name for config in studies)),
            submission=",".join(dict.fromkeys(load_submission(config.submission).name for config in studies)),
            results=str(first.results),
        )
        leaderboard.show(choice, console)
    if missing:
        raise DataError(
            f"{missing} trials have no row; the errors above say why. Mend that and run the same command again."
        )
    if "refused" in statuses:
        return 2
    return 1 if "crashed" in statuses else 0


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
        console.print(f"{name}: {error}", markup=False, soft_wrap=True)
        console.print(f"using {fallbacks[name]} in its place")
        return _with_data(fallbacks[name], {}, console)
    return name


def _check_keys(overrides: list[str], workload: str) -> None:
    """Raise ConfigError for a key that the configuration does not have, or a group file that is not there."""
    from omegaconf import OmegaConf

    known = {*_GROUPS, *_flat(OmegaConf.to_container(OmegaConf.load(CONF / "bench.yaml")))}
    groups = {"ruleset": "quick", "hardware": "local", "tracking": "offline", "workload": workload}
    for override in overrides:
        key, _, value = override.partition("=")
        if key in groups:
            groups[key] = value
            if value not in names_in(key):
                raise ConfigError(f"there is no {key} {value!r}. {near_matches(value, names_in(key))}")
    for group, name in groups.items():
        known |= {
            f"{group}.{key}" for key in _flat(OmegaConf.to_container(OmegaConf.load(CONF / group / f"{name}.yaml")))
        }
    for override in overrides:
        key = override.partition("=")[0]
        if key.startswith(("+", "~", "hydra")):
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


def _names(value: str | None) -> list[str]:
    return [name.strip() for name in (value or "").split(",") if name.strip()]


def _quoted(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Enters every optimizer class of an installed library at its defaults; `make sweep LIBRARY=torch.optim WORKLOAD=x`."""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness import command_line
from harness.api import ConfigError, DataError, path_of
from harness.command_line import PlainConsole
from harness.commands import bench
from harness.plugins.optimizer_check import check, classes_of, in_one_line
from harness.plugins.optimizer_entry import Entry, Part
from harness.plugins.optimizer_mends import Finding
from harness.records.tables import Records, disk_errors
from harness.study.identity import describe, trial_key


def main(arguments: Sequence[str]) -> int:
    """`library=x`, and what make bench takes, whose exit code it returns; 2 where no class of the library runs.

    Raises ConfigError where the library cannot be imported or a submission is named, DataError where rows are missing.
    """
    console = PlainConsole()
    given = dict(argument.partition("=")[::2] for argument in arguments)
    library = given.get("library", "")
    if not all(part.isidentifier() for part in library.split(".")):
        raise ConfigError("which library? For example make sweep LIBRARY=torch.optim WORKLOAD=...")
    if "submission" in given:
        raise ConfigError("make sweep enters the classes of LIBRARY alone. Compare with others by make leaderboard.")
    names, left_out = classes_of(library)
    console.print(f"trying {len(names)} optimizer classes of {library} ...")
    findings = dict(zip(names, check([(Entry((Part(name),)), {}) for name in names]), strict=True))
    not_run = {name: _why(finding) for name, finding in findings.items() if not _runs(finding)}
    running = {name: finding.mend or {} for name, finding in findings.items() if _runs(finding)}
    code, lost = 2, None
    if running:
        folder = path_of(given.get("results") or "results").resolve() / "sweep" / library
        submissions = [str(_write(folder, name, library, mend)) for name, mend in running.items()]
        rest = [argument for argument in arguments if not argument.startswith("library=")]
        asked = [*rest, f"submission={','.join(submissions)}"]
        try:
            code = bench.bench(asked, console)
        except DataError as error:  # which rows are missing is part of what is said
            lost = error
        not_run |= _failures(asked)
    _print_ends(running, not_run, left_out, console)
    if lost is not None:
        raise lost
    return code


def _runs(finding: Finding) -> bool:
    """Whether the class itself runs, be it with more keys than its name."""
    return finding.fault is None or (finding.mend is not None and "entry" not in finding.mend)


def _why(finding: Finding) -> str:
    instead = f" This works: {in_one_line(finding.mend)}" if finding.mend else ""
    return f"{(finding.fault or '').removesuffix('.')}.{instead}"


def _write(root: Path, name: str, library: str, mend: dict[str, Any]) -> Path:
    """The directory of a submission that is this class at its defaults."""
    import yaml

    written = {"title": name.rpartition(".")[2], "authors": _version(library), "hyperparameters": {}}
    written |= mend if "groups" in mend else {"entry": name, **mend}
    path = root / name / "submission.yaml"
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(written, sort_keys=False, allow_unicode=True), encoding="utf-8")
    return path.parent


def _version(library: str) -> str:
    """The distribution that the library comes with, and its version."""
    package = library.partition(".")[0]
    distribution = importlib.metadata.packages_distributions().get(package, [package])[0]
    try:
        return f"{distribution} {importlib.metadata.version(distribution)}"
    except importlib.metadata.PackageNotFoundError:
        return package


def _print_ends(
    running: dict[str, dict[str, Any]], not_run: dict[str, str], left_out: dict[str, str], console: PlainConsole
) -> None:
    """How many classes ran, which ran with more than their name, and why the others did not."""
    ran = [name for name in running if name not in not_run]
    mended = [name for name in ran if running[name]]
    console.print(f"{len(ran)} of {len(running.keys() | not_run.keys())} classes ran")
    if mended:
        console.print(f"{len(mended)} of them with more than their name:")
    for name in mended:
        console.print(f"  {name}: {in_one_line(running[name])}", markup=False, soft_wrap=True)
    if not_run:
        console.print(f"{len(not_run)} did not run:")
    for name in sorted(not_run):
        console.print(f"  {name}: {not_run[name]}", markup=False, soft_wrap=True)
    for name in sorted(left_out):
        console.print(f"  {name} {left_out[name]}: not entered here", markup=False, soft_wrap=True)


def _failures(asked: list[str]) -> dict[str, str]:
    """Of each submission with a crashed or refused trial, or without a row, the reason."""
    reasons: dict[str, str] = {}
    for config in bench.studies_of(bench.parse(asked)):
        study, records = describe(config), Records(config.results / "runs")
        for trial in range(config.ruleset.trials):
            key = trial_key(study, trial, records)
            try:
                row = records.trial(key)
            except DataError:
                reasons.setdefault(study.submission.name, f"has no row on {key.workload}")
                continue
            if row["status"] in ("crashed", "refused"):
                reasons.setdefault(study.submission.name, f"{row['status']} on {key.workload}: {row['reason']}")
    return reasons


if __name__ == "__main__":
    sys.exit(command_line.run(main))

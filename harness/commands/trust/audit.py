"""Looks for what a sandbox cannot see: a submission that knows its workloads; `make audit SUBMISSION=x`.

Reads its source for signs of that, then races it on each workload and on a twin that is as hard under other shapes and
bytes: whoever knows the one does not know the other. Nothing of it becomes a row.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Sequence

import torch
from rich.console import Console

from harness import command_line
from harness.api import ConfigError
from harness.command_line import PlainConsole
from harness.commands import bench
from harness.config import names_in
from harness.plugins import data
from harness.plugins.audit.lint import read_source
from harness.plugins.entries import create_workload
from harness.race.outcome import Outcome
from harness.study.audit.agreement import Agreement, Verdict, agreement
from harness.study.audit.twin_trials import steps_to_target
from harness.study.budget import seconds_per_step
from harness.study.identity import Study, describe, trial_seed

_SUITE = "mini"
_SEEDS = 6
_LARGEST_NUMBER = 2**31


def main(arguments: Sequence[str]) -> int:
    """`make audit SUBMISSION=x [SUITE=mini | WORKLOAD=a,b] [SEEDS=6] [TWIN=number]`.

    Returns 1 where the source has a sign, or a twin differs. `TWIN` repeats an earlier audit: without it the twin is
    drawn anew, so that nobody can know it. Raises ConfigError where no submission is named, and as `make bench`.
    """
    console = PlainConsole()
    given = dict(argument.partition("=")[::2] for argument in arguments)
    seeds, twin = command_line.whole_number(given, "seeds", _SEEDS), _twin(given)
    rest = [argument for argument in arguments if argument.partition("=")[0] not in ("seeds", "twin")]
    if not given.get("submission"):
        raise ConfigError("which submission? For example: make audit SUBMISSION=my_rule.")
    if not given.get("workload") and not given.get("suite"):
        rest.append(f"suite={_SUITE}")
    request = bench.parse(rest)
    is_clean = True
    for submission in request.submissions:
        studies = [describe(bench.compose(request, workload, submission)) for workload in request.workloads]
        found = [_read(studies[0], console), _race(studies, seeds=seeds, twin=twin, console=console)]
        is_clean &= all(found)
    return 0 if is_clean else 1


def _read(study: Study, console: Console) -> bool:
    """Print every sign in the source; whether there is none."""
    signs = read_source(study.submission.folder, workloads=names_in("workload"))
    for sign in signs:
        console.print(f"{sign.file}:{sign.line}: {sign.what}", soft_wrap=True)
    console.print(f"{study.submission.name}: {len(signs) or 'no'} signs of foreknowledge in its source")
    return not signs


def _race(studies: Sequence[Study], *, seeds: int, twin: int, console: Console) -> bool:
    """Run on every workload and its twin, and print what follows; whether no twin differs."""
    console.print(f"{seeds} trials on each workload, and as many on its twin (TWIN={twin} repeats these)")
    torch.set_num_threads(studies[0].machine.threads)
    verdicts = []
    for study in studies:
        found = _compare(study, seeds=seeds, twin=twin, comparisons=len(studies), console=console)
        verdicts.append(found.verdict)
        name = study.config.workload.name
        unknown = f" with {seeds} seeds" if found.verdict is Verdict.UNKNOWN else ""
        console.print(
            f"{name}: steps to target over those on the twin {found.ratio:.3f} "
            f"({found.low:.3f} to {found.high:.3f}): {found.verdict}{unknown}",
            soft_wrap=True,
        )
    counts = ", ".join(f"{verdict} on {verdicts.count(verdict)}" for verdict in Verdict if verdict in verdicts)
    console.print(f"{studies[0].submission.name}: {counts} of {len(verdicts)} workloads")
    return Verdict.DIFFERS not in verdicts


def _compare(study: Study, *, seeds: int, twin: int, comparisons: int, console: Console) -> Agreement:
    config = study.config
    workload = create_workload(config.workload.entry, config.workload.options)
    if not data.is_present(workload, data.data_folder()):
        data.fetch(workload, data.data_folder(), console.print)
    seconds = seconds_per_step(study, console)
    # Seeds of the boards on the workload itself, as a seed may be known too; others on the twin.
    own = [trial_seed(config.ruleset, config.workload.name, number, 0, config.seed) for number in range(seeds)]
    drawn = random.Random(twin)  # as many bits as those of the boards have
    found = []
    for number, trial_seeds in [(None, own), (twin, [drawn.getrandbits(63) for _ in own])]:
        title = f"{config.workload.name}{'' if number is None else ' (twin)'}"

        def say(seed: int, outcome: Outcome, steps: float, title: str = title) -> None:
            console.print(f"  {title}  seed {seed}: {_ended(outcome, steps)}", soft_wrap=True)

        found.append(steps_to_target(study, number, seeds=trial_seeds, seconds_per_step=seconds, say=say))
    return agreement(*found, comparisons=comparisons)


def _ended(outcome: Outcome, steps: float) -> str:
    return f"target after {steps:.0f} steps" if outcome.status == "reached" else f"{outcome.status}: {outcome.reason}"


def _twin(given: dict[str, str]) -> int:
    if given.get("twin"):
        return command_line.whole_number(given, "twin", 1)
    return 1 + random.SystemRandom().randrange(_LARGEST_NUMBER)


if __name__ == "__main__":
    sys.exit(command_line.run(main))

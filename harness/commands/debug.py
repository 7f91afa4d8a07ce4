"""How an author develops: the same `train(trial, hp)` in this process, evaluated by steps, nothing recorded.

No referee, no deadline, no second process: breakpoints, profilers and print work as anywhere.
"""

from __future__ import annotations

import contextlib
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from rich.console import Console
from torch import Tensor, nn

from harness import command_line
from harness.api import Batch, ConfigError, Examples, Hyperparameters, Workload
from harness.command_line import PlainConsole
from harness.commands import bench
from harness.plugins import data
from harness.plugins.entries import create_workload
from harness.plugins.own_network import predicted, rebuilt
from harness.plugins.submission import train_function
from harness.race import device as devices
from harness.race.evaluation import evaluate, score
from harness.study.budget import is_compiled, seconds_per_step
from harness.study.identity import Study, describe, trial_seed
from harness.trial.conversation import Conditions, Evaluation, Go, HandOver, Progress, TrialOver
from harness.trial.order import stream_seed
from harness.trial.trial import Trial

AnyTrial = TypeVar("AnyTrial", bound=Trial)


def main(arguments: Sequence[str]) -> int:
    """`make debug SUBMISSION=x WORKLOAD=y`; returns 0. Raises whatever the submission raises, with its traceback."""
    console = PlainConsole()
    request = bench.parse([argument for argument in arguments if not argument.startswith("tracking=")])
    config = bench.compose(request, request.workloads[0], request.submissions[0])
    study = describe(config)
    if study.machine.devices > 1:
        raise ConfigError(f"hardware.devices is {study.machine.devices}, but make debug runs one process. Use 1.")
    console.print(f"{study.submission.name} on {config.workload.name}, in this process; nothing is recorded")
    debug(study, console)
    return 0


def debug(study: Study, console: Console) -> None:
    """Train one trial of `study` here, until its budget in steps is used up or the target is reached."""
    budget = study.config.budget
    every = study.config.evaluate_every_steps or max(1, budget.steps // budget.evaluations)
    trial = trial_here(study, console, Trial, evaluate_every_steps=every, judge=_printer)
    submission = study.submission
    trial.go(Go(0.0))
    with contextlib.suppress(TrialOver):
        try:
            train = train_function(submission.folder, submission.entry, submission.api)
            train(trial, Hyperparameters(study.points[0]))
            if not trial.is_over:
                trial.finish()
        except OSError:  # the submission's own, which its author wants to see whole, not as a line about the disk
            traceback.print_exc()
            sys.exit(1)


def trial_here(
    study: Study,
    console: Console,
    kind: type[AnyTrial],
    *,
    evaluate_every_steps: int,
    judge: Callable[[Study, Workload, torch.device, Console], HandOver],
) -> AnyTrial:
    """The first trial of `study` in this process, evaluated by steps by what `judge` returns; it waits for its go."""
    config, device = study.config, study.machine.device
    workload = create_workload(config.workload.entry, config.workload.options)
    data.fetch(workload, data.data_folder(), lambda _: None)
    torch.set_num_threads(study.machine.threads)
    devices.warm_up(device)
    seconds = seconds_per_step(study, console)
    budget = config.budget
    conditions = Conditions(
        seed=trial_seed(config.ruleset, config.workload.name, config.study, 0, config.seed),
        device=device,
        batch_size_hint=config.workload.batch_size,
        step_hint=budget.step_hint,
        target=config.workload.target,
        budget_seconds=budget.steps * seconds,
        eval_period=budget.steps * seconds / budget.evaluations,
        evaluate_every_steps=evaluate_every_steps,
        division=study.submission.division,
        precision=config.hardware.precision,
        is_compiled=is_compiled(config),
        micro_batch=config.hardware.micro_batches.get(config.workload.name),
    )
    torch.manual_seed(stream_seed(conditions.seed, "model"))
    model = workload.build_model().to(device).train()
    torch.manual_seed(stream_seed(conditions.seed, "dropout"))
    data.check_weights(workload, config.workload.content)
    train_set = data.load_verified(workload, "train", data.data_folder(), config.workload.content["train"])
    return kind(workload, model, train_set.to(device), conditions, judge(study, workload, device, console))


def _printer(study: Study, workload: Workload, device: torch.device, console: Console) -> HandOver:
    """Judges in this process, prints a line per evaluation, ends the trial at the target or the last step."""
    config = study.config
    settings, target = config.workload, config.workload.target
    validation = data.load_verified(workload, "validation", data.data_folder(), settings.content["validation"]).to(
        device
    )
    with torch.random.fork_rng(devices=[]):
        judge = workload.build_model().to(device)
    charged, resumed = 0.0, time.monotonic()

    def hand_over(model: nn.Module, progress: Progress) -> Go | None:
        nonlocal charged, resumed
        devices.synchronize(device)
        charged += time.monotonic() - resumed
        if progress.settings is None:
            judge.load_state_dict(model.state_dict())
            values = evaluate(workload, judge, validation, settings.eval_batch_size)
        else:
            own = rebuilt(study.submission.folder, progress.settings, model.state_dict()).to(device)
            values = _evaluate_own(own, workload, judge, validation, settings.eval_batch_size)
        shown = "  ".join(f"{name} {value:.5g}" for name, value in {**values, **progress.reported}.items())
        console.print(f"step {progress.step:>7}  {charged:8.2f} s  {shown}")
        if not progress.stages_left and target.is_reached_by(values[target.metric]):
            console.print(
                f"target reached: {target.metric} {values[target.metric]:.5g} ({target.goal} {target.validation})"
            )
            return None
        if progress.is_finished or progress.step >= config.budget.steps:
            console.print(
                f"target missed: {target.metric} {values[target.metric]:.5g} ({target.goal} {target.validation})"
            )
            return None
        resumed = time.monotonic()
        return Go(charged, Evaluation(progress.step, charged, values))

    return hand_over


def _evaluate_own(
    own: nn.Module, workload: Workload, usual: nn.Module, examples: Examples, batch_size: int
) -> dict[str, float]:
    """Metrics and loss of what a submission's own network predicts, in the shape of the `usual` one's outputs."""
    device = next(iter(usual.parameters())).device

    def outputs_of(batch: Batch, _: slice) -> Tensor:
        wanted = workload.outputs(usual.eval(), batch)
        return predicted(own, batch["inputs"], shape=wanted.shape[1:], dtype=wanted.dtype)

    with torch.no_grad():
        return score(workload, outputs_of, examples, batch_size, device)


if __name__ == "__main__":
    sys.exit(command_line.run(main))

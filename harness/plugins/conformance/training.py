"""What the training of a submission must keep to on each tiny problem. Runs its code: not for the referee's process."""

from __future__ import annotations

import functools
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from harness.api import Hyperparameters
from harness.plugins.conformance.check import Check, Outcome, judged, line_of, what_was_raised
from harness.plugins.conformance.problems import PROBLEMS, SOUGHT
from harness.plugins.conformance.rehearsal import STEPS, Checkpoints, Rehearsal
from harness.plugins.conformance.watched import Watched, names_read
from harness.plugins.own_network import forget_helpers
from harness.plugins.profile.timed import state_bytes
from harness.plugins.submission import Submission, train_function
from harness.plugins.values import with_value
from harness.trial.checkpoint import CannotContinue
from harness.trial.optim.loop import train_loop
from harness.trial.trial import Trial

# On the first problem a method must do better than on the others, which are there for what they are made of.
_LEARNS = {"batch_norm": 0.5}
_LEARNS_ELSE = 0.9
_TIMED_ON = "masked_and_tied"
_TIMED_ROUNDS = 5


class Candidate:
    """A submission and its rehearsals, each run once for all that is asked of it. `folder`: for checkpoints."""

    def __init__(self, submission: Submission, folder: Path) -> None:
        self.submission = submission
        self.read: set[str] = set()
        """Names of the hyperparameters that were read so far."""
        self._folder = folder

    def rehearse(
        self,
        problem: str,
        *,
        seed: int = 1,
        checkpoints: Checkpoints | None = None,
        hp: Mapping[str, Any] | None = None,
    ) -> Rehearsal:
        """A new rehearsal, with the submission imported anew. Raises what the submission raises."""
        submission = self.submission
        watched = Watched(submission.hyperparameters if hp is None else hp)
        own = submission.folder if submission.division == "open" else None
        places = list(sys.path)
        try:
            # Another submission of this process may have had helpers of the same names.
            forget_helpers(submission.folder)
            train = train_function(submission.folder, submission.entry, submission.api)
            tried_on = {**PROBLEMS, **SOUGHT}[problem]()
            return Rehearsal(tried_on, seed=seed, checkpoints=checkpoints, rebuilt_from=own).run(train, watched)
        finally:
            sys.path[:] = places
            self.read |= names_read(watched)

    @functools.cache  # noqa: B019 - a candidate lives as long as its process, or the tests of a session
    def whole(self, problem: str) -> Rehearsal | Exception:
        """The rehearsal that writes checkpoints, or what it has raised."""
        try:
            return self.rehearse(problem, checkpoints=self.checkpoints(problem))
        except Exception as error:
            return error

    @functools.cache  # noqa: B019
    def checkpoints(self, problem: str) -> Checkpoints:
        """Those that `whole` writes."""
        self.folder_of(problem).mkdir(parents=True)
        return Checkpoints(self.folder_of(problem))

    @property
    def problems(self) -> list[str]:
        """Those of its division, by their names."""
        is_open = self.submission.division == "open"
        return [name for name, problem in PROBLEMS.items() if problem.has_open_division or not is_open]

    def folder_of(self, problem: str) -> Path:
        """Where they lie."""
        return self._folder / problem


def trains(candidate: Candidate, problem: str) -> str | None:
    """The fault, where training raises, ends too early, or hands over other weights than those of trial.model."""
    rehearsal = candidate.whole(problem)
    if isinstance(rehearsal, Exception):
        return what_was_raised(rehearsal, candidate.submission.folder)
    if not rehearsal.trial.is_over:
        return (
            f"train returned after {rehearsal.trial.step} steps, before its trial was over. Loop over trial.batches(), "
            "or call trial.finish() where nothing is left to do."
        )
    if rehearsal.trial.model is not rehearsal.model:
        return "trial.model was replaced, but the model that it was is judged. Change that one in place."
    broken = [name for name, value in rehearsal.weights[-1].items() if not bool(torch.isfinite(value).all())]
    if broken:
        return f"{broken[0]} is not finite at the end, at the default hyperparameters."
    return None


def moves(candidate: Candidate, problem: str) -> str | None:
    """The fault, where the weights that are judged are those of the start."""
    rehearsal = _trained(candidate, problem)
    if candidate.submission.division == "open":
        first, *_, last = rehearsal.weights
        if _difference(first, last) is None:
            return "the network that was handed over first and last is the same. Train the one that is handed over."
        return None
    trained = [name for name, _ in rehearsal.model.named_parameters()]
    if all(torch.equal(rehearsal.weights[-1][name], rehearsal.initial_weights[name]) for name in trained):
        return (
            f"after {STEPS} steps the judged weights are those of the start. Step the parameters of trial.model "
            "themselves, or put a copy's weights into them by trial.before_evaluation."
        )
    return None


def learns(candidate: Candidate, problem: str) -> str | None:
    """The fault, where the loss at the defaults does not fall as far as it has to."""
    losses = _trained(candidate, problem).losses
    share = _LEARNS.get(problem, _LEARNS_ELSE)
    if losses[-1] < share * losses[0]:
        return None
    return (
        f"the validation loss went from {losses[0]:.3g} to {losses[-1]:.3g} in {STEPS} steps at the default "
        f"hyperparameters; it must come below {share * losses[0]:.3g}."
    )


def repeats(candidate: Candidate, problem: str) -> str | None:
    """The fault, where one seed gives other weights when it runs again, or another seed the same."""
    first = _trained(candidate, problem).weights[-1]
    again, other = (candidate.rehearse(problem, seed=seed).weights[-1] for seed in (1, 2))
    if differing := _difference(first, again):
        return (
            f"the same seed gave another {differing} when it ran again. Draw from trial.generator or the global "
            "generators, which the harness seeds, and let nothing depend on the clock."
        )
    if _difference(first, other) is None:
        return "another seed gave the same weights. Leave the initial weights and the order of data to the harness."
    return None


def resumes(candidate: Candidate, problem: str) -> str | None:
    """The fault, where a trial that goes on from a checkpoint is not the one that was not killed, bit for bit."""
    whole = _trained(candidate, problem)
    written, folder = candidate.checkpoints(problem), candidate.folder_of(problem)
    if written.fault is not None:
        why = what_was_raised(written.fault, candidate.submission.folder)
        return (
            f"what it names as resumable cannot be written: {why}. Give it a state_dict of tensors, numbers and texts."
        )
    count = len(whole.weights) - 1  # one after each hand-over but the last
    if len(written.steps) < count:
        return "there are no checkpoints. Name by trial.resumable(...) what later steps depend on; nothing, if nothing."
    for number in sorted({1, count} - {0}):
        try:
            rest = candidate.rehearse(problem, checkpoints=Checkpoints(folder, go_on_from=number))
        except CannotContinue as error:
            return f"{error}."
        if len(rest.weights) != len(whole.weights) - number:
            return (
                f"gone on from the checkpoint at step {written.steps[number - 1]}, it ends at step "
                f"{rest.trial.step} instead of {whole.trial.step}. Count by trial.step, not by variables of train."
            )
        for weights, again in zip(whole.weights[number:], rest.weights, strict=True):
            if differing := _difference(weights, again):
                return (
                    f"gone on from the checkpoint at step {written.steps[number - 1]}, {differing} is another one "
                    "than without the kill. Name by trial.resumable(...) all that later steps depend on."
                )
    return None


TRAINING: Mapping[str, tuple[Callable[[Candidate, str], str | None], str]] = {
    "trains": (trains, "raises nothing and ends with its trial"),
    "moves": (moves, "the weights that are judged are those that it trains"),
    "learns": (learns, f"the validation loss falls in {STEPS} steps at the defaults"),
    "repeats": (repeats, "the same seed gives the same weights, another seed others"),
    "resumes": (resumes, "goes on from a checkpoint bit for bit"),
}
"""What is checked on each problem: the function that tells the fault, and what was looked at. `trains` goes first."""


def check_training(candidate: Candidate) -> Iterator[Check]:
    """A check of each kind on each problem, as they come; then of the hyperparameters over all problems."""
    untrained = []
    for problem in problems_of(candidate):
        for name, (fault_of, looked_at) in TRAINING.items():
            if problem in untrained:
                yield Check(name, Outcome.NOT_RUN, looked_at, problem)
                continue
            fault = _fault(candidate, lambda: fault_of(candidate, problem))  # noqa: B023 - called at once
            if name == "trains" and fault is not None:
                untrained.append(problem)
            yield judged(name, fault, looked_at, problem)
    looked_at = "train reads every hyperparameter"
    if untrained:
        yield Check("reads_hyperparameters", Outcome.NOT_RUN, looked_at)
    else:
        yield judged("reads_hyperparameters", _fault(candidate, lambda: unread(candidate)), looked_at)


def problems_of(candidate: Candidate) -> Iterator[str]:
    """The problems that a submission is tried on; more where the first ones leave something unread.

    What it reads only where it finds adapters, domains, another stage or rewards is no idle hyperparameter.
    """
    yield from candidate.problems
    for problem in candidate.problems:
        if isinstance(candidate.whole(problem), Exception):
            return
    if candidate.submission.division != "open" and _fault(candidate, lambda: unread(candidate)) is not None:
        yield from SOUGHT


def _fault(candidate: Candidate, look: Callable[[], str | None]) -> str | None:
    """What `look` tells, or what the submission raises there: a first run without a fault promises no second one."""
    try:
        return look()
    except Exception as error:
        return what_was_raised(error, candidate.submission.folder)


def unread(candidate: Candidate) -> str | None:
    """The fault, where no rehearsal has read a hyperparameter, nor one under the conditions that its dimension has."""
    submission = candidate.submission
    left = [name for name in submission.hyperparameters if name not in candidate.read]
    for name in left:
        conditions = submission.space.conditions.get(name)
        if conditions:
            point: Mapping[str, Any] = submission.hyperparameters
            for other, values in conditions.items():
                point = with_value(point, other, values[0])
            candidate.rehearse(candidate.problems[0], hp=point)
    left = [name for name in left if name not in candidate.read]
    if not left:
        return None
    where = line_of(submission.folder / "submission.yaml", f"{left[0]}:")
    others = f", nor {', '.join(left[1:])}" if left[1:] else ""
    return f"{where}: train never reads {left[0]}{others}. Read it as hp.{left[0]}, or remove it."


def measured(candidate: Candidate) -> dict[str, float]:
    """State bytes for each parameter, and step time, both beside AdamW's: reported, never judged."""
    seconds: dict[str, list[float]] = {"submission": [], "adamw": []}
    held: dict[str, float] = {}
    timed_on = _TIMED_ON if _TIMED_ON in candidate.problems else candidate.problems[0]
    for _ in range(_TIMED_ROUNDS):  # in turns, so that noise of the machine falls on both
        for name in seconds:
            rehearsal = (
                candidate.rehearse(timed_on)
                if name == "submission"
                else Rehearsal(PROBLEMS[timed_on]()).run(_train_adamw, Hyperparameters({}))
            )
            if not rehearsal.step_seconds():  # it was done before there was anything to time
                return {}
            seconds[name].append(statistics.median(rehearsal.step_seconds()))
            held[name] = state_bytes(rehearsal.resumable, rehearsal.judged) / sum(
                p.numel() for p in rehearsal.judged.parameters()
            )
    ratios = [ours / adamw for ours, adamw in zip(seconds["submission"], seconds["adamw"], strict=True)]
    return {
        "state_bytes_per_parameter": held["submission"],
        "adamw_state_bytes_per_parameter": held["adamw"],
        "step_time_over_adamw": statistics.median(ratios),
        "lowest_step_time_over_adamw": min(ratios),
        "highest_step_time_over_adamw": max(ratios),
    }


def _trained(candidate: Candidate, problem: str) -> Rehearsal:
    """`whole`, of a submission that has passed `trains`."""
    rehearsal = candidate.whole(problem)
    if isinstance(rehearsal, Exception):
        raise rehearsal
    return rehearsal


def _train_adamw(trial: Trial, hp: Hyperparameters) -> None:  # noqa: ARG001
    train_loop(trial, torch.optim.AdamW(trial.model.parameters(), fused=True))


def _difference(weights: Mapping[str, Tensor], others: Mapping[str, Tensor]) -> str | None:
    """The name of a tensor that is not the same in both, bit for bit, or is in one of them alone."""
    for name in dict.fromkeys([*weights, *others]):
        if name not in weights or name not in others or not torch.equal(weights[name], others[name]):
            return name
    return None

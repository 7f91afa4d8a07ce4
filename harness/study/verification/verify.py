"""Whether a recorded trial holds: the same curve and the same time when it is run again."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from rich.console import Console

from harness.api import TrialStatus
from harness.records.noise_floor import floor_of
from harness.records.tables import Row
from harness.study.identity import Study, workload_hash
from harness.study.verification.consistency import cpu_threads
from harness.study.verification.rerun import Recorded, Rerun, is_its_machine, run_again

_SAME = 1e-5
"""Values that differ by a smaller share are the same: as the golden tests have it."""

_SEEDS = 3
"""Other seeds that a trial is run on to see the noise, where it does not come out the same again."""

_COMPARED = ("examples", "validation", "validation_loss", "test", "test_loss")

# Of 15 trials of digits_mlp that were run again on two cores with six others at work, the one that took most processor
# seconds took 1.31 times those of before. A noise floor that was measured on the machine takes the place of this.
_TIMES_WITHOUT_NOISE_FLOOR = 1.5
_START_SECONDS = 0.05
"""What the start of a trial alone may differ by: a shorter one than this has no time that could be held to anything."""
_QUIET = 0.9
"""Share of its processors that a trial has on a quiet machine, as boards have it."""


@dataclass(frozen=True)
class Verification:
    """What became of a trial that was to be verified. `faults`: why it does not hold, a phrase each.

    `said`: what else was seen, in words. `not_run`: why it was not run again; None: it was.
    """

    faults: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    not_run: str | None = None

    @property
    def holds(self) -> bool:
        """Whether it was run again and came out the same."""
        return not self.faults and self.not_run is None


def verify(study: Study, recorded: Recorded, changes: Sequence[str], console: Console) -> Verification:
    """Run a trial again and compare. `study`: as it is here now; `changes`: what is no longer as it was then.

    For rows without contradictions. Raises ConfigError or DataError where the trial cannot run.
    """
    reason = _why_not(study, recorded)
    if reason is not None:
        return Verification(not_run=reason)
    faults = list(_unlike_what_was_asked(study, recorded.row))
    if faults:
        return Verification(faults)
    first = run_again(study, recorded, console)
    if not recorded.evaluations:
        was, now = recorded.row["status"], first.status
        unlike = [] if was == now else [f"status is {was}, but run again it ended {now}: {first.reason}"]
        return Verification(unlike, [f"{now} again, before any evaluation"])
    faults, said = _curve(study, recorded, first, changes, console)
    slow, seconds = compare_times(study, recorded, first)
    return Verification([*faults, *_other_size(recorded, first), *slow], [*said, *seconds])


def _why_not(study: Study, recorded: Recorded) -> str | None:
    """Why running it again would say nothing of the row; None where it would."""
    row, config = recorded.row, study.config
    if row["status"] == TrialStatus.PRUNED and not recorded.evaluations:
        return "it has no evaluations: it was pruned before its first one"
    if (row["ruleset"], row["ruleset_version"]) != (config.ruleset.name, config.ruleset.version):
        return f"ruleset {row['ruleset']} was version {row['ruleset_version']}, is {config.ruleset.version}"
    if row["workload_hash"] != workload_hash(config.workload):
        return f"{row['workload']} is no longer what it was"
    if row["submission_hash"] != study.submission.content_hash:
        return f"{row['submission']} is no longer what it was (git {row['git_revision']})"
    return None


def _unlike_what_was_asked(study: Study, row: Row) -> Iterator[str]:
    """Where a row differs from what workload, ruleset and submission, which are as they were, make of its trial."""
    config = study.config
    target, budget = config.workload.target, config.budget
    said = {
        "division": study.submission.division,
        "target_metric": target.metric,
        "target_goal": target.goal,
        "target_validation": target.validation,
        "target_test": target.test,
        "data_hash": config.workload.data_hash(),
    }
    for column, value in said.items():
        if row[column] != value:
            whose = row["submission"] if column == "division" else row["workload"]
            yield f"{column} is {row[column]!r}, but that of {whose} is {value!r}"
    if not math.isclose(row["eval_period"] * budget.evaluations, row["max_runtime"], rel_tol=_SAME):
        yield f"eval_period is {row['eval_period']:.6g}, but a budget of {row['max_runtime']:.6g} s makes it another"
    per_step = row["reference_step_seconds"]
    if per_step is not None and not math.isclose(per_step * budget.steps, row["max_runtime"], rel_tol=_SAME):
        yield f"max_runtime is {row['max_runtime']:.6g}, but {budget.steps} steps of {per_step:.6g} s make another"
    if row["trial"] >= len(study.points):
        yield f"trial is {row['trial']}, but a study of {row['ruleset']} has {len(study.points)}"
        return
    point = json.loads(json.dumps(study.points[row["trial"]], sort_keys=True))
    if json.loads(row["hyperparameters"]) != point:
        yield f"hyperparameters are {row['hyperparameters']}, but the submission's point is {json.dumps(point)}"


def _other_size(recorded: Recorded, again: Rerun) -> Iterator[str]:
    """Where the network that was judged last, of a trial of the open division, has another size now."""
    if len(again.evaluations) < len(recorded.evaluations) or again.predictor_size is None:
        return
    for column, size in zip(("predictor_parameters", "predictor_bytes"), again.predictor_size, strict=True):
        if recorded.row[column] != size:
            yield f"{column} is {recorded.row[column]}, but run again {size}"


# --- the curve ---


def _curve(
    study: Study, recorded: Recorded, first: Rerun, changes: Sequence[str], console: Console
) -> tuple[list[str], list[str]]:
    """Faults, and what was seen, of the curve."""
    count = len(recorded.evaluations)
    unlike = list(_unlike(recorded.evaluations, first.evaluations))
    if not unlike and len(first.evaluations) == count:
        return [], [f"{count} of {count} evaluations are the same"]
    if not unlike:
        ended = _ended_before(recorded, first)
        # That it takes longer now is a matter of its time, which is compared as well.
        return ([], [ended]) if first.status is TrialStatus.OUT_OF_BUDGET else ([ended], [])
    alike = f"{count - len({number for number, _ in unlike})} of {count} evaluations are the same"
    if not changes and is_its_machine(study, recorded):
        second = run_again(study, recorded, console)
        if not list(_unlike(first.evaluations, second.evaluations)):
            # Nothing moves it here, so nothing excuses the difference.
            return [f"run again twice, {_in_words(recorded.evaluations, first.evaluations, unlike[0])}"], [alike]
    others = [run_again(study, recorded, console, seeds_on=number + 1) for number in range(_SEEDS)]
    curves = [first.evaluations, *(each.evaluations for each in others)]
    outside = [at for at in unlike if not _is_within_noise(recorded.evaluations, curves, at)]
    faults = []
    if outside:
        words = _in_words(recorded.evaluations, first.evaluations, outside[0])
        faults.append(f"run again, {words}; {len(curves)} seeds do not differ by so much")
    elif len(first.evaluations) < count and first.status not in (TrialStatus.REACHED, TrialStatus.OUT_OF_BUDGET):
        faults.append(_ended_before(recorded, first))
    return faults, [alike, *([] if faults else [f"the others within the noise of {len(curves)} seeds"])]


def _unlike(then: Sequence[Row], now: Sequence[Row]) -> Iterator[tuple[int, str]]:
    """Number and column of each value that is another now, in the evaluations that both have."""
    for number, (old, new) in enumerate(zip(then, now, strict=False)):
        if old["step"] != new["step"]:
            yield number, "step"
            return
        for column in _COMPARED:
            a, b = old[column], new[column]
            is_known = a is not None and b is not None
            if is_known and not math.isclose(a, b, rel_tol=_SAME, abs_tol=1e-12):
                yield number, column


def _is_within_noise(then: Sequence[Row], curves: Sequence[Sequence[Row]], at: tuple[int, str]) -> bool:
    """Whether a value lies no farther outside of what the seeds span than they span."""
    number, column = at
    known = [curve[number] for curve in curves if number < len(curve)]
    values = [row[column] for row in known if row["step"] == then[number]["step"] and row[column] is not None]
    if len(values) < 2:  # test is evaluated at the best validation alone
        return column in ("test", "test_loss")
    low, high = min(values), max(values)
    span = high - low
    return bool(low - span <= then[number][column] <= high + span)


def _in_words(then: Sequence[Row], now: Sequence[Row], at: tuple[int, str]) -> str:
    number, column = at
    old, new = then[number][column], now[number][column]
    return f"{column} of evaluation {number} (step {then[number]['step']}) is {new:.6g} instead of {old:.6g}"


def _ended_before(recorded: Recorded, again: Rerun) -> str:
    return (
        f"run again it ended {again.status} after {len(again.evaluations)} of "
        f"{len(recorded.evaluations)} evaluations: {again.reason}"
    )


# --- the time ---


def compare_times(study: Study, recorded: Recorded, again: Rerun) -> tuple[list[str], list[str]]:
    """Faults, and what was seen, of the seconds up to the last evaluation that both have, a phrase each."""
    both = min(len(recorded.evaluations), len(again.evaluations))
    if not both:
        return [], []
    row = recorded.row
    then, now = (each[both - 1]["charged_seconds"] for each in (recorded.evaluations, again.evaluations))
    what = "time to target" if row["status"] == TrialStatus.REACHED else f"time to step {recorded.steps[both - 1]}"
    said = f"{what} {now / then:.2f} times the recorded {then:.3g} s"
    if not is_its_machine(study, recorded):
        per_step = row["reference_step_seconds"]
        here = again.max_runtime / study.config.budget.steps
        by_steps = f", {now / here / (then / per_step):.2f} in steps of the reference" if per_step else ""
        return [], [f"{said} on another machine{by_steps}"]
    share_then = _cpu_share(row["cpu_seconds"], row["charged_seconds"], row)
    share_now = _cpu_share(again.cpu_seconds, again.charged_seconds, row)
    floor = floor_of(study.config.results, study.machine.fingerprint, row["workload"])
    quiet = min(share_then, share_now) > _QUIET
    allowed = floor.spread if floor is not None and quiet else _TIMES_WITHOUT_NOISE_FLOOR
    # What others kept the processors from is nobody's doing: the trial alone would have taken between what it had of
    # them and what the clock said.
    apart = max(now * share_now - allowed * then, then * share_then - allowed * now)
    said += f", {allowed:.2f} allowed"
    return ([said] if apart > _START_SECONDS else []), [said]


def _cpu_share(cpu_seconds: float | None, charged_seconds: float, row: Row) -> float:
    """The share of its processors that a trial on CPUs had, 1 at most; 1 where it is not known."""
    threads = cpu_threads(row)
    if threads is None or cpu_seconds is None or charged_seconds <= 0.0:
        return 1.0
    return min(1.0, cpu_seconds / threads / charged_seconds)

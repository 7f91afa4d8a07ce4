"""The workloads against plain models, at equal seconds of one core; `make sanity [WORKLOAD=a,b]`.

When the data sets were chosen, a plain model was trained once on each, with AdamW, a short warm-up and a cosine, on one
thread of a machine as this one. Its values and seconds stand below. Each workload is trained here for as many seconds,
evaluations apart, with a schedule that ends there and the method and point that were best in `make targets`; where that
overfits in so long a run, as CHOSEN says, in one case for fewer seconds. Where the data or the metric have changed
since, the plain model is trained here too, on the data as they are now. Then both have three runs, of which the best
counts: the plain model with AdamW at three rates, the workload on three seeds.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from benchmarks.target_log import REFERENCE, read_runs
from benchmarks.target_rule import best_methods
from benchmarks.target_runs import Bench, Plan, Run, by_method
from harness import command_line, config
from harness.api import ConfigError, Hyperparameters
from harness.config import WorkloadConfig
from harness.plugins.search import resolve_overrides
from harness.plugins.submission import load_submission

RATES = (0.001, 0.003, 0.01)
EVALUATIONS = 3  # of a run


@dataclass(frozen=True)
class Chosen:
    """How a workload is trained that overfits: by `method` at its point by default but for `changes`.

    `seconds`: fewer than the plain model has.
    """

    method: str
    changes: Mapping[str, float]
    seconds: float | None = None


CHOSEN = {
    "fashion_mnist_cnn": Chosen("muon", {"weight_decay": 0.5, "step_hint_factor": 1.0}, seconds=30),
    "molecules_gnn": Chosen("muon", {"weight_decay": 0.3, "step_hint_factor": 1.0}),
}


@dataclass(frozen=True)
class Recorded:
    """What a plain model came to when the data were chosen. `metric`: one of the workload's, or `loss`."""

    workload: str
    seconds: float
    metric: str
    value: float


@dataclass(frozen=True)
class Trained:
    """A plain model that is trained here: a workload of `benchmarks.plain_models`, or the workload's own network."""

    workload: str
    seconds: float
    entry: str | None = None
    batch_size: int | None = None

    def settings(self, ours: WorkloadConfig) -> WorkloadConfig:
        """Those of the workload, with the plain model in place of its own."""
        return replace(
            ours,
            entry=self.entry or ours.entry,
            options={} if self.entry else ours.options,
            batch_size=self.batch_size or ours.batch_size,
        )


RECORDED = (
    Recorded("digits_mlp", 1, "error", 0.025),
    Recorded("fashion_mnist_cnn", 56, "error", 0.100),
    Recorded("fashion_mnist_cnn", 56, "loss", 0.281),
    Recorded("kjv_char_lm", 94, "nats_per_character", 1.626),
    Recorded("interface_de_en", 112, "token_error", 0.569),
    Recorded("interface_de_en", 112, "loss", 2.937),
    Recorded("cmudict_g2p", 95, "loss", 0.296),
    Recorded("flights_delay", 7, "bce", 0.4307),
)
TRAINED = (
    Trained("molecules_gnn", 44, entry="benchmarks.plain_models.PlainMolecules"),
    Trained("mri_unet", 73, batch_size=8),
    Trained("spoken_digits_conformer", 17, entry="benchmarks.plain_models.PlainSpokenDigits"),
    Trained("spoken_digits_deepspeech", 17, entry="benchmarks.plain_models.PlainSpokenDigits"),
)


@dataclass(frozen=True)
class Outcome:
    """One comparison: what this suite's workload came to with `method`, and what the plain model came to."""

    workload: str
    method: str
    metric: str
    goal: str
    value: float
    seconds: float
    plain: float
    plain_seconds: float
    is_plain_from_here: bool

    @property
    def is_as_good(self) -> bool:
        """As good as the plain model, or better."""
        return self.value <= self.plain if self.goal == "min" else self.value >= self.plain


def outcomes(name: str) -> Iterator[Outcome]:
    """Train and compare. Raises ConfigError for a workload that no plain model or no target run is known of."""
    settings = config.load("workload", name, WorkloadConfig)
    target = settings.target
    recorded = [each for each in RECORDED if each.workload == name]
    trained = [each for each in TRAINED if each.workload == name]
    if not recorded and not trained:
        raise ConfigError(f"no plain model is known for {name}. There is one for: {', '.join(known())}.")
    seconds = recorded[0].seconds if recorded else trained[0].seconds
    plan = best_plan(settings)
    seeds = range(len(RATES) if trained else 1)
    shorter = CHOSEN[name].seconds if name in CHOSEN else None
    run = trained_for(shorter or seconds, settings, [plan.with_seed(seed) for seed in seeds])
    for each in recorded:
        value, goal = (run.validation, target.goal) if each.metric == target.metric else (run.loss, "min")
        yield Outcome(
            name, plan.submission, each.metric, goal, value, run.train_seconds, each.value, each.seconds, False
        )
    for other in trained:
        plain = trained_for(seconds, other.settings(settings), plain_plans())
        yield Outcome(
            name,
            plan.submission,
            target.metric,
            target.goal,
            run.validation,
            run.train_seconds,
            plain.validation,
            plain.train_seconds,
            True,
        )


def known() -> list[str]:
    """Workloads that a plain model is known for."""
    return list(dict.fromkeys(each.workload for each in (*RECORDED, *TRAINED)))


def best_plan(settings: WorkloadConfig) -> Plan:
    """The best method of the runs that the target was set with, at its point, or CHOSEN; on seed 0."""
    if settings.name in CHOSEN:
        chosen = CHOSEN[settings.name]
        return _by_default_but(chosen.method, chosen.changes)
    runs = read_runs(REFERENCE / f"{settings.name}.jsonl")
    if not runs:
        raise ConfigError(f"{settings.name} has no recorded runs. Run make targets WORKLOAD={settings.name}.")
    [name] = best_methods(runs, settings.target.goal, 1)
    return Plan(name, Hyperparameters(by_method(runs)[name][0].hyperparameters), seed=0)


def plain_plans() -> list[Plan]:
    """AdamW at each of the RATES, otherwise as it is by default."""
    return [_by_default_but("adamw", {"learning_rate": rate}) for rate in RATES]


def _by_default_but(method: str, changes: Mapping[str, float]) -> Plan:
    return Plan(method, resolve_overrides(load_submission(method).hyperparameters, changes), seed=0)


def trained_for(seconds: float, settings: WorkloadConfig, plans: Sequence[Plan]) -> Run:
    """The best of the runs of `plans`, each of about so many seconds of training, by the pace of a few steps."""
    bench = Bench(settings)
    period = max(1, int(seconds / bench.probe(plans[0]).seconds_per_step / EVALUATIONS))
    runs = [bench.train(plan, steps=EVALUATIONS * period, every=period) for plan in plans]
    sign = 1 if settings.target.goal == "min" else -1
    return min(runs, key=lambda run: sign * run.validation)


def main(arguments: Sequence[str]) -> int:
    """`make sanity [WORKLOAD=a,b]`: a table. Raises ConfigError for anything else."""
    given = command_line.options(arguments, ["workload"]).get("workload")
    console = Console(highlight=False)
    table = Table(box=SIMPLE_HEAD, padding=0, pad_edge=False)
    table.add_column("workload, metric, method", no_wrap=True)
    for heading in ("here", "seconds", "plain", "seconds", "as good"):
        table.add_column(heading, no_wrap=True, justify="left" if heading == "as good" else "right")
    for name in given.split(",") if given else known():
        with console.status(f"training on {name} ..."):
            for outcome in outcomes(name):
                table.add_row(*_cells(outcome))
    console.print(table)
    console.print(
        "* trained in this run; others as recorded when the data were chosen. Seconds of training, one thread."
    )
    return 0


def _cells(outcome: Outcome) -> list[str]:
    return [
        f"{outcome.workload}\n  {outcome.metric}, {outcome.method}",
        f"{outcome.value:.4g}",
        f"{outcome.seconds:.1f}",
        f"{outcome.plain:.4g}{'*' if outcome.is_plain_from_here else ''}",
        f"{outcome.plain_seconds:.1f}",
        "yes" if outcome.is_as_good else "no",
    ]


if __name__ == "__main__":
    sys.exit(command_line.run(main))

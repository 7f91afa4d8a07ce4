"""Claims about losses of several terms, and about what is added to a loss or asked of it."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F

from benchmarks.claims.claim import Average, Claim, Reading, Rule
from benchmarks.claims.training import course
from harness.api import Hyperparameters
from harness.trial.optim.schedules import warmup_cosine
from harness.trial.optim.terms import step_cost
from harness.trial.trial import Trial
from submissions.gvm_raft.submission import accepted_loss, rows_at

MAZE_STEPS = 1200
DESIGN_STEPS = 1500
EQUATION_STEPS = 2000  # the budget of poisson_pinn
INVERSE_STEPS = 1000
TABLE_STEPS = 1200
ANSWER_STEPS = 300
CONJUGATE_GRADIENTS_AFTER_40 = 0.028
"""Their residual on `poisson_inverse` after 40 iterations; docs/frontier.md."""

_TERMS = {"offline_maze_both_ways": 4, "poisson_pinn_soft": 2}


def _cloned(trial: Trial, hp: Hyperparameters) -> None:
    """Learn the recorded moves and nothing else, as AdamW does."""
    optimizer = torch.optim.AdamW(
        trial.model.parameters(), lr=hp.learning_rate, betas=(1 - hp.one_minus_beta1, hp.beta2),
        weight_decay=hp.weight_decay,
    )  # fmt: skip
    schedule = warmup_cosine(optimizer, trial.step_hint, hp.warmup_fraction)
    for batch in trial.batches():
        optimizer.zero_grad()
        F.cross_entropy(trial.outputs(batch)[:, 4:], batch["targets"]).backward()
        optimizer.step()
        schedule.step()


def _step_cost(submission: str, workload: str) -> float:
    return step_cost(_TERMS[workload]) if submission in ("orthogonal_terms", "conflict_projection") else 1.0


@functools.cache
def _regret(workload: str, submission: str, seed: int, *, clones: bool = False) -> float:
    """In hundredths of a reward."""
    train = _cloned if clones else None
    cost = _step_cost(submission, workload)
    found = course(workload).train(submission, {}, seed=seed, steps=MAZE_STEPS, train=train, step_cost=cost)
    return 100 * found.values["regret"]


def _regret_over(workload: str, submission: str, mine: str, *, clones: bool = False) -> Callable[[int], Reading]:
    """Regret of `mine` on the maze with both terms minus that of another way."""

    def measure(seed: int) -> Reading:
        found = _regret("offline_maze_both_ways", mine, seed)
        other = _regret(workload, submission, seed, clones=clones)
        return Reading(found - other, {"its regret": found, "the other": other})

    return measure


def conflict_error(seed: int) -> Reading:
    """Error without conflicts over that of the plain sum."""
    mine, other = (
        course("poisson_pinn_soft")
        .train(name, {}, seed=seed, steps=EQUATION_STEPS, step_cost=_step_cost(name, "poisson_pinn_soft"))
        .values["relative_l2"]
        for name in ("conflict_projection", "adamw")
    )
    return Reading(mine / other, {"its error": mine, "of AdamW": other})


def penalty_regret(seed: int) -> Reading:
    """Regret of designs with the penalty minus that without."""
    here = course("offline_design")
    mine, other = (
        here.train(
            "gradient_norm_penalty", {"rho": rho, "step_hint_factor": 1.0}, seed=seed, steps=DESIGN_STEPS
        ).values["design_regret"]
        for rho in (0.02, 0.0)
    )
    return Reading(mine - other, {"its regret": mine, "without": other})


def _evenly(trial: Trial, hp: Hyperparameters) -> None:
    """GVM-RAFT but that each example is tried as often as any other, and nothing is looked at before."""
    optimizer = torch.optim.AdamW(
        trial.model.parameters(), lr=hp.learning_rate, betas=(1 - hp.one_minus_beta1, hp.beta2),
        weight_decay=hp.weight_decay,
    )  # fmt: skip
    for batch in trial.batches():
        if trial.step < hp.demonstrations_fraction * trial.step_hint:
            loss = -trial.log_probabilities(batch, trial.demonstrations(batch)[:, None]).sum(dim=2).mean()
        else:
            at = torch.arange(len(batch["inputs"])).repeat_interleave(hp.tries)
            loss, _ = accepted_loss(trial, batch, trial.sample(rows_at(batch, at), 1)[:, 0], at)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trial.model.parameters(), hp.largest_norm)
        optimizer.step()


def rationed_error(seed: int) -> Reading:
    """Error with rationed tries minus that with even ones, both at a constant rate, in points."""
    here = course("sorting_rewards_exact")
    mine, other = (
        100 * here.train("gvm_raft", {}, seed=seed, steps=ANSWER_STEPS, train=train).values["exact_error"]
        for train in (None, _evenly)
    )
    return Reading(mine - other, {"its error, %": mine, "of even tries": other})


def selu_error(seed: int) -> Reading:
    """F1 error of eight SELU layers minus that of eight ReLU layers, in points."""
    mine, other = (
        100 * course(name).train("nadamw", {}, seed=seed, steps=TABLE_STEPS).values["f1_error"]
        for name in ("adult_f1_selu", "adult_f1_deep_relu")
    )
    return Reading(mine - other, {"its error, %": mine, "of ReLU": other})


def adversarial_error(seed: int) -> Reading:
    """Error with collocation points that an adversary places over that with points drawn evenly."""
    mine, other = (
        course(name).train("nadamw", {}, seed=seed, steps=EQUATION_STEPS).values["relative_l2"]
        for name in ("poisson_pinn_adversarial", "poisson_pinn")
    )
    return Reading(mine / other, {"its error": mine, "of even points": other})


def conjugate_residual(seed: int) -> Reading:
    """Residual after five learned iterations over that of conjugate gradients after forty."""
    residual = course("poisson_inverse").train("nadamw", {}, seed=seed, steps=INVERSE_STEPS)
    mine = residual.values["residual_after_5"]
    return Reading(mine / CONJUGATE_GRADIENTS_AFTER_40, {"its residual": mine})


_ODICE = "Projected, the backward term no longer undoes the forward one: higher scores than with the true gradient"
_MAZE = f"`offline_maze_both_ways`, {MAZE_STEPS} steps at AdamW's defaults: regret"

CLAIMS = [
    Claim(
        name="orthogonal_terms_over_sum",
        submission="orthogonal_terms",
        says=f"{_ODICE}.",
        experiment=f"{_MAZE} minus that of both terms added up.",
        quantity="hundredths of a reward",
        holds=Rule(high=0.0),
        measure=_regret_over("offline_maze_both_ways", "adamw", "orthogonal_terms"),
    ),
    Claim(
        name="orthogonal_terms_over_forward",
        submission="orthogonal_terms",
        says=f"{_ODICE}, and than with the forward term alone.",
        experiment=f"{_MAZE} minus that of `offline_maze`, which has no backward term.",
        quantity="hundredths of a reward",
        holds=Rule(high=0.0),
        measure=_regret_over("offline_maze", "adamw", "orthogonal_terms"),
    ),
    Claim(
        name="orthogonal_terms_over_cloning",
        submission="orthogonal_terms",
        says="Higher scores than behaviour cloning on D4RL.",
        experiment=f"{_MAZE} minus that of a network that learns the recorded moves.",
        quantity="hundredths of a reward",
        holds=Rule(high=0.0),
        measure=_regret_over("offline_maze", "adamw", "orthogonal_terms", clones=True),
    ),
    Claim(
        name="conflict_projection_over_sum",
        submission="conflict_projection",
        says="Tasks are learned better where gradients conflict and the conflict is projected away.",
        experiment=f"{_MAZE} minus that of all terms added up.",
        quantity="hundredths of a reward",
        holds=Rule(high=0.0),
        measure=_regret_over("offline_maze_both_ways", "adamw", "conflict_projection"),
    ),
    Claim(
        name="conflict_projection_error",
        submission="conflict_projection",
        says="Tasks are learned better where gradients conflict and the conflict is projected away.",
        experiment=f"`poisson_pinn_soft`, {EQUATION_STEPS} steps: error over that of AdamW on the sum of both terms.",
        quantity="ratio of errors",
        holds=Rule(high=1.0),
        measure=conflict_error,
        average=Average.GEOMETRIC_MEAN,
        repetitions=5,
    ),
    Claim(
        name="gradient_norm_penalty_regret",
        submission="gradient_norm_penalty",
        says="Designs found on the surrogate are better by up to 9.6 %.",
        experiment=f"`offline_design`, {DESIGN_STEPS} steps: regret minus that without the penalty.",
        quantity="value of a design",
        holds=Rule(high=0.0),
        measure=penalty_regret,
    ),
    Claim(
        name="gvm_raft_error",
        submission="gvm_raft",
        says="Two to four times fewer steps than with as many tries for each example, and higher accuracy.",
        experiment=f"`sorting_rewards_exact`, {ANSWER_STEPS} steps: error minus that with 8 tries for each example. "
        "The looks at each example come on top, and even tries have a constant rate.",
        quantity="points of error",
        holds=Rule(high=0.0),
        measure=rationed_error,
        repetitions=4,
    ),
    Claim(
        name="adult_f1_selu_error",
        workload="adult_f1_selu",
        says="Deep networks of SELU learn better than those of ReLU, also on tables.",
        experiment=f"Eight hidden layers, {TABLE_STEPS} steps of `nadamw`: F1 error minus that of ReLU.",
        quantity="points of F1",
        holds=Rule(high=0.0),
        measure=selu_error,
        repetitions=6,
    ),
    Claim(
        name="poisson_pinn_adversarial_error",
        workload="poisson_pinn_adversarial",
        says="Points that an adversary places where the residual is large give smaller errors than even ones.",
        experiment=f"{EQUATION_STEPS} steps of `nadamw`: error over that of `poisson_pinn`, whose points are even.",
        quantity="ratio of errors",
        holds=Rule(high=1.0),
        measure=adversarial_error,
        average=Average.GEOMETRIC_MEAN,
        repetitions=5,
    ),
    Claim(
        name="poisson_inverse_residual",
        workload="poisson_inverse",
        says="Learned directions need far fewer iterations than conjugate gradients.",
        experiment=f"{INVERSE_STEPS} steps of `nadamw`: residual after 5 iterations over that of conjugate gradients "
        "after 40.",
        quantity="ratio of residuals",
        holds=Rule(high=1.0),
        measure=conjugate_residual,
        average=Average.GEOMETRIC_MEAN,
        repetitions=5,
    ),
]

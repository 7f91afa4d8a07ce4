"""Claims about workers that compute together: rounds, bytes, consensus and waiting, all in this process."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.claims.claim import Average, Claim, Reading, Rule
from benchmarks.claims.on_workloads import digits
from benchmarks.claims.training import POINTS, Method, course, method
from harness import consensus_rate, edges, mixing_matrix
from harness.plugins.submission import load_submission
from submissions.dadao.submission import Dadao, Graph, events
from submissions.econtrol.submission import largest, sent
from submissions.sequential_gradient_coding.submission import Code, not_waited_for

# --- federated rounds, on digits whose labels are unevenly spread over the clients ---

ROUNDS, LOCAL_STEPS, CLIENTS = 20, 5, 8
_TASK: dict[str, Any] = {"workers": CLIENTS, "concentration": 0.1, "local_steps": LOCAL_STEPS}
_SETTING = f"`digits_mlp` over {CLIENTS} clients (Dirichlet 0.1), {ROUNDS} rounds of {LOCAL_STEPS} steps"
_AGAINST_FEDAVG = (
    f"{_SETTING}, all in each round: error minus FedAvg's, each tuned with {POINTS} points on one other seed."
)
# Averaging of local steps by all clients: DFedSAM without a radius where everybody hears everybody.
FEDAVG = method("dfedsam", topology="full", radius=0.0, gossips=1, **_TASK)


def points_behind(one: Method, other: Method) -> Callable[[int], Reading]:
    """Validation error of `one` after ROUNDS rounds minus that of `other`, in points, each tuned."""

    def error(each: Method, seed: int) -> float:
        here, steps = digits(), ROUNDS * LOCAL_STEPS
        found = here.train(each.submission, here.tuned(each, steps), seed=seed, steps=steps)
        return 100 * found.values["error"]

    def measure(seed: int) -> Reading:
        mine, others = error(one, seed), error(other, seed)
        return Reading(mine - others, {"its error, %": mine, "the other's": others})

    return measure


def _ring(gossips: int, radius: float) -> Method:
    return method("dfedsam", points=1, topology="ring", gossips=gossips, radius=radius, **_TASK)


@functools.cache
def _on_ring(seed: int, gossips: int) -> dict[str, float]:
    here, steps = digits(), ROUNDS * LOCAL_STEPS
    hp = dict(_ring(gossips, 0.01).settled)
    found = here.train("dfedsam_mgs", hp, seed=seed, steps=steps)
    return {"distance": found.reported["consensus_distance"], "error": 100 * found.values["error"]}


def consensus_gain(seed: int) -> Reading:
    """Mean squared distance of clients from their mean with four gossips a round over that with one."""
    four, one = _on_ring(seed, 4)["distance"], _on_ring(seed, 1)["distance"]
    rate = consensus_rate(mixing_matrix("ring", CLIENTS))
    # The distance is squared, and three gossips are more.
    return Reading(four / one, {"lambda to the sixth": rate**6})


def gossip_error(seed: int) -> Reading:
    """Validation error with four gossips minus that with one, in points."""
    four, one = _on_ring(seed, 4)["error"], _on_ring(seed, 1)["error"]
    return Reading(four - one, {"its error, %": four, "with one gossip": one})


# --- bytes ---


def bytes_of_a_slope(seed: int) -> Reading:
    """Bytes on a link for each slope, checks included, over so many rounds that machines would have drifted apart."""
    rounds, machines, slopes = 128, 3, 4
    hp = {"workers": machines, "slopes": slopes}
    found = course("digits_mlp").train("one_byte", hp, seed=seed, steps=rounds).reported["bytes_sent"]
    model = course("digits_mlp").model(seed)
    gradient = 4 * sum(parameter.numel() for parameter in model.parameters())
    return Reading(
        found / (rounds * slopes * machines * (machines - 1)), {"of a gradient in single precision": float(gradient)}
    )


# --- compression ---

_DIMENSIONS, _WORKERS, _SPREAD, _NOISE = 100, 10, 100.0, 5.0


def compressed_gaps(seed: int) -> Reading:
    """Mean gap of the last fifth of the way with classic error compensation, or EF21, over that of EControl."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    number = torch.arange(1, _WORKERS + 1, dtype=torch.float64).unsqueeze(1)
    slopes, offsets = number / math.sqrt(_WORKERS), normal(_WORKERS, _DIMENSIONS) * _SPREAD / number
    curvature = float(slopes.square().mean())
    best = (slopes * offsets).mean(dim=0) / curvature
    gaps = {"EControl": 0.0, "EF21": 0.0, "classic": 0.0}
    steps, rate, count = 6000, 0.005, _DIMENSIONS // 10
    for name in gaps:
        x = torch.zeros(_DIMENSIONS, dtype=torch.float64)
        error = torch.zeros(_WORKERS, _DIMENSIONS, dtype=torch.float64)
        copy = slopes * (slopes * x - offsets)
        direction = copy.mean(dim=0)
        for step in range(steps):
            gradient = slopes * (slopes * x - offsets) + _NOISE * normal(_WORKERS, _DIMENSIONS)
            if name == "classic":
                direction = largest(error + gradient, count).mean(dim=0)
                error = error + gradient - largest(error + gradient, count)
            else:
                eta = 0.05 if name == "EControl" else 0.0
                delta, error, copy = sent(gradient, error, copy, eta=eta, count=count)
                direction = direction + delta.mean(dim=0)
            x = x - rate * direction
            if step >= steps * 4 // 5:
                gaps[name] += curvature / 2 * float((x - best).square().sum()) / (steps // 5)
    return Reading(min(gaps["EF21"], gaps["classic"]) / gaps["EControl"], gaps)


# --- without rounds ---


def _gradients_needed(condition: float, seed: int) -> int:
    """Gradients of all nodes together until the mean squared distance from the solution is a millionth of the first."""
    generator = torch.Generator().manual_seed(seed)
    nodes, size = 4, 5
    # Curvatures from 1 / condition to 1, the same of all nodes; solutions of their own.
    curvature = torch.logspace(-math.log10(condition), 0, size, dtype=torch.float64)
    centres = torch.randn(nodes, size, dtype=torch.float64, generator=generator)
    solution = centres.mean(dim=0)
    graph = Graph(nodes, edges("ring", nodes))
    dadao = Dadao(torch.zeros(size), graph, convexity=1 / condition, smoothness=1.0)
    taken, unit = 0, 0
    while float((dadao.state[:, 0] - solution).square().sum(dim=1).mean()) > 1e-6 * float(solution.square().sum()):
        for moment, where in events(graph, unit, generator):
            for node in where:
                dadao.advance(node, moment)
            if len(where) == 2:
                dadao.gossip(*where)
            else:
                dadao.take_gradient(where[0], lambda x, node=where[0]: curvature * (x - centres[node]))  # type: ignore[misc]
                taken += 1
        unit += 1
    return taken


def rate_in_condition(seed: int) -> Reading:
    """By which power of the condition number the gradients grow, from 10 to 1,000."""
    few, many = _gradients_needed(10.0, seed), _gradients_needed(1000.0, seed)
    return Reading(math.log10(many / few) / 2, {"gradients at 10": few, "at 1,000": many})


# --- slow workers ---


def waiting(code: Code, seed: int, *, rounds: int) -> float:
    """Virtual seconds of so many rounds, in which a worker takes its load times its slowness."""
    generator, hp = torch.Generator().manual_seed(seed), load_submission("sequential_gradient_coding").hyperparameters
    was_slow = torch.zeros(code.window, code.workers, dtype=torch.bool)
    is_slow = torch.zeros(code.workers, dtype=torch.bool)
    total = 0.0
    for _ in range(rounds):
        is_slow = torch.rand(code.workers, generator=generator) < torch.where(is_slow, 1 - hp.slow_ends, hp.slow_begins)
        seconds = code.load * torch.where(is_slow, hp.slowdown, 1.0)
        slow = not_waited_for(code, was_slow[1:], seconds, hp.tolerance)
        was_slow = torch.cat([was_slow[1:], slow.unsqueeze(0)])
        total += float(seconds[~slow].max())
    return total


def time_of_coding(seed: int) -> Reading:
    """Seconds of 120 jobs by M-SGC over those by gradient coding, a quarter of the paper's workers and parameters."""
    sequential, classic = Code(64, window=2, burst=1, late=7), Code(64, window=1, burst=1, late=4)
    jobs = 120
    mine = waiting(sequential, seed, rounds=jobs + sequential.rounds - 1)
    others = waiting(classic, seed, rounds=jobs)
    return Reading(mine / others, {"load": sequential.load, "of gradient coding": classic.load})


CLAIMS = [
    Claim(
        name="fedspeed_error",
        submission="fedspeed",
        says="After equal rounds better than FedAvg: 86.33 % instead of 80.65 % on CIFAR-10 with unlike clients.",
        experiment=_AGAINST_FEDAVG,
        quantity="points of error",
        holds=Rule(high=0.0),
        measure=points_behind(method("fedspeed", active=CLIENTS, **_TASK), FEDAVG),
    ),
    Claim(
        name="fedamd_error",
        submission="fedamd",
        says="Fewer rounds to a target than FedAvg.",
        experiment=_AGAINST_FEDAVG,
        quantity="points of error",
        holds=Rule(high=0.0),
        measure=points_behind(method("fedamd", active=CLIENTS, **_TASK), FEDAVG),
    ),
    Claim(
        name="dfedsam_error",
        submission="dfedsam",
        says="Better than decentralised averaging where data are unlike and links few.",
        experiment=f"{_SETTING} on a ring, at the defaults: error minus that with a radius of 0.",
        quantity="points of error",
        holds=Rule(high=0.0),
        measure=points_behind(_ring(1, 0.01), _ring(1, 0.0)),
    ),
    Claim(
        name="dfedsam_mgs_consensus",
        submission="dfedsam_mgs",
        says="Four gossips a round instead of one bring workers together by the fourth power of lambda.",
        experiment=(
            f"{_SETTING} on a ring: mean squared distance of clients from their mean at the end, over that with one."
        ),
        quantity="ratio of distances",
        # lambda^6 of the ring of 8, whose lambda is 0.8047.
        holds=Rule(high=0.272),
        measure=consensus_gain,
        average=Average.GEOMETRIC_MEAN,
    ),
    Claim(
        name="dfedsam_mgs_error",
        submission="dfedsam_mgs",
        says="Accuracy rises with the gossips of a round.",
        experiment=f"{_SETTING} on a ring: error of the mean of all clients minus that with one gossip.",
        quantity="points of error",
        holds=Rule(high=0.0),
        measure=gossip_error,
    ),
    Claim(
        name="one_byte_bytes",
        submission="one_byte",
        says="One byte for each gradient is all that machines with shared randomness send, and they stay equal.",
        experiment="`digits_mlp`, 3 machines, 128 rounds: bytes on a link for each slope, checks and repairs included.",
        quantity="bytes",
        # Two checks by a hash of 32 bytes are 0.042 of it; one repair would be 12.
        holds=Rule(1.0, 1.1),
        measure=bytes_of_a_slope,
        repetitions=3,
    ),
    Claim(
        name="econtrol_gap",
        submission="econtrol",
        says="Stands unlike data and noise together, where classic error compensation or EF21 stalls.",
        experiment=(
            "Ten unlike noisy quadratics in 100 dimensions, a tenth sent: the better of their gaps over EControl's."
        ),
        quantity="times smaller gap",
        holds=Rule(low=2.0),
        measure=compressed_gaps,
        repetitions=5,
        average=Average.GEOMETRIC_MEAN,
    ),
    Claim(
        name="dadao_condition",
        submission="dadao",
        says="Gradients grow with the root of the condition number.",
        experiment="Quadratics on a ring of four, conditions 10 and 1,000: gradients until the error is a thousandth.",
        quantity="power of the condition number",
        holds=Rule(high=0.55),
        measure=rate_in_condition,
        repetitions=5,
    ),
    Claim(
        name="sequential_gradient_coding_time",
        submission="sequential_gradient_coding",
        says="16 % less run time than gradient coding on 256 serverless workers.",
        experiment=(
            "64 workers, slow as the submission simulates it, a quarter of the paper's parameters, 120 jobs: virtual "
            "seconds of computing, without start and transfer."
        ),
        quantity="ratio of seconds",
        holds=Rule(high=0.84),
        measure=time_of_coding,
        repetitions=5,
        average=Average.GEOMETRIC_MEAN,
    ),
]

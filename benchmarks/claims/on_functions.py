"""Claims about functions of a few variables, most of them the papers' own: where a rule ends, and in how many steps."""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from benchmarks.claims.claim import Average, Claim, Reading, Rule
from benchmarks.claims.training import Course
from harness.api import Batch, DataSource, Examples, LossKind, SplitName, Target, TensorExamples, Workload
from submissions.adamp.submission import AdamP
from submissions.diffgrad.submission import DiffGrad
from submissions.extragradient.submission import extragradient_step
from submissions.gn_smoothness.submission import GradientNormalizedSmoothness, Point, Product
from submissions.sgdp.submission import SGDP
from submissions.target_surrogate.submission import ArmijoDescent
from submissions.volume_sampler.submission import orthonormal, projection_process

# --- optimizers that are given a gradient ---


def run(optimizer: Optimizer, parameter: Tensor, gradient: Callable[[Tensor], Tensor], *, steps: int) -> None:
    """Step along the gradients of a function."""
    for _ in range(steps):
        parameter.grad = gradient(parameter.detach())
        optimizer.step()


def minus_cosine_gradient(weights: Tensor) -> Tensor:
    """Of -cos(w, e) for e = (1, 0): a function of the direction of w alone. Shape: [1, 2]."""
    norm = weights.norm()
    unit = weights / norm
    gradient: Tensor = (unit[0, 0] * unit - weights.new_tensor([[1.0, 0.0]])) / norm
    return gradient


def _growth(kind: Callable[[list[nn.Parameter]], Optimizer], seed: int, *, steps: int) -> float:
    """By which factor the norm of w has grown at the end, from a start at a right angle or so to e."""
    generator = torch.Generator().manual_seed(seed)
    angle = math.pi / 2 + 0.5 * (float(torch.rand((), generator=generator)) - 0.5)
    weights = nn.Parameter(torch.tensor([[math.cos(angle), math.sin(angle)]], dtype=torch.float64))
    run(kind([weights]), weights, minus_cosine_gradient, steps=steps)
    return float(weights.detach().norm())


def sgdp_growth(seed: int) -> Reading:
    """SGDP with the settings of the sheet's toy, beside plain momentum."""
    with_projection = functools.partial(SGDP, lr=0.04, momentum=0.9, nesterov=False)
    without = functools.partial(torch.optim.SGD, lr=0.04, momentum=0.9)
    return Reading(_growth(with_projection, seed, steps=2000), {"SGD": _growth(without, seed, steps=2000)})


def adamp_growth(seed: int) -> Reading:
    """AdamP on the same function, beside Adam."""
    with_projection = functools.partial(AdamP, lr=0.04)
    without = functools.partial(torch.optim.Adam, lr=0.04)
    return Reading(_growth(with_projection, seed, steps=2000), {"Adam": _growth(without, seed, steps=2000)})


def two_valleys_gradient(x: Tensor) -> Tensor:
    """Of the paper's F1: (x + 0.3)^2 left of 0, (x - 0.2)^2 + 0.05 right of it."""
    return torch.where(x <= 0, 2 * x + 0.6, 2 * x - 0.4)


def leaves_poor_minimum(seed: int) -> Reading:
    """Whether diffGrad ends in the valley at -0.3, and Adam does."""
    start = -1.0 + 0.2 * (float(torch.rand((), generator=torch.Generator().manual_seed(seed))) - 0.5)

    def ends_well(kind: Callable[..., Optimizer]) -> float:
        x = nn.Parameter(torch.tensor([start], dtype=torch.float64))
        run(kind([x], lr=0.1, betas=(0.95, 0.999)), x, two_valleys_gradient, steps=299)
        return float(abs(x.item() + 0.3) < 0.01)

    return Reading(ends_well(DiffGrad), {"Adam": ends_well(torch.optim.Adam)})


# --- games ---


def distance_in_a_game(seed: int) -> Reading:
    """How far from the equilibrium of min over x, max over y of x^T B y players end, over how far they began."""
    generator = torch.Generator().manual_seed(seed)
    matrix, *start = (torch.randn(shape, dtype=torch.float64, generator=generator) for shape in ((10, 10), 10, 10))

    def distance(step: Callable[[Optimizer, list[Tensor], Callable[[], None]], None]) -> float:
        players: list[Tensor] = [nn.Parameter(each.clone()) for each in start]
        x, y = players

        def gradient() -> None:
            x.grad, y.grad = matrix @ y.detach(), -matrix.T @ x.detach()

        optimizer = torch.optim.SGD(players, lr=0.5 / float(torch.linalg.matrix_norm(matrix, ord=2)))
        for _ in range(1000):
            step(optimizer, players, gradient)
        return float(torch.cat(players).detach().norm())

    def plain(optimizer: Optimizer, _: list[Tensor], gradient: Callable[[], None]) -> None:
        gradient()
        optimizer.step()

    began = float(torch.cat(start).norm())
    return Reading(distance(extragradient_step) / began, {"of plain steps": distance(plain) / began})


# --- Newton's method with approximate Hessians ---


@dataclass(frozen=True)
class Function:
    """Of one vector. `curvature`: which matrix takes the place of the Hessian, as a function of x."""

    value: Callable[[Tensor], Tensor]
    curvature: Callable[[Tensor], Tensor]

    def point(self, x: Tensor) -> Point:
        """Value, gradient and products at x."""
        at = x.detach().clone().requires_grad_()
        with torch.enable_grad():
            value = self.value(at)
            [gradient] = torch.autograd.grad(value, at)
        matrix = self.curvature(x.detach())
        product: Product = lambda vector: [matrix @ vector[0]]  # noqa: E731
        return Point(value.item(), [gradient], product)

    def iterations(self, start: Tensor, *, until: float, most: int) -> int:
        """Steps of the submission's rule to a value below `until`; `most` where it does not get there."""
        x = nn.Parameter(start.clone())
        # As in the paper: a step is tried until it is good, and the system is solved as exactly as can be.
        optimizer = GradientNormalizedSmoothness([x], trials=40, cg_iterations=len(start))
        for iteration in range(most):
            if float(self.value(x.detach())) < until:
                return iteration
            optimizer.step(lambda: self.point(x))
        return most


def rosenbrock(x: Tensor) -> Tensor:
    """(1 - x)^2 + 100 (y - x^2)^2."""
    value: Tensor = (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2
    return value


def descent_iterations(value: Callable[[Tensor], Tensor], start: Tensor, *, until: float, most: int) -> int:
    """Steps of gradient descent with a line search to a value below `until`."""
    x = nn.Parameter(start.clone())
    descent = ArmijoDescent([x], step=1.0, growth=2.0)
    for iteration in range(most):
        here = value(x)
        if here.item() < until:
            return iteration
        descent.descend(here, lambda: value(x), steps=1)
    return most


def rosenbrock_speed_up(seed: int) -> Reading:
    """Iterations of gradient descent over those of the rule with the exact Hessian, from near (-2, 2)."""
    start = torch.tensor([-2.0, 2.0], dtype=torch.float64)
    start += 0.2 * torch.randn(2, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    hessian = functools.partial(torch.func.hessian, rosenbrock)
    newton = Function(rosenbrock, lambda x: hessian()(x)).iterations(start, until=1e-6, most=1000)
    descent = descent_iterations(rosenbrock, start, until=1e-6, most=20000)
    return Reading(descent / newton, {"iterations": newton, "of gradient descent": descent})


def fisher_iterations(seed: int) -> Reading:
    """|A x - b|^4 / 4 in the metric of A^T A: iterations with the rank-one form over those with the exact Hessian."""
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.rand(100, 200, dtype=torch.float64, generator=generator) * 2 - 1
    offset = torch.rand(100, dtype=torch.float64, generator=generator) * 2 - 1
    start = torch.ones(200, dtype=torch.float64)
    # In y = B^(1/2) x the metric B = A^T A + 1e-8 is the plain one, in which the submission works.
    roots, vectors = torch.linalg.eigh(matrix.T @ matrix + 1e-8 * torch.eye(200, dtype=torch.float64))
    white = matrix @ (vectors * roots.clamp_min(1e-8).rsqrt()) @ vectors.T
    start = (vectors * roots.clamp_min(1e-8).sqrt()) @ vectors.T @ start

    def value(y: Tensor) -> Tensor:
        found: Tensor = (white @ y - offset).square().sum() ** 2 / 4
        return found

    def rank_one(y: Tensor) -> Tensor:
        along = white.T @ (white @ y - offset)
        return 2 * torch.outer(along, along)

    def exact(y: Tensor) -> Tensor:
        found: Tensor = (white @ y - offset).square().sum() * white.T @ white + rank_one(y)
        return found

    goal = 1e-12 * float(value(start))
    found = {
        name: Function(value, curvature).iterations(start, until=goal, most=200)
        for name, curvature in (("rank one", rank_one), ("exact", exact))
    }
    return Reading(found["rank one"] / found["exact"], {name: float(count) for name, count in found.items()})


# --- surrogates ---


class MatrixFactorisation(Workload):
    """Two matrices without biases, 6-10-10, on a linear map of condition 1e10: the paper's. In double precision."""

    loss_kind: ClassVar[LossKind] = LossKind.MEAN_SQUARED_ERROR

    def __init__(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        scales = torch.linspace(1, 1e-10, 10, dtype=torch.float64).unsqueeze(1)
        self._map = scales * torch.rand(10, 6, dtype=torch.float64, generator=generator)
        self._inputs = torch.randn(1000, 6, dtype=torch.float64, generator=generator)

    def sources(self) -> list[DataSource]:
        return []

    def load(self, split: SplitName, folder: Path) -> Examples:  # noqa: ARG002 - one split, made here
        return TensorExamples({"inputs": self._inputs, "targets": self._inputs @ self._map.T})

    def build_model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(6, 10, bias=False), nn.Linear(10, 10, bias=False)).double()

    def losses(self, outputs: Tensor, batch: Batch, label_smoothing: float) -> tuple[Tensor, None]:  # noqa: ARG002
        return (outputs - batch["targets"]).square(), None

    def statistics(self, outputs: Tensor, batch: Batch) -> dict[str, Tensor]:
        return {"squares": self.losses(outputs, batch, 0.0)[0].mean(dim=1)}

    def metrics(self, statistics: dict[str, Tensor]) -> dict[str, float]:
        return {"mse": statistics["squares"].mean().item()}


ORACLE_CALLS = 30


def surrogate_advantage(seed: int) -> Reading:
    """Loss of gradient descent with a line search over that of SSO, both after ORACLE_CALLS gradients of the loss."""
    workload = MatrixFactorisation(seed)
    examples = workload.load("train", Path())
    here = Course(
        workload,
        {"train": examples, "validation": examples},
        batch_size=len(examples),
        eval_batch_size=len(examples),
        target=Target("mse", "min", 0.0),
    )

    def of_surrogates(inner_steps: int) -> float:
        hp = {"inner_steps": inner_steps}
        return here.train("target_surrogate", hp, seed=seed, steps=ORACLE_CALLS).loss

    model, batch = here.model(seed), examples.gather(torch.arange(len(examples)))

    def loss() -> Tensor:
        return workload.losses(model(batch["inputs"]), batch, 0.0)[0].mean()

    descent = ArmijoDescent(list(model.parameters()), growth=2.0)
    for _ in range(ORACLE_CALLS):
        descent.descend(loss(), loss, steps=1)
    five, searched = of_surrogates(5), loss().item()
    # Sums over the ten outputs of a row, as the paper has them, are ten times these means.
    return Reading(searched / five, {"SSO": five, "line search": searched, "SSO with one inner step": of_surrogates(1)})


def chosen_points(seed: int) -> Reading:
    """Two blocks of the process on ten polynomials, over as many independent points with the same weights."""
    generator = torch.Generator().manual_seed(seed)
    line = torch.linspace(-1, 1, 1_000, dtype=torch.float64)
    features = orthonormal(torch.stack([torch.special.legendre_polynomial_p(line, k) for k in range(10)], dim=1))
    wanted = (1 / (1 + 25 * line.square()))[:, None]
    lengths = features.square().sum(dim=1)

    def error(rows: Tensor) -> float:
        root = lengths[rows].rsqrt()[:, None]
        found = torch.linalg.lstsq(root * features[rows], root * wanted[rows]).solution
        return float((features @ found - wanted).square().mean())

    best = float((features @ (features.T @ wanted) / len(line) - wanted).square().mean())
    blocks = [error(torch.cat([projection_process(features, generator) for _ in range(2)])) for _ in range(200)]
    alone = [error(torch.multinomial(lengths, 20, replacement=True, generator=generator)) for _ in range(200)]
    blocks_median, alone_median = statistics.median(blocks), statistics.median(alone)
    return Reading(
        blocks_median / alone_median,
        {"blocks over best": blocks_median / best, "others over best": alone_median / best},
    )


CLAIMS = [
    Claim(
        name="sgdp_norm",
        submission="sgdp",
        says=(
            "In the plane, momentum lets the norm of a scale-invariant weight grow 2.93 times; the projection does not."
        ),
        experiment="-cos(w, e) in the plane from |w| = 1, about at a right angle: 2,000 steps of SGDP (momentum 0.9).",
        quantity="final norm over the first",
        holds=Rule(high=1.2),
        measure=sgdp_growth,
    ),
    Claim(
        name="adamp_norm",
        submission="adamp",
        says="The same for Adam: AdamP keeps the norm of scale-invariant weights.",
        experiment=(
            "-cos(w, e) in the plane from |w| = 1, about at a right angle: 2,000 steps of AdamP at a rate of 0.04."
        ),
        quantity="final norm over the first",
        holds=Rule(high=1.2),
        measure=adamp_growth,
    ),
    Claim(
        name="diffgrad_minimum",
        submission="diffgrad",
        says="In one dimension it leaves the poor minimum in which Adam stays.",
        experiment=(
            "The authors' F1 from starts in -1.1 to -0.9, their rates, 299 steps: share that ends in the better valley."
        ),
        quantity="share of starts",
        holds=Rule(low=0.8),
        measure=leaves_poor_minimum,
        repetitions=30,
        average=Average.SHARE,
    ),
    Claim(
        name="extragradient_game",
        submission="extragradient",
        says="On bilinear games, where simultaneous gradient steps spiral out, it converges.",
        experiment=(
            "x'By, B 10 x 10 with Gaussian entries: distance from the equilibrium after 1,000 steps at half of "
            "1 / |B|, over that of the start."
        ),
        quantity="distance over the first",
        holds=Rule(high=0.9),
        measure=distance_in_a_game,
        average=Average.GEOMETRIC_MEAN,
    ),
    Claim(
        name="gn_smoothness_rosenbrock",
        submission="gn_smoothness",
        says="The adaptive rule keeps the fast rates of second-order methods, without a smoothness constant known.",
        experiment=(
            "Rosenbrock's function to 1e-6 from near (-2, 2): iterations of gradient descent with a line search over "
            "its."
        ),
        quantity="times fewer iterations",
        holds=Rule(low=10.0),
        measure=rosenbrock_speed_up,
        repetitions=5,
        average=Average.GEOMETRIC_MEAN,
    ),
    Claim(
        name="gn_smoothness_fisher",
        submission="gn_smoothness",
        says="On |Ax - b|^4 / 4 the rank-one Fisher form needs no more iterations than the exact Hessian.",
        experiment=(
            "A 100 x 200, as the authors have it, to 1e-12 of the first value: iterations of one over those of the "
            "other."
        ),
        quantity="ratio of iterations",
        holds=Rule(high=1.0),
        measure=fisher_iterations,
        average=Average.GEOMETRIC_MEAN,
    ),
    Claim(
        name="target_surrogate_calls",
        submission="target_surrogate",
        says="With several inner steps the same loss takes fewer gradients of the loss than gradient descent needs.",
        experiment=(
            f"The authors' matrix factorisation after {ORACLE_CALLS} gradients of the loss: that of gradient descent "
            "with a "
            "line search over that of five inner steps."
        ),
        quantity="times lower loss",
        holds=Rule(low=1000.0),
        measure=surrogate_advantage,
        repetitions=30,
        average=Average.GEOMETRIC_MEAN,
    ),
    Claim(
        name="volume_sampler_points",
        submission="volume_sampler",
        says=(
            "Repeated determinantal point processes need far fewer points than independent optimal ones for the same "
            "error."
        ),
        experiment=(
            "Least squares of 1 / (1 + 25 x^2) on ten Legendre polynomials with 20 points, weighted: two blocks of the "
            "process, or 20 independent points drawn by leverage; 200 times each."
        ),
        quantity="median squared error of blocks over that of independent points",
        holds=Rule(high=1.0),
        measure=chosen_points,
        average=Average.GEOMETRIC_MEAN,
    ),
]

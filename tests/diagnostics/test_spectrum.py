"""Sharpness, trace, density and stable rates, on matrices and regressions whose answer is known."""

from __future__ import annotations

from pathlib import Path

import numpy
import pytest
import torch
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor, nn

from harness.api import Batch, DataSource, Examples, LossKind, SplitName, TensorExamples, Workload
from harness.diagnostics.probe import Probe
from harness.diagnostics.spectrum import (
    Trace,
    adaptive_stability,
    density,
    hutchinson,
    lanczos,
    preconditioned,
    sharpness,
    stability,
)


class Regression(Workload):
    """Mean squared error of a linear map: the Hessian is 2 X^T X / n. `rows` and `width` of X, standard normal."""

    loss_kind = LossKind.MEAN_SQUARED_ERROR

    def __init__(self, *, rows: int = 256, width: int = 12) -> None:
        self.rows = rows
        self.width = width

    def sources(self) -> list[DataSource]:
        return []

    def load(self, split: SplitName, folder: Path) -> Examples:  # noqa: ARG002
        drawn = numpy.random.RandomState(0).standard_normal((self.rows, self.width + 1)).astype(numpy.float32)
        inputs = torch.from_numpy(drawn[:, :-1] * (3.0 - numpy.arange(self.width, dtype=numpy.float32) / 6))
        return TensorExamples({"inputs": inputs, "targets": torch.from_numpy(drawn[:, -1].copy())})

    def build_model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(self.width, 1, bias=False), nn.Flatten(0))

    def losses(self, outputs: Tensor, batch: Batch, label_smoothing: float) -> tuple[Tensor, None]:  # noqa: ARG002
        return (outputs - batch["targets"]).square(), None

    def statistics(self, outputs: Tensor, batch: Batch) -> dict[str, Tensor]:
        return {"squares": self.losses(outputs, batch, 0.0)[0]}

    def metrics(self, statistics: dict[str, Tensor]) -> dict[str, float]:
        return {"mse": float(statistics["squares"].mean())}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def probe_of(workload: Workload) -> Probe:
    torch.manual_seed(0)
    return Probe(workload, workload.build_model(), workload.load("train", Path()))


def symmetric(size: int, seed: int = 0) -> Tensor:
    drawn = torch.randn(size, size, dtype=torch.float64, generator=generator(seed))
    return (drawn + drawn.T) / 2


def test_the_sharpness_of_a_regression_is_the_largest_eigenvalue_of_its_second_moments():
    probe = probe_of(Regression())
    inputs = torch.cat([batch["inputs"] for batch in probe.batches]).double()
    expected = torch.linalg.eigvalsh(2 * inputs.T @ inputs / len(inputs)).flip(0)
    found = sharpness(lanczos(probe.product, probe.size, generator()))
    assert [found[f"eigenvalue_{place}"] for place in range(1, 6)] == pytest.approx(expected[:5].tolist(), rel=1e-6)
    assert found["smallest"] == pytest.approx(float(expected[-1]), rel=1e-5)
    assert max(found[f"residual_{place}"] for place in range(1, 6)) < 1e-4


def test_the_top_of_a_spectrum_is_that_which_arpack_finds_and_residuals_are_what_they_say():
    matrix = symmetric(300) / 10 + torch.diag(torch.tensor([30.0, 20.0, 15.0, 12.0, 10.0, *[0.0] * 295])).double()
    found = lanczos(lambda v: matrix @ v, 300, generator())
    operator = LinearOperator((300, 300), matvec=lambda v: matrix.numpy() @ v, dtype=numpy.float64)
    assert found.values[:5].tolist() == pytest.approx(sorted(eigsh(operator, k=5, which="LA")[0])[::-1], rel=1e-6)
    for place in (0, 4):
        vector = found.vectors[:, place]
        assert float(vector.norm()) == pytest.approx(1.0)
        residual = float((matrix @ vector - found.values[place] * vector).norm())
        assert float(found.residuals[place]) == pytest.approx(residual, rel=1e-6, abs=1e-9)


def test_lanczos_ends_where_the_space_does():
    found = lanczos(lambda v: 2.0 * v, 50, generator())
    assert found.values.tolist() == pytest.approx([2.0])
    assert found.residuals.tolist() == pytest.approx([0.0], abs=1e-12)


def test_a_probe_of_the_trace_has_the_variance_of_its_formula():
    matrix = symmetric(10, seed=1)
    draws = 20_000
    signs = 2.0 * torch.randint(2, (draws, 10), generator=generator()).double() - 1.0
    seen = torch.einsum("ni,ij,nj->n", signs, matrix, signs)
    expected = 2 * float(matrix.square().sum() - matrix.diagonal().square().sum())
    assert float(seen.var()) == pytest.approx(expected, rel=0.05)
    found = hutchinson(lambda v: matrix @ v, 10, generator(), probes=4000)
    assert found.error == pytest.approx((expected / 4000) ** 0.5, rel=0.1)
    assert found.mean == pytest.approx(float(matrix.trace()), abs=4 * found.error)
    assert found.frobenius == pytest.approx(float(matrix.norm()), rel=0.05)


def test_the_trace_of_a_diagonal_matrix_is_exact_from_any_probe():
    found = hutchinson(lambda v: torch.arange(7.0, dtype=torch.float64) * v, 7, generator(), probes=3)
    assert (found.mean, found.error) == (21.0, 0.0)


def test_nine_outliers_over_a_bulk_are_counted():
    values = torch.cat([torch.linspace(50, 100, 9), torch.linspace(-0.5, 1.0, 2000)]).double()
    found = density(lanczos(lambda v: values * v, len(values), generator()))
    assert found["outliers"] == 9
    assert found["bulk"] == pytest.approx(1.0, abs=0.1)
    assert found["share_negative"] == pytest.approx(1 / 3, abs=0.1)


def test_the_quadrature_has_the_moments_of_a_half_circle_for_a_random_symmetric_matrix():
    matrix = symmetric(1000) * (2 / 1000) ** 0.5  # eigenvalues between -2 and 2
    found = lanczos(lambda v: matrix @ v, 1000, generator())
    assert float(found.weights.sum()) == pytest.approx(1.0)
    moments = [float((found.weights * found.values**power).sum()) for power in (1, 2, 3, 4)]
    assert moments == pytest.approx([0.0, 1.0, 0.0, 2.0], abs=0.2)
    assert density(found)["outliers"] == 0


def test_gradient_descent_on_a_product_leaves_where_its_rate_is_unstable_and_ends_where_it_is_stable():
    # Loss (ab - 1)^2 / 2: at ab = 1 the sharpness is a^2 + b^2. Rate 0.6: stable below 2 / 0.6 = 3.33.
    weights, rate = torch.tensor([1.9, 0.1], dtype=torch.float64), 0.6

    def hessian(w: Tensor) -> Tensor:
        a, b = w
        return torch.stack([torch.stack([b * b, 2 * a * b - 1]), torch.stack([2 * a * b - 1, a * a])])

    def ratio(w: Tensor) -> dict[str, float]:
        matrix = hessian(w)
        top = float(lanczos(lambda v: matrix @ v, 2, generator()).values[0])
        trace = Trace(float(matrix.trace()), 0.0, float(matrix.norm()))
        return stability(top, trace, rate=rate, momentum=None)

    assert 2.0 / ratio(weights)["largest_stable_rate"] == pytest.approx(3.7135, rel=1e-4)  # (3.62 + 3.807) / 2
    assert ratio(weights)["sharpness_ratio"] > 1
    for _ in range(2000):
        a, b = weights.tolist()
        weights = weights - rate * (a * b - 1) * torch.tensor([b, a], dtype=torch.float64)
    end = ratio(weights)
    assert float(weights.prod()) == pytest.approx(1.0)
    assert end["sharpness_ratio"] == pytest.approx(rate * float(weights.square().sum()) / 2)
    assert end["sharpness_ratio"] == pytest.approx(0.6 * 2.18 / 2, rel=0.01)
    assert end["trace_ratio"] == pytest.approx(end["sharpness_ratio"], rel=1e-6)  # of rank one at a minimum


def test_momentum_raises_the_largest_stable_rate():
    trace = hutchinson(lambda v: v, 3, generator())
    assert stability(2.0, trace, rate=1.0, momentum=0.9)["sharpness_ratio"] == pytest.approx(2 / 3.8)


def ends(optimizer, curvature: float) -> float:
    """How large a number is after 500 steps down curvature x^2 / 2 from 1."""
    x = torch.ones(1, dtype=torch.float64, requires_grad=True)
    rule = optimizer([x])
    for _ in range(500):
        rule.zero_grad()
        (curvature * x.square() / 2).sum().backward()
        rule.step()
    return abs(x.item())


@pytest.mark.parametrize(("nesterov", "name"), [(False, "sharpness_ratio"), (True, "sharpness_ratio_nesterov")])
def test_a_parabola_is_left_just_where_the_ratio_of_the_rule_is_above_one(nesterov, name):
    def ratio_and_end(curvature: float) -> tuple[float, float]:
        trace = Trace(curvature, 0.0, curvature)
        ratio = stability(curvature, trace, rate=0.1, momentum=0.8)[name]
        return ratio, ends(lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.8, nesterov=nesterov), curvature)

    edge = 1 / ratio_and_end(1.0)[0]
    ratio, end = ratio_and_end(0.97 * edge)
    assert (ratio, end < 1e-2) == (pytest.approx(0.97), True)
    ratio, end = ratio_and_end(1.03 * edge)
    assert (ratio, end > 1e2) == (pytest.approx(1.03), True)


def test_a_mean_of_gradients_as_adam_has_it_leaves_a_parabola_just_where_its_ratio_is_above_one():
    def end(curvature: float) -> float:
        x, mean = 1.0, 0.0
        for _ in range(500):
            mean = 0.8 * mean + 0.2 * curvature * x
            x -= 0.1 * mean
        return abs(x)

    edge = 1 / adaptive_stability(1.0, rate=0.1, beta1=0.8)["sharpness_ratio"]
    assert end(0.97 * edge) < 1e-2
    assert end(1.03 * edge) > 1e2
    assert adaptive_stability(380.0, rate=0.1, beta1=0.9)["sharpness_ratio"] == pytest.approx(1.0)


def test_a_preconditioned_diagonal_matrix_is_divided():
    values, divisor = torch.tensor([1.0, 6.0, 8.0]).double(), torch.tensor([0.5, 2.0, 8.0]).double()
    found = lanczos(preconditioned(lambda v: values * v, divisor), 3, generator())
    assert found.values.tolist() == pytest.approx([3.0, 2.0, 1.0])

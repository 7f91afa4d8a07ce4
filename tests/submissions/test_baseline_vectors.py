"""Baselines compute what their papers and packages do: three steps from a matrix of cosines, special cases."""

from __future__ import annotations

from collections.abc import Callable
from math import exp, sqrt

import pytest
import torch
from torch import Tensor, nn

from harness import ConfigError, Hyperparameters, newton_schulz
from harness.plugins.conformance.problems import Stripes
from harness.plugins.conformance.rehearsal import Rehearsal
from harness.plugins.submission import load_submission
from submissions.amos.submission import Amos
from submissions.caspr.submission import Caspr
from submissions.distributed_shampoo.submission import Shampoo
from submissions.distributed_shampoo.submission import train as train_shampoo
from submissions.muon_h.submission import MuonH
from submissions.prodigy.submission import Prodigy
from submissions.psgd_kron.submission import PSGDKron
from submissions.soap.submission import SOAP
from submissions.soap_muon.submission import SoapMuon
from submissions.sophia.submission import Sophia, gradient_of_sampled_labels
from tests.submissions.test_optimizer_vectors import after_three_steps, assert_equal, gaussian

Make = Callable[[list[nn.Parameter]], torch.optim.Optimizer]
# Of the packages prodigyopt 1.1.2 and pytorch_optimizer 4.1.0, run on the same matrices; NAdamW from the sheet.
VECTORS: dict[str, tuple[Make, list[float]]] = {
    "prodigy": (
        lambda p: Prodigy(p, lr=0.1, weight_decay=0.01, d0=0.1),
        [0.88388907, 0.4727028, -0.38252756, -0.87129225, -0.57582168, 0.26212261],
    ),
    "prodigy with bias correction": (
        lambda p: Prodigy(p, weight_decay=0.01, d0=0.1, use_bias_correction=True, safeguard_warmup=True),
        [0.71504849, 0.35659829, -0.37564928, -0.69984055, -0.44820834, 0.27021793],
    ),
    "amos": (
        lambda p: Amos(p, lr=0.1),
        [0.77011216, 0.50164422, -0.2280331, -0.74805784, -0.58032165, 0.12095959],
    ),
    "amos with momentum": (
        lambda p: Amos(p, lr=0.1, momentum=0.9),
        [0.94985626, 0.51659119, -0.39162544, -0.93978344, -0.62390889, 0.26558462],
    ),
    "soap whose bases stay": (
        lambda p: SOAP(p, lr=0.1, weight_decay=0.01),
        [0.92489602, 0.64963552, -0.22289703, -0.81962162, -0.50752522, 0.27118766],
    ),
    "soap whose bases turn at every step": (
        lambda p: SOAP(p, lr=0.1, weight_decay=0.01, frequency=1),
        [0.8938328, 0.64422075, -0.19768495, -0.80746607, -0.47295543, 0.29638829],
    ),
    "shampoo before it begins, which is nadamw": (
        lambda p: Shampoo(p, lr=0.1, weight_decay=0.01),
        [0.57982807, 0.30330757, -0.35553222, -0.55435298, -0.38196093, 0.25036747],
    ),
}


@pytest.mark.parametrize("name", VECTORS)
def test_three_steps_are_those_of_the_reference(name):
    make, expected = VECTORS[name]
    assert_equal(after_three_steps(make), expected)


def steps_of(make: Make, gradients: list[Tensor], begin: Tensor) -> Tensor:
    """Where `begin` is after one step along each of `gradients`."""
    parameter = nn.Parameter(begin.clone())
    optimizer = make([parameter])
    for grad in gradients:
        parameter.grad = grad.clone()
        optimizer.step()
    return parameter.detach()


GRADIENTS = [gaussian(3, 4, seed=seed) for seed in range(4)]
BEGIN = gaussian(3, 4, seed=9)


def power(matrix: Tensor, exponent: float) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    return vectors @ torch.diag(values.pow(exponent)) @ vectors.mT


# --- Shampoo and CASPR ---


@pytest.mark.parametrize(
    ("rule", "nadam", "momentum"), [(Shampoo, True, 0.5), (Shampoo, False, 0.0), (Caspr, True, 0.0)]
)
def test_grafted_rules_take_the_steps_of_their_formula(rule, nadam, momentum):
    beta1, beta2, lr, eps, decay = 0.9, 0.95, 0.1, 1e-3, 0.01
    p, m, v, left, right = (
        BEGIN,
        *(torch.zeros(3, 4).double(),) * 2,
        torch.zeros(3, 3).double(),
        torch.zeros(4, 4).double(),
    )
    carried = torch.zeros(3, 4).double()
    for t, g in enumerate(GRADIENTS, start=1):
        m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g**2
        left, right = beta2 * left + (1 - beta2) * g @ g.mT, beta2 * right + (1 - beta2) * g.mT @ g
        f = (beta1 * m + (1 - beta1) * g if nadam else m) / (1 - beta1**t)
        graft = f / ((v / (1 - beta2**t)).sqrt() + eps)
        direction = graft
        if t >= 2:
            # The right factor of three rows is singular: rounding decides how far below zero its least value is.
            a, b = (
                power(
                    x / (1 - beta2**t) + (eps - min(0.0, float(torch.linalg.eigvalsh(x)[0]))) * torch.eye(len(x)), -0.25
                )
                for x in (left, right)
            )
            direction = a @ f @ b if rule is Shampoo else (a @ a @ f + 2 * a @ f @ b + f @ b @ b) / 4
            direction = direction * graft.norm() / direction.norm()
        direction = direction + decay * p
        carried = momentum * carried + direction
        p = p - lr * (direction + momentum * carried)
    found = steps_of(
        lambda q: rule(
            q, lr=lr, betas=(beta1, beta2), eps=eps, weight_decay=decay, nadam=nadam, momentum=momentum, start=2,
            frequency=1, block=4,
        ),
        GRADIENTS,
        BEGIN,
    )  # fmt: skip
    torch.testing.assert_close(found, p, atol=1e-7, rtol=0)


@pytest.mark.parametrize("rule", [Shampoo, Caspr])
def test_without_memory_the_direction_is_the_polar_factor_as_in_muon(rule):
    g = gaussian(4, 4)
    found = steps_of(
        lambda p: rule(p, lr=1.0, betas=(0.0, 0.0), eps=1e-12, graft="sgd", start=1, block=4),
        [g],
        torch.zeros(4, 4).double(),
    )
    u, s, vh = torch.linalg.svd(g)
    torch.testing.assert_close(found, -(u @ vh) * s.norm() / 2, atol=1e-5, rtol=0)


def test_a_vector_has_one_side_whose_root_is_the_whole_of_its_second_moment():
    g = gaussian(5)
    moment = 0.5 * torch.outer(g, g) / (1 - 0.5) + 1e-2 * torch.eye(5)
    wanted = power(moment.double(), -0.5) @ g
    found = steps_of(
        lambda p: Shampoo(p, lr=1.0, betas=(0.0, 0.5), eps=1e-2, graft="sgd", start=1), [g], torch.zeros(5).double()
    )
    torch.testing.assert_close(found, -wanted * g.norm() / wanted.norm(), atol=1e-7, rtol=0)


def test_a_matrix_of_one_column_has_one_side_too():
    g = gaussian(6, 1)
    parts = []
    for rows in (g[:4], g[4:]):
        wanted = power(rows @ rows.mT + 1e-2 * torch.eye(len(rows)), -0.5) @ rows
        parts.append(wanted * rows.norm() / wanted.norm())
    found = steps_of(
        lambda p: Shampoo(p, lr=1.0, betas=(0.0, 0.5), eps=1e-2, graft="sgd", start=1, block=4),
        [g],
        torch.zeros(6, 1).double(),
    )
    torch.testing.assert_close(found, -torch.cat(parts), atol=1e-7, rtol=0)


def test_a_matrix_larger_than_a_block_moves_as_its_blocks_would():
    def make(p: list[nn.Parameter]) -> Shampoo:
        return Shampoo(p, lr=0.1, eps=1e-3, start=1, frequency=1, block=2)

    whole = steps_of(make, [gaussian(4, 5, seed=seed) for seed in range(3)], torch.zeros(4, 5).double())
    part = steps_of(make, [gaussian(4, 5, seed=seed)[2:, 2:4].clone() for seed in range(3)], torch.zeros(2, 2).double())
    torch.testing.assert_close(whole[2:, 2:4], part, atol=1e-7, rtol=0)


# --- SOAP and SOAP-Muon ---


def test_soap_without_bases_is_adam_from_the_second_gradient_on():
    found = steps_of(lambda p: SOAP(p, lr=0.1, betas=(0.9, 0.99), eps=0.0, largest_factor=0), GRADIENTS, BEGIN)
    expected = steps_of(lambda p: torch.optim.Adam(p, lr=0.1, betas=(0.9, 0.99), eps=0.0), GRADIENTS[1:], BEGIN)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)


def test_soap_turns_with_its_gradients():
    turn, back = torch.linalg.qr(gaussian(3, 3, seed=11)).Q, torch.linalg.qr(gaussian(4, 4, seed=12)).Q

    def make(p: list[nn.Parameter]) -> SOAP:
        # The right factor has no fourth direction of its own: what lies there must not count.
        return SOAP(p, lr=0.1, frequency=2, eps=1e-3)

    plain = steps_of(make, GRADIENTS, BEGIN)
    turned = steps_of(make, [turn @ g @ back for g in GRADIENTS], turn @ BEGIN @ back)
    torch.testing.assert_close(turned, turn @ plain @ back, atol=1e-6, rtol=0)


def test_soap_gives_vectors_adam_and_kernels_that_of_their_matrix():
    kernels = [gaussian(3, 2, 2, seed=seed) for seed in range(4)]
    found = steps_of(lambda p: SOAP(p, lr=0.1), kernels, gaussian(3, 2, 2, seed=9))
    flat = steps_of(lambda p: SOAP(p, lr=0.1), [k.flatten(1) for k in kernels], gaussian(3, 2, 2, seed=9).flatten(1))
    torch.testing.assert_close(found.flatten(1), flat)
    vector = nn.Parameter(torch.zeros(4))
    optimizer = SOAP([vector])
    vector.grad = torch.ones(4)
    optimizer.step()
    assert optimizer.state[vector]["right_basis"].numel() == 0


def test_soap_muon_takes_the_steps_of_its_formula():
    mu, beta2, lr, decay = 0.9, 0.8, 0.05, 0.5
    p, m, v, left, right = (
        BEGIN,
        *(torch.zeros(3, 4).double(),) * 2,
        torch.zeros(3, 3).double(),
        torch.zeros(4, 4).double(),
    )
    for t, g in enumerate(GRADIENTS, start=1):
        m = mu * m + (1 - mu) * g
        ahead = (1 - mu) * g + mu * m
        left, right = beta2 * left + (1 - beta2) * g @ g.mT, beta2 * right + (1 - beta2) * g.mT @ g
        if t == 1:
            a, b = (torch.linalg.eigh(x).eigenvectors.flip(1) for x in (left, right))
        turned = a.mT @ ahead @ b
        v = beta2 * v + (1 - beta2) * turned**2
        scaled = a @ (turned / (v.sqrt() + 1e-8)) @ b.mT
        update = newton_schulz((scaled * ahead.norm() / scaled.norm()).unsqueeze(0))[0]
        shrinks = update * p > 0
        p = p - lr * update
        p = torch.where(shrinks, p * (1 - lr * decay), p)
    found = steps_of(
        lambda q: SoapMuon(q, lr=lr, momentum=mu, beta2=beta2, weight_decay=decay, frequency=10), GRADIENTS, BEGIN
    )
    torch.testing.assert_close(found, p, atol=1e-7, rtol=0)


def test_on_its_first_gradient_soap_muon_is_muon_of_the_polar_factor():
    """In its own bases a matrix is diagonal, and its second moment makes all singular values equal."""
    g = gaussian(4, 4)
    found = steps_of(lambda p: SoapMuon(p, lr=0.1, momentum=0.0), [g], torch.zeros(4, 4).double())
    u, _, vh = torch.linalg.svd(g)
    torch.testing.assert_close(found, -0.1 * newton_schulz((u @ vh).unsqueeze(0))[0], atol=1e-6, rtol=0)


# --- MuonH ---


def test_a_matrix_keeps_its_norm_and_moves_by_a_share_of_it():
    parameter = nn.Parameter(BEGIN.clone())
    optimizer = MuonH([parameter], lr=0.1, momentum=0.9)
    m, p = torch.zeros(3, 4).double(), BEGIN
    for g in GRADIENTS:
        parameter.grad = g.clone()
        optimizer.step()
        m = 0.9 * m + 0.1 * g
        update = newton_schulz((0.1 * g + 0.9 * m).unsqueeze(0))[0]
        p = p - 0.1 * BEGIN.norm() * update / update.norm()
        p = p * BEGIN.norm() / p.norm()
        torch.testing.assert_close(parameter.detach(), p, atol=1e-7, rtol=0)
        torch.testing.assert_close(parameter.detach().norm(), BEGIN.norm())


def test_a_matrix_of_zeros_grows_up_to_the_norm_of_ordinary_weights():
    parameter = nn.Parameter(torch.zeros(3, 4).double())
    optimizer = MuonH([parameter], lr=0.1)
    norms = []
    for _ in range(30):
        parameter.grad = GRADIENTS[0].clone()
        optimizer.step()
        norms.append(float(parameter.detach().norm()))
    assert norms[:3] == pytest.approx([0.1 * sqrt(3), 0.2 * sqrt(3), 0.3 * sqrt(3)])
    assert norms[-1] == pytest.approx(sqrt(3))


# --- Prodigy ---


def test_prodigys_distance_is_of_all_parameters_so_that_it_takes_one_group():
    groups = [{"params": [nn.Parameter(torch.zeros(2))]} for _ in range(2)]
    with pytest.raises(ConfigError, match="2 parameter groups"):
        Prodigy(groups)


def test_prodigy_finds_the_distance_that_it_has_to_go():
    parameter = nn.Parameter(torch.full((10,), 3.0, dtype=torch.float64))
    optimizer = Prodigy([parameter], d0=1e-4)
    for _ in range(300):
        parameter.grad = parameter.detach().sign()
        optimizer.step()
    assert 1.0 < optimizer.param_groups[0]["d"] < 3 * sqrt(10)


# --- Sophia ---


def test_sophia_takes_the_steps_of_its_formula():
    parameter = nn.Parameter(BEGIN.clone())
    optimizer = Sophia([parameter], lr=0.1, betas=(0.9, 0.8), rho=0.5, weight_decay=0.01)
    m, h, p = torch.zeros(3, 4).double(), torch.zeros(3, 4).double(), BEGIN
    for g in GRADIENTS:
        parameter.grad = g.clone()
        optimizer.step()
        m = 0.9 * m + 0.1 * g
        p = p * (1 - 0.1 * 0.01) - 0.1 * m.sign() * (m.abs() / (0.5 * h + 1e-15)).clamp(max=1)
        optimizer.take_curvature(units=7.0)
        h = 0.8 * h + 0.2 * 7.0 * g**2
        torch.testing.assert_close(parameter.detach(), p, atol=1e-7, rtol=0)


def test_sampled_labels_give_no_gradient_on_average_and_the_gauss_newton_diagonal_as_its_square():
    trial = Rehearsal().trial
    batch = trial.next_batch(32)
    bias = trial.model[6].bias  # type: ignore[index]
    draws = []
    for _ in range(100):
        assert gradient_of_sampled_labels(trial, batch) == 32.0
        draws.append(bias.grad.clone())
    gradients = torch.stack(draws)
    chances = trial.outputs(batch).detach().softmax(dim=1)
    wanted = (chances * (1 - chances)).mean(dim=0)
    torch.testing.assert_close(32 * gradients.square().mean(dim=0), wanted, rtol=0.3, atol=0)
    assert (gradients.mean(dim=0).abs() < 4 * gradients.std(dim=0) / sqrt(100)).all()


class WithDropout(Stripes):
    """The same network with dropout before its last layer."""

    def build_model(self) -> nn.Module:
        *layers, last = super().build_model().children()
        return nn.Sequential(*layers, nn.Dropout(0.3), last)


@pytest.mark.parametrize(("asked", "found"), [({}, 0.3), ({"dropout": 0.1}, 0.1)])
def test_shampoo_leaves_dropout_to_the_workload_where_its_point_says_nothing(asked: dict[str, float], found: float):
    rehearsal = Rehearsal(WithDropout())
    point = Hyperparameters({**load_submission("distributed_shampoo").hyperparameters, **asked})
    rehearsal.run(train_shampoo, point)
    assert rehearsal.model[-2].p == found  # type: ignore[index]


def test_sampled_labels_of_one_rank_are_not_those_of_another():
    trial = Rehearsal().trial
    batch = trial.next_batch(32)
    start = trial.generator.get_state()
    found = []
    for rank in range(2):
        trial.world_size, trial.rank = 2, rank
        trial.generator.set_state(start)
        gradient_of_sampled_labels(trial, batch)
        found.append(trial.model[6].bias.grad.clone())  # type: ignore[index]
    assert not torch.equal(*found)


# --- PSGD ---


def test_psgd_takes_the_steps_of_its_formula():
    mu, lr, decay = 0.9, 0.1, 0.01
    noise = sqrt(torch.finfo(torch.float32).eps)
    p, m = BEGIN, torch.zeros(3, 4).double()
    scale = GRADIENTS[0].square().mean() ** (-1 / 8)
    factors, bounds = [scale * torch.eye(3).double(), scale * torch.ones(4).double()], [0.0, 0.0]
    for t, g in enumerate(GRADIENTS, start=1):
        m = mu * m + (1 - mu) * g
        corrected = m / (1 - mu**t)
        left, right = factors[0].mT @ factors[0], torch.diag(factors[1] ** 2)
        white = left @ corrected @ right
        size = (noise * corrected.abs().mean()) ** 2
        second = [
            white @ white.mT + size * right.square().sum() * left @ left,
            (white.mT @ white + size * left.square().sum() * right @ right).diagonal(),
        ]
        row = second[0][second[0].norm(dim=1).argmax()]
        image = second[0] @ row
        largest = [(second[0] @ (image / image.norm())).norm() + 4, second[1].max() + 3]
        bounds = [max(0.9 * old + 0.1 * new, new) for old, new in zip(bounds, largest, strict=True)]
        factors = [
            factors[0] - 0.1 / bounds[0] * (factors[0] @ second[0] - 4 * factors[0]),
            factors[1] - 0.1 / bounds[1] * factors[1] * (second[1] - 3),
        ]
        p = p - lr * (white * min(1.0, 1.1 / float(white.square().mean().sqrt())) + decay * p)
    found = steps_of(lambda q: PSGDKron(q, lr=lr, momentum=mu, weight_decay=decay, largest_factor=3), GRADIENTS, BEGIN)
    torch.testing.assert_close(found, p, atol=1e-7, rtol=0)


def test_psgd_whitens_gradients_from_both_sides():
    parameter = nn.Parameter(torch.zeros(3, 4).double())
    optimizer = PSGDKron([parameter], lr=1.0, momentum=0.0)
    generator = torch.Generator().manual_seed(0)
    left, right = gaussian(3, 3, seed=1), gaussian(4, 4, seed=2)
    for _ in range(400):
        parameter.grad = left @ torch.randn(3, 4, dtype=torch.float64, generator=generator) @ right
        optimizer.step()
    state = optimizer.state[parameter]
    p_left, p_right = (state[side].mT @ state[side] for side in ("left", "right"))
    # Each of the twelve entries has variance one, so that the rows' second moments are four.
    whitened = p_left @ left @ left.mT @ p_left * (p_right @ right.mT @ right @ p_right).trace()
    torch.testing.assert_close(whitened, 4 * torch.eye(3).double(), atol=2.0, rtol=0)


def test_psgd_fits_its_factors_more_rarely_later_on():
    parameter = nn.Parameter(torch.zeros(2, 2))
    optimizer = PSGDKron([parameter])
    fits = []
    for step in range(1, 1501):
        parameter.grad = torch.eye(2)
        optimizer.step()
        if step in (500, 1500):
            fits.append(optimizer.state[parameter]["fits"])
    assert fits[0] == 500
    # A fit counts as one over what its chance would be; whole steps of waiting make them a little rarer.
    chances = sum(exp(-step / 1000) for step in range(1000))
    assert 0.7 * chances < fits[1] - 500 < chances


def test_a_number_that_no_batch_reaches_moves_nowhere():
    """An embedding of a word that does not come: gradients of zero from the start, for all that have factors."""
    for make in (
        lambda p: PSGDKron(p), lambda p: SOAP(p), lambda p: Shampoo(p, start=1), lambda p: Caspr(p, start=1),
        lambda p: SoapMuon(p), lambda p: MuonH(p), lambda p: Prodigy(p), lambda p: Amos(p), lambda p: Sophia(p),
    ):  # fmt: skip
        begin = BEGIN.float()
        found = steps_of(make, [torch.zeros(3, 4)] * 3, begin)
        torch.testing.assert_close(found, begin, atol=1e-5, rtol=0)

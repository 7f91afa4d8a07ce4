"""Update rules of the field compute what their sheets write: three steps from a matrix of cosines; special cases."""

from __future__ import annotations

from collections.abc import Callable
from math import inf

import pytest
import torch
from torch import Tensor, nn

from harness.api import Hyperparameters
from harness.plugins.submission import load_submission, train_function
from submissions.adafactor.submission import Adafactor
from submissions.adamp.submission import AdamP
from submissions.ademamix.submission import AdEMAMix
from submissions.auon.submission import AuON
from submissions.cautious_nadamw.submission import CautiousNAdamW
from submissions.clipped_adam.submission import ClippedAdam
from submissions.clipped_sgd.submission import clip_largest
from submissions.diffgrad.submission import DiffGrad
from submissions.hybrid_auon.submission import HybridAuON
from submissions.lamb.submission import Lamb
from submissions.lion.submission import Lion
from submissions.normuon.submission import NorMuon
from submissions.sam.submission import ascend, sam_step
from submissions.sgdp.submission import SGDP
from submissions.split_sgd.submission import SplitSGD
from tests.submissions.test_optimizer_vectors import after_three_steps, assert_equal, gaussian, gradient, start
from tests.trial.passes.test_passes import Following
from tests.trial.passes.trials import trial_on_blobs

Make = Callable[[list[nn.Parameter]], torch.optim.Optimizer]
VECTORS: dict[str, tuple[Make, list[float]]] = {
    "auon": (
        lambda p: AuON(p, lr=0.1, weight_decay=0.01),
        [0.86155711, 0.48032976, -0.34251056, -0.85044825, -0.57648774, 0.22749294],
    ),
    "hybrid auon": (
        lambda p: HybridAuON(p, lr=0.1, weight_decay=0.01),
        [0.89881551, 0.51912358, -0.33784818, -0.88622187, -0.57363496, 0.26634928],
    ),
    "adamp that projects nothing": (
        lambda p: AdamP(p, lr=0.1, weight_decay=0.01),
        [0.71304085, 0.35560411, -0.37460818, -0.69785520, -0.44696587, 0.26945913],
    ),
    "adamp that projects once": (
        lambda p: AdamP(p, lr=0.1, weight_decay=0.01, delta=1.0),
        [0.79996810, 0.39500501, -0.42410143, -0.78435438, -0.49824730, 0.30685169],
    ),
    "adamp that always projects": (
        lambda p: AdamP(p, lr=0.1, weight_decay=0.01, delta=10.0),
        [0.98874058, 0.49275414, -0.51767127, -0.98510849, -0.62785920, 0.37744704],
    ),
    "sgdp that projects nothing": (
        lambda p: SGDP(p, lr=0.1, weight_decay=0.01, delta=0.0, nesterov=False),
        [0.55872300, 0.32947162, -0.20269445, -0.54850417, -0.39002170, 0.12704493],
    ),
    "sgdp that always projects": (
        lambda p: SGDP(p, lr=0.1, weight_decay=0.01, delta=10.0, nesterov=False),
        [1.00146403, 0.55050868, -0.40658181, -0.98966641, -0.66296741, 0.27326077],
    ),
    "sgdp with nesterov": (
        lambda p: SGDP(p, lr=0.1, weight_decay=0.01, delta=10.0),
        [1.01028454, 0.60903729, -0.35215604, -0.98877195, -0.71676135, 0.21423633],
    ),
    "diffgrad": (
        lambda p: DiffGrad(p, lr=0.1, weight_decay=0.01),
        [0.82047403, 0.41113821, -0.38218766, -0.80715845, -0.50974665, 0.26837452],
    ),
    "clipped adam": (
        lambda p: ClippedAdam(p, lr=0.1, weight_decay=0.01, clipped_share=0.5),
        [0.75795729, 0.38470610, -0.40460286, -0.73009479, -0.49030126, 0.28686535],
    ),
    "split sgd": (
        lambda p: SplitSGD(p, lr=0.1, sign_lr=0.01, momentum=0.9, threshold=0.5),
        [0.97000000, 0.51636369, -0.38711176, -0.95999250, -0.61994561, 0.24028607],
    ),
    "lamb": (
        lambda p: Lamb(p, lr=0.1, weight_decay=0.01),
        [0.77163588, 0.40082058, -0.36501490, -0.75702781, -0.49524464, 0.25543006],
    ),
    "lion": (
        lambda p: Lion(p, lr=0.1, weight_decay=0.01),
        [0.69730290, 0.43898292, -0.31479974, -0.68732539, -0.55198455, 0.18271215],
    ),
}


@pytest.mark.parametrize("name", VECTORS)
def test_three_steps_are_those_of_the_sheet(name):
    make, expected = VECTORS[name]
    assert_equal(after_three_steps(make), expected)


def test_clipped_sgd_takes_the_steps_of_the_sheet():
    parameter = nn.Parameter(start())
    optimizer = torch.optim.SGD([parameter], lr=0.1, momentum=0.9, weight_decay=0.01)
    for step in range(1, 4):
        parameter.grad = gradient(step)
        clip_largest([parameter], 0.34)
        optimizer.step()
    expected = [0.60884704, 0.35843640, -0.23260712, -0.60797908, -0.43489851, 0.15724565]
    assert_equal(parameter.detach(), expected)


def adamw(p: list[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(p, lr=0.1, weight_decay=0.01)


BECOMES_ADAMW: dict[str, Make] = {
    "adamp without a threshold": lambda p: AdamP(p, lr=0.1, weight_decay=0.01, delta=0.0),
    "clipped adam that clips nothing": lambda p: ClippedAdam(p, lr=0.1, weight_decay=0.01, clipped_share=0.0),
    "ademamix without its slow part": lambda p: AdEMAMix(p, lr=0.1, weight_decay=0.01, alpha=0.0),
}


@pytest.mark.parametrize("name", BECOMES_ADAMW)
def test_a_rule_with_its_own_part_switched_off_is_adamw(name):
    torch.testing.assert_close(after_three_steps(BECOMES_ADAMW[name]), after_three_steps(adamw), atol=1e-12, rtol=0)


def test_split_sgd_without_a_threshold_is_dampened_momentum_and_with_zero_the_sign():
    plain = after_three_steps(lambda p: SplitSGD(p, lr=0.1, sign_lr=0.01, threshold=inf))
    parameter, momentum = start(), torch.zeros(2, 3, dtype=torch.float64)
    for step in range(1, 4):
        momentum = 0.9 * momentum + 0.1 * gradient(step)
        parameter = parameter - 0.1 * momentum / (1 - 0.9**step)
    torch.testing.assert_close(plain, parameter)
    signs = after_three_steps(lambda p: SplitSGD(p, lr=0.1, sign_lr=0.01, threshold=0.0)) - start()
    torch.testing.assert_close((signs / 0.01).round(), signs / 0.01)


def test_sam_without_a_radius_is_its_base():
    def sam_of(rho: float) -> Tensor:
        weight = nn.Parameter(start())
        optimizer = torch.optim.AdamW([weight], lr=0.1)

        def compute() -> None:
            weight.grad = None
            (weight**4).sum().backward()

        for _ in range(3):
            sam_step(optimizer, [weight], rho, compute)
        return weight.detach()

    def base() -> Tensor:
        weight = nn.Parameter(start())
        optimizer = torch.optim.AdamW([weight], lr=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            (weight**4).sum().backward()
            optimizer.step()
        return weight.detach()

    torch.testing.assert_close(sam_of(0.0), base(), atol=1e-12, rtol=0)
    assert (sam_of(0.05) - base()).abs().max() > 1e-5


def test_sam_moves_by_rho_along_the_gradient_of_all_parameters_together():
    parameters = [nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(1))]
    parameters[0].grad, parameters[1].grad = torch.tensor([3.0, 0.0]), torch.tensor([4.0])
    with torch.no_grad():
        ascend(list(parameters), 0.1)
    torch.testing.assert_close(parameters[0].detach(), torch.tensor([0.06, 0.0]))
    torch.testing.assert_close(parameters[1].detach(), torch.tensor([0.08]))


def test_the_entries_of_a_cautious_update_never_go_against_the_gradient():
    found = after_three_steps(lambda p: CautiousNAdamW(p, lr=0.1))
    before = after_two = None
    parameter = nn.Parameter(start())
    optimizer = CautiousNAdamW([parameter], lr=0.1)
    for step in range(1, 4):
        parameter.grad = gradient(step)
        before = parameter.detach().clone()
        optimizer.step()
        moved = parameter.detach() - before
        assert bool((moved * gradient(step) <= 0).all())
    after_two = parameter.detach()
    torch.testing.assert_close(found, after_two)


def test_adafactor_of_a_vector_keeps_a_full_second_moment_and_of_a_matrix_rows_and_columns():
    matrix, vector = nn.Parameter(gaussian(4, 3)), nn.Parameter(gaussian(5))
    optimizer = Adafactor([matrix, vector], lr=0.01)
    matrix.grad, vector.grad = gaussian(4, 3, seed=1), gaussian(5, seed=2)
    optimizer.step()
    assert set(optimizer.state[matrix]) == {"step", "momentum", "rows", "columns"}
    assert optimizer.state[matrix]["rows"].shape == (4,)
    assert optimizer.state[matrix]["columns"].shape == (3,)
    assert set(optimizer.state[vector]) == {"step", "momentum", "full"}


def test_adafactor_is_adam_for_a_gradient_of_rank_one():
    """g g^T has rank one: the product of row and column means is exactly its square."""
    rank_one = torch.outer(torch.tensor([1.0, 2.0, -3.0]), torch.tensor([0.5, -1.0])).double()
    parameter = nn.Parameter(torch.zeros(3, 2, dtype=torch.float64))
    optimizer = Adafactor([parameter], lr=0.1, betas=(0.0, 0.99), clip=inf)
    parameter.grad = rank_one
    optimizer.step()
    torch.testing.assert_close(parameter.detach(), -0.1 * rank_one.sign(), atol=1e-9, rtol=0)


def test_adafactor_stands_an_input_that_is_always_zero():
    weight = nn.Parameter(gaussian(4, 3).float())
    optimizer = Adafactor([weight], lr=0.01)
    for step in range(3):
        weight.grad = 1e-4 * gaussian(4, 3, seed=step).float()
        weight.grad[:, 1] = 0.0
        optimizer.step()
    assert bool(torch.isfinite(weight).all())


def test_normuons_rows_move_alike_and_its_update_has_the_size_of_adamws():
    parameter = nn.Parameter(torch.zeros(6, 40, dtype=torch.float64))
    optimizer = NorMuon([parameter], lr=1.0, momentum=0.0, beta2=0.0)
    parameter.grad = gaussian(6, 40) * torch.tensor([1.0, 10.0, 1.0, 1.0, 0.1, 1.0]).double().unsqueeze(1)
    optimizer.step()
    rows = parameter.detach().square().mean(dim=1).sqrt()
    torch.testing.assert_close(rows, torch.full((6,), 0.2, dtype=torch.float64), atol=1e-6, rtol=0)


def test_diffgrad_halves_adams_step_where_the_gradient_stays():
    constant = torch.full((3,), 0.3, dtype=torch.float64)

    def steps_of(make: Make) -> list[Tensor]:
        parameter, seen = nn.Parameter(torch.zeros(3, dtype=torch.float64)), []
        optimizer = make([parameter])
        for _ in range(3):
            parameter.grad = constant.clone()
            before = parameter.detach().clone()
            optimizer.step()
            seen.append(parameter.detach() - before)
        return seen

    friction = steps_of(lambda p: DiffGrad(p, lr=0.1, eps=0.0))
    adam = steps_of(lambda p: torch.optim.Adam(p, lr=0.1, eps=0.0))
    for slow, full in zip(friction[1:], adam[1:], strict=True):
        torch.testing.assert_close(slow, 0.5 * full)


@pytest.mark.parametrize("name", ["sam", "gn_smoothness"])
def test_what_a_network_moves_by_itself_moves_once_a_step_however_often_it_is_looked_at(name):
    submission = load_submission(name)
    train = train_function(submission.folder, submission.entry)
    trial = trial_on_blobs(kind=Following, evaluate_every_steps=5)
    train(trial, Hyperparameters(submission.hyperparameters))
    assert float(trial.model.get_buffer("passes")) == trial.step == 5

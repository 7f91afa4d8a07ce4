"""Diffusion on photographs of clothes: views, factors, the long skip, and what training leaves of the noise."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from harness.api import ConfigError, SplitName
from harness.plugins.data import data_folder, is_present
from tests.workloads.plain_training import adamw, trained
from workloads.frontier.fashion.fashion_diffusion import DEVIATION, FashionDiffusion, root_weight
from workloads.frontier.fashion.level_u_net import LevelUNet

OPTIONS: dict[str, Any] = {"width": 16, "skip_scale": 1.0}
needs_images = pytest.mark.skipif(
    not is_present(FashionDiffusion(**OPTIONS), data_folder()),
    reason="the data are not here: make data WORKLOAD=fashion_diffusion",
)


def workload(**changes: Any) -> FashionDiffusion:
    return FashionDiffusion(**{**OPTIONS, **changes})


def network(**changes: Any) -> LevelUNet:
    torch.manual_seed(0)
    model = workload(**changes).build_model()
    assert isinstance(model, LevelUNet)
    return model


def made_up(count: int) -> dict[str, Tensor]:
    return workload().synthetic_batch(count, torch.Generator().manual_seed(count), data_folder())


def whole(split: SplitName) -> dict[str, Tensor]:
    examples = workload().load(split, data_folder())
    return examples.gather(torch.arange(len(examples)))


@needs_images
def test_images_go_from_black_to_white_and_have_the_deviation_that_factors_are_made_for():
    clean = whole("train")["targets"]
    assert (clean.min().item(), clean.max().item()) == (-1.0, 1.0)
    assert clean.std().item() == pytest.approx(DEVIATION, abs=0.005)
    assert [len(whole(split)["targets"]) for split in ("train", "validation", "test")] == [20_000, 1_000, 1_000]


@needs_images
def test_views_have_the_levels_and_the_noise_that_training_draws():
    batch = whole("validation")
    logs = (batch["levels"].log() + 1.2) / 1.2
    noise = (batch["inputs"] - batch["targets"]) / batch["levels"][:, None, None, None]
    for values in (logs, noise):
        assert values.mean().item() == pytest.approx(0.0, abs=0.1)
        assert values.std().item() == pytest.approx(1.0, abs=0.05)
    assert len(batch["levels"].unique()) > 600


@needs_images
def test_a_network_that_gives_nothing_has_the_loss_that_its_factors_have_by_hand():
    # w (c_skip x - y)^2 has the mean (sigma^2 y^2 / s^2 + s^2) / (sigma^2 + s^2) over the noise.
    batch, square = whole("validation"), DEVIATION**2
    levels = batch["levels"].square()[:, None, None, None]
    expected = ((levels * batch["targets"].square() / square + square) / (levels + square)).mean().item()
    outputs = workload().outputs(network().eval(), batch)
    found = workload().metrics(workload().statistics(outputs, batch))["denoising_error"]
    assert found == pytest.approx(expected, rel=0.01)


def test_the_loss_is_the_metric():
    batch = made_up(5)
    outputs = workload().outputs(network().eval(), batch)
    losses, weights = workload().losses(outputs, batch, 0.0)
    found = workload().metrics(workload().statistics(outputs, batch))
    assert found["denoising_error"] == pytest.approx(losses.mean().item())
    assert weights is None


def test_what_the_network_sees_and_should_give_is_of_size_one_at_each_level():
    model, seen = network(), []
    model.read.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    torch.manual_seed(1)
    clean = DEVIATION * torch.randn(500, 1, 14, 14)
    for level in (0.02, 0.5, 20.0):
        levels = torch.full((500,), level)
        noisy = clean + level * torch.randn_like(clean)
        model(noisy, levels)
        assert seen[-1].std().item() == pytest.approx(1.0, abs=0.02)
        # It gives nothing at the start, so what is lacking is what it should give, and that weighs 1.
        lacking = (model(noisy, levels) - clean) * root_weight(levels)[:, None, None, None]
        assert lacking.std().item() == pytest.approx(1.0, abs=0.02)


def test_the_skip_is_what_was_before_the_pooling_times_its_factor():
    images, levels = made_up(4)["inputs"], torch.ones(4)
    beside: dict[Any, Tensor] = {}
    for scale in (1.0, 0.5, 0.0, "learned"):
        model = network(skip_scale=scale)
        down, seen = [], []
        model.down.register_forward_hook(lambda *given, kept=down: kept.append(given[2]))
        model.up.register_forward_pre_hook(lambda _, given, kept=seen: kept.append(given[0]))
        model(images, levels)
        beside[scale] = seen[0][:, 32:] / down[0]
        if scale != "learned":
            torch.testing.assert_close(seen[0][:, 32:], scale * down[0])
    factors = beside["learned"].flatten(1).nanmedian(dim=1).values
    assert ((factors > 0) & (factors < 1)).all()
    torch.testing.assert_close(beside["learned"], factors[:, None, None, None].expand(4, 16, 14, 14))
    assert len(factors.unique()) == 4


def test_another_word_for_the_skip_is_refused():
    with pytest.raises(ConfigError, match="Use a number, or 'learned'"):
        workload(skip_scale="half").build_model()


def test_training_draws_new_noise_from_torchs_stream_and_evaluation_none():
    batch, model = made_up(8), network().train()
    state = torch.get_rng_state()
    first, other = workload().outputs(model, batch), workload().outputs(model, batch)
    torch.set_rng_state(state)
    assert torch.equal(workload().outputs(model, batch), first)
    assert not torch.equal(first, other)
    model.eval()
    state = torch.get_rng_state()
    assert torch.equal(workload().outputs(model, batch), workload().outputs(model, batch))
    assert torch.equal(torch.get_rng_state(), state)


def best_linear(clean: Tensor, noisy: Tensor, levels: Tensor) -> Tensor:
    """Of all affine maps that with the least squared error at each level, for the mean and covariance of `clean`.

    Shapes: [m, 1, 14, 14], [n, 1, 14, 14], [n] -> [n, 1, 14, 14].
    """
    pixels = clean.flatten(1).double()
    mean = pixels.mean(dim=0)
    variances, axes = torch.linalg.eigh((pixels - mean).T @ (pixels - mean) / len(pixels))
    along = (noisy.flatten(1).double() - mean) @ axes
    kept = variances / (variances + levels.double().square()[:, None])
    return (mean + (kept * along) @ axes.T).float().view_as(noisy)


def linear_error(batch: dict[str, Tensor], clean: Tensor) -> float:
    lacking = best_linear(clean, batch["inputs"], batch["levels"]) - batch["targets"]
    outputs = lacking * root_weight(batch["levels"])[:, None, None, None]
    return workload().metrics(workload().statistics(outputs, batch))["denoising_error"]


@needs_images
def test_the_best_linear_denoiser_leaves_what_the_eigenvalues_say():
    # On the images that it is made for: w times the mean over pixels of sigma^2 l / (l + sigma^2).
    clean = whole("train")["targets"]
    level = torch.tensor(0.3)
    levels = level.expand(len(clean))
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    batch = {"targets": clean, "inputs": clean + level * noise, "levels": levels}
    pixels = clean.flatten(1).double()
    eigenvalues = torch.linalg.eigvalsh((pixels - pixels.mean(dim=0)).T @ (pixels - pixels.mean(dim=0)) / len(pixels))
    left = (0.09 * eigenvalues / (eigenvalues + 0.09)).mean().item()
    expected = left * root_weight(level).square().item()
    assert linear_error(batch, clean) == pytest.approx(expected, rel=0.01)


@needs_images
@pytest.mark.slow
def test_a_short_training_beats_the_best_linear_denoiser():
    _, seen = trained(workload(), adamw(3e-3), steps=250, batch_size=32)
    linear = linear_error(whole("validation"), whole("train")["targets"])
    assert linear == pytest.approx(0.446, abs=0.002)
    assert seen[-1]["denoising_error"] < 0.9 * linear  # 0.36

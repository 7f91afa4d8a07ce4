"""What a frozen model has in its middle, which numbers are kept of it, and what the model then still reads."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from harness.api import SPLITS, ConfigError, DataError, SplitName
from harness.plugins.data import data_folder, is_present
from harness.race.evaluation import evaluate
from workloads.adapter_english import KingJamesBase, trained_base
from workloads.frontier.language.activations import (
    LEVELS,
    SLOPE_LEVELS,
    WIDTH,
    WINDOW,
    ActivationFile,
    first_half,
    frozen_base,
    positions,
    second_half,
)
from workloads.frontier.language.language_autoencoder import LanguageAutoencoder, Positions, SparseAutoencoder

WORKLOAD = LanguageAutoencoder(latents=256, kept=256, selection="magnitude")


@functools.cache
def split(name: SplitName) -> Positions:
    if not is_present(WORKLOAD, data_folder()):
        pytest.skip("the activations are not here: make data WORKLOAD=language_autoencoder")
    examples = WORKLOAD.load(name, data_folder())
    assert isinstance(examples, Positions)
    return examples


def says_all_again() -> SparseAutoencoder:
    """Each number is one latent where it is positive, another where it is negative."""
    model = SparseAutoencoder(width=WIDTH, latents=2 * WIDTH, kept=2 * WIDTH, by_gradient=False)
    identity = torch.eye(WIDTH)
    with torch.no_grad():
        model.decoder.weight.copy_(torch.cat([identity, -identity], dim=1))
        model.encoder.weight.copy_(model.decoder.weight.T)
    return model


# --- the file ---


@pytest.mark.slow
def test_no_number_is_so_near_to_the_next_level_that_another_order_of_sums_could_round_it_otherwise():
    if not is_present(KingJamesBase(), data_folder()):
        pytest.skip("the text is not here: make data WORKLOAD=kjv_char_lm")
    exact = positions(data_folder())
    stored = numpy.concatenate([ActivationFile().read(name, data_folder()) for name in SPLITS])
    assert (numpy.rint(exact) == stored).all()
    assert abs(exact[:, : 2 * WIDTH] % 1 - 0.5).min() > 5e-8
    # Window by window, sums come in another order: they move numbers by 2e-11 levels at most.
    base = trained_base()
    for parameter in base.parameters():
        parameter.data = parameter.data.double()
    for window in range(3):
        symbols = KingJamesBase().load("train", data_folder()).gather(torch.tensor([window * (58_679 // 1_024)]))
        found = LEVELS * first_half(base, symbols["inputs"]).detach()[0].numpy()
        assert abs(found - exact[WINDOW * window : WINDOW * (window + 1), :WIDTH]).max() < 1e-9


def test_a_missing_file_is_named_with_the_way_to_make_it(tmp_path: Path):
    with pytest.raises(
        DataError, match=r"language_activations/positions\.bin is missing or cut short\. Run: make data"
    ):
        WORKLOAD.load("train", tmp_path)


def test_activations_have_mean_0_and_slopes_are_those_of_the_loss():
    train = split("train").gather(torch.arange(len(split("train"))))
    assert train["inputs"].mean(dim=0).abs().max().item() < 0.5 / LEVELS
    assert train["inputs"].std().item() == pytest.approx(1.15, abs=0.01)
    held = split("validation")
    batch, symbols = held.gather(torch.arange(WINDOW)), held.tensors()["symbols"][:WINDOW]

    def loss(inputs: torch.Tensor) -> torch.Tensor:
        hidden = 2.0 * inputs + (held.tensors()["levels"][:WINDOW, :WIDTH] / LEVELS - 2.0 * batch["inputs"])
        scores = second_half(frozen_base(torch.device("cpu")), hidden[None])
        return F.cross_entropy(scores[0], symbols, reduction="sum")

    inputs = batch["inputs"].clone().requires_grad_()
    [slopes] = torch.autograd.grad(loss(inputs), inputs)
    # As near as stored activations and slopes are rounded.
    torch.testing.assert_close(batch["slopes"], slopes, atol=3 * 2.0 / SLOPE_LEVELS, rtol=0.02)
    way = 1e-2 * batch["slopes"] / batch["slopes"].norm()
    with torch.no_grad():
        risen = (loss(batch["inputs"] + way) - loss(batch["inputs"] - way)).item()
    assert risen == pytest.approx(2e-2 * batch["slopes"].norm().item(), rel=0.02)


def test_the_frozen_base_can_be_differentiated_through_whoever_has_asked_for_it_first():
    frozen_base.cache_clear()
    with torch.inference_mode():
        frozen_base(torch.device("cpu"))
    hidden = torch.zeros(1, 2, WIDTH, requires_grad=True)
    second_half(frozen_base(torch.device("cpu")), hidden).sum().backward()
    assert hidden.grad is not None


# --- the network ---


def test_the_largest_are_kept_or_those_that_the_loss_hangs_on():
    inputs, slopes = torch.tensor([[3.0, 2.0, 1.0, -4.0]]), torch.tensor([[0.1, 0.0, -5.0, 9.0]])
    kept = {}
    for by_gradient in (False, True):
        model = SparseAutoencoder(width=4, latents=4, kept=2, by_gradient=by_gradient)
        with torch.no_grad():
            model.encoder.weight.copy_(torch.eye(4))
            # Of any length: columns count by their direction.
            model.decoder.weight.copy_(7.0 * torch.eye(4))
        kept[by_gradient] = model(inputs, slopes).tolist()
    # A negative number is no latent, whatever hangs on it.
    assert kept == {False: [[3.0, 2.0, 0.0, 0.0]], True: [[3.0, 0.0, 1.0, 0.0]]}


def test_what_is_chosen_has_no_gradient_and_what_is_kept_has():
    model = SparseAutoencoder(width=8, latents=16, kept=3, by_gradient=True)
    inputs, slopes = torch.randn(5, 8), torch.randn(5, 8, requires_grad=True)
    model(inputs, slopes).square().sum().backward()
    assert slopes.grad is None
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_another_selection_is_answered():
    with pytest.raises(ConfigError, match=r"selection is 'largest'\. Use one of magnitude, gradient"):
        LanguageAutoencoder(latents=8, kept=2, selection="largest")  # type: ignore[arg-type]


# --- the metrics ---


def test_who_says_all_again_loses_nothing_and_zeros_lose_all():
    held = split("validation")
    found = evaluate(WORKLOAD, says_all_again(), held, 1024)
    assert found["loss_recovered_error"] == pytest.approx(0.0, abs=1e-6)
    assert found["fit_error"] == pytest.approx(0.0, abs=1e-9)
    assert found["dead_latents"] == 0.0
    # Zeros of the model are not those of what is given out, which is centred.
    centre = held.gather(torch.arange(len(held)))["inputs"] * 2.0 - held.tensors()["levels"][:, :WIDTH] / LEVELS
    assert held.error_with(centre / 2.0) == pytest.approx(1.0, abs=1e-6)


def test_the_models_loss_is_that_of_the_whole_base_on_the_held_out_books():
    held = split("validation")
    if not is_present(KingJamesBase(), data_folder()):
        pytest.skip("the text is not here: make data WORKLOAD=kjv_char_lm")
    windows = KingJamesBase().load("validation", data_folder())
    batch = windows.gather(torch.arange(64) * (len(windows) // 64))
    with torch.no_grad():
        whole = F.cross_entropy(trained_base()(batch["inputs"]).flatten(0, 1), batch["targets"].flatten()).item()
        found = held.loss_with(held.gather(torch.arange(len(held)))["inputs"])
    # Activations are rounded to 1/256.
    assert found == pytest.approx(whole, abs=2e-3)


def test_latents_that_nothing_is_kept_of_are_dead():
    model = says_all_again()
    with torch.no_grad():
        model.encoder.bias[64:] = -1e9
    with torch.inference_mode():
        assert WORKLOAD.decoded_metrics(model, split("test"))["dead_latents"] == pytest.approx(0.75)


def test_an_evaluation_moves_no_random_numbers():
    held = split("validation")
    frozen_base.cache_clear()
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    with torch.inference_mode():
        WORKLOAD.decoded_metrics(says_all_again_without_draws(), held)
    assert torch.equal(torch.rand(3), expected)


@functools.cache
def says_all_again_without_draws() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        return says_all_again()

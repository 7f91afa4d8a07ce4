"""Levels that a sampler needs: which are chosen, and where points end that go along them, where that is known."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from harness.api import KnownDenoiser
from harness.diagnostics.probe import NotHere, Probe
from harness.diagnostics.sampling import LEVELS, ends, greedy, sampling
from tests.blobs import Blobs

RIGHT = 9


def gaussian(noisy: Tensor, levels: Tensor) -> Tensor:
    """The best for points of variance 1 around 0."""
    return noisy / (1 + levels.square())[:, None]


class Denoised(Blobs):
    """Blobs whose network is also taken for a denoiser: the best one, or one that is right at a single level."""

    single = False

    def known_denoiser(self, model: nn.Module) -> KnownDenoiser:  # noqa: ARG002
        noise = torch.randn(64, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        place = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
        right = 8.0 * (1 / 400) ** (RIGHT / (LEVELS - 1))

        def at_one_level(noisy: Tensor, levels: Tensor) -> Tensor:
            is_right = (levels - right).abs() < 1e-6
            return torch.where(is_right[:, None], place, -place).expand_as(noisy)

        def always(noisy: Tensor, levels: Tensor) -> Tensor:  # noqa: ARG001
            return place.expand_as(noisy)

        if self.single:
            return KnownDenoiser(at_one_level, always, noise, (8.0, 0.02))
        return KnownDenoiser(gaussian, gaussian, noise, (8.0, 0.02))


class RightAtOneLevel(Denoised):
    single = True


def probe_of(workload: Blobs) -> Probe:
    return Probe(workload, workload.build_model(), workload.load("train", Path()))


def test_many_levels_go_along_the_exact_path_of_a_gaussian():
    noise = torch.tensor([[1.0], [-2.0]], dtype=torch.float64)
    levels = torch.logspace(math.log10(8.0), -3, 4000, dtype=torch.float64)
    # dx / dsigma = (x - D) / sigma has x / sqrt(1 + sigma^2) constant.
    torch.testing.assert_close(ends(gaussian, noise, levels), 8.0 * noise / math.sqrt(65.0), rtol=2e-3, atol=0)


def test_one_level_ends_at_what_it_denoises():
    noise = torch.tensor([[1.0, -2.0]], dtype=torch.float64)
    torch.testing.assert_close(ends(gaussian, noise, torch.tensor([2.0]).double()), 2.0 * noise / 5)


def test_places_are_added_where_the_error_is_then_least():
    values = [5.0, 3.0, 4.0, 1.0]

    def error(places: Sequence[int]) -> float:
        # The first two go well together, but neither is the best alone.
        return 0.0 if list(places) == [0, 1] else sum(values[place] for place in places) / len(places) ** 2

    assert greedy(error, 4, 1) == [3]
    assert greedy(error, 4, 2) == [1, 3]


def test_a_network_that_is_the_best_denoiser_needs_no_other_levels_than_that():
    found = sampling(probe_of(Denoised()))
    assert found["learned_all"] == 0.0
    assert found["learned_chosen"] == found["best_chosen"] < found["learned_even"] == found["best_even"]
    levels = [found[f"level_{number}"] for number in range(1, 5)]
    assert levels == sorted(levels, reverse=True)


def test_the_level_at_which_a_network_is_right_is_found_and_goes_last():
    found = sampling(probe_of(RightAtOneLevel()))
    assert found["level_4"] == pytest.approx(8.0 * (1 / 400) ** (RIGHT / (LEVELS - 1)))
    assert found["learned_chosen"] == pytest.approx(0.0, abs=1e-12)
    # Evenly apart, and with all, the last level sends points to the other side.
    assert found["learned_even"] == pytest.approx(2 * math.sqrt(14 / 3))
    assert found["learned_all"] == pytest.approx(2 * math.sqrt(14 / 3))


def test_where_no_best_denoiser_is_known_there_is_nothing_to_choose():
    with pytest.raises(NotHere, match="the best denoiser is not known"):
        sampling(probe_of(Blobs()))

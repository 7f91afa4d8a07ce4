"""Neural collapse and calibration: each where the answer is known."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from harness.diagnostics.outputs import calibration, collapse, expected_calibration_error, fitted_temperature
from harness.diagnostics.probe import Features, NotHere, Probe, features_of
from tests.blobs import Blobs
from tests.diagnostics.test_spectrum import Regression


def simplex(classes: int, width: int) -> torch.Tensor:
    """Points equally far from each other, with their mean in the origin, turned by chance. Shape: [classes, width]."""
    points = torch.eye(classes, dtype=torch.float64) - 1.0 / classes
    turn, _ = torch.linalg.qr(
        torch.randn(width, classes, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    )
    return points @ turn.T


def features_at(means: torch.Tensor, *, noise: float, each: int = 40, weight: torch.Tensor | None = None) -> Features:
    labels = torch.arange(len(means)).repeat(each)
    drawn = torch.randn(len(labels), means.shape[1], dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    features = means[labels] + noise * drawn
    weight = means if weight is None else weight
    return Features(features, labels, features @ weight.T, weight)


def test_a_simplex_without_spread_is_full_collapse():
    at = features_at(simplex(5, 7), noise=0.0, weight=2.0 * simplex(5, 7))
    found = collapse(Features(3.0 + at.features, at.labels, at.scores, at.output_weight))  # a bias may take any shift
    assert [found[name] for name in ("nc1", "nc2_norms", "nc2_angles", "nc3")] == pytest.approx([0.0] * 4, abs=1e-7)
    assert found["nc4"] == 1.0


def test_spread_within_classes_is_over_that_between_them():
    # On a simplex of 5 the spread between means is the same in 4 directions, and that within them is noise^2 in each.
    means = simplex(5, 7)
    found = collapse(features_at(means, noise=0.1, each=4000))
    between = float(torch.linalg.eigvalsh(means.T @ means / 5).max())
    assert found["nc1"] == pytest.approx(0.1**2 / between * 4 / 5, rel=0.02)


def test_classes_that_are_missing_are_left_out_and_one_alone_has_no_collapse():
    whole = features_at(simplex(5, 7), noise=0.0)
    kept = whole.labels != 2
    some = Features(whole.features[kept], whole.labels[kept], whole.scores[kept], whole.output_weight)
    assert collapse(some)["nc4"] == 1.0
    one = whole.labels == 2
    with pytest.raises(NotHere, match="the probe set has one class"):
        collapse(Features(whole.features[one], whole.labels[one], whole.scores[one], whole.output_weight))


def test_how_far_the_last_hidden_layer_moves_its_input_is_read_where_it_is_square():
    class Grows(Blobs):
        def build_model(self) -> torch.nn.Module:
            first, second, last = torch.nn.Linear(8, 6), torch.nn.Linear(6, 6), torch.nn.Linear(6, 2)
            second.weight.data = 1.25 * torch.eye(6)
            torch.nn.init.zeros_(second.bias)
            return torch.nn.Sequential(first, second, last)

    square = Grows()
    probe = Probe(square, square.build_model(), square.load("train", Path()))
    assert collapse(features_of(probe))["layer_step"] == pytest.approx(0.25)
    plain = Blobs(hidden=6)
    assert "layer_step" not in collapse(features_of(Probe(plain, plain.build_model(), plain.load("train", Path()))))


def test_features_are_what_the_output_layer_gets_of_the_units_that_count():
    workload = Blobs(hidden=6, masked=True)
    probe = Probe(workload, workload.build_model(), workload.load("train", Path()))
    found = features_of(probe)
    batch = probe.train_set.gather(probe.index)
    counted = batch["weights"] > 0
    assert found.features.shape == (int(counted.sum()), 6)
    layer = probe.model[-1]
    torch.testing.assert_close(found.features.float() @ layer.weight.T + layer.bias, found.scores.float())
    assert torch.equal(found.labels, batch["targets"][counted])


def test_a_regression_has_no_features_with_classes():
    workload = Regression()
    with pytest.raises(NotHere, match="the loss is mean_squared_error: there are no classes"):
        features_of(Probe(workload, workload.build_model(), workload.load("train", Path())))


def test_the_calibration_error_of_a_case_by_hand():
    confidence, correct = torch.tensor([0.9, 0.9, 0.6, 0.6]), torch.tensor([1.0, 0.0, 1.0, 1.0])
    assert expected_calibration_error(confidence, correct) == pytest.approx(0.4)
    assert expected_calibration_error(confidence.flip(0), correct.flip(0)) == pytest.approx(0.4)


def test_confidence_that_says_how_often_it_is_right_has_little_error_and_bins_hold_equally_many():
    generator = torch.Generator().manual_seed(0)
    confidence = 0.5 + 0.5 * torch.rand(30_000, generator=generator)
    correct = (torch.rand(30_000, generator=generator) < confidence).double()
    assert expected_calibration_error(confidence, correct) < 0.02
    # Off by 0.2 in one of 15 bins of equal mass, and right in all others.
    order = confidence.argsort()
    shifted = confidence.clone()
    shifted[order[:2000]] -= 0.2
    assert expected_calibration_error(shifted, correct) == pytest.approx(0.2 / 15, abs=0.012)


def test_scores_that_were_multiplied_are_divided_again_and_nats_come_back():
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(20_000, 4, generator=generator).double()
    labels = torch.multinomial(scores.softmax(dim=1), 1, generator=generator).flatten()
    assert fitted_temperature(3.0 * scores, labels) == pytest.approx(3.0, rel=0.05)
    sharp = Features(scores, labels, 3.0 * scores, torch.zeros(4, 4))
    found = calibration(sharp, torch.Generator().manual_seed(0))
    assert found["nats_held_out_after"] == pytest.approx(
        -float(scores.log_softmax(1)[range(20_000), labels].mean()), abs=0.02
    )
    assert found["nats_held_out"] > found["nats_held_out_after"] + 0.1
    assert found["error_low"] < found["error"] < found["error_high"]
    assert found["error"] == pytest.approx(found["confidence"] - found["accuracy"], abs=0.01)


def test_the_brier_score_of_a_case_by_hand():
    shares = torch.tensor([[0.7, 0.3], [0.4, 0.6]]).double()
    found = calibration(
        Features(shares, torch.tensor([0, 0]), shares.log(), torch.zeros(2, 2)), torch.Generator().manual_seed(0)
    )
    assert found["brier"] == pytest.approx((2 * 0.3**2 + 2 * 0.6**2) / 2)

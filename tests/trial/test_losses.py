"""Losses of several terms, and losses that couple the examples of a batch, as submissions see them."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from harness.api import ConfigError, mean_loss
from harness.trial.trial import Trial
from tests.blobs import Blobs
from tests.made_losses import Contrastive, Misnamed, TwoTerms
from tests.trial.passes.trials import trial_on_blobs


def by_hand(trial: Trial, batch: dict[str, Tensor], *, label_smoothing: float = 0.0) -> tuple[Tensor, Tensor]:
    """`task` and a tenth of `size` of the mean loss of TwoTerms."""
    scores = trial.outputs(batch)
    task = F.cross_entropy(scores, batch["targets"], reduction="none", label_smoothing=label_smoothing)
    is_task = batch["inputs"][:, 0] > 0
    counts = batch["weights"][:, None].expand_as(scores) > 0 if "weights" in batch else torch.ones_like(scores) > 0
    return task[is_task].mean(), 0.1 * scores.square()[counts].mean()


def gradient(value: Tensor, trial: Trial) -> Tensor:
    parts = torch.autograd.grad(value, list(trial.model.parameters()), retain_graph=True)
    return torch.cat([part.flatten() for part in parts])


@pytest.mark.parametrize("masked", [False, True], ids=["all scores count", "masked scores"])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.2])
def test_a_loss_of_several_terms_is_the_sum_of_weight_times_masked_mean(masked: bool, label_smoothing: float):
    trial = trial_on_blobs({"masked": masked}, TwoTerms)
    batch = trial.next_batch()
    task, size = by_hand(trial, batch, label_smoothing=label_smoothing)
    terms = trial.loss_terms(batch, label_smoothing=label_smoothing)
    assert list(terms) == ["task", "size"]
    torch.testing.assert_close(terms, {"task": task, "size": size})
    loss = trial.loss(batch, label_smoothing=label_smoothing)
    assert torch.equal(loss, sum(trial.loss_terms(batch, label_smoothing=label_smoothing).values(), torch.zeros(())))
    torch.testing.assert_close(loss, task + size)


def test_each_term_has_a_gradient_of_its_own_and_together_that_of_the_loss():
    trial = trial_on_blobs({"masked": True}, TwoTerms)
    batch = trial.next_batch()
    task, size = by_hand(trial, batch)
    terms = trial.loss_terms(batch)
    expected = {"task": gradient(task, trial), "size": gradient(size, trial)}
    for name, term in terms.items():
        torch.testing.assert_close(gradient(term, trial), expected[name])
    torch.testing.assert_close(gradient(trial.loss(batch), trial), sum(expected.values(), torch.zeros(())))


def test_most_losses_have_one_term_which_is_the_loss_bit_for_bit():
    trial = trial_on_blobs({"masked": True})
    batch = trial.next_batch()
    terms = trial.loss_terms(batch, label_smoothing=0.1)
    assert list(terms) == ["loss"]
    assert torch.equal(terms["loss"], trial.loss(batch, label_smoothing=0.1))
    unit_losses, weights = trial.unit_losses(batch, label_smoothing=0.1)
    assert torch.equal(terms["loss"], mean_loss(unit_losses, weights))


def test_terms_take_outputs_that_were_made_before():
    trial = trial_on_blobs(kind=TwoTerms)
    batch = trial.next_batch()
    outputs = trial.outputs(batch)
    assert {name: term.item() for name, term in trial.loss_terms(batch, outputs=outputs * 0).items()} == {
        "task": pytest.approx(0.6931, abs=1e-4),
        "size": 0.0,
    }


def test_of_several_terms_the_loss_is_the_mean_of_the_shares_of_the_examples():
    trial = trial_on_blobs({"masked": True}, TwoTerms)
    batch = trial.next_batch()
    loss, shares = trial.loss(batch), trial.loss(batch, reduction="none")
    assert shares.shape == (32,)
    torch.testing.assert_close(shares.mean(), loss)
    torch.testing.assert_close(trial.loss(batch, reduction="sum"), 32 * loss)
    unit_losses, weights = trial.unit_losses(batch)
    assert weights is None
    torch.testing.assert_close(unit_losses, shares)


def test_a_term_of_which_nothing_counts_adds_nothing():
    trial = trial_on_blobs(kind=TwoTerms)
    batch = {**trial.next_batch(), "weights": torch.zeros(32)}
    assert trial.loss_terms(batch)["size"].item() == 0.0
    loss = trial.loss(batch)
    torch.testing.assert_close(loss, by_hand(trial, batch)[0])
    assert torch.isfinite(gradient(loss, trial)).all()
    torch.testing.assert_close(trial.loss(batch, reduction="none").mean(), loss)


def test_a_smoothing_of_terms_outside_of_its_range_is_an_error():
    trial = trial_on_blobs(kind=TwoTerms)
    with pytest.raises(ConfigError, match=r"label_smoothing is 1\.5"):
        trial.loss_terms(trial.next_batch(), label_smoothing=1.5)


def test_terms_of_other_names_than_the_workload_says_are_an_error():
    trial = trial_on_blobs(kind=Misnamed)
    batch = trial.next_batch()
    for ask in (trial.loss, trial.loss_terms, trial.unit_losses):
        with pytest.raises(
            ConfigError, match=r"Misnamed\.loss_terms gives size, task, but term_weights names task, margin"
        ):
            ask(batch)


def test_where_examples_are_coupled_the_loss_is_the_mean_of_their_shares_too():
    trial = trial_on_blobs(kind=Contrastive)
    batch = trial.next_batch()
    shares = trial.loss(batch, reduction="none")
    assert shares.shape == (32,)
    torch.testing.assert_close(shares.mean(), trial.loss(batch))
    half = trial.loss({name: values[:16] for name, values in batch.items()}, reduction="none")
    assert not torch.allclose(half, shares[:16], rtol=1e-2)


@pytest.mark.parametrize("kind", [Blobs, TwoTerms], ids=["one term", "two terms"])
def test_a_plain_loop_learns_whatever_the_loss_is_made_of(kind: type[Blobs]):
    trial = trial_on_blobs(kind=kind)
    optimizer = torch.optim.AdamW(trial.model.parameters(), lr=0.02)
    found = []
    for _ in range(60):
        loss = trial.loss(trial.next_batch())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    assert sum(found[-5:]) < 0.7 * sum(found[:5])

"""The saliency mask computes what its sheet writes: which weights are trained, and that the others stay."""

from __future__ import annotations

import torch
from torch import Tensor

from harness.api import Hyperparameters
from harness.plugins.conformance.problems import AdaptedStripes, Stripes
from harness.plugins.conformance.rehearsal import Rehearsal
from harness.plugins.submission import load_submission
from submissions.adamw.submission import train as train_adamw
from submissions.saliency_mask.submission import gradient_on, salient, to_forget, train


def defaults(**changed: object) -> Hyperparameters:
    return Hyperparameters({**load_submission("saliency_mask").hyperparameters, **changed})


def test_the_largest_sizes_of_all_tensors_together_are_kept():
    first, second = torch.tensor([[0.1, -0.9], [0.3, 0.0]]), torch.tensor([-0.5, 0.2])
    masks = salient([first, second], 0.5)
    assert [mask.tolist() for mask in masks] == [[[False, True], [True, False]], [True, False]]
    assert all(bool(mask.all()) for mask in salient([first, second], 1.0))


def test_the_last_group_is_forgotten_and_its_gradient_is_summed_over_all_of_it():
    trial = Rehearsal(AdaptedStripes()).trial
    index = to_forget(trial)
    assert index is not None
    assert torch.equal(index, torch.arange(0, 512, 7))
    batch = trial.train_set.gather(index)
    trial.model.eval()
    expected = torch.autograd.grad(trial.loss(batch, reduction="sum"), list(trial.model.parameters()))
    for found, each in zip(gradient_on(trial, index), expected, strict=True):
        torch.testing.assert_close(found, each, rtol=1e-4, atol=1e-5)
    assert trial.model.training


def moved(rehearsal: Rehearsal) -> Tensor:
    now, before = rehearsal.weights[-1], rehearsal.initial_weights
    return torch.cat([(now[name] != each).flatten() for name, each in before.items()])


def test_half_of_the_weights_is_trained_and_the_rest_is_where_it_was_whatever_the_decay():
    rehearsal = Rehearsal(AdaptedStripes()).run(train, defaults(weight_decay=0.5))
    share = moved(rehearsal).double().mean().item()
    assert 0.45 < share <= 0.51  # what has no gradient at the start, such as `down` of adapters, is in no mask


def test_without_groups_or_with_all_weights_it_is_adamw():
    for problem, point in ((Stripes, defaults()), (AdaptedStripes, defaults(trained_share=1.0))):
        mine = Rehearsal(problem()).run(train, point).weights[-1]
        plain = Rehearsal(problem()).run(train_adamw, point).weights[-1]
        assert all(torch.equal(mine[name], plain[name]) for name in plain)

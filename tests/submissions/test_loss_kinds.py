"""Submissions that branch on the kind of the loss: one that they do not know is to them as `other`."""

from __future__ import annotations

import contextlib
import sys

import pytest
import torch

from harness.api import ConfigError, Hyperparameters, LossKind
from harness.plugins.own_network import forget_helpers
from harness.plugins.submission import SUBMISSIONS, load_submission, train_function
from harness.trial.conversation import TrialOver
from tests.trial.test_trial import make_trial

STEPS = 12  # any_loss takes the first nine by the workload's own loss
UNKNOWN = [LossKind.HINGE, LossKind.CONTRASTIVE, LossKind.POLICY_GRADIENT, LossKind.ENERGY]
BRANCHING = sorted(
    path.parent.name
    for path in SUBMISSIONS.glob("*/*.py")
    if any(word in path.read_text(encoding="utf-8") for word in ("loss_kind", "label_codes"))
)


def after_a_few_steps(name: str, kind: LossKind) -> list[torch.Tensor] | str:
    """The weights, or why there are none."""
    trial, _ = make_trial([None], every=STEPS, hidden=8)
    trial.loss_kind = kind
    submission = load_submission(name)
    # Others of this process may have helpers of the same names, before this and after it.
    forget_helpers(submission.folder)
    places = list(sys.path)
    try:
        train = train_function(submission.folder, submission.entry, submission.api)
        with contextlib.suppress(TrialOver):
            train(trial, Hyperparameters(submission.hyperparameters))
    except ConfigError as error:
        return str(error)
    finally:
        sys.path[:] = places
        forget_helpers(submission.folder)
    assert trial.step == STEPS
    return [parameter.detach().clone() for parameter in trial.model.parameters()]


def test_there_are_submissions_that_branch():
    assert {"any_loss", "sophia", "target_surrogate"} <= set(BRANCHING)


@pytest.mark.parametrize("name", BRANCHING)
def test_a_kind_that_a_submission_does_not_know_is_as_other(name: str):
    other = after_a_few_steps(name, LossKind.OTHER)
    for kind in UNKNOWN:
        found = after_a_few_steps(name, kind)
        if isinstance(other, str) or isinstance(found, str):
            assert found == other
        else:
            assert all(map(torch.equal, found, other)), kind


@pytest.mark.parametrize("name", ["any_loss", "tp_sgd"])
def test_a_kind_that_a_submission_knows_makes_a_difference(name: str):
    known, other = (after_a_few_steps(name, kind) for kind in (LossKind.SOFTMAX_CROSS_ENTROPY, LossKind.OTHER))
    assert not all(map(torch.equal, known, other))

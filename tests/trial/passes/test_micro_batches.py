"""A batch that goes through the network in parts: one step for the submission, gradients of the whole batch."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from harness.api import ConfigError
from harness.config import HardwareConfig
from harness.trial.passes.pinned import pinned
from harness.trial.trial import Trial
from tests.trial.passes.trials import trial_on_blobs
from workloads.networks.speech.speech_layers import MaskedBatchNorm


def trial_in_parts(*, micro_batch: int | None, **options) -> Trial:
    trial = trial_on_blobs(options, micro_batch=micro_batch)
    torch.manual_seed(2)
    return trial


def gradients(trial: Trial) -> list[torch.Tensor]:
    trial.loss(trial.next_batch()).backward()
    return [parameter.grad for parameter in trial.model.parameters()]


@pytest.mark.parametrize("micro_batch", [1, 7, 16, 32, 100])
@pytest.mark.parametrize("masked", [False, True])
def test_gradients_are_those_of_the_whole_batch(micro_batch: int, masked: bool):
    whole, parts = (gradients(trial_in_parts(micro_batch=size, masked=masked)) for size in (None, micro_batch))
    for one, other in zip(whole, parts, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)


def test_so_many_examples_go_through_the_network_at_once_and_are_not_kept():
    trial = trial_in_parts(micro_batch=12)
    sizes: list[int] = []
    trial.model.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    loss = trial.loss(trial.next_batch())
    assert sizes == [12, 12, 8]
    loss.backward()
    assert sorted(sizes[3:]) == [8, 12, 12], "each part is computed again for its gradient"
    with torch.no_grad():
        trial.loss(trial.next_batch())
    assert sizes[6:] == [12, 12, 8]


def test_the_pass_that_is_made_again_has_the_dropout_masks_of_the_first():
    trial = trial_in_parts(micro_batch=16, dropout=0.5)
    batch = trial.next_batch()
    torch.manual_seed(3)
    trial.loss(batch).backward()
    found = [parameter.grad.clone() for parameter in trial.model.parameters()]
    trial.model.zero_grad()
    torch.manual_seed(3)
    kept = torch.cat([trial.model(batch["inputs"][:16]), trial.model(batch["inputs"][16:])])
    trial.loss(batch, outputs=kept).backward()
    for one, parameter in zip(found, trial.model.parameters(), strict=True):
        torch.testing.assert_close(one, parameter.grad)


def test_running_statistics_move_once_for_each_part():
    trial = trial_in_parts(micro_batch=8, batch_norm=True)
    norm = next(module for module in trial.model.modules() if isinstance(module, nn.BatchNorm1d))
    loss = trial.loss(trial.next_batch())
    before = {name: values.clone() for name, values in norm.named_buffers()}
    assert before["num_batches_tracked"] == 4
    loss.backward()
    assert all(torch.equal(values, before[name]) for name, values in norm.named_buffers())
    assert norm.track_running_stats


def test_batch_norm_over_frames_stands_still_too_where_it_is_asked_to():
    norm = MaskedBatchNorm(4, momentum=0.1)
    inputs, mask = torch.randn(3, 5, 4), torch.ones(3, 5, 1)

    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = norm

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return self.norm(inputs, mask)

    network = Masked()
    with pinned(network, torch.device("cpu")):
        for _ in range(3):
            network(inputs)
    assert norm.num_batches_tracked == 1


def test_a_part_of_no_examples_is_refused():
    with pytest.raises(ConfigError, match=r"micro_batches\.blobs is 0"):
        HardwareConfig("local", "cpu", 1, None, {}, micro_batches={"blobs": 0})

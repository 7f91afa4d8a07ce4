"""Saliency mask (SalUn): only those weights are trained that the loss of what is to be forgotten depends on most."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from harness import Hyperparameters, ResumableTensors, Trial, train_loop, warmup_cosine


def salient(gradients: Sequence[Tensor], share: float) -> list[Tensor]:
    """Masks of the `share` of all numbers, of all tensors together, that have the largest sizes. Shapes: alike, bool.

    Source: Fan et al., arXiv 2310.12508, section 4; one version of the authors' code keeps the smallest.
    """
    sizes = torch.cat([gradient.abs().flatten() for gradient in gradients])
    chosen = torch.zeros_like(sizes, dtype=torch.bool)
    chosen[sizes.topk(round(share * len(sizes))).indices] = True
    parts = chosen.split([gradient.numel() for gradient in gradients])
    return [part.view_as(gradient) for part, gradient in zip(parts, gradients, strict=True)]


def to_forget(trial: Trial) -> Tensor | None:
    """Which training examples are of the last group. Shape: int64 [n]; None where there are no groups."""
    groups = trial.train_set.tensors().get("groups")
    return None if groups is None else (groups == groups.max()).nonzero()[:, 0]


def gradient_on(trial: Trial, index: Tensor) -> list[Tensor]:
    """Gradient of the summed loss on these examples, in eval mode, of each parameter that is trained."""
    trial.model.zero_grad(set_to_none=True)
    trial.model.eval()
    # As many for each rank.
    for part in index[: len(index) // trial.world_size * trial.world_size].split(trial.batch_size_hint):
        trial.loss(trial.take(part), reduction="sum").backward()
    trial.model.train()
    parameters = [parameter for parameter in trial.model.parameters() if parameter.requires_grad]
    found = [torch.zeros_like(each) if each.grad is None else each.grad for each in parameters]
    trial.model.zero_grad(set_to_none=True)
    return found


class Mask:
    """Holds weights where a mask leaves them out; all where there is none."""

    def __init__(self, trial: Trial, parameters: Sequence[Tensor], masks: Sequence[Tensor]) -> None:
        self._parameters = parameters
        self._masks = ResumableTensors(**{str(number): mask for number, mask in enumerate(masks)})
        start = [parameter.detach().clone() for parameter in parameters[: len(masks)]]
        self._start = ResumableTensors(**{str(number): each for number, each in enumerate(start)})
        trial.resumable(masks=self._masks, start=self._start)

    @torch.no_grad()
    def put_back(self) -> None:
        """What the mask leaves out is what it was at the start, whatever has moved it: decay of weights, too."""
        masks, start = self._masks.state_dict(), self._start.state_dict()
        for name, mask in masks.items():
            parameter = self._parameters[int(name)]
            parameter.copy_(torch.where(mask, parameter, start[name]))


def train(trial: Trial, hp: Hyperparameters) -> None:
    """AdamW on the weights that the loss of the last group depends on most; where there are no groups, on all."""
    parameters = [parameter for parameter in trial.model.parameters() if parameter.requires_grad]
    index = to_forget(trial)
    if index is None:
        print("nothing to forget: examples have no groups, so all weights are trained, by AdamW", flush=True)
    mask = Mask(trial, parameters, [] if index is None else salient(gradient_on(trial, index), hp.trained_share))
    optimizer = torch.optim.AdamW(
        parameters,
        lr=hp.learning_rate,
        betas=(1 - hp.one_minus_beta1, hp.beta2),
        weight_decay=hp.weight_decay,
        fused=True,
    )
    schedule = warmup_cosine(optimizer, trial.step_hint, hp.warmup_fraction)
    train_loop(trial, optimizer, schedule, label_smoothing=hp.label_smoothing, after_step=mask.put_back)

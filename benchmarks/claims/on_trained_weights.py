"""Claims about networks that were trained before: what they are made to forget, and what is added to them."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.claims.claim import Claim, Reading, Rule
from benchmarks.claims.on_steps import peak_bytes
from benchmarks.claims.training import course
from harness.api import mean_loss
from submissions.zo_subspace.submission import put, slopes_along

FORGETTING_STEPS, CONCEPT_STEPS = 300, 300


def mask_gap(seed: int) -> Reading:
    """Gap with half of the weights trained minus that with all of them, in points."""
    mine, others = (
        100
        * course("fashion_unlearning")
        .train("saliency_mask", {"trained_share": share}, seed=seed, steps=FORGETTING_STEPS)
        .values["gap"]
        for share in (0.5, 1.0)
    )
    return Reading(mine - others, {"its gap, points": mine, "without the mask": others})


def subspace_error(seed: int) -> Reading:
    """Error with noise left out minus that with all of it, in thousandths."""
    mine, others = (
        1000
        * course("fashion_concept")
        .train("zo_subspace", {"noise_share": share}, seed=seed, steps=CONCEPT_STEPS)
        .values["denoising_error"]
        for share in (1e-3, 0.0)
    )
    return Reading(mine - others, {"its error, thousandths": mine, "with all directions": others})


def memory_of_gradients(_: int) -> Reading:
    """Peak of what a step of Adam on the gradient makes over that of a step on slopes."""
    here = course("fashion_concept")
    model = here.model(0)
    parameters, batch = list(model.parameters()), here.splits["train"].gather(torch.arange(here.batch_size))

    def loss() -> Tensor:
        return mean_loss(*here.workload.losses(here.workload.outputs(model, batch), batch, 0.0))

    def loss_at(numbers: Tensor) -> float:
        put(parameters, numbers)
        return loss().item()

    at = torch.cat([parameter.detach().flatten() for parameter in parameters])
    with torch.no_grad():
        slopes = peak_bytes(lambda: slopes_along(loss_at, at, torch.randn(2, len(at)), eps=1e-3))
    gradient = peak_bytes(lambda: loss().backward())
    return Reading(gradient / slopes, {"kB of a step on slopes": slopes / 1000, "on the gradient": gradient / 1000})


CLAIMS = [
    Claim(
        name="saliency_mask_gap",
        submission="saliency_mask",
        says="Labels by chance come nearer to a retrained network where only salient weights are trained.",
        experiment=(
            f"`fashion_unlearning`, {FORGETTING_STEPS} steps at the submission's defaults: gap with the salient half "
            "of the weights minus that with all of them."
        ),
        quantity="points of the gap",
        holds=Rule(high=0.0),
        measure=mask_gap,
        repetitions=20,
    ),
    Claim(
        name="zo_subspace_error",
        submission="zo_subspace",
        says="Slopes along directions that the course has hardly gone are noise, and training is better without them.",
        experiment=(
            f"`fashion_concept`, {CONCEPT_STEPS} steps at the submission's defaults: denoising error minus that with "
            "all directions left in."
        ),
        quantity="thousandths of the error",
        holds=Rule(high=0.0),
        measure=subspace_error,
    ),
    Claim(
        name="zo_subspace_memory",
        submission="zo_subspace",
        says="Up to 8.2 times less memory than training on gradients, quantised weights among it.",
        experiment=(
            "`fashion_concept`: peak of the tensors that a gradient makes, over that of slopes along two directions. "
            "Weights are float32 in both, and do not count."
        ),
        quantity="ratio of peaks",
        holds=Rule(low=2.0),
        measure=memory_of_gradients,
        repetitions=1,
    ),
]

"""IST: in each step a few adapters are trained, the more often the more the loss rises when they are turned down."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from math import comb, exp, fsum

import torch
from torch import Tensor

from harness import Counts, Hyperparameters, ResumableTensors, Trial, warmup_cosine

# Where the scores allow hardly any other set, waiting for one has no end.
_DRAWS_OF_A_SET = 20


def drawn(scores: Tensor, count: int, generator: torch.Generator) -> list[int]:
    """Layers in rising order, without replacement, in proportion to sigmoid(score). Shape: [layers]."""
    return sorted(torch.multinomial(torch.sigmoid(scores), count, generator=generator).tolist())


def different_sets(scores: Tensor, size: int, count: int, generator: torch.Generator) -> list[list[int]]:
    """Up to `count` different sets of `size` layers; fewer where there are not as many, or none turns up."""
    sets: list[list[int]] = []
    for _ in range(min(count, comb(len(scores), size))):
        for _ in range(_DRAWS_OF_A_SET):
            found = drawn(scores, size, generator)
            if found not in sets:
                sets.append(found)
                break
    return sets


def moved(scores: Tensor, sets: Sequence[Sequence[int]], losses: Sequence[float], rate: float) -> Tensor:
    """Scores after each set was turned down and had its loss: a layer without which the loss is low has a high score.

    Shapes: [layers] -> the same. Source: Yao et al., arXiv 2410.11772, with the signs of the authors' code.
    """
    gains = [exp(-loss) for loss in losses]
    slopes = torch.sigmoid(scores) * (1 - torch.sigmoid(scores))
    after = scores.clone()
    for chosen, gain in zip(sets, gains, strict=True):
        after[list(chosen)] += rate * (gain - fsum(gains) / len(gains)) * slopes[list(chosen)]
    return after


@contextlib.contextmanager
def turned_down(matrices: Sequence[Tensor], factor: float) -> Iterator[None]:
    """Inside, these second matrices of adapters are `factor` times what they are: so is what the adapters add."""
    before = [matrix.detach().clone() for matrix in matrices]
    with torch.no_grad():
        torch._foreach_mul_(list(matrices), factor)
    try:
        yield
    finally:
        with torch.no_grad():
            torch._foreach_copy_(list(matrices), before)


def train(trial: Trial, hp: Hyperparameters) -> None:
    """AdamW, in each step on some adapters and all that is no part of one; on a model without adapters, AdamW."""
    layers = list(trial.adapters.values())
    if not layers:
        print("nothing to fine-tune: this model has no adapters, so it is trained by AdamW", flush=True)
    active, down = (max(1, round(share * len(layers))) for share in (hp.active_fraction, hp.turned_down_fraction))
    optimizer = torch.optim.AdamW(
        trial.model.parameters(),
        lr=hp.learning_rate,
        betas=(1 - hp.one_minus_beta1, hp.beta2),
        weight_decay=hp.weight_decay,
        fused=True,
    )
    schedule = warmup_cosine(optimizer, trial.step_hint, hp.warmup_fraction)
    kept = ResumableTensors(scores=torch.zeros(len(layers), dtype=torch.float64))
    trial.resumable(optimizer=optimizer, schedule=schedule, kept=kept)
    counts = Counts(trial)

    @torch.no_grad()
    def loss_without(chosen: Sequence[int], batch: dict[str, Tensor]) -> float:
        with turned_down([layers[layer].up for layer in chosen], hp.factor):
            return trial.loss(batch).item()

    def look() -> None:
        """See how much the loss rises without some layers, on a batch of a stream of its own."""
        sets = different_sets(kept.scores, down, hp.sets, trial.generator)
        index = torch.randint(len(trial.train_set), (trial.batch_size_hint,), generator=trial.generator)
        batch = trial.take(index)
        trial.model.eval()
        losses = [loss_without(each, batch) for each in sets]
        trial.model.train()
        counts.add(forward_passes=len(sets))
        kept.scores.copy_(moved(kept.scores, sets, losses, hp.score_rate))

    for batch in trial.batches():
        if layers:
            if trial.step % hp.period == 0:
                look()
            chosen = drawn(-kept.scores, active, trial.generator)
            for number, layer in enumerate(layers):
                # No gradient: Adam leaves the weights and their moments as they are.
                layer.down.requires_grad_(number in chosen)
                layer.up.requires_grad_(number in chosen)
        optimizer.zero_grad(set_to_none=True)
        trial.loss(batch, label_smoothing=hp.label_smoothing).backward()
        optimizer.step()
        schedule.step()

"""DiffROAR: whether the pixels with the largest gradients are those that a new network can learn from."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from harness.api import Batch, Workload, mean_loss
from harness.diagnostics.attribution.pictures import AT_ONCE, Scorer, input_gradient, pictures_of
from harness.diagnostics.probe import Probe

KEPT = 0.1
STEPS = 400
_TRAINED_ON = 8_192
_RATE = 3e-3
_SEED = 0


def difference_retrained(
    probe: Probe, scorer: Scorer, new_model: Callable[[], nn.Module], *, batch_size: int
) -> dict[str, float]:
    """D15: accuracies of networks trained on the tenth of the pixels with the `largest` and the `smallest` gradients.

    And their `difference`: positive where gradients point at what says something, 0 for pixels chosen by chance. Judged
    on the probe set, trained on other examples, all of them masked by the gradients of the probe's network; what is
    masked is zero. Both begin with the same weights. Source: Shah, Jain, Netrapalli
    (2021), which trains until nothing is gained: here it is 400 steps of Adam.
    """
    used = torch.zeros(len(probe.train_set), dtype=torch.bool)
    used[probe.index] = True
    others = (~used).nonzero().squeeze(1)[:_TRAINED_ON]
    trained_on, judged_on = (pictures_of(probe, scorer, index) for index in (others, probe.index))
    gradients = [
        torch.cat([input_gradient(scorer, part.inputs, part.chosen) for part in each.parts()])
        for each in (trained_on, judged_on)
    ]
    found = {}
    for name, sign in (("largest", 1.0), ("smallest", -1.0)):
        seen, held_out = (
            {"inputs": each.inputs * kept(sign * sizes.abs().sum(dim=1, keepdim=True)), "targets": each.labels}
            for each, sizes in zip((trained_on, judged_on), gradients, strict=True)
        )
        found[name] = retrained_accuracy(probe.workload, new_model(), seen, held_out, batch_size=batch_size)
    return {**found, "difference": found["largest"] - found["smallest"]}


def kept(scores: Tensor) -> Tensor:
    """One at the tenth of each picture's pixels with the largest scores, else zero. Shape: [n, 1, height, width]."""
    flat = scores.flatten(1)
    places = flat.topk(max(1, round(KEPT * flat.shape[1])), dim=1).indices
    return torch.zeros_like(flat).scatter_(1, places, 1.0).view_as(scores)


def retrained_accuracy(workload: Workload, model: nn.Module, seen: Batch, held_out: Batch, *, batch_size: int) -> float:
    """The share of `held_out` that `model` gets right after 400 steps of Adam on `seen`, the rate falling to zero."""
    generator = torch.Generator().manual_seed(_SEED)
    optimizer = torch.optim.Adam(model.parameters(), lr=_RATE)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=STEPS)
    model.train()
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(_SEED)  # of dropout, where there is any
        for _ in range(STEPS):
            drawn = torch.randint(len(seen["targets"]), (batch_size,), generator=generator)
            batch = {name: values[drawn.to(values.device)] for name, values in seen.items()}
            loss = mean_loss(*workload.losses(workload.outputs(model, batch), batch, 0.0))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    model.eval()
    with torch.no_grad():
        guesses = torch.cat(
            [workload.outputs(model, {"inputs": part}).argmax(dim=1) for part in held_out["inputs"].split(AT_ONCE)]
        )
    return float((guesses == held_out["targets"]).double().mean())

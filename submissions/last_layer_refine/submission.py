"""Last-layer refinement: AdamW on all weights, then L-BFGS on those of the last layers alone, the rest being frozen."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn

from harness import Counts, Hyperparameters, ParameterKind, Trial, freeze_all_but, warmup_cosine

# Losses that a line search looks at at most, as torch has it. By default all iterations share little more than their
# number, which the first search of a fresh history uses up.
_MOST_OF_A_SEARCH = 25
_NO_MATRICES = frozenset({ParameterKind.BIAS, ParameterKind.NORM_SCALE, ParameterKind.NORM_BIAS})


def called_layers(trial: Trial) -> dict[str, list[str]]:
    """Names of the parameters of each layer that has weights, by its path, in the order in which layers are called.

    What a layer holds and does not call itself is part of it, as the last matrix of attention is.
    """
    few = trial.train_set.gather(torch.arange(min(2, len(trial.train_set)), device=trial.device))
    trial.model.eval()
    with torch.no_grad(), trial.captured(dict(trial.model.named_modules())) as inputs:
        trial.outputs(few)
    trial.model.train()
    layers: dict[str, list[str]] = {path: [] for path in inputs}
    for name in trial.parameter_kinds:
        path = name
        while path and path not in layers:
            path = path.rpartition(".")[0]
        if path in layers:
            layers[path].append(name)
    kinds = trial.parameter_kinds
    return {path: names for path, names in layers.items() if {kinds[name] for name in names} - _NO_MATRICES}


def last_layers(layers: Iterable[Sequence[str]], kinds: dict[str, ParameterKind], *, before: int) -> list[str]:
    """Names of the parameters of each output layer and of `before` layers that are called last before it.

    `layers`: names by layer, in the order of their calls. Empty where none is an output layer.
    """
    chosen: list[str] = []
    hidden: list[Sequence[str]] = []
    for names in layers:
        if any(kinds[name] is ParameterKind.OUTPUT for name in names):
            chosen += [name for layer in hidden[max(0, len(hidden) - before) :] for name in layer] + list(names)
        else:
            hidden.append(names)
    return list(dict.fromkeys(chosen))


def refine(parameters: Sequence[nn.Parameter], gradients: Callable[[], Tensor], *, iterations: int) -> None:
    """So many iterations of L-BFGS, each with a line search. `gradients` makes them anew, and returns the loss.

    What it has learned of the curvature ends with the call: differences of gradients of two batches are no curvature.
    """
    optimizer = torch.optim.LBFGS(
        parameters,
        max_iter=iterations,
        max_eval=_MOST_OF_A_SEARCH * iterations,
        history_size=iterations,
        line_search_fn="strong_wolfe",
    )
    optimizer.step(torch.enable_grad()(gradients))


def train(trial: Trial, hp: Hyperparameters) -> None:
    """AdamW to a rate of zero over a share of the steps, then L-BFGS on large batches; without a last layer AdamW."""
    names = last_layers(called_layers(trial).values(), trial.parameter_kinds, before=hp.layers_before)
    if not names:
        print("nothing to refine: no layer of this model is its output layer, so it is trained by AdamW", flush=True)
    last = [trial.model.get_parameter(name) for name in names]
    steps = max(1, round(hp.refine_after * trial.step_hint)) if last else trial.step_hint
    optimizer = torch.optim.AdamW(
        trial.model.parameters(),
        lr=hp.learning_rate,
        betas=(1 - hp.one_minus_beta1, hp.beta2),
        weight_decay=hp.weight_decay,
        fused=True,
    )
    schedule = warmup_cosine(optimizer, steps, hp.warmup_fraction)
    trial.resumable(optimizer=optimizer, schedule=schedule)
    counts = Counts(trial)
    # No example twice in a batch.
    factor = max(1, min(hp.batch_factor, len(trial.train_set) // trial.batch_size_hint))
    while True:
        is_refining = bool(last) and trial.step >= steps
        batch = trial.next_batch(factor * trial.batch_size_hint if is_refining else None)

        def gradients() -> Tensor:
            trial.model.zero_grad(set_to_none=True)
            loss = trial.loss(batch, label_smoothing=hp.label_smoothing)  # noqa: B023 - within this step alone
            loss.backward()
            counts.add(gradient_calls=1)
            return loss

        if is_refining:
            freeze_all_but(trial.model, last)
            with trial.pinned():
                refine(last, gradients, iterations=hp.iterations)
        else:
            gradients()
            optimizer.step()
            schedule.step()
        trial.end_step()

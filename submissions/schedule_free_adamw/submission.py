"""Schedule-Free AdamW: constant rate after warm-up, and judged at an average of its iterates."""

from __future__ import annotations

from schedulefree import AdamWScheduleFree

from harness import Hyperparameters, Trial


def train(trial: Trial, hp: Hyperparameters) -> None:
    """Gradients are taken at y, evaluations at the average x, which has normalisation statistics of its own."""
    optimizer = AdamWScheduleFree(
        trial.model.parameters(),
        lr=hp.learning_rate,
        betas=(1 - hp.one_minus_beta1, hp.beta2),
        weight_decay=hp.weight_decay,
        warmup_steps=int(hp.warmup_fraction * trial.step_hint),
        r=hp.averaging_power,
    )
    trial.resumable(optimizer=optimizer)

    def move_to_average() -> None:
        optimizer.eval()
        trial.refresh_batch_norm(hp.batch_norm_batches)

    trial.before_evaluation(move_to_average)
    trial.after_evaluation(optimizer.train)
    optimizer.train()
    for batch in trial.batches():
        loss = trial.loss(batch, label_smoothing=hp.label_smoothing)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

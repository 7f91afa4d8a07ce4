"""Schedule-Free AdamW with the points that its authors submitted to AlgoPerf; see schedule_free_adamw for others."""

from __future__ import annotations

from schedulefree import AdamWScheduleFree

from harness import Hyperparameters, Trial, train_loop


def train(trial: Trial, hp: Hyperparameters) -> None:
    """Gradients are taken at y, evaluations at the average x, which has normalisation statistics of its own."""
    trial.set_dropout(hp.dropout)
    optimizer = AdamWScheduleFree(
        trial.model.parameters(),
        lr=hp.learning_rate,
        betas=(1 - hp.one_minus_beta1, hp.beta2),
        weight_decay=hp.weight_decay,
        warmup_steps=int(hp.warmup_fraction * hp.step_hint_factor * trial.step_hint),
        r=hp.averaging_power,
    )

    def move_to_average() -> None:
        optimizer.eval()
        trial.refresh_batch_norm(hp.batch_norm_batches)

    trial.before_evaluation(move_to_average)
    trial.after_evaluation(optimizer.train)
    optimizer.train()
    train_loop(trial, optimizer, label_smoothing=hp.label_smoothing)

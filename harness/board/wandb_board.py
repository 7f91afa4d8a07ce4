"""Boards as W&B runs of job type `leaderboard`. Whatever happens there, the pages on disk do not notice."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from harness.board.boards import DashboardBoard
from harness.board.facts import cell_table
from harness.scoring.profiles import profile

_FINISH_SECONDS = 60.0
_INIT_SECONDS = 30.0
_TAUS = 121


def publish(
    boards: Sequence[DashboardBoard],
    *,
    mode: str,
    project: str,
    entity: str | None,
    results: Path,
    say: Callable[[str], object],
) -> None:
    """One run for each board: score and time tables, performance profiles. `mode`: off, offline or online.

    The first failure, or a minute without an answer, is said once and ends the mirroring.
    """
    if mode == "off":
        return

    def mirror() -> None:
        try:
            for board in boards:
                _publish_board(board, mode=mode, project=project, entity=entity, results=results)
        except Exception as error:  # whatever W&B raises, the pages are written already
            text = " ".join(str(error).split())[:200]
            say(f"W&B: {type(error).__name__}: {text}. The pages are on disk; going on without it.")

    worker = threading.Thread(target=mirror, daemon=True)
    worker.start()
    worker.join(_FINISH_SECONDS + _INIT_SECONDS * len(boards))
    if worker.is_alive():
        say("W&B did not finish in time; the pages are on disk; going on without it.")


def profile_table(board: DashboardBoard) -> pd.DataFrame:
    """Share of workloads within tau times the fastest. Shape: submission x tau, evenly spaced from 1 to `tau_max`."""
    return profile(board.scoring.ratios, np.linspace(1.0, board.scoring.rules.tau_max, _TAUS))


def _publish_board(board: DashboardBoard, *, mode: str, project: str, entity: str | None, results: Path) -> None:
    import wandb

    (results / "wandb").mkdir(parents=True, exist_ok=True)
    run = wandb.init(
        mode="online" if mode == "online" else "offline",
        project=project,
        entity=entity,
        dir=str(results),
        job_type="leaderboard",
        name=board.label,
        config={
            **board.selection.combination,
            "scoring": board.scoring.rules.name,
            "reading": board.scoring.rules.reading,
        },
        settings=wandb.Settings(
            silent=True,
            console="off",
            init_timeout=_INIT_SECONDS,
            disable_git=True,
            disable_code=True,
            x_disable_stats=True,
        ),
        reinit="create_new",
    )
    scores = board.scoring.scores.join(board.uncertainty.scores[["low", "high", "tier"]])
    scores = scores.join(board.speed_and_reliability).reset_index()
    profiles = profile_table(board)
    run.log(
        {
            "leaderboard": wandb.Table(dataframe=_plain(scores)),
            "times": wandb.Table(dataframe=_plain(cell_table(board))),
            "profiles": wandb.plot.line_series(
                xs=profiles.columns.tolist(),
                ys=profiles.to_numpy().tolist(),
                keys=[str(name) for name in profiles.index],
                title="Performance profiles",
                xname="tau",
            ),
        }
    )
    run.summary.update({f"score/{row['submission']}": row["score"] for row in scores.to_dict("records")})
    run.finish()


def _plain(table: pd.DataFrame) -> pd.DataFrame:
    """W&B tables hold no infinities: they become missing values."""
    return table.astype(object).map(
        lambda value: None if isinstance(value, float) and not math.isfinite(value) else value
    )

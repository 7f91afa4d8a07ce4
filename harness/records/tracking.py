"""Mirrors trial and evaluation rows to Weights & Biases. Whatever happens to the mirror, a trial does not notice."""

from __future__ import annotations

import functools
import json
import math
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from harness.records.tables import Row

# How long a trial waits for W&B: a dead network must not hold it up, and a call may never return.
_INIT_SECONDS = 30.0
_START_SECONDS = 40.0
_LOG_SECONDS = 10.0
_FINISH_SECONDS = 60.0
_SPLITS = ("validation", "validation_loss", "test", "test_loss", "train_loss")

T = TypeVar("T")


class WandbMirror:
    """One W&B run per trial: group = workload/submission, config = the composed configuration, summary = the trial row.

    Curves are kept over charged seconds and over steps. In mode `off` it does nothing; every failure is said once and
    ends the mirroring of this trial alone.
    """

    def __init__(
        self, mode: str, project: str, entity: str | None, results: Path, say: Callable[[str], object]
    ) -> None:
        self._mode = mode
        self._project = project
        self._entity = entity
        self._results = results
        self._say = say
        self._run: Any = None
        self._begun: Callable[[], Any] = lambda: None
        self._mirrored = 0

    def start(self, *, workload: str, submission: str, name: str, config: dict[str, Any]) -> None:
        """Begin the run of one trial."""
        if self._mode == "off":
            return
        self._begun = lambda: self._start(workload, submission, name, config)
        self._run = self._guarded(self._begun, _START_SECONDS)

    def restart(self) -> None:
        """Begin another run where this one holds evaluations of an earlier life of the trial, and end this one."""
        if self._mirrored == 0:
            return
        self._mirrored = 0
        run, self._run = self._run, None
        if run is not None and self._guarded(lambda: run.finish(exit_code=1) or True, _FINISH_SECONDS):
            self._run = self._guarded(self._begun, _START_SECONDS)

    def evaluations(self, rows: Sequence[Row]) -> None:
        """Add to the curves those of the trial's evaluation rows that they lack.

        W&B takes nothing back: rows of an earlier life of the trial come once it is certain that the trial goes on.
        """
        for row in rows[self._mirrored :]:
            if self._run is not None:
                self._guarded(functools.partial(self._run.log, _curves(row)), _LOG_SECONDS)
        self._mirrored = len(rows)

    def finish(self, row: Row) -> None:
        """Keep the trial row as the summary and end the run, waiting for uploads a limited time."""
        if self._run is None:
            return
        run, self._run = self._run, None

        def close() -> None:
            run.summary.update({name: _plain(value) for name, value in row.items()})
            run.finish(exit_code=0 if row["status"] not in ("crashed", "refused") else 1)

        later = f" (wandb sync --include-online {Path(run.dir).parent} uploads later)"
        self._guarded(close, _FINISH_SECONDS, later)

    def _start(self, workload: str, submission: str, name: str, config: dict[str, Any]) -> Any:
        import wandb

        (self._results / "wandb").mkdir(parents=True, exist_ok=True)
        settings = wandb.Settings(
            silent=True,
            console="off",
            init_timeout=_INIT_SECONDS,
            disable_git=True,
            disable_code=True,
            # Its sampling of the system would take time from the trainer.
            x_disable_stats=True,
        )
        run = wandb.init(
            mode="offline" if self._mode == "offline" else "online",
            project=self._project,
            entity=self._entity,
            dir=str(self._results),
            group=f"{workload}/{submission}",
            job_type="trial",
            name=name,
            config=config,
            settings=settings,
            reinit="create_new",
        )
        for axis in ("charged_seconds", "step"):
            run.define_metric(axis, hidden=True)
            run.define_metric(f"by_{axis}/*", step_metric=axis)
        return run

    def _guarded(self, action: Callable[[], T], seconds: float, later: str = "") -> T | None:
        """What `action` returns; None, with the mirroring over, where it fails or does not return in time."""
        returned: list[T] = []
        raised: list[BaseException] = []

        def act() -> None:
            try:
                returned.append(action())
            except BaseException as error:  # whatever W&B raises, the trial and its rows come first
                raised.append(error)

        thread = threading.Thread(target=act, daemon=True)
        thread.start()
        thread.join(seconds)
        if returned:
            return returned[0]
        self._run = None
        what = f"does not answer within {seconds:.0f} s"
        if raised:
            what = f"{type(raised[0]).__name__}: {' '.join(str(raised[0]).split())[:200]}"
        self._say(f"W&B: {what}. Rows are kept on disk; going on without it{later}.")
        return None


def _curves(row: Row) -> dict[str, Any]:
    """One evaluation for W&B: every value once over charged seconds and once over steps."""
    values = {name: row[name] for name in _SPLITS if row[name] is not None}
    # What is not finite is text in JSON.
    values |= {f"reported/{name}": float(value) for name, value in json.loads(row["reported"]).items()}
    curves: dict[str, Any] = {"charged_seconds": row["charged_seconds"], "step": row["step"]}
    for name, value in values.items():
        curves[f"by_charged_seconds/{name}"] = value
        curves[f"by_step/{name}"] = value
    return curves


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value.isoformat() if hasattr(value, "isoformat") else value

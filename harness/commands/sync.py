"""Uploads W&B runs that were recorded offline, each once, and clears them from the disk where asked; `make sync`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from harness import command_line
from harness.api import ConfigError, DataError, path_of, visible


def sync(results: Path) -> int:
    """Upload what has not been uploaded yet; returns W&B's exit code, or 1 where it left a run out.

    Raises ConfigError where there is no run at all.
    """
    runs = _runs(results)
    if not runs:
        raise ConfigError(f"{results / 'wandb'}: no offline runs to upload. make bench records them.")
    waiting = [run for run in runs if not _is_uploaded(run)]
    if not waiting:
        command_line.PlainConsole().print(f"all {len(runs)} runs in {results / 'wandb'} have been uploaded before")
        return 0
    # Of a folder W&B would take every file of its kind, also those that others put beside its own.
    files = [file for run in waiting for file in visible(run, "*.wandb") or [run]]
    command = [sys.executable, "-m", "wandb", "sync", *map(str, files)]
    # Else its own log would go to a folder `wandb` wherever the command is called.
    done = subprocess.run(command, check=False, env={**os.environ, "WANDB_DIR": str(results)})
    left = [run for run in waiting if not _is_uploaded(run)]
    if left:
        command_line.PlainConsole().print(
            f"{len(left)} of {len(waiting)} runs were not uploaded whole, such as {left[0]}; W&B's lines say why. "
            "make sync tries again. What a bench leaves that is killed never is whole: remove it by hand."
        )
    return done.returncode or (1 if left else 0)


def clean(results: Path) -> None:
    """Remove the runs that have been uploaded. Raises DataError where the disk does not let it."""
    uploaded = [run for run in _runs(results) if _is_uploaded(run)]
    try:
        for run in uploaded:
            shutil.rmtree(run)
    except OSError as error:
        raise DataError(f"{error.filename}: cannot be removed ({error.strerror}). Check the folder's rights.") from None
    command_line.PlainConsole().print(f"{len(uploaded)} uploaded runs removed from {results / 'wandb'}")


def _runs(results: Path) -> list[Path]:
    return sorted(path for path in (results / "wandb").glob("offline-run-*") if path.is_dir())


def _is_uploaded(run: Path) -> bool:
    """Whether W&B has marked the run: it does once all of it has arrived."""
    return bool(visible(run, "*.wandb.synced"))


def main(arguments: Sequence[str]) -> int:
    """Entry of `make sync`: `results=FOLDER` names another results folder, `clean=1` removes what has been uploaded."""
    chosen = command_line.options(arguments, ("results", "clean"))
    results = path_of(chosen.get("results", "results"))
    code = sync(results)
    if chosen.get("clean", "0") not in ("", "0"):
        clean(results)
    return code


if __name__ == "__main__":
    sys.exit(command_line.run(main))

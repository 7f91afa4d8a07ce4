"""Uploads W&B runs that were recorded offline; `make sync`."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from harness import command_line
from harness.api import ConfigError


def sync(results: Path) -> int:
    """Upload every run that was recorded offline; returns W&B's exit code. Raises ConfigError where there is none."""
    runs = sorted((results / "wandb").glob("offline-run-*"))
    if not runs:
        raise ConfigError(f"{results / 'wandb'}: no offline runs to upload. make bench records them.")
    command = [sys.executable, "-m", "wandb", "sync", *map(str, runs)]
    return subprocess.run(command, check=False).returncode


def main(arguments: Sequence[str]) -> int:
    """Entry of `make sync`: `results=FOLDER` names another results folder."""
    return sync(Path(command_line.options(arguments, ("results",)).get("results", "results")))


if __name__ == "__main__":
    sys.exit(command_line.run(main))

"""Writes the directory of a new submission, which runs as it is; `make submission NAME=x`."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from harness import command_line
from harness.api import ConfigError, DataError, path_of
from harness.command_line import PlainConsole
from harness.plugins.submission import SUBMISSIONS, load_submission

_PYTHON = '''"""{name}: say in one line what it does."""

from __future__ import annotations

import torch

from harness import Hyperparameters, Trial, warmup_cosine


def train(trial: Trial, hp: Hyperparameters) -> None:
    """An ordinary loop; it ends by itself when the referee stops the clock."""
    optimizer = torch.optim.SGD(trial.model.parameters(), lr=hp.learning_rate, momentum=0.9)
    schedule = warmup_cosine(optimizer, trial.step_hint, hp.warmup_fraction)
    trial.resumable(optimizer=optimizer, schedule=schedule)
    for batch in trial.batches():
        loss = trial.loss(batch)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
'''

_YAML = """# What this submission is, the point that it runs with by default, and the space that tuning samples.
title: {name}
authors: your names
paper: ""

hyperparameters:
  learning_rate: 0.1
  warmup_fraction: 0.05

search_space:
  learning_rate: {{min: 1e-2, max: 1.0, scaling: log}}
"""

_README = """# {name}

One paragraph: what the algorithm does, and what its paper claims.
"""


def write_skeleton(folder: Path) -> None:
    """A submission in `folder` that loads and trains. Raises ConfigError where the folder exists or its name is odd."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", folder.name):
        raise ConfigError(f"{folder.name!r} cannot name a submission. Use letters, digits, '_', '.' and '-'.")
    if folder.exists():
        raise ConfigError(f"{folder} exists already. Choose another NAME, or remove it.")
    try:
        folder.mkdir(parents=True)
        for name, text in (("submission.py", _PYTHON), ("submission.yaml", _YAML), ("README.md", _README)):
            (folder / name).write_text(text.format(name=folder.name), encoding="utf-8")
    except OSError as error:
        raise DataError(f"{folder}: cannot write ({error.strerror}). Check the disk and its rights.") from None


def main(arguments: Sequence[str]) -> int:
    """`name=x` goes to submissions/x; a name with a slash is a path."""
    name = command_line.options(arguments, ("name",)).get("name")
    if not name:
        raise ConfigError("which name? make submission NAME=my_rule")
    folder = path_of(name) if "/" in name else SUBMISSIONS / name
    write_skeleton(folder)
    load_submission(str(folder))
    chosen = shlex.quote(name)
    following = f"make debug SUBMISSION={chosen} WORKLOAD=...; then make bench SUBMISSION={chosen}"
    PlainConsole().print(f"wrote {folder}. Next: {following}", soft_wrap=True)
    return 0


if __name__ == "__main__":
    sys.exit(command_line.run(main))

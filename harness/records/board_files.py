"""Boards that rows are placed on: found by their name or their path, wherever their two files lie; never written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from harness.api import ConfigError, near_matches, path_of, visible
from harness.config import ROOT
from harness.records.committed import boards_folder, read_file

BOARDS = boards_folder(ROOT / "results")
"""Where the boards of this repository lie."""

_TRIALS, _EVALUATIONS = ".trials.parquet", ".evaluations.parquet"


@dataclass(frozen=True)
class BoardFiles:
    """The two files of a board; each is read when it is asked for. Raises DataError where it cannot be."""

    folder: Path
    name: str

    @property
    def path(self) -> Path:
        """What `read_table` takes: the path of both files without their endings."""
        return self.folder / self.name

    def trials(self) -> pd.DataFrame:
        """The trials table of the board, with workload and submission."""
        frame: pd.DataFrame = read_file(self.folder / f"{self.name}{_TRIALS}", "trials").to_pandas()
        return frame

    def evaluations(self) -> pd.DataFrame:
        """The evaluations table likewise."""
        frame: pd.DataFrame = read_file(self.folder / f"{self.name}{_EVALUATIONS}", "evaluations").to_pandas()
        return frame


def committed_boards(folder: Path = BOARDS) -> list[BoardFiles]:
    """All boards of a folder, by name."""
    return [BoardFiles(folder, path.name.removesuffix(_TRIALS)) for path in visible(folder, f"*{_TRIALS}")]


def board_named(text: str, option: str, *more: str) -> BoardFiles:
    """The committed board of this name, or the one of a path: `folder/NAME`, or one of its two files.

    `option`: where the text is from, and `more`: what else may stand there. Raises ConfigError where there is none.
    """
    path = path_of(text)
    folder = BOARDS if len(path.parts) == 1 else path.parent
    name = path.name.removesuffix(_TRIALS).removesuffix(_EVALUATIONS)
    known = [board.name for board in committed_boards(folder)]
    if name not in known:
        raise ConfigError(
            f"{option} is {text!r}, and {folder} has no such board. {near_matches(name, [*known, *more])}"
        )
    return BoardFiles(folder, name)

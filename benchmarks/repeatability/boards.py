"""One board raced twice, alone and with half of every core stolen during every second trial: does the order hold?

Real trials through the usual path, whose rows stay in two folders, so that the same command goes on where it stopped.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from scipy.stats import kendalltau

from benchmarks.repeatability.thief import stolen_halves
from harness.commands import bench
from harness.commands.leaderboard import Choice, make_board
from harness.config import StudyConfig
from harness.scoring.clock.disturbance import disturbed
from harness.scoring.clock.units import UNITS
from harness.study.budget import seconds_per_step
from harness.study.folders import keep_folders
from harness.study.identity import describe
from harness.study.study import run_study

RULESET = "disturbance"
# Half of a core makes a trial twice as long; with some room no trial ends at its budget that would not alone.
_RULES = ["ruleset=quick", f"ruleset.name={RULESET}", "ruleset.budget_factor=2.5", "pruning.reference=none"]


@dataclass(frozen=True)
class Agreement:
    """Kendall's tau-b between the scores of the disturbed board in a unit and those of the quiet one in seconds."""

    unit: str
    submissions: int
    tau: float
    disturbed_trials: int
    trials: int


def race(workloads: Sequence[str], submissions: Sequence[str], folder: Path, console: Console) -> None:
    """Run what is missing of both boards: `folder`/quiet and `folder`/disturbed. Raises HarnessError."""
    for name in ("quiet", "disturbed"):
        results = folder / name
        studies = _studies(workloads, submissions, results)
        for first in studies[:: len(submissions)]:
            seconds_per_step(describe(first), console)  # budgets are those of a machine that nobody takes from
        for study, is_stolen in with_turns(studies, len(submissions)):
            keep_folders([study.submission], results / "runs")
            with stolen_halves() if is_stolen and name == "disturbed" else contextlib.nullcontext():
                run_study(describe(study), console)


def with_turns(studies: Sequence[StudyConfig], submissions: int) -> list[tuple[StudyConfig, bool]]:
    """The studies, every second one to be disturbed; each workload begins with the other turn than the last one.

    `submissions`: how many studies each workload has. A submission is so disturbed on half of its workloads.
    """
    return [(study, (number // submissions + number % submissions) % 2 == 1) for number, study in enumerate(studies)]


def _studies(workloads: Sequence[str], submissions: Sequence[str], results: Path) -> list[StudyConfig]:
    asked = [f"workload={','.join(workloads)}", f"submission={','.join(submissions)}", f"results={results}"]
    return bench.studies_of(bench.parse([*asked, "tracking=off", *_RULES]))


def agreements(folder: Path) -> list[Agreement]:
    """How well the disturbed board agrees with the quiet one, by unit. Raises DataError where one has no rows."""
    quiet = make_board(Choice(results=str(folder / "quiet"), ruleset=RULESET)).scoring.scores["score"]
    found = []
    for unit in UNITS:
        board = make_board(Choice(results=str(folder / "disturbed"), ruleset=RULESET, unit=unit))
        scores = board.scoring.scores["score"].reindex(quiet.index)
        moved = int(disturbed(board.scoring.times, board.scoring.rules.drift_limit).sum())
        tau = float(kendalltau(quiet.to_numpy(), scores.to_numpy()).statistic)
        found.append(Agreement(unit, len(quiet), tau, moved, len(board.scoring.times)))
    return found

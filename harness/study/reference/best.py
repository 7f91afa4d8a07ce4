"""The best submissions of a board whose rows may come from several machines: by reference steps."""

from __future__ import annotations

from collections.abc import Collection

from harness.records.committed import BoardRows
from harness.scoring.clock.machines import RELATIVE, put_together
from harness.scoring.clock.units import in_unit
from harness.scoring.rules import load_rules, rules_of
from harness.scoring.score import score_tables
from harness.scoring.selection import Selection


def best_of(board: BoardRows, submissions: Collection[str], count: int) -> list[str]:
    """The `count` of these submissions with the highest score among themselves, best first, ties by name."""
    trials, evaluations = board.trials.to_pandas(), board.evaluations.to_pandas()
    trials = trials[trials["submission"].isin(list(submissions))]
    # In reference steps a row says how its own machine was at that moment: which one it was does not matter.
    trials = put_together(trials)
    rules = load_rules(rules_of(trials["ruleset"].iloc[0]))
    read, seen = in_unit(Selection(trials, {}), evaluations, RELATIVE)
    return [str(name) for name in score_tables(read.trials, seen, rules).scores.index[:count]]

"""Readouts of many trials of one submission: how much the learning rate matters to it. They need no weights."""

from __future__ import annotations

import json
import math
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence

import pandas as pd

from harness.diagnostics.probe import NotHere

FEWEST_RATES = 3


def rate_sensitivity(losses: Mapping[float, float], initial: float) -> float:
    """Mean over the rates of min(loss, `initial`), less the smallest loss. `losses`: by learning rate, on a log grid.

    A rate at which nothing is learned, or all is lost, costs as much as the loss of the start, and no more. Source:
    Wortsman et al., "Small-scale proxies for large-scale transformer training instabilities" (2023).
    """
    return sum(min(loss, initial) for loss in losses.values()) / len(losses) - min(losses.values())


def decades(reached: Sequence[float]) -> float:
    """How many decades lie between the smallest and the largest rate that reached the target; 0 for fewer than two."""
    return math.log10(max(reached) / min(reached)) if reached else 0.0


def rate_readouts(trials: pd.DataFrame, evaluations: pd.DataFrame, *, initial: float) -> dict[str, float]:
    """D10, from the trials of one submission on one workload: `sensitivity`, `decades_reached`, `rates`, `best_rate`.

    The loss of a rate is the median over its trials of the last validation loss; infinite where that is no number, or
    there is none. `initial`: the loss of the weights that trials begin with. Raises NotHere for fewer than three rates.
    """
    rates = trials["hyperparameters"].map(lambda text: json.loads(text).get("learning_rate"))
    trials = trials.assign(rate=pd.to_numeric(rates, errors="coerce"))
    trials = trials[trials["rate"] > 0]
    if trials["rate"].nunique() < FEWEST_RATES:
        raise NotHere(f"its trials have {trials['rate'].nunique()} learning rates; {FEWEST_RATES} tell something")
    ends = evaluations.sort_values("evaluation").drop_duplicates("trial_id", keep="last")
    last = ends.set_index("trial_id")["validation_loss"].astype(float).fillna(math.inf)
    losses: dict[float, list[float]] = defaultdict(list)
    for rate, trial_id in zip(trials["rate"].tolist(), trials["trial_id"].tolist(), strict=True):
        losses[rate].append(float(last.get(trial_id, math.inf)))
    by_rate = {rate: statistics.median(found) for rate, found in losses.items()}
    reached = trials["rate"][trials["time_to_target"].map(math.isfinite)]
    return {
        "sensitivity": rate_sensitivity(by_rate, initial),
        "decades_reached": decades(reached.tolist()),
        "rates": float(len(by_rate)),
        "best_rate": min(by_rate, key=by_rate.__getitem__),
    }

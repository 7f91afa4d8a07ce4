"""What a search costs, how wide good settings are, and how much memory a submission takes: by cell, and over cells."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from harness.scoring.times import CELL, started, usual_budgets
from harness.scoring.tuning import tuning_curves

Floats = NDArray[np.float64]

GOOD_FACTOR = 1.5
"""A setting is good where it reaches the target in at most this many times the time of the best setting tried."""

MEMORY_MARGIN = 0.05
"""A submission takes no more memory than the reference where its peak is at most this share above the reference's.

Peaks are those of a whole process, torch included; those of adamw, lion, nesterov and muon differ by up to 1.4 %.
"""


def cell_costs(times: pd.DataFrame, studies: pd.DataFrame, trials: int, budget: float) -> pd.DataFrame:
    """What a search of so many trials costs, by cell.

    `time`: expected time of its best trial, a miss at the budget; `time_share`: the same as a share of the workload's
    budget, of which the trials had the share `budget`; `share_reached`: the chance that it reaches the target;
    `trials`: how many there are, of these `pruned`. Exact order statistics of all trials of the cell; where some were
    pruned, which hides their times, means over the whole searches, `studies`. NaN where there are too few.
    """
    pruned = (times["status"] == "pruned").astype(int)
    costs = pruned.groupby([times[name] for name in CELL], observed=True).agg(["size", "sum"]).reset_index()
    costs = costs.rename(columns={"size": "trials", "sum": "pruned"})
    curves = tuning_curves(times, only=[trials]).rename(columns={"expected_seconds": "time"})
    expected = ["time", "share_reached"]
    costs = costs.merge(curves[[*CELL, *expected]], how="left", on=CELL).astype(dict.fromkeys(expected, float))
    caps = usual_budgets(times, ["workload"])
    is_pruned = costs["pruned"] > 0
    if is_pruned.any():
        whole = _means_of_searches(studies, caps).reindex(pd.MultiIndex.from_frame(costs[CELL]))
        for column in expected:
            costs[column] = np.where(is_pruned, whole[column], costs[column])
    cap = costs["workload"].map(caps).astype(float)
    return costs.assign(time_share=(costs["time"] / cap * budget).where(np.isfinite(cap)))


def settings_tried(times: pd.DataFrame) -> pd.DataFrame:
    """By cell: `settings` that ran, of which `reached` the target and were `good`, in the best of their trials.

    Of a pruned trial only that it was not the fastest is known, so that with `pruned` ones there may be more of both.
    """
    tried = times[started(times)]
    best = tried.groupby([*CELL, "hyperparameters"], observed=True)["time_to_target"].min().reset_index()
    fastest = best.groupby(CELL, observed=True)["time_to_target"].transform("min")
    hit = np.isfinite(best["time_to_target"])
    marked = best.assign(reached=hit, good=hit & (best["time_to_target"] <= GOOD_FACTOR * fastest))
    counts = marked.groupby(CELL, observed=True).agg(
        settings=("reached", "size"), reached=("reached", "sum"), good=("good", "sum")
    )
    return counts.reset_index()


def memory_ratios(times: pd.DataFrame, reference: str | None) -> pd.DataFrame:
    """By cell `memory`: its trials' median peak over that of the reference on the same workload and machine.

    Of the device where there is one, else of the host; NaN where either was not recorded.
    """
    peak = times["peak_device_bytes"].where(times["peak_device_bytes"] > 0, times["peak_host_bytes"]).astype(float)
    machine = "machine" if "machine" in times.columns else "hardware_fingerprint"
    seen = times[[*CELL, machine]].assign(peak=peak.where(peak > 0))
    place = ["workload", machine]
    own = seen[seen["submission"] == reference].groupby(place, observed=True)["peak"].median()
    of_reference = own.reindex(pd.MultiIndex.from_frame(seen[place])).to_numpy()
    return seen.assign(memory=seen["peak"] / of_reference).groupby(CELL, observed=True)["memory"].median().reset_index()


class CostTable:
    """Costs by cell as matrices, submissions x workloads, to be summed up over groups of workloads.

    `names`: the columns that a summary has; see `over`.
    """

    names = (
        *("searches", "missed", "time_share", "share_reached", "trials", "pruned"),
        *("settings", "reached", "good", "memory"),
    )
    _geometric = ("time_share", "memory")
    _averaged = ("time_share", "memory", "share_reached")

    def __init__(self, tables: Sequence[pd.DataFrame]) -> None:
        """`tables`: a row for each cell, of which the first has all."""
        self._submissions = pd.Index(tables[0]["submission"].unique())
        self._workloads = pd.Index(tables[0]["workload"].unique())
        shape = (len(self._submissions), len(self._workloads))
        self._values = {name: np.full(shape, np.nan) for name in self.names}
        for table in tables:
            place = self._submissions.get_indexer(table["submission"]), self._workloads.get_indexer(table["workload"])
            for name in table.columns.intersection(list(self.names)):
                self._values[name][place] = table[name].to_numpy(dtype=float)

    def over(self, workloads: Sequence[str], submissions: Sequence[str]) -> pd.DataFrame:
        """By submission: geometric means of `time_share` and `memory`, the mean of `share_reached`, sums of counts.

        NaN where a workload does not know its part.
        """
        place = np.ix_(self._submissions.get_indexer(submissions), self._workloads.get_indexer(workloads))
        found: dict[str, Floats] = {}
        for name, values in self._values.items():
            part = np.log(values[place]) if name in self._geometric else values[place]
            summed = part.mean(axis=1) if name in self._averaged else part.sum(axis=1)
            found[name] = np.exp(summed) if name in self._geometric else summed
        return pd.DataFrame(found, pd.Index(submissions, name="submission"))


def _means_of_searches(studies: pd.DataFrame, caps: pd.Series) -> pd.DataFrame:
    """By cell the mean time of whole searches, a miss at the budget, and the share of them that reach the target."""
    hit = np.isfinite(studies["time_to_target"].astype(float))
    time = studies["time_to_target"].where(hit, studies["workload"].map(caps).astype(float))
    marked = studies.assign(time=time, share_reached=hit.astype(float))
    means: pd.DataFrame = marked.groupby(CELL, observed=True)[["time", "share_reached"]].mean()
    return means

"""Where the time of trials goes, and what they take beside it, as far as their rows know. Compares nothing."""

from __future__ import annotations

import numpy as np
import pandas as pd

from harness.scoring.times import CELL, started

_MEDIANS = [
    *("first_step_seconds", "median_step_seconds", "p90_step_seconds", "step_over_reference"),
    *("start_share", "cpu_share", "evaluation_share", "other_share", "energy_joules", "watts"),
]
_LARGEST = ["peak_host_bytes", "peak_device_bytes"]


def time_parts(times: pd.DataFrame) -> pd.DataFrame:
    """By cell, over the trials that ran: medians, and of memory the largest; NaN where no row says.

    Columns: trials; first_step_seconds (from go: import, construction, compilation, one step), and as a share of what
    was charged, start_share; median_step_seconds, p90_step_seconds; step_over_reference, of the reference's step that
    budgets are made of; cpu_share, of the processors that the trainer was given while the clock ran; evaluation_share
    and other_share, of the wall time of a trial: what the referee evaluates, and what is neither that nor charged;
    energy_joules, watts, while the clock ran; peak_host_bytes, peak_device_bytes.
    """
    ran = times[started(times)]
    seconds = ran["charged_seconds"] / (ran["units_per_second"] if "units_per_second" in ran.columns else 1.0)
    charged, total = (each.where(each > 0) for each in (seconds, ran["total_seconds"].astype(float)))
    known = ran[CELL].assign(
        **{name: ran[name].astype(float) for name in (*_MEDIANS[:3], "energy_joules", *_LARGEST)},
        step_over_reference=ran["median_step_seconds"].astype(float) / ran["reference_step_seconds"].astype(float),
        start_share=ran["first_step_seconds"].astype(float) / charged,
        cpu_share=ran["cpu_seconds"].astype(float) / (charged * ran["threads"]),
        evaluation_share=ran["evaluation_seconds"].astype(float) / total,
        other_share=(total - charged - ran["evaluation_seconds"].astype(float)) / total,
        watts=ran["energy_joules"].astype(float) / charged,
    )
    cells = known.replace([np.inf, -np.inf], np.nan).groupby(CELL, observed=True, sort=True)
    return (
        cells.size()
        .rename("trials")
        .to_frame()
        .join(cells[_MEDIANS].median())
        .join(cells[_LARGEST].max())
        .reset_index()
    )

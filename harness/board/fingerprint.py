"""What the solutions of each submission look like: a few readouts of many, as tables and as data of a page's charts."""

from __future__ import annotations

from typing import Any

import pandas as pd
from rich.console import Console
from rich.table import Table
from rich.text import Text

FINGERPRINT = {
    ("probe", "loss"): "training loss",
    ("sharpness", "eigenvalue_1"): "sharpness",
    ("trace", "trace"): "trace of the Hessian",
    ("trace", "outliers"): "outliers",
    ("stability", "sharpness_ratio"): "rate over largest stable",
    ("noise", "noise_scale"): "gradient noise scale",
    ("collapse", "nc1"): "collapse, NC1",
    ("weights", "norm/all"): "norm",
    ("weights", "change_norm/all"): "norm of the change",
    ("weights", "change_stable_rank/all"): "stable rank of the change",
    ("calibration", "error"): "calibration error",
    ("bias", "cosine_max_margin"): "cosine with the largest margin",
    ("bias", "share_on_signal"): "share of weights on the signal",
    ("bias", "cosine_signal"): "cosine of filters with the signal",
    ("course", "distance"): "distance from gradient flow",
    ("attribution", "gradient"): "share of the input gradient on the signal",
    ("diffroar", "difference"): "DiffROAR",
    ("level_sets", "travelled"): "way gone on a level set",
}
"""What a page and a terminal show of all readouts: (diagnostic, name) -> its title."""
INITIAL = "initial"
_ALIKE = 1.1


def print_readouts(table: pd.DataFrame, console: Console) -> None:
    """Print the fingerprint of each submission, medians over trials, and whether losses are alike enough to compare.

    `table`: as from `all_readouts`.
    """
    for workload, rows in table.groupby("workload", sort=True):
        console.print(Text(f"{workload}: what was found, on the probe set of the training split", style="bold"))
        console.print(_table(rows))
        if note := loss_note(rows):
            console.print(note, soft_wrap=True)


def fingerprints(rows: pd.DataFrame) -> pd.DataFrame:
    """Medians over trials: one row for each title, one column for each (submission, weights), in the order of names."""
    wide = _titled(rows).pivot_table(
        index="title", columns=["submission", "weights"], values="value", aggfunc="median", dropna=False
    )
    return wide.reindex([title for title in FINGERPRINT.values() if title in wide.index]).dropna(axis=1, how="all")


def loss_note(rows: pd.DataFrame) -> str:
    """At which loss each stands, where these differ: sharpness and norms drift with it. Empty where they are alike."""
    losses = fingerprints(rows[rows["weights"] != INITIAL])
    if losses.empty or "training loss" not in losses.index or losses.shape[1] < 2:
        return ""
    found = losses.loc["training loss"]
    if found.max() <= _ALIKE * found.min():
        return ""
    each = ", ".join(f"{column[0]} {value:.3g}" for column, value in zip(losses.columns, found, strict=True))
    return (
        f"not at equal training loss, with which sharpness and norms drift: {each}. To compare at one, end all at the "
        "same validation loss: ARGS='workload.target.metric=loss workload.target.validation=...'."
    )


def chart_series(rows: pd.DataFrame) -> dict[str, Any]:
    """Of one workload: the titles that there are, and the values of each trial and weights, null where none is."""
    titled = _titled(rows)
    titles = [title for title in FINGERPRINT.values() if title in set(titled["title"])]
    points = []
    for (submission, trial_id, weights), group in titled.groupby(["submission", "trial_id", "weights"], sort=True):
        values = dict(zip(group["title"], group["value"], strict=True))
        points.append(
            {
                "submission": submission,
                "trial": trial_id,
                "weights": weights,
                "values": [None if pd.isna(value := values.get(title)) else float(value) for title in titles],
            }
        )
    return {"titles": titles, "points": points}


def page_rows(rows: pd.DataFrame, submissions: list[str]) -> dict[str, Any]:
    """The same as a table: `titles`, and for each submission in this order, initial weights last, their texts."""
    wide = fingerprints(rows)
    columns = sorted(wide.columns, key=lambda each: (each[1] == INITIAL, submissions.index(each[0]), each[1]))
    first = [each for each in columns if each[1] == INITIAL][:1]  # trials begin alike where their seeds are the same
    kept = [each for each in columns if each[1] != INITIAL] + first
    return {
        "titles": [str(title) for title in wide.index],
        "rows": [
            {
                "submission": None if column[1] == INITIAL else column[0],
                "weights": column[1],
                "cells": [number_text(value) for value in wide[column]],
            }
            for column in kept
        ],
        "note": loss_note(rows),
    }


def number_text(value: float | None) -> str:
    """Three digits; a dash where there is no such number."""
    return "-" if value is None or pd.isna(value) else f"{value:.3g}"


def _titled(rows: pd.DataFrame) -> pd.DataFrame:
    """Those rows that belong to a fingerprint, with its `title`."""
    keys = zip(rows["diagnostic"], rows["name"], strict=True)
    titles = pd.Series([FINGERPRINT.get(key) for key in keys], index=rows.index, dtype=object)
    return rows.assign(title=titles).dropna(subset=["title"])


def _table(rows: pd.DataFrame) -> Table:
    wide = fingerprints(rows)
    table = Table()
    table.add_column("readout", overflow="fold")
    for column in wide.columns:
        table.add_column("\n".join(column), justify="right", overflow="fold")
    for title, values in wide.iterrows():
        table.add_row(str(title), *(number_text(value) for value in values))
    return table

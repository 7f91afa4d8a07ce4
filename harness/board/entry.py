"""What a submission's page says of it beyond its times: rows of text for the template. Draws and writes nothing."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from harness.board.boards import DashboardBoard
from harness.board.cells import seconds_text, time_text

Row = dict[str, Any]

_RIVALS_SHOWN = 3
_KS = (1, 2, 5, 10, 20)
_PARTS = {
    "waiting_seconds": "waiting for data",
    "forward_seconds": "forward",
    "backward_seconds": "backward",
    "rest_seconds": "update and the rest",
    "harness_seconds": "harness",
}
_TIMES = "\N{MULTIPLICATION SIGN}"
_DASH = "\N{EN DASH}"


def explained(board: DashboardBoard, submission: str) -> Row:
    """Everything that the page of one submission shows of it beside its times."""
    return {
        "rivals": _rivals(board, submission),
        "rivals_shown": _RIVALS_SHOWN,
        "best_of": _best_of(board, submission),
        "rates": _rates(board, submission),
        "edges": _edges(board, submission),
        "edges_unknown": _why_no_edges(board, submission),
        "unread": _unread(board, submission),
        "parts": _parts(board, submission),
        "part_names": list(_PARTS.values()),
        "takes": _takes(board, submission),
    }


def _of(table: pd.DataFrame, submission: str) -> list[Row]:
    return [
        {str(name): value for name, value in row.items()}
        for row in table[table["submission"] == submission].to_dict("records")
    ]


def _rivals(board: DashboardBoard, submission: str) -> list[Row]:
    """By workload, those that are faster there: the fastest few by name."""
    rows: list[Row] = []
    for row in _of(board.losses, submission):
        if not rows or rows[-1]["workload"] != row["workload"]:
            rows.append({"workload": row["workload"], "faster": row["faster"], "others": []})
        others = rows[-1]["others"]
        if len(others) < _RIVALS_SHOWN:
            interval = f"{row['low']:.2f} to {row['high']:.2f}" if math.isfinite(row["low"]) else ""
            others.append(
                {
                    "name": row["other"],
                    "factor": f"{row['factor']:.2f} {_TIMES}",
                    "interval": interval,
                    "is_different": bool(row["is_different"]),
                }
            )
    return sorted(rows, key=lambda row: (-row["faster"], row["workload"]))


def _best_of(board: DashboardBoard, submission: str) -> Row:
    """Expected time of the best of k trials by workload, for a few k."""
    table = board.tuning[board.tuning["submission"] == submission]
    most = int(table["k"].max())
    shown = sorted({k for k in (*_KS, most) if k <= most})
    rows = []
    for workload, group in table.groupby("workload", observed=True, sort=True):
        by_k = group.set_index("k")
        cells = []
        for k in shown:
            if k not in by_k.index:
                cells.append({"text": "", "share": ""})
                continue
            seconds, share = (float(by_k[name][k]) for name in ("expected_seconds", "share_reached"))
            text = time_text(seconds, board.scoring.rules.unit) if math.isfinite(seconds) else "not known"
            cells.append(
                {"text": text, "share": f"{100 * share:.0f} %"} if share > 0 else {"text": "never", "share": ""}
            )
        rows.append({"workload": workload, "cells": cells, "trials": int(group["trials"].iloc[0])})
    return {"ks": shown, "rows": rows}


def _rates(board: DashboardBoard, submission: str) -> list[Row]:
    """How wide the good learning rates are, by workload."""
    table = board.widths
    rows = _of(table[table["is_learning_rate"].astype(bool)], submission)
    for row in rows:
        low, high = row["share"], row["share_at_most"]
        row["width"] = "no trial has reached" if math.isnan(low) else f"{100 * low:.0f} %"
        if high > low:
            row["width"] = f"{100 * low:.0f} to {100 * high:.0f} %"
        row["tried"] = f"{row['lowest']:.3g} to {row['highest']:.3g}"
        row["best"] = f"{row['best_value']:.3g}" if math.isfinite(row["best_value"]) else _DASH
    return rows


def _edges(board: DashboardBoard, submission: str) -> list[Row]:
    """How often tuned points lie at an edge, by hyperparameter, those that do so most first."""
    rows = _of(board.edge_counts, submission)
    for row in rows:
        row["range"] = f"{row['low']:.3g} to {row['high']:.3g}"
        row["expected"] = f"{row['tuned'] * row['tried_edge'] / row['tried']:.1f}" if row["tried"] else _DASH
    return sorted(rows, key=lambda row: (-(row["tuned_low"] + row["tuned_high"]), row["hyperparameter"]))


def _why_no_edges(board: DashboardBoard, submission: str) -> str:
    """Why nothing can be said of edges; empty where something is."""
    if submission not in board.ranges:
        return (
            "Not known: rows hold no search range, and the directory of this submission is not here as it was when it "
            "ran."
        )
    if not board.ranges[submission]:
        return "It has no search space of numbers."
    if (board.edge_counts["submission"] == submission).any():
        return ""
    return "Nothing was tuned here: no study of several trials has reached a target."


def _unread(board: DashboardBoard, submission: str) -> Row:
    """Hyperparameters that no profile has seen being read, of how many profiles; None: there is no profile."""
    rows = _of(board.profiles, submission)
    if not rows:
        return {"names": None, "workloads": 0}
    never = set.intersection(*(set(row["unread"]) for row in rows))
    return {"names": sorted(never), "workloads": len(rows)}


def _parts(board: DashboardBoard, submission: str) -> list[Row]:
    """The parts of a step by workload, from profiles: share and milliseconds of each."""
    trials = board.selection.trials
    here = set(trials["machine" if "machine" in trials.columns else "hardware_fingerprint"])
    found = []
    for row in _of(board.profiles, submission):
        whole = sum(row[name] for name in _PARTS)
        shares = [{"name": said, "share": row[name] / whole} for name, said in _PARTS.items()]
        for share in shares:
            share["text"] = f"{100 * share['share']:.0f} %"
        found.append(
            {
                "workload": row["workload"],
                "step": seconds_text(whole) if whole >= 1.0 else f"{1e3 * whole:.3g} ms",
                "steps": row["steps"],
                "shares": shares,
                "place": "" if row["hardware_fingerprint"] in here else f"on another machine ({row['hardware']})",
            }
        )
    return found


def _takes(board: DashboardBoard, submission: str) -> Row:
    """What trials take by workload, from rows, and the state that profiles have seen; columns that nothing fills go."""
    state = {row["workload"]: row for row in _of(board.profiles, submission)}
    rows = []
    for row in _of(board.time_parts, submission):
        held = state.get(row["workload"])
        known = held is not None and held["state_bytes"] is not None and not math.isnan(held["state_bytes"])
        rows.append(
            {
                "workload": row["workload"],
                "Step": _text(row["median_step_seconds"], 1e3, "{:.3g} ms"),
                "p90 / median": _text(row["p90_step_seconds"] / row["median_step_seconds"], 1.0, "{:.2f}"),
                f"{_TIMES} reference step": _text(row["step_over_reference"], 1.0, "{:.2f}"),
                "First step": _text(row["first_step_seconds"], 1.0, "{:.2f} s"),
                "of the charge": _text(row["start_share"], 100.0, "{:.0f} %"),
                "Processor": _text(row["cpu_share"], 100.0, "{:.0f} %"),
                "Evaluation": _text(row["evaluation_share"], 100.0, "{:.0f} %"),
                "Other": _text(row["other_share"], 100.0, "{:.0f} %"),
                "State": f"{held['state_bytes'] / held['parameters']:.1f} B" if held is not None and known else "",
                "Peak, host": _text(row["peak_host_bytes"], 1e-6, "{:,.0f} MB"),
                "Peak, device": _text(row["peak_device_bytes"], 1e-6, "{:,.0f} MB"),
                "Energy": _text(row["energy_joules"], 1.0, "{:,.0f} J"),
                "Power": _text(row["watts"], 1.0, "{:,.0f} W"),
            }
        )
    names = [name for name in (rows[0] if rows else {}) if name != "workload"]
    return {"names": [name for name in names if any(row[name] for row in rows)], "rows": rows}


def _text(value: float | None, factor: float, form: str) -> str:
    """A number in words; empty where it is not known."""
    return "" if value is None or not math.isfinite(value) else form.format(factor * value)

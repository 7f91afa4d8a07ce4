"""The trial table in chunks that a page loads in turn, each text once: 100,000 rows stay a few megabytes."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from harness.board.series import Data, numbers

CHUNK_ROWS = 20_000

_TEXTS = ["workload", "submission", "status", "reason", "hyperparameters"]
_NUMBERS = {
    "study": 9,
    "trial": 9,
    "time_to_target": 5,
    "steps_to_target": 9,
    "best_validation": 5,
    "charged_seconds": 5,
    "reference_drift": 4,
}
COLUMNS = [*_TEXTS, *_NUMBERS, "trial_id"]
"""What the page's table and its download hold of each trial."""


def chunks(times: pd.DataFrame) -> Iterator[Data]:
    """Rows in the order of the table, `CHUNK_ROWS` at a time. Texts are numbers into `words`."""
    ordered = times.sort_values(["workload", "submission", "study", "trial"], kind="stable")
    for start in range(0, len(ordered), CHUNK_ROWS):
        part = ordered.iloc[start : start + CHUNK_ROWS]
        chunk: Data = {"rows": len(part), "words": {}, "columns": {}}
        for name in _TEXTS:
            codes, words = pd.factorize(part[name])
            chunk["words"][name] = words.tolist()
            chunk["columns"][name] = codes.tolist()
        for name, digits in _NUMBERS.items():
            chunk["columns"][name] = numbers(part[name].to_numpy(dtype=float), digits)
        chunk["columns"]["trial_id"] = part["trial_id"].tolist()
        yield chunk

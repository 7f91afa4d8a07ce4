"""A checksum over all that is written down of one trial, so that an edit of its rows shows without running it again.

It is no secret: whoever edits can compute it too, and is found by running the trial again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping
from typing import Any


def checksum(
    trial: Mapping[str, Any], evaluations: Iterable[Mapping[str, Any]], *, version: int, later: Collection[str]
) -> str:
    """`version:SHA-256` over the row of a trial and those of its evaluations, as the tables have them.

    `later`: columns that schema `version` does not have; like the checksum itself they are no part of it.
    """
    ordered = sorted(evaluations, key=lambda row: int(row["evaluation"]))
    rows = [{name: value for name, value in row.items() if name not in later} for row in (trial, *ordered)]
    rows[0].pop("checksum", None)
    text = json.dumps(rows, sort_keys=True, default=lambda value: value.isoformat())
    return f"{version}:{hashlib.sha256(text.encode()).hexdigest()}"


def version_of(written: str) -> int | None:
    """The schema version that a checksum was made under; None where it is none."""
    version, colon, _ = written.partition(":")
    return int(version) if colon and version.isdecimal() else None

"""Rows of several machines, which no unit but the reference's steps puts on one scale."""

from __future__ import annotations

import pandas as pd

MACHINE = ["hardware", "hardware_fingerprint", "unofficial"]
"""What tells machines apart in rows."""

SEVERAL = "several machines"
RELATIVE = "reference_steps"
"""The unit that rows of different machines are compared in."""


def are_of_several(trials: pd.DataFrame) -> bool:
    """Whether the rows were made on more than one machine."""
    return len(trials[MACHINE].drop_duplicates()) > 1


def put_together(trials: pd.DataFrame) -> pd.DataFrame:
    """The rows as if all were of one machine, for what is read in reference steps alone.

    The column `machine` has the fingerprint of the one that each was made on.
    """
    machine = trials["hardware_fingerprint"]
    return trials.assign(machine=machine, hardware=SEVERAL, hardware_fingerprint="", unofficial=False)

"""Hyperparameters as rows have them, one column each."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import pandas as pd

_LEARNING_RATE = re.compile(r"(^|[._])(lr|learning_rate)($|[._])")


def point_of(values: Mapping[str, Any]) -> dict[str, Any]:
    """Hyperparameters by name; what is nested, or an element of a list, has a name with a dot: `betas.0`."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, list | tuple):
            value = {str(number): each for number, each in enumerate(value)}
        if isinstance(value, Mapping):
            found |= {f"{name}.{inner}": each for inner, each in point_of(value).items()}
        else:
            found[name] = value
    return found


def numbers_in(trials: pd.DataFrame) -> pd.DataFrame:
    """A column for each hyperparameter: its value, NaN where it is no number. Index: that of `trials`."""
    points = pd.DataFrame(
        [point_of(json.loads(text)) for text in trials["hyperparameters"]], index=trials.index, dtype=object
    )
    return points.where(points.map(_is_number)).astype(float)


def numeric_points(trials: pd.DataFrame) -> pd.DataFrame:
    """Of these columns those that hold a number in all of the trials."""
    return numbers_in(trials).dropna(axis=1)


def is_learning_rate(name: str) -> bool:
    """Whether a hyperparameter of this name is one: `learning_rate`, `adam_learning_rate`, `lr`, `groups.bias.lr`."""
    return bool(_LEARNING_RATE.search(name.replace("learning_rate", ".learning_rate.")))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value == value

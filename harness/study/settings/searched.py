"""A search space in the words of scoring: from where to where each hyperparameter that is a number was tuned."""

from __future__ import annotations

from collections.abc import Sequence

from harness.plugins.search import Choice, Interval, SearchSpace
from harness.plugins.values import is_number
from harness.scoring.settings.edges import Range
from harness.scoring.settings.points import point_of


def searched(space: SearchSpace) -> dict[str, Range]:
    """The range of each dimension of numbers; of a list of points, of each hyperparameter that they differ in."""
    if space.points:
        flat = [point_of(dict(point)) for point in space.points]
        lists = {name: [point.get(name) for point in flat] for name in flat[0]}
        found = {name: _of_list(values) for name, values in lists.items()}
    else:
        found = {name: _of_dimension(dimension) for name, dimension in space.dimensions.items()}
    return {name: each for name, each in found.items() if each is not None}


def _of_dimension(dimension: Interval | Choice) -> Range | None:
    if isinstance(dimension, Choice):
        return _of_list(dimension.values)
    return Range(dimension.min, dimension.max, is_log=dimension.scaling == "log")


def _of_list(values: Sequence[object]) -> Range | None:
    numbers = [float(value) for value in values if is_number(value)]
    if len(numbers) < len(values) or len(set(numbers)) < 2:
        return None
    return Range(min(numbers), max(numbers), values=tuple(sorted(set(numbers))))

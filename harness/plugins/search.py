"""Search spaces as data: reading, checking, overriding, drawing points. Nothing is trained here."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from harness.api import ConfigError, Hyperparameters, near_matches
from harness.plugins.values import Value, fitted, flat, is_number, value_at, with_value


@dataclass(frozen=True)
class Interval:
    """Numbers from `min` to `max`, both included, evenly spread over the value or over its logarithm."""

    min: float
    max: float
    scaling: Literal["linear", "log"] = "linear"
    integer: bool = False

    def value_at(self, share: float) -> float | int:
        """The value that lies at `share` of the way, 0 <= share < 1."""
        # An integer owns a cell of width 1 around it, so that both ends are as likely as the rest.
        margin = 0.5 if self.integer else 0.0
        low, high = self.min - margin, self.max + margin
        value = low * (high / low) ** share if self.scaling == "log" else low + share * (high - low)
        value = min(self.max, max(self.min, round(value) if self.integer else value))
        return int(value) if self.integer else value

    def contains(self, value: Value) -> bool:
        """True where `value` could be drawn."""
        if not is_number(value) or not self.min <= value <= self.max:
            return False
        return not self.integer or float(value).is_integer()


@dataclass(frozen=True)
class Choice:
    """One of a few values, all as likely."""

    values: tuple[Value, ...]

    def value_at(self, share: float) -> Value:
        """The value whose cell holds `share`, 0 <= share < 1."""
        return self.values[min(int(share * len(self.values)), len(self.values) - 1)]

    def contains(self, value: Value) -> bool:
        """True where `value` could be drawn."""
        return value in self.values


@dataclass(frozen=True)
class SearchSpace:
    """What external tuning may try: intervals and choices, or a list of fixed points. The rest stays at its default.

    `conditions`: of a conditional dimension, which values of which other hyperparameters make it count; where they have
    other values it stays at its default.
    """

    defaults: Hyperparameters
    dimensions: Mapping[str, Interval | Choice]
    points: tuple[Hyperparameters, ...] = ()
    conditions: Mapping[str, Mapping[str, tuple[Value, ...]]] = field(default_factory=dict)
    settled: Collection[str] = ()
    """Hyperparameters that are overridden: they stay at their value, and the others are drawn as they would be."""

    def overridden(self, overrides: Mapping[str, Any]) -> SearchSpace:
        """This space with `overrides` written over every point, before conditions are judged. Raises ConfigError."""
        return replace(
            self,
            defaults=resolve_overrides(self.defaults, overrides),
            points=tuple(resolve_overrides(point, overrides) for point in self.points),
            settled=tuple(flat(overrides)),
        )

    def _is_settled(self, name: str) -> bool:
        """Whether it was overridden: by its own name, or as an element of a list, or a list, that was."""
        whole = name.rpartition(".")[0]
        return any(given in (name, whole) or given.startswith(f"{name}.") for given in self.settled)

    def point_at(self, shares: Sequence[float]) -> Hyperparameters:
        """The point at `shares` of the way along each dimension, each in [0, 1)."""
        point: dict[str, Value] = dict(self.defaults)
        for (name, dimension), share in zip(self.dimensions.items(), shares, strict=True):
            wanted = self.conditions.get(name, {})
            # Conditions speak of hyperparameters whose values are settled: those before, and those that are not tuned.
            counts = all(value_at(point, other, name) in values for other, values in wanted.items())
            if counts and not self._is_settled(name):
                drawn = fitted(dimension.value_at(float(share)), value_at(point, name, name), name)
                point = with_value(point, name, drawn)
        return Hyperparameters(point)


def parse_space(space: object, *, defaults: Mapping[str, Value], where: str) -> SearchSpace:
    """The search space written under `search_space` in the file `where`; None: nothing to tune.

    Either name -> {min, max, scaling: linear | log, integer: true} or {values: [...]}, both with `when: {other: [...]}`
    where they count for some values of another hyperparameter alone; or a list of points, each a mapping from names to
    values. Values have the types of `defaults`. Raises ConfigError, naming file and key, for anything else, and for
    names that are not in `defaults`.
    """
    base = Hyperparameters(defaults)
    where = f"{where}: search_space"
    if space is None:
        return SearchSpace(base, {})
    if isinstance(space, list):
        if not space:
            raise ConfigError(f"{where} is an empty list. List at least one point, or leave it out.")
        return SearchSpace(base, {}, tuple(_point(point, base, where) for point in space))
    if not isinstance(space, dict):
        raise ConfigError(f"{where} is {space!r}. Use a mapping from names to ranges, or a list of points.")
    dimensions, conditions = {}, {}
    for name, written in space.items():
        default = value_at(base, name, where)
        ranges = written
        if isinstance(written, dict) and "when" in written:
            ranges = {key: value for key, value in written.items() if key != "when"}
            later = list(space)[list(space).index(name) :]
            conditions[name] = _condition(written["when"], base, later, f"{where}.{name}.when")
        dimensions[name] = _dimension(ranges, default, f"{where}.{name}")
    return SearchSpace(base, dimensions, conditions=conditions)


def resolve_overrides(
    defaults: Mapping[str, Value], overrides: Mapping[Any, object], *, where: str = "hp"
) -> Hyperparameters:
    """`defaults` with `overrides` written over them, in their types. `where`: the source of the overrides, for errors.

    Raises ConfigError for a name that the submission does not have, or a value that does not fit the default's type.
    """
    point = dict(defaults)
    for name, value in flat(overrides).items():
        point = with_value(point, name, fitted(value, value_at(point, name, where), f"{where}.{name}"))
    return Hyperparameters(point)


def draw(space: SearchSpace, *, count: int, seed: int) -> list[Hyperparameters]:
    """`count` points from a scrambled Halton sequence; a list of fixed points is gone through in order, and again.

    The first points of a longer draw are those of a shorter one. Raises ConfigError where count < 1.
    """
    if count < 1:
        raise ConfigError(f"{count} points were asked for. Ask for at least 1.")
    if space.points:
        return [space.points[number % len(space.points)] for number in range(count)]
    if not space.dimensions:
        return [space.defaults] * count
    from scipy.stats import qmc  # half a second that only tuning needs

    shares = qmc.Halton(len(space.dimensions), scramble=True, rng=seed).random(count)
    return [space.point_at(row) for row in shares]


def deal(space: SearchSpace, *, study: int, studies: int, trials: int, seed: int) -> list[Hyperparameters]:
    """The points of one study: its share of all points that are drawn once for a submission. AlgoPerf, external tuning.

    Of a sequence each study gets `trials` points that follow each other: every stretch of a Halton sequence is spread
    well, while every third point of it has one and the same third of a dimension of base 3. Of a list each study draws
    without replacement, and goes through the list again, in another order, where it has fewer points than trials.
    """
    if not space.points:
        return draw(space, count=studies * trials, seed=seed)[study * trials : (study + 1) * trials]
    import numpy as np

    rng = np.random.default_rng([seed, study])
    rounds = -(-trials // len(space.points))
    order = np.concatenate([rng.permutation(len(space.points)) for _ in range(rounds)])
    return [space.points[number] for number in order[:trials]]


def check_keys(written: Mapping[Any, object], known: Iterable[str], where: str) -> None:
    """Raises ConfigError, with the near matches, where `written` has a key that is not `known`."""
    names = list(known)
    for key in written:
        if key not in names:
            raise ConfigError(f"{where} has an unknown key {key!r}. {near_matches(key, names)}")


def _point(written: object, defaults: Hyperparameters, where: str) -> Hyperparameters:
    if not isinstance(written, dict) or not written:
        raise ConfigError(f"{where} has {written!r} in its list. Each point is a mapping from names to values.")
    return resolve_overrides(defaults, written, where=where)


def _condition(
    written: object, defaults: Mapping[str, Value], later: Sequence[str], where: str
) -> dict[str, tuple[Value, ...]]:
    """`later`: the dimension itself and those written after it, whose values are not settled when it is drawn."""
    if not isinstance(written, dict) or not written:
        raise ConfigError(f"{where} is {written!r}. Use a mapping such as {{optimizer: [sgd]}}.")
    conditions = {}
    for name, values in written.items():
        default = value_at(defaults, name, where)
        if name in later:
            raise ConfigError(f"{where} depends on {name!r}, which is drawn later. Write {name!r} before it.")
        if not isinstance(values, list) or not values:
            raise ConfigError(f"{where}.{name} is {values!r}. List at least one value.")
        conditions[name] = tuple(fitted(value, default, f"{where}.{name}") for value in values)
    return conditions


def _dimension(written: object, default: Value, where: str) -> Interval | Choice:
    if not isinstance(written, dict):
        raise ConfigError(f"{where} is {written!r}. Use {{min: ..., max: ..., scaling: log}} or {{values: [...]}}.")
    if "values" in written:
        check_keys(written, ["values"], where)
        values = written["values"]
        if not isinstance(values, list) or not values:
            raise ConfigError(f"{where}.values is {values!r}. List at least one value.")
        return Choice(tuple(fitted(value, default, f"{where}.values") for value in values))
    check_keys(written, ["min", "max", "scaling", "integer"], where)
    for key in ("min", "max"):
        if not is_number(written.get(key)):
            raise ConfigError(f"{where}.{key} is {written.get(key)!r}. Use a number.")
    interval = _interval(
        written["min"], written["max"], written.get("scaling", "linear"), written.get("integer", False), where
    )
    if default is not None and not is_number(default):
        raise ConfigError(f"{where} is a range of numbers, but the default is none. Use {{values: [...]}}.")
    if isinstance(default, int) and not interval.integer:
        raise ConfigError(
            f"{where} is a range of all numbers, but the default {default} is a whole one. "
            f"Add integer: true, or make the default {float(default)}."
        )
    return interval


def _interval(low: float, high: float, scaling: object, integer: object, where: str) -> Interval:
    if low > high:
        raise ConfigError(f"{where} has min {low} > max {high}. Swap them.")
    if scaling not in ("linear", "log"):
        raise ConfigError(f"{where}.scaling is {scaling!r}. Use 'linear' or 'log'.")
    if scaling == "log" and low <= 0:
        raise ConfigError(f"{where} has min {low} with scaling log. Use a min above 0, or scaling linear.")
    if not isinstance(integer, bool):
        raise ConfigError(f"{where}.integer is {integer!r}. Use true or false.")
    if integer and not (float(low).is_integer() and float(high).is_integer()):
        raise ConfigError(f"{where} has min {low} and max {high} with integer: true. Use whole numbers.")
    return Interval(low, high, scaling, integer)

"""What a hyperparameter may be, and the one reading of it: as a default, in a search space, on the command line.

The type of a default decides how every other value is read; a point has one spelling, whatever road it came by.
"""

from __future__ import annotations

import keyword
import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

from harness.api import ConfigError, Hyperparameters, near_matches

Scalar = bool | int | float | str | None
Value = Scalar | tuple[Scalar, ...]
"""What a hyperparameter may be: a scalar, or a few of them. The element `i` of `betas` is called `betas.i`."""


def check_hyperparameters(written: object, where: str, groups: Sequence[str] = ()) -> dict[str, Value]:
    """The mapping from names to defaults that `written` is. Raises ConfigError where it is anything else.

    `groups`: names that may hold mappings of their own, which are given out as `group.name`.
    """
    if not isinstance(written, dict):
        raise ConfigError(
            f"{where} is {written!r}. Use a mapping from names to default values; {{}} if there are none."
        )
    found: dict[str, Value] = {}
    for name, value in written.items():
        is_name = isinstance(name, str) and name.isidentifier() and not keyword.iskeyword(name)
        if not is_name or hasattr(Hyperparameters, str(name)):
            raise ConfigError(
                f"{where} has the name {name!r}. Use a Python name that is no word of the language and no method of a "
                "mapping, so that hp.<name> reads it."
            )
        if name in groups and isinstance(value, dict):
            inside = check_hyperparameters(value, f"{where}.{name}")
            found.update({f"{name}.{inner}": default for inner, default in inside.items()})
        else:
            found[name] = _default(value, f"{where}.{name}")
    return found


def flat(written: Mapping[Any, object]) -> dict[str, object]:
    """Mappings inside a mapping as dotted names, as `hp.matrices.learning_rate=...` and `hp.betas.0=...` make them."""
    found: dict[str, object] = {}
    for name, value in written.items():
        if isinstance(value, Mapping):
            found.update({f"{name}.{inner}": each for inner, each in flat(value).items()})
        else:
            found[str(name)] = value
    return found


def value_at(point: Mapping[str, Value], name: str, where: str) -> Value:
    """The value of `name`, which may be an element: `betas.0`. Raises ConfigError for a name that is not there."""
    if name in point:
        return point[name]
    whole, _, number = str(name).rpartition(".")
    values = point.get(whole)
    if isinstance(values, tuple) and number.isdecimal() and int(number) < len(values):
        return values[int(number)]
    if isinstance(values, tuple):
        raise ConfigError(f"{where} names {name!r}; {whole} has the elements 0 to {len(values) - 1}.")
    raise ConfigError(f"{where} names {name!r}, which is not a hyperparameter. {near_matches(name, point)}")


def with_value(point: Mapping[str, Value], name: str, value: Value) -> dict[str, Value]:
    """`point` with `value` in the place of `name`, which may be an element."""
    if name in point:
        return {**point, name: value}
    whole, _, number = name.rpartition(".")
    values = point[whole]
    assert isinstance(values, tuple)
    assert not isinstance(value, tuple)
    place = int(number)
    return {**point, whole: (*values[:place], value, *values[place + 1 :])}


def fitted(value: object, default: Value, where: str) -> Value:
    """`value` in the type of `default`; text is read as YAML reads it. Raises ConfigError where it does not fit.

    A default of null has no type: there whole numbers are integers.
    """
    if isinstance(default, str):
        return _fitted_text(value, default, where)
    read = _read(value) if isinstance(value, str) else value
    if isinstance(default, tuple):
        if not isinstance(read, list | tuple) or len(read) != len(default):
            raise ConfigError(f"{where} is {value!r}. Use a list of {len(default)}, as the default {list(default)} is.")
        return _scalars([fitted(each, default[place], f"{where}.{place}") for place, each in enumerate(read)])
    scalar = _scalar(read, where)
    if isinstance(default, bool):
        if not isinstance(scalar, bool):
            raise ConfigError(f"{where} is {value!r}. Use true or false; the default is {str(default).lower()}.")
        return scalar
    if isinstance(default, int | float):
        if not is_number(scalar):
            raise ConfigError(f"{where} is {value!r}. Use a number; the default is {default!r}.")
        return _fitted_number(scalar, default, where)
    return int(scalar) if isinstance(scalar, float) and scalar.is_integer() else scalar


def is_number(value: object) -> TypeGuard[int | float]:
    """True for a finite number; true and false are none."""
    # No isfinite, which raises for a whole number beyond the range of floats.
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _default(written: object, where: str) -> Value:
    """A default as YAML gives it; numbers of a list are of one type."""
    if not isinstance(written, list):
        return _scalar(written, where)
    if not written:
        raise ConfigError(f"{where} is an empty list. List at least one value.")
    elements = _scalars([_scalar(each, f"{where}.{place}") for place, each in enumerate(written)])
    if all(is_number(each) for each in elements) and any(isinstance(each, float) for each in elements):
        return tuple(float(each) for each in elements)  # type: ignore[arg-type]
    return elements


def _scalar(value: object, where: str) -> Scalar:
    if not (value is None or isinstance(value, bool | int | float | str)):
        raise ConfigError(f"{where} is {value!r}. Use a number, true, false, text, null, or a list of these.")
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{where} is {value}. Use a finite number.")
    # One zero: that of the other sign would be another point.
    return value + 0.0 if isinstance(value, float) else value


def _scalars(values: Sequence[Value]) -> tuple[Scalar, ...]:
    assert not any(isinstance(value, tuple) for value in values)
    return tuple(values)  # type: ignore[arg-type]


def _fitted_text(value: object, default: str, where: str) -> str:
    if not isinstance(value, str):
        raise ConfigError(
            f"{where} is {value!r}. Use text, as the default {default!r} is; "
            "in quotes where YAML would read something else."
        )
    # Quotes reach a command line's value where its shell leaves them.
    read = _read(value) if value[:1] in ("'", '"') else value
    return read if isinstance(read, str) else value


def _fitted_number(value: float, default: float, where: str) -> float:
    if isinstance(default, float):
        return float(value) + 0.0
    if not float(value).is_integer():
        raise ConfigError(
            f"{where} is {value!r}. Use a whole number, as the default {default} is; "
            f"where others make sense, the default is {float(default)}."
        )
    return int(value)


def _read(text: str) -> object:
    """What YAML reads `text` as, where that is a scalar or a list; else the text itself."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    try:
        # The reader of submission.yaml.
        read: Any = OmegaConf.to_container(OmegaConf.create(f"value: {text}"))
    except (YAMLError, OmegaConfBaseException):
        return text
    value = read.get("value", text) if len(read) == 1 else text
    return text if isinstance(value, dict) else value

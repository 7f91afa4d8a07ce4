"""Numbers and words from files that others have written: each is what it should be, or a DataError names the file."""

from __future__ import annotations

import datetime
import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from harness.api import DataError, one_line

LARGEST_INT32, LARGEST_INT64 = 2**31 - 1, 2**63 - 1


def finite(value: Any) -> float:
    """The number. Raises ValueError, TypeError or OverflowError where it is none, or not finite."""
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{number} is not finite")
    return number


def whole(value: Any, most: int = LARGEST_INT64) -> int:
    """The whole number, at most `most` from 0. Raises ValueError, TypeError or OverflowError where it is none."""
    number = int(value)
    if abs(number) > most:
        raise ValueError(f"{value} is too large")
    return number


def number_or_none(text: Any) -> float | None:
    """The number, or None where it is empty, NaN or infinite: parquet keeps null apart from a number."""
    value = math.nan if text is None or text == "" else float(text)
    return value if math.isfinite(value) else None


def json_file(path: Path) -> Any:
    """What a JSON file holds. Raises DataError where it cannot be read or is none."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}).") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not JSON ({error}). Mend or remove the file.") from None


class Values:
    """Names and values of the first of some JSON files, if there is one.

    Raises DataError that names the file and what is wrong in it.
    """

    def __init__(self, paths: list[Path]) -> None:
        self.path = paths[0] if paths else None
        self._values: dict[str, Any] = {}
        if self.path is not None:
            content = json_file(self.path)
            if not isinstance(content, dict):
                raise DataError(f"{self.path}: holds no names and values. Mend or remove the file.")
            self._values = content

    def number(self, name: str) -> float | None:
        """A finite number; None where there is none."""
        value = self._values.get(name)
        if value is None:
            return None
        try:
            return finite(value)
        except (ValueError, TypeError, OverflowError):
            raise self._unfit(name, "a finite number") from None

    def seconds(self, name: str) -> float | None:
        """A positive number of seconds; None where there is none."""
        value = self.number(name)
        if value is not None and value <= 0.0:
            raise self._unfit(name, "a positive number of seconds")
        return value

    def whole(self, name: str, default: int, *, most: int = LARGEST_INT64) -> int:
        """A whole number, at most `most`."""
        value = self._values.get(name)
        if value is None:
            return default
        try:
            return whole(value, most)
        except (ValueError, TypeError, OverflowError):
            raise self._unfit(name, "a whole number") from None

    def text(self, name: str) -> str:
        """A word, or a number as one; empty where there is none."""
        value = self._values.get(name)
        if not (value is None or isinstance(value, str | int | float)):
            raise self._unfit(name, "a word")
        return "" if value is None else one_line(value)

    def as_json(self) -> str:
        """All of it as one line of JSON."""
        return json.dumps(self._values)

    def _unfit(self, name: str, wanted: str) -> DataError:
        found = one_line(repr(self._values[name]))[:80]
        return DataError(f"{self.path}: {name} is {found}, not {wanted}. Mend or remove the file.")


def oldest_stamp(paths: Iterable[Path]) -> datetime.datetime:
    """The oldest time stamp: where logs hold no other, importing twice must still give the same rows."""
    return datetime.datetime.fromtimestamp(min(path.stat().st_mtime for path in paths), tz=datetime.UTC)

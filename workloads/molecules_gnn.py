"""Properties of molecules, four questions with few answers each, and a graph network."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.api import (
    Batch,
    DataError,
    DataSource,
    Examples,
    Renamed,
    Reordered,
    SplitName,
    Symmetry,
    TensorExamples,
)
from workloads.data.molecules_table import SYMBOLS, TASKS, Labels, molecule_wheels, read_molecules
from workloads.data.smiles import Molecule
from workloads.losses.labelled_graphs import LabelledGraphs, joined

_SEED_OF_SPLIT = 0
# One task has 109 positives in all: of a tenth of the molecules too few to say anything.
_PARTS: dict[SplitName, tuple[float, float]] = {"train": (0.0, 0.6), "validation": (0.6, 0.8), "test": (0.8, 1.0)}
_DEGREES = 6  # 0 to 4, and more
_CHARGES = 3  # negative, none, positive
_ORDERS = {"=": 1, "#": 2, ":": 3}  # 0: single
ATOM_FEATURES = len(SYMBOLS) + 1 + _DEGREES + _CHARGES
BOND_FEATURES = 4


class MoleculesGnn(LabelledGraphs):
    """Four tasks. See GraphNetwork for the sizes."""

    node_features: ClassVar[int] = ATOM_FEATURES
    edge_features: ClassVar[int] = BOND_FEATURES
    tasks: ClassVar[int] = len(TASKS)
    compiles = True

    def sources(self) -> list[DataSource]:
        """Two wheels."""
        return list(molecule_wheels())

    def load(self, split: SplitName, folder: Path) -> Examples:
        """Molecules in tensors of the size of the largest one, a fixed random split; see `encoded`.

        Raises DataError where a file is missing, damaged or another one.
        """
        barrier, others = (wheel.path(folder) for wheel in molecule_wheels())
        everything = _everything(barrier, others, barrier.stat().st_mtime_ns, others.stat().st_mtime_ns)
        order = torch.from_numpy(numpy.random.default_rng(_SEED_OF_SPLIT).permutation(len(everything["sizes"])))
        begin, end = (int(share * len(order)) for share in _PARTS[split])
        return TensorExamples({name: values[order[begin:end]] for name, values in everything.items()})

    def outputs(self, model: nn.Module, batch: Batch) -> Tensor:
        """The model on the batch as one graph without its padding. Shape: [batch, tasks]."""
        outputs: Tensor = model(**packed(batch), graphs=len(batch["sizes"]))
        return outputs

    def symmetries(self) -> list[Symmetry]:
        """Properties of atoms and orders of bonds under other numbers; tasks in another order."""
        return [
            Renamed({"atoms": None}, [(0, ATOM_FEATURES)]),
            Renamed({"bonds": 2}, [(0, BOND_FEATURES)]),
            Reordered({"targets": 1, "weights": 1}),
        ]

    def resized(self) -> dict[str, Any]:
        """All vectors longer by one."""
        return {"latent": self.latent + 1, "hidden": [width + 1 for width in self.hidden]}


def packed(batch: Batch) -> dict[str, Tensor]:
    """The molecules of a batch as one graph, in which each bond is an edge both ways; the arguments of GraphNetwork.

    Shapes: as of `encoded` -> nodes float32 [atoms, features], edges float32 [2 * bonds, features], senders and
    receivers int64 [2 * bonds], node_graphs int64 [atoms].
    """
    graph = joined(batch["atoms"], batch["bonds"], batch["sizes"])
    features = graph["nodes"].long()
    places = torch.zeros(len(features), ATOM_FEATURES, device=features.device)
    orders = F.one_hot(graph["edges"].squeeze(1), BOND_FEATURES).float()
    return {**graph, "nodes": places.scatter_(1, features, 1.0), "edges": orders}


def encoded(molecules: Sequence[tuple[Molecule, Labels]]) -> dict[str, Tensor]:
    """Molecules as tensors, padded with zeros to the largest one.

    Shapes: `atoms` uint8 [n, atoms, 3], the places of an atom's symbol, degree and charge among the atom features;
    `bonds` uint8 [n, bonds, 3], two atoms and the order (0 to 3: single, double, triple, aromatic); `sizes` int64
    [n, 2], atoms and bonds; `targets` and `weights` float32 [n, tasks], both 0 where a label is not known.
    """
    sizes = numpy.array([(len(molecule.symbols), len(molecule.bonds)) for molecule, _ in molecules])
    most_atoms, most_bonds = sizes.max(axis=0)
    atoms = numpy.zeros((len(molecules), most_atoms, 3), numpy.uint8)
    bonds = numpy.zeros((len(molecules), most_bonds, 3), numpy.uint8)
    targets, weights = (numpy.zeros((len(molecules), len(TASKS)), numpy.float32) for _ in range(2))
    for row, (molecule, labels) in enumerate(molecules):
        atoms[row, : sizes[row, 0]] = _atom_features(molecule)
        if molecule.bonds:
            bonds[row, : sizes[row, 1]] = _bond_features(molecule)
        for column, task in enumerate(TASKS):
            targets[row, column] = labels.get(task, False)
            weights[row, column] = task in labels
    arrays = {
        "atoms": atoms,
        "bonds": bonds,
        "sizes": sizes.astype(numpy.int64),
        "targets": targets,
        "weights": weights,
    }
    return {name: torch.from_numpy(values) for name, values in arrays.items()}


def _atom_features(molecule: Molecule) -> list[tuple[int, int, int]]:
    degrees = Counter(end for bond in molecule.bonds for end in bond[:2])
    symbols = {symbol: place for place, symbol in enumerate(SYMBOLS)}
    first_degree, first_charge = len(SYMBOLS) + 1, len(SYMBOLS) + 1 + _DEGREES
    return [
        (
            symbols.get(symbol, len(SYMBOLS)),
            first_degree + min(degrees[atom], _DEGREES - 1),
            first_charge + (charge > 0) - (charge < 0) + 1,
        )
        for atom, (symbol, charge) in enumerate(zip(molecule.symbols, molecule.charges, strict=True))
    ]


def _bond_features(molecule: Molecule) -> list[tuple[int, int, int]]:
    is_aromatic = [symbol.islower() for symbol in molecule.symbols]
    return [
        # No mark between aromatic atoms means an aromatic bond, anywhere else a single one.
        (
            one,
            other,
            _ORDERS[":"] if mark is None and is_aromatic[one] and is_aromatic[other] else _ORDERS.get(mark or "", 0),
        )
        for one, other, mark in molecule.bonds
    ]


@lru_cache(maxsize=1)
def _everything(barrier: Path, others: Path, *modified: int) -> dict[str, Tensor]:  # noqa: ARG001 - other files are read
    """All molecules. Kept, as a process reads two splits and the text takes a second."""
    found = encoded(read_molecules(barrier, others))
    if found["sizes"].max() > 255:
        raise DataError(f"{barrier} or {others} holds a molecule of more than 255 atoms or bonds. Run: make data")
    return found

"""ogbg-molpcba: read from the tables that its archive unpacks to, prepared, and given out as padded batches."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import pandas
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from harness.api import SPLITS, Batch, DataError, SplitName
from workloads.data.prepared import Chunk, Field, PreparedExamples, PreparedSource, Raw, one_by_one, prepare
from workloads.full.data.archives import Archive, unpack

NODE_FEATURES = 9
EDGE_FEATURES = 3
TASKS = 128
UNKNOWN = -1
"""In place of a label that is not known."""

COUNTS: Mapping[SplitName, int] = {"train": 350_343, "validation": 43_793, "test": 43_793}
"""Molecules of each split, by their scaffolds. Source: the Open Graph Benchmark."""
ARCHIVE = Archive(
    "pcba.zip",
    ("https://snap.stanford.edu/ogb/data/graphproppred/csv_mol_download",),
    "0bb12da2f3ec8b0bb80564114a6174fad2df6a3a0d3c19470b3a27813a7d4e53",
    "pcba",
)
"""Hash as TensorFlow Datasets has it."""

_TERMS = "https://ogb.stanford.edu/docs/graphprop"
_READER = "molpcba 1"
_SPLIT_FILES: Mapping[SplitName, str] = {"train": "train", "validation": "valid", "test": "test"}
_BY = "Remove the folder pcba, and run make data, which fetches it again."


@dataclass(frozen=True)
class Molecules:
    """All molecules, atoms and bonds of each behind those of the one before it.

    Shapes: `nodes` uint8 [atoms, 9], `edges` int16 [bonds, 5]: two atoms, numbered from 0 within their molecule, and
    three features; each bond once; `labels` int8 [n, 128]: 0, 1 or UNKNOWN; `first_node`, `first_edge` int64 [n + 1].
    """

    nodes: numpy.ndarray
    edges: numpy.ndarray
    labels: numpy.ndarray
    first_node: numpy.ndarray
    first_edge: numpy.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def examples(self, index: numpy.ndarray) -> Iterator[dict[str, numpy.ndarray]]:
        """Some of them, one at a time: `nodes` uint8 [atoms, 9], `edges` int16 [bonds, 5], `labels` int8 [128]."""
        for each in index.tolist():
            atoms, bonds = (slice(first[each], first[each + 1]) for first in (self.first_node, self.first_edge))
            yield {"nodes": self.nodes[atoms], "edges": self.edges[bonds], "labels": self.labels[each]}


def read_molecules(folder: Path) -> Molecules:
    """All molecules of the folder `raw`. Raises DataError where a table is missing, damaged or does not fit the others.

    Source of the format: ogb/io/README.md of the Open Graph Benchmark.
    """
    atoms, bonds = (_table(folder / f"num-{kind}-list.csv.gz", "int64", 1)[:, 0] for kind in ("node", "edge"))
    nodes = _table(folder / "node-feat.csv.gz", "uint8", NODE_FEATURES)
    links = _table(folder / "edge.csv.gz", "int16", 2)
    edge_features = _table(folder / "edge-feat.csv.gz", "uint8", EDGE_FEATURES)
    labels = _table(folder / "graph-label.csv.gz", "float32", TASKS)
    for name, found, counted in (
        ("node-feat", len(nodes), int(atoms.sum())),
        ("edge", len(links), int(bonds.sum())),
        ("edge-feat", len(edge_features), int(bonds.sum())),
        ("num-edge-list", len(bonds), len(atoms)),
        ("graph-label", len(labels), len(atoms)),
    ):
        if found != counted:
            raise DataError(f"{folder / name}.csv.gz has {found} rows, the lists count {counted}. {_BY}")
    if len(links) and ((links < 0).any() or (links.max(axis=1) >= numpy.repeat(atoms, bonds)).any()):
        raise DataError(f"{folder / 'edge.csv.gz'} names an atom that its molecule does not have. {_BY}")
    is_known = ~numpy.isnan(labels)
    if not numpy.isin(labels[is_known], (0.0, 1.0)).all():
        raise DataError(f"{folder / 'graph-label.csv.gz'} holds a label that is neither 0 nor 1 nor empty. {_BY}")
    return Molecules(
        nodes=nodes,
        edges=numpy.concatenate([links, edge_features.astype(numpy.int16)], axis=1),
        labels=numpy.where(is_known, labels, UNKNOWN).astype(numpy.int8),
        first_node=numpy.concatenate([[0], atoms.cumsum()]),
        first_edge=numpy.concatenate([[0], bonds.cumsum()]),
    )


def split_index(folder: Path, split: SplitName, count: int) -> numpy.ndarray:
    """Which of `count` molecules are in a split, in the order of the file. Shape: int64 [any].

    `folder`: the one called split/scaffold. Raises DataError where the file is missing or names other molecules.
    """
    path = folder / f"{_SPLIT_FILES[split]}.csv.gz"
    index = _table(path, "int64", 1)[:, 0]
    if len(numpy.unique(index)) != len(index) or not ((index >= 0) & (index < count)).all():
        raise DataError(f"{path} names a molecule twice, or one that is not among the {count}. {_BY}")
    return index


def _table(path: Path, dtype: Any, columns: int) -> numpy.ndarray:
    """Shape: [rows, columns]. Raises DataError."""
    try:
        found: numpy.ndarray = pandas.read_csv(path, header=None, dtype=dtype).to_numpy()
    except (OSError, EOFError, zlib.error, ValueError, OverflowError) as error:
        raise DataError(f"{path} cannot be read as a table ({error}). {_BY}") from error
    if found.shape[1] != columns:
        raise DataError(f"{path} has {found.shape[1]} columns, not {columns}. {_BY}")
    return found


# --- prepared ---


class Graphs(PreparedExamples):
    """Prepared molecules; a batch is padded with zeros to its largest one."""

    def decode(self, raw: Raw, seeds: Tensor | None) -> Batch:  # noqa: ARG002 - nothing is drawn
        """`nodes` uint8 [batch, most atoms, 9], `edges` int16 [batch, most bonds, 5], `sizes` int64 [batch, 2] of both;
        `targets` and `weights` float32 [batch, 128], both 0 where a label is not known.
        """  # fmt: skip
        nodes, edges = (
            [torch.from_numpy(each).view(-1, columns) for each in raw[name]]
            for name, columns in (("nodes", NODE_FEATURES), ("edges", 2 + EDGE_FEATURES))
        )
        labels = torch.from_numpy(raw["labels"])
        return {
            "nodes": pad_sequence(nodes, batch_first=True),
            "edges": pad_sequence(edges, batch_first=True),
            "sizes": torch.tensor([[len(some), len(others)] for some, others in zip(nodes, edges, strict=True)]),
            "targets": labels.clamp_min(0).float(),
            "weights": (labels != UNKNOWN).float(),
        }


class MolpcbaSplits(PreparedSource):
    """The three splits, prepared from the published archive.

    In the data folder, under `ogbg`: `raw/pcba`, what the archive unpacks to, and the prepared splits. `counts`: how
    many molecules each split must have; None: any number.
    """

    name = "ogbg"
    size_megabytes = 39.6
    disk_megabytes = 450.0
    licence = "MIT"
    notes = ("ogbg-molpcba of the Open Graph Benchmark; preparing it takes a minute or two and 4 GB of memory",)

    def __init__(self, *, counts: Mapping[SplitName, int] | None = COUNTS, archive: Archive = ARCHIVE) -> None:
        self._counts = counts or {}
        self._archive = archive

    def fetch(self, folder: Path) -> None:
        """Bring what is missing. Raises DataError where that fails."""
        if self.is_present(folder):
            return
        unpack(self._archive, folder / self.name / "raw", terms=_TERMS)
        raw = folder / self.name / "raw" / "pcba"
        molecules = read_molecules(raw / "raw")
        for split in SPLITS:
            index = split_index(raw / "split" / "scaffold", split, len(molecules))

            def rest(begin: int, index: numpy.ndarray = index) -> Iterator[Chunk]:
                return one_by_one(map(_flat, molecules.examples(index[begin:])), size=1024)

            prepare(
                self.split_folder(folder, split),
                {"nodes": Field("|u1", None), "edges": Field("<i2", None), "labels": Field("|i1", (TASKS,))},
                rest,
                about={"reader": _READER},
                count=self._counts.get(split),
            )


def _flat(molecule: dict[str, numpy.ndarray]) -> dict[str, numpy.ndarray]:
    return {name: values.reshape(-1) for name, values in molecule.items()}

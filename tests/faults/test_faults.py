"""Faults at every state of a trial: no row is lost, no wrong one written, nothing is left, and the bench goes on."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.cells import Cell, cells
from tests.faults.checks import departures, lacking
from tests.faults.conductor import World


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    # Shorter than what pytest makes: the temporary folders of trainers lie below.
    with tempfile.TemporaryDirectory(prefix="tf-") as folder:
        yield World(Path(folder).resolve())


@pytest.mark.slow
@pytest.mark.parametrize("cell", [pytest.param(one, id=one.name) for one in cells()])
def test_a_fault_costs_no_finished_row_and_leaves_nothing(world: World, cell: Cell):
    if cell.needs in lacking():
        pytest.skip(f"this machine lacks what the cell needs: {cell.needs}")
    assert departures(world, cell, world.folder / "cell") == []


def test_there_are_two_hundred_cells_or_more_and_no_two_of_one_name():
    assert len({cell.name for cell in cells()}) == len(cells()) >= 200

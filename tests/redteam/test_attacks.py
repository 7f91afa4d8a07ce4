"""Dishonest submissions get the end that is written beside each of them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.race.sandbox import Sandbox
from tests.redteam import arena
from tests.redteam.attacks import ATTACKS, Attack

LONG = {"full disk", "many files", "fork bomb", "memory bomb", "full temporary folder", "open files", "deaf to the end"}


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with arena.new_sandbox() as sandbox:
        yield sandbox


@pytest.fixture
def folder() -> Iterator[Path]:
    # The path of a socket must be shorter than what pytest makes.
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder).resolve()


@pytest.mark.parametrize(
    "attack",
    [pytest.param(one, id=one.name, marks=[pytest.mark.slow] if one.name in LONG else []) for one in ATTACKS],
)
def test_an_attack_gets_its_end(sandbox: Sandbox, folder: Path, attack: Attack):
    end = arena.run(attack, sandbox, folder)
    if attack.walls and not end.outcome.sandboxed:
        pytest.skip(f"this system has no sandbox: it lacks {sandbox.missing}")
    departure = end.departure(attack)
    if departure and attack.busy and not end.gained and not end.had_the_processor:
        pytest.skip("the machine was too busy to give the attack a second processor")
    assert departure is None, f"{departure}\n{end.outcome.log[-2000:]}"


def test_there_are_forty_attacks_or_more_and_no_two_of_one_name():
    assert len({attack.name for attack in ATTACKS}) == len(ATTACKS) >= 40

"""Molecules written as SMILES, read as graphs: atoms, charges and bonds. Keeps no handedness, adds no hydrogen.

Covers what the data of this suite hold; checks parentheses, rings and tokens, but no chemistry. On all of these data it
gave the atoms, charges and bonds that rdkit 2026.9.1 reads.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

_TOKEN = re.compile(r"(\[[^\]]+\]|Br|Cl|[BCNOPSFI*]|[bcnops]|[=#\-+\\/:~$.()]|%\d\d|\d)")
_BRACKET = re.compile(r"\[\d*([A-Z][a-z]?|as|se|[bcnops]|\*)@{0,2}(?:H\d?)?([+-]\d+|\++|-+)?(?::\d+)?\]")
_BONDS = "=#-:~$/\\"


@dataclass
class Molecule:
    """`symbols`: element of each atom, in lower case where it is aromatic; `charges`: of each atom.

    `bonds`: pairs of atoms with the mark between them; None where there is none, or a direction.
    """

    symbols: list[str] = field(default_factory=list)
    charges: list[int] = field(default_factory=list)
    bonds: list[tuple[int, int, str | None]] = field(default_factory=list)


def read_smiles(smiles: str) -> Molecule:
    """The molecule. Raises ValueError, which holds what was not understood, for anything but whole SMILES.

    Source: Weininger, J. Chem. Inf. Comput. Sci. 28 (1988) 31; opensmiles.org.
    """
    molecule = Molecule()
    branches: list[int | None] = []
    rings: dict[int, tuple[int, str | None]] = {}
    previous: int | None = None
    mark: str | None = None
    position = 0
    for match in _TOKEN.finditer(smiles):
        if match.start() != position:
            break
        position, token = match.end(), match[0]
        if token == "(":
            branches.append(previous)
        elif token == ")":
            if not branches:
                raise ValueError(f"{smiles!r} closes a branch that is not open")
            previous = branches.pop()
        elif token in _BONDS:
            # Directions say on which side of a double bond things stand, which is not kept.
            mark = None if token in "/\\" else token
        elif token == ".":
            previous = mark = None
        elif token[0] == "%" or token.isdigit():
            if previous is None:
                raise ValueError(f"{smiles!r} begins a ring without an atom")
            label = int(token.lstrip("%"))
            if label in rings:
                start, mark_at_start = rings.pop(label)
                molecule.bonds.append((start, previous, mark or mark_at_start))
            else:
                rings[label] = (previous, mark)
            mark = None
        else:
            _add_atom(molecule, token)
            if previous is not None:
                molecule.bonds.append((previous, len(molecule.symbols) - 1, mark))
            previous, mark = len(molecule.symbols) - 1, None
    if position != len(smiles) or rings or branches or not molecule.symbols:
        raise ValueError(f"{smiles!r} is not understood at {smiles[position:]!r}, or leaves a ring or branch open")
    return molecule


def _add_atom(molecule: Molecule, token: str) -> None:
    symbol, charge = token, 0
    if token[0] == "[":
        match = _BRACKET.fullmatch(token)
        if match is None:
            raise ValueError(f"{token!r} is no atom")
        symbol, sign = match[1], match[2] or ""
        # "+2" counts by its number, "++" by its length.
        charge = int(sign) if sign[1:].isdigit() else sign.count("+") - sign.count("-")
    molecule.symbols.append(symbol)
    molecule.charges.append(charge)

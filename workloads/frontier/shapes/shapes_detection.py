"""Which shapes are where in a noisy scene, said by a small convolutional network in one pass, cell by cell.

The auxiliary branch after Wang, Yeh, Liao, "YOLOv9: Learning what you want to learn using programmable gradient
information", arXiv 2402.13616.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.api import (
    SPLITS,
    Batch,
    DataSource,
    Examples,
    LossKind,
    ParameterKind,
    Renamed,
    SeveralTerms,
    Signed,
    SplitName,
    Symmetry,
)
from workloads.frontier.made import KnownExamples, as_float32
from workloads.frontier.shapes.average_precision import Detections, average_precision, hits, unsuppressed
from workloads.frontier.shapes.scenes import CELL, GREYS, GRID, KINDS, NOTHING, UNIT, cells_of, drawn_scenes

_SEED_OF_DATA = 2024
_SIZES: dict[SplitName, int] = {"train": 4_000, "validation": 500, "test": 500}
_OUTPUTS = 1 + 3 + len(KINDS)
_DETECTIONS = 48
"""Of a scene count so many, the surest: a third of all cells."""
_OVERLAP = 0.5


class ShapesDetection(SeveralTerms):
    """Terms, of each cell: `objectness`, whether the middle of an object is in it; of those with one `box` and `class`.

    These are cross-entropy, mean smooth L1 of shift and size, cross-entropy of the six kinds. Metric `ap_error`, 1 -
    mean over the kinds of the average precision at an overlap of a half. `has_auxiliary_branch`: in train mode a second
    head is heard too, see Detector, and a term is the mean of both. `width` of the first two layers.
    """

    loss_kind: ClassVar[LossKind] = LossKind.OTHER
    term_weights: ClassVar[Mapping[str, float]] = {"objectness": 4.0, "box": 1.0, "class": 0.5}

    def __init__(self, *, width: int, has_auxiliary_branch: bool) -> None:
        self.width = width
        self.has_auxiliary_branch = has_auxiliary_branch

    @property
    def not_promised(self) -> frozenset[str]:  # type: ignore[override]
        """Each head has an output layer."""
        return frozenset({"one_output_layer"}) if self.has_auxiliary_branch else frozenset()

    def sources(self) -> list[DataSource]:
        """None: the data are made when they are read."""
        return []

    def load(self, split: SplitName, folder: Path) -> Examples:  # noqa: ARG002 - nothing lies in the data folder
        """See SceneExamples."""
        # The stream of RandomState is frozen (NEP 19), that of a Generator may change with the version of numpy.
        scenes = drawn_scenes(numpy.random.RandomState([_SEED_OF_DATA, SPLITS.index(split)]), _SIZES[split])
        kinds_of_cells, boxes_of_cells = cells_of(scenes.places, scenes.kinds)
        drawn = {
            "pictures": torch.from_numpy(scenes.pictures)[:, None],
            "places": as_float32(scenes.places / UNIT),
            "kinds": torch.from_numpy(scenes.kinds),
        }
        known = {"cell_kinds": torch.from_numpy(kinds_of_cells), "cell_boxes": as_float32(boxes_of_cells)}
        return SceneExamples(drawn, known)

    def build_model(self) -> nn.Module:
        """A new network. Shapes: [batch, 1, 48, 48] -> [batch, heads, 10, 12, 12]."""
        return Detector(self.width, has_auxiliary_branch=self.has_auxiliary_branch)

    def loss_terms(
        self, outputs: Tensor, batch: Batch, label_smoothing: float
    ) -> dict[str, tuple[Tensor, Tensor | None]]:
        """Of each head and cell; labels of kinds alone are smoothed. Shapes: [batch, heads, 12, 12]."""
        heads = outputs.shape[1]
        kinds = batch["cell_kinds"][:, None].expand(-1, heads, -1, -1)
        has_object = (kinds != NOTHING).to(outputs.dtype)
        of_object, boxes, of_kinds = outputs.split([1, 3, len(KINDS)], dim=2)
        wanted = batch["cell_boxes"][:, None].expand_as(boxes)
        kinds_said = of_kinds.movedim(2, 1)
        # Where there is no object any kind may stand, for the weight is zero.
        some_kind = kinds.clamp_max(len(KINDS) - 1)
        objectness = F.binary_cross_entropy_with_logits(of_object[:, :, 0], has_object, reduction="none")
        box = F.smooth_l1_loss(boxes, wanted, reduction="none").mean(dim=2)
        kind = F.cross_entropy(kinds_said, some_kind, reduction="none", label_smoothing=label_smoothing)
        return {"objectness": (objectness, None), "box": (box, has_object), "class": (kind, has_object)}

    def statistics(self, outputs: Tensor, batch: Batch) -> dict[str, Tensor]:
        """`scores`, `said`, the kinds of the detections, `hits`, `left` [batch, 48]; `kinds` of objects [batch, 5]."""
        found = detections(outputs[:, 0])
        left = unsuppressed(found, overlap=_OVERLAP)
        is_hit = hits(found, left, box_corners(batch["places"]), batch["kinds"], overlap=_OVERLAP)
        return {"scores": found.scores, "said": found.kinds, "hits": is_hit, "left": left, "kinds": batch["kinds"]}

    def metrics(self, statistics: dict[str, Tensor]) -> dict[str, float]:
        """`ap_error`."""
        found = []
        for kind in range(len(KINDS)):
            is_said = (statistics["said"] == kind) & statistics["left"]
            objects = int((statistics["kinds"] == kind).sum())
            if objects:
                scores, is_hit = statistics["scores"][is_said], statistics["hits"][is_said]
                found.append(average_precision(scores, is_hit, objects=objects))
        return {"ap_error": 1 - sum(found) / len(found)}

    def symmetries(self) -> list[Symmetry]:
        """Negatives; kinds under other numbers."""
        fields = {"kinds": None, "cell_kinds": None}
        return [Signed({"inputs": None}), Renamed(fields, [(0, len(KINDS)), (NOTHING, NOTHING + 1)])]

    def resized(self) -> dict[str, Any]:
        """Layers wider by a sixteenth."""
        return {"width": self.width + 1}


class SceneExamples(KnownExamples):
    """Scenes, what is in them, and what each cell has to say of that.

    `pictures` int8 [n, 1, 48, 48], `places` float32 [n, 5, 3], middle and half side in pixels, `kinds` int64 [n, 5];
    known: `cell_kinds` int64 [n, 12, 12], `cell_boxes` float32 [n, 3, 12, 12], see cells_of.
    """

    def gather(self, index: Tensor) -> Batch:
        """`inputs`, the pictures as grey values, float32; the rest as it is."""
        rows = super().gather(index)
        return {"inputs": rows.pop("pictures").to(torch.float32).div_(GREYS), **rows}


class Detector(nn.Module):
    """Five convolutions with batch norm and SiLU, two of them of stride 2, and a head of ten numbers for each cell.

    Those are whether an object is there, its shift and size as in cells_of, and its kind, as logits. The auxiliary
    branch has two layers of its own, and a head that reads them beside the backbone: its loss sends the backbone
    gradients that came by another way. In eval mode it is left out. Shapes: [batch, 1, 48, 48] -> [batch, heads, 10,
    12, 12].
    """

    def __init__(self, width: int, *, has_auxiliary_branch: bool) -> None:
        super().__init__()
        wide = 2 * width
        self.backbone = nn.Sequential(
            _layer(1, width, stride=2),
            _layer(width, width),
            _layer(width, wide, stride=2),
            _layer(wide, wide),
            _layer(wide, wide),
        )
        self.head = nn.Conv2d(wide, _OUTPUTS, 1)
        self.parameter_kinds = {"head.weight": ParameterKind.OUTPUT}
        self.branch, self.branch_head = None, None
        if has_auxiliary_branch:
            self.branch = nn.Sequential(_layer(1, width, stride=2), _layer(width, width, stride=2))
            self.branch_head = nn.Conv2d(wide + width, _OUTPUTS, 1)
            self.parameter_kinds["branch_head.weight"] = ParameterKind.OUTPUT

    def forward(self, pictures: Tensor) -> Tensor:
        """What each head says."""
        features = self.backbone(pictures)
        said = [self.head(features)]
        if self.branch is not None and self.branch_head is not None and self.training:
            said.append(self.branch_head(torch.cat([features, self.branch(pictures)], dim=1)))
        return torch.stack(said, dim=1)


def detections(outputs: Tensor) -> Detections:
    """The surest 48 cells, each with its likeliest kind. Shape: [n, 10, 12, 12] -> [n, 48]."""
    of_object, boxes, of_kinds = outputs.flatten(2).split([1, 3, len(KINDS)], dim=1)
    likeliest, kinds = of_kinds.softmax(dim=1).max(dim=1)
    scores, which = (of_object[:, 0].sigmoid() * likeliest).sort(dim=1, descending=True, stable=True)
    which = which[:, :_DETECTIONS]
    cells = torch.arange(GRID, dtype=outputs.dtype, device=outputs.device)
    middles = torch.stack(torch.meshgrid(cells, cells, indexing="xy")).flatten(1) + 0.5
    places = torch.cat([CELL * (middles + boxes[:, :2]), 4 * boxes[:, 2:].exp()], dim=1).movedim(1, 2)
    chosen = places.gather(1, which[:, :, None].expand(-1, -1, 3))
    return Detections(box_corners(chosen), kinds.gather(1, which), scores[:, :_DETECTIONS])


def box_corners(places: Tensor) -> Tensor:
    """Left, top, right, bottom from middle and half side. Shapes: [..., 3] -> [..., 4]."""
    middles, halves = places[..., :2], places[..., 2:]
    return torch.cat([middles - halves, middles + halves], dim=-1)


def _layer(inputs: int, outputs: int, *, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.SiLU())

"""English and German texts as one direction each, drawn together in pairs and otherwise spread out (CM3).

Zhou, Wang, Shen, "CM3: calibrating multimodal recommendation", arXiv 2508.01226, without its graphs of users and items:
a query is its user, a text with the name that it stands under is its item of two modalities. Alignment and uniformity
after Wang, Isola, arXiv 2005.10242.
"""

from __future__ import annotations

import hashlib
import math
import re
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.api import Batch, Examples, SplitName
from workloads.frontier.retrieval.interface_retrieval import Encoder, sizes_of
from workloads.frontier.retrieval.texts import TextPairs, TokenPairs, mrr_error, rows_and_names
from workloads.losses.transduction import PADDING
from workloads.networks.encoder_decoder_transformer import TransformerSizes

NAME_NUMBERS = 64
_NUMBERS = 32
_BLOCK = 67
_LEAST_ALIKE, _MOST_ALIKE = 0.1, 0.9


class InterfaceUniformity(TextPairs):
    """|q - d|^2 of pairs, and `uniformity` times the mean of ln mean exp(-2 |x - y|^2) over queries and documents.

    Of documents, `calibrated`, the square is less 2 - 2 s: those whose names are alike, s from 0.1 to 0.9, push each
    other less. A document is a point of the arc from its text's direction to its name's: drawn evenly in train mode,
    else the middle. Metric `mrr_error` over all documents of a split, by cosine.
    """

    def __init__(
        self, *, width: int, heads: int, hidden: int, layers: int, uniformity: float, calibrated: bool
    ) -> None:
        self.sizes = sizes_of(width=width, heads=heads, hidden=hidden, layers=layers)
        self.uniformity = uniformity
        self.calibrated = calibrated

    def load(self, split: SplitName, folder: Path) -> Examples:
        """See NamedPairs. Raises DataError where the texts are missing or damaged."""
        tokens, names = rows_and_names(split, folder)
        return NamedPairs({"tokens": tokens, "names": torch.stack([hashed(name) for name in names])})

    def build_model(self) -> nn.Module:
        """A new network. Shapes: int64 [batch, 2, 24], float [batch, 64] -> [batch, 2, 32]."""
        return Directions(self.sizes)

    def outputs(self, model: nn.Module, batch: Batch) -> Tensor:
        """Directions of queries and of documents. Shape: [batch, 2, 32]."""
        found: Tensor = model(batch["inputs"], batch["names"])
        return found

    def losses(self, outputs: Tensor, batch: Batch, label_smoothing: float) -> tuple[Tensor, None]:  # noqa: ARG002
        """Of each pair its own square and the batch's uniformity. Shape: [batch]."""
        queries, documents = outputs.unbind(dim=1)
        alike = likeness(batch["names"]) if self.calibrated else None
        pushed = (spread_of(queries) + spread_of(documents, alike)) / 2
        return (queries - documents).square().sum(dim=1) + self.uniformity * pushed, None

    def statistics(self, outputs: Tensor, batch: Batch) -> dict[str, Tensor]:
        """`directions`, the outputs, and `names`. Shapes: [batch, 2, 32], [batch, 64]."""
        return {"directions": outputs, "names": batch["names"]}

    def metrics(self, statistics: dict[str, Tensor]) -> dict[str, float]:
        """`mrr_error`; `distance`, mean |q - d|^2; `crowding`, ln mean exp(-2 |x - y|^2) of documents; `loss`.

        The last two in blocks of 67 pairs in the order of the split.
        """
        queries, documents = statistics["directions"].unbind(dim=1)
        blocks = zip(*(statistics[name].split(_BLOCK) for name in ("directions", "names")), strict=True)
        losses = torch.cat([self.losses(made, {"names": names}, 0.0)[0] for made, names in blocks])
        parts = documents.split(_BLOCK)
        # A last block that is smaller counts as what it is.
        crowding = torch.stack([len(part) * spread_of(part).double() for part in parts]).sum() / len(documents)
        return {
            "mrr_error": mrr_error(queries @ documents.T),
            "distance": (queries - documents).double().square().sum(dim=1).mean().item(),
            "crowding": crowding.item(),
            "loss": losses.double().mean().item(),
        }

    def resized(self) -> dict[str, Any]:
        """A few numbers more for each head; sines and cosines share a token."""
        return {"width": self.sizes.width + 2 * self.sizes.heads, "hidden": self.sizes.hidden + 4}


class NamedPairs(TokenPairs):
    """Token pairs, and `names` float32 [n, 64], counts of the words of the component and the keys, hashed."""

    def gather(self, index: Tensor) -> Batch:
        """`inputs`, int64 [batch, 2, 24], and `names`, float32 [batch, 64]."""
        return {**super().gather(index), "names": self.tensors()["names"].index_select(0, index)}


class Directions(nn.Module):
    """The mean over the tokens of a text, and a name, each by a linear layer and to length 1; documents are mixed."""

    def __init__(self, sizes: TransformerSizes) -> None:
        super().__init__()
        self.encoder = Encoder(sizes)
        self.names = nn.Linear(NAME_NUMBERS, _NUMBERS, bias=False)
        self.output = nn.Linear(sizes.width, _NUMBERS, bias=False)

    def forward(self, tokens: Tensor, names: Tensor) -> Tensor:
        """Directions of queries and of documents. Shapes: int64 [batch, 2, length], [batch, 64] -> [batch, 2, 32]."""
        is_token = (tokens != PADDING)[..., None]
        pooled = (self.encoder(tokens) * is_token).sum(dim=2) / is_token.sum(dim=2).clamp_min(1)
        queries, texts = F.normalize(self.output(pooled), dim=2).unbind(dim=1)
        middle = torch.full_like(texts[:, :1], 0.5)
        shares = torch.rand_like(middle) if self.training else middle
        return torch.stack([queries, between(texts, F.normalize(self.names(names), dim=1), shares)], dim=1)


def between(first: Tensor, other: Tensor, shares: Tensor) -> Tensor:
    """The point of the arc between two directions that is `shares` of it away from `other`.

    Shapes: [n, numbers] twice, [n, 1] -> [n, numbers]. Source: a Bezier curve of two points on a sphere, as in CM3.
    """
    # Opposite directions have no arc, and equal ones one of no length.
    cosine = (first * other).sum(dim=1, keepdim=True).clamp(-0.999, 0.999)
    angle = cosine.acos()
    mixed = ((shares * angle).sin() * first + ((1 - shares) * angle).sin() * other) / angle.sin()
    return F.normalize(mixed, dim=1)


def spread_of(directions: Tensor, alike: Tensor | None = None) -> Tensor:
    """ln mean exp(-2 (|x - y|^2 - 2 + 2 s)) over pairs of different ones; 0 of a single one. s: `alike`, 1 by default.

    Shapes: [n, numbers], [n, n] -> [].
    """
    count = len(directions)
    if count < 2:
        return directions.sum() * 0
    squares = 2 - 2 * directions @ directions.T
    if alike is not None:
        squares = squares - 2 + 2 * alike
    others = ~torch.eye(count, dtype=torch.bool, device=directions.device)
    return (-2 * squares[others]).logsumexp(dim=0) - math.log(count * (count - 1))


def likeness(names: Tensor) -> Tensor:
    """Cosines of names, from 0.1 to 0.9. Shapes: [n, 64] -> [n, n]."""
    rows = F.normalize(names, dim=1)
    return (rows @ rows.T).clamp(_LEAST_ALIKE, _MOST_ALIKE)


def hashed(name: tuple[str, ...]) -> Tensor:
    """How many words of a name fall on each of 64 numbers. Shape: float32 [64]."""
    counts = torch.zeros(NAME_NUMBERS)
    for word in re.findall(r"[a-z0-9]+", " ".join(name).lower()):
        counts[int.from_bytes(hashlib.sha256(word.encode()).digest()[:4]) % NAME_NUMBERS] += 1
    return counts

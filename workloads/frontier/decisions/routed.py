"""A block of a transformer with several feed-forward layers, of which one is chosen by a token, or by what was read.

After Wu et al., "Mixture-of-experts meets in-context reinforcement learning" (T2MIR), NeurIPS 2025, arXiv 2506.05426.
There both kinds stand side by side in the last block, two of six or more experts each; here one kind, one expert.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from workloads.networks.decoder_transformer import Block


class RoutedBlock(Block):
    """A block whose feed-forward layer is one of `experts`, the likeliest by its router, times that likelihood.

    `by_history`: the router sees the mean of all tokens up to there instead of the token.
    Shapes: float [batch, length, width] -> the same. Source of the factor: Fedus, Zoph, Shazeer, "Switch transformers",
    JMLR 23 (2022).
    """

    def __init__(self, context: int, width: int, heads: int, hidden: int, *, experts: int, by_history: bool) -> None:
        super().__init__(context, width, heads, hidden)
        # The block's own layer is the first.
        self.others = nn.ModuleList(Expert(width, hidden) for _ in range(experts - 1))
        self.router = nn.Linear(width, experts, bias=False)
        self._by_history = by_history

    def forward(self, hidden: Tensor, rotations: Tensor | None) -> Tensor:
        """The residual stream after this layer."""
        return self.routed(hidden, rotations)[0]

    def routed(self, hidden: Tensor, rotations: Tensor | None) -> tuple[Tensor, Tensor]:
        """The residual stream after this layer, and the router's scores, float [batch, length, experts]."""
        hidden = hidden + self.dropout(self.attention(self.attention_norm(hidden), rotations))
        normed = self.feed_forward_norm(hidden)
        scores: Tensor = self.router(_mean_so_far(normed) if self._by_history else normed)
        likelihood, chosen = scores.softmax(dim=2).max(dim=2, keepdim=True)
        # For so few and small layers it is quicker to have all of them than to sort tokens.
        made = torch.stack([self.narrow(F.glu(self.widen(normed))), *(each(normed) for each in self.others)], dim=2)
        out = made.take_along_dim(chosen[..., None], dim=2).squeeze(2)
        return hidden + self.dropout(likelihood * out), scores


class Expert(nn.Module):
    """The gated feed-forward layer of a Block. Shapes: float [..., width] -> the same."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.widen = nn.Linear(width, 2 * hidden, bias=False)
        self.narrow = nn.Linear(hidden, width, bias=False)

    def forward(self, normed: Tensor) -> Tensor:
        """What is added to the residual stream."""
        out: Tensor = self.narrow(F.glu(self.widen(normed)))
        return out


def balance(scores: Tensor) -> Tensor:
    """Of each example its share of experts * sum over them of share of tokens * mean likelihood; mean 1 where even.

    Shapes: float [batch, tokens, experts] -> [batch]. Source: Fedus, Zoph, Shazeer (2022), equation 4.
    """
    experts = scores.shape[2]
    taken = F.one_hot(scores.argmax(dim=2), experts).to(scores.dtype).mean(dim=(0, 1))
    return experts * scores.softmax(dim=2).mean(dim=1) @ taken


def contrast(first: Tensor, second: Tensor) -> Tensor:
    """How badly the two readings of each example find each other among the batch's, by products: InfoNCE, both ways.

    Shapes: float [batch, numbers] twice -> [batch]. Source: van den Oord, Li, Vinyals, arXiv 1807.03748, equation 4.
    """
    products = first @ second.T
    own = torch.arange(len(first), device=first.device)
    ways = [F.cross_entropy(each, own, reduction="none") for each in (products, products.T)]
    return torch.stack(ways).mean(dim=0)


def _mean_so_far(hidden: Tensor) -> Tensor:
    """Mean over the places up to each. Shape: [batch, length, width] -> the same."""
    places = torch.arange(1, hidden.shape[1] + 1, device=hidden.device)
    return hidden.cumsum(dim=1) / places[:, None]

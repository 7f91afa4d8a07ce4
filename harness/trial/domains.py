"""Training examples by their domain: how often each is to come, and which examples that means. Knows no loss."""

from __future__ import annotations

import torch
from torch import Tensor


def tempered(sizes: Tensor, temperature: float) -> Tensor:
    """n_i^(1 / temperature) over their sum: 1 is in proportion, infinity even. An empty domain stays at 0.

    Shapes: [domains] -> [domains]. Source: Li et al., arXiv 2410.04579, section 2.
    """
    powers = torch.where(sizes > 0, sizes.double().pow(1.0 / temperature), 0.0)
    return powers / powers.sum()


class DomainSampler:
    """Draws a domain, then an example of it; with replacement."""

    def __init__(self, domains: Tensor) -> None:
        domains = domains.cpu()
        self.sizes = torch.bincount(domains)
        """Of each domain."""
        self._starts = self.sizes.cumsum(0) - self.sizes
        self._examples = domains.argsort(stable=True)

    def draw(self, count: int, temperature: float, generator: torch.Generator) -> Tensor:
        """Indices of `count` training examples, each of a domain drawn for itself. Shape: int64 [count]."""
        return self._of(self._domains(count, temperature, generator), generator)

    def draw_alike(self, count: int, temperature: float, generator: torch.Generator) -> Tensor:
        """Indices of `count` training examples of one domain. Shape: int64 [count]."""
        return self._of(self._domains(1, temperature, generator).expand(count), generator)

    def _domains(self, count: int, temperature: float, generator: torch.Generator) -> Tensor:
        return torch.multinomial(tempered(self.sizes, temperature), count, replacement=True, generator=generator)

    def _of(self, domains: Tensor, generator: torch.Generator) -> Tensor:
        within = torch.rand(len(domains), dtype=torch.float64, generator=generator) * self.sizes[domains]
        return self._examples[self._starts[domains] + within.long()]

"""NoProp's network: blocks that each guess a label from a noisy code of it and the inputs, and the chain of guesses."""

from __future__ import annotations

from collections.abc import Sequence
from math import cos, pi, prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Away from 0 and 1, where the last signal-to-noise ratio would be thousands of times the first.
_LEAST, _MOST = 1e-4, 0.999


def cosine_schedule(blocks: int) -> Tensor:
    """Share of the signal after 0, 1 ... `blocks` denoising steps, rising. Shape: float64 [blocks + 1]."""
    shares = [cos(((1 - step / blocks) + 0.008) / 1.008 * pi / 2) ** 2 for step in range(blocks + 1)]
    return torch.tensor(shares, dtype=torch.float64).clamp(_LEAST, _MOST)


def signal_to_noise(shares: Tensor) -> Tensor:
    """Variance of the signal over that of the noise. Shape: as `shares`."""
    return shares / (1 - shares)


def posterior(shares: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Factors of the guess and of the last code in the next one, and the variance of its noise, step by step.

    Shapes: [blocks + 1] -> [blocks] each. Source: Li et al., arXiv 2503.24322; the posterior of a Gaussian chain.
    """
    before, after = shares[:-1], shares[1:]
    kept = before / after
    return (
        after.sqrt() * (1 - kept) / (1 - before),
        kept.sqrt() * (1 - after) / (1 - before),
        (1 - after) * (1 - kept) / (1 - before),
    )


class ManyLinear(nn.Module):
    """Linear layers of one shape, side by side. Shapes: [batch, layers, inputs] -> [batch, layers, outputs]."""

    def __init__(self, layers: int, inputs: int, outputs: int) -> None:
        super().__init__()
        bound = inputs**-0.5
        self.weight = nn.Parameter(torch.empty(layers, inputs, outputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(layers, outputs).uniform_(-bound, bound))

    def forward(self, inputs: Tensor) -> Tensor:
        """All layers, each on its own inputs."""
        return torch.baddbmm(self.bias[:, None], inputs.transpose(0, 1), self.weight).transpose(0, 1)

    def one(self, layer: int, inputs: Tensor) -> Tensor:
        """One of them. Shapes: [batch, inputs] -> [batch, outputs]."""
        return torch.addmm(self.bias[layer], inputs, self.weight[layer])


class Features(nn.Module):
    """What each block makes of the inputs: convolutions on images, else a linear layer; normalised, rectified.

    Shapes: [batch, *inputs] -> [batch, blocks, features].
    """

    def __init__(self, inputs: Sequence[int], *, blocks: int, width: int, channels: int) -> None:
        super().__init__()
        self.blocks = blocks
        self.convolutions = nn.Sequential()
        size = prod(inputs)
        if len(inputs) == 3:
            # The blocks lie side by side in the channels, and read none of each other's.
            wide = blocks * channels
            first = nn.Conv2d(inputs[0], wide, 3, stride=2, padding=1)
            second = nn.Conv2d(wide, 2 * wide, 3, stride=2, padding=1, groups=blocks)
            self.convolutions.extend(
                [first, nn.BatchNorm2d(wide), nn.ReLU(), second, nn.BatchNorm2d(2 * wide), nn.ReLU()]
            )
            size = 2 * channels * prod(-(-length // 4) for length in inputs[1:])
        self.linear = ManyLinear(blocks, size, width)
        self.norm = nn.BatchNorm1d(blocks * width)

    def forward(self, inputs: Tensor) -> Tensor:
        """Features of all blocks."""
        if len(self.convolutions):
            flat = self.convolutions(inputs).view(len(inputs), self.blocks, -1)
        else:
            flat = inputs.flatten(1)[:, None].expand(-1, self.blocks, -1)
        features = self.linear(flat)
        return torch.relu(self.norm(features.flatten(1))).view_as(features)


class NoProp(nn.Module):
    """`blocks` blocks, the codes of the `classes`, and the head. `code_width`: 0 has fixed one-hot codes."""

    codes: Tensor
    shares: Tensor

    def __init__(
        self, inputs: Sequence[int], classes: int, *, blocks: int, width: int, channels: int, code_width: int
    ) -> None:
        super().__init__()
        self.blocks = blocks
        size = code_width or classes
        self.features = Features(inputs, blocks=blocks, width=width, channels=channels)
        self.of_code = ManyLinear(blocks, size, width)
        self.joined = ManyLinear(blocks, 2 * width, width)
        self.guess = ManyLinear(blocks, width, classes)
        self.head = nn.Linear(size, classes)
        if code_width:
            self.codes = nn.Parameter(torch.randn(classes, size) / size**0.5)
        else:
            self.register_buffer("codes", torch.eye(classes))
        self.register_buffer("shares", cosine_schedule(blocks).float(), persistent=False)

    def guesses(self, noisy: Tensor, inputs: Tensor) -> Tensor:
        """The code that each block takes for the true one: a mean over the classes'.

        Shapes: noisy [batch, blocks, code], inputs [batch, ...] -> [batch, blocks, code].
        """
        seen = torch.cat([self.features(inputs), torch.relu(self.of_code(noisy))], dim=2)
        return torch.softmax(self.guess(torch.relu(self.joined(seen))), dim=2) @ self.codes

    def predict(self, inputs: Tensor) -> Tensor:
        """Scores of the classes for what the chain ends at, from noise. Shapes: [batch, ...] -> [batch, classes]."""
        features = self.features(inputs)
        code = torch.randn(len(inputs), self.codes.shape[1]).to(inputs)
        factors = torch.stack(posterior(self.shares))
        for block, (of_guess, of_code, variance) in enumerate(factors.T.tolist()):
            seen = torch.cat([features[:, block], torch.relu(self.of_code.one(block, code))], dim=1)
            logits = self.guess.one(block, torch.relu(self.joined.one(block, seen)))
            noise = torch.randn(code.shape).to(code)
            code = of_guess * torch.softmax(logits, dim=1) @ self.codes + of_code * code + variance**0.5 * noise
        scores: Tensor = self.head(code)
        return scores


def losses(network: NoProp, inputs: Tensor, targets: Tensor, *, weight: float, generator: torch.Generator) -> Tensor:
    """What each block is trained by: its squared distance from the true code, and what head and codes are trained by.

    Summed over blocks, of which each has gradients of its own term alone. Shapes: [batch, ...], int64 [batch] -> [].
    Source: Li et al., arXiv 2503.24322, with all blocks on each batch in place of one after the other.
    """
    codes, shares = network.codes[targets], network.shares
    noise = torch.randn((len(inputs), network.blocks + 1, codes.shape[1]), generator=generator).to(codes)
    noisy = shares.sqrt()[None, :, None] * codes[:, None] + (1 - shares).sqrt()[None, :, None] * noise
    distances = (network.guesses(noisy[:, :-1], inputs) - codes[:, None]).square().sum(dim=2).mean(dim=0)
    rises = signal_to_noise(shares).diff()
    first = shares[0]
    divergence = (first * codes.square().sum(dim=1) - codes.shape[1] * (first + torch.log1p(-first))).mean() / 2
    said = F.cross_entropy(network.head(noisy[:, -1]), targets)
    return said + divergence + network.blocks / 2 * weight * (rises * distances).sum()


def build(settings: dict[str, Any]) -> nn.Module:
    """The network of these settings."""
    return NoProp(**settings)

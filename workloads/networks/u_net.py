"""U-Net for images as large as its inputs, from a toy to AlgoPerf's fastmri by its sizes. Knows no data and no loss."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.api import ConfigError, ParameterKind
from workloads.networks.initial_weights import draw_lecun_normal
from workloads.networks.layers.reversible import Coupling, Couplings

_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "leaky_relu": lambda: nn.LeakyReLU(0.2, inplace=True),
    "tanh": nn.Tanh,
}
_NORMS: dict[str, Callable[[int], nn.Module]] = {
    "instance": nn.InstanceNorm2d,
    # Over channels and pixels of an image together, with a scale and a bias for each channel.
    "layer": lambda width: nn.GroupNorm(1, width, eps=1e-6),
}
_COUPLINGS = ("none", "stored", "recomputed")
_COUPLINGS_IN_BLOCK = 2
_EXPANSION = 2


class UNet(nn.Module):
    """Blocks of two 3x3 convolutions on the way down and up again, joined at each size of the image.

    The first block has `channels`; each of `pools` mean poolings is followed by twice as many, each transposed
    convolution on the way up by half as many. `activation`: `leaky_relu` or `tanh`. `norm`, in the blocks of two
    convolutions: `instance` or `layer`; transposed convolutions always have the first. Dropout takes whole channels.

    Initial weights have variance 1/fan-in, the last convolution is then multiplied by `output_gain`. AlgoPerf's is 1; a
    small one starts at the loss of an image of zeros, or of the input itself where `residual` is set: the network then
    makes what is added to its input, and levels that the norms take away need not be learned anew. AlgoPerf's does not.

    `couplings`: with `stored` or `recomputed`, a block is one convolution and two couplings of the halves of its
    channels, of inverted bottlenecks; see Couplings. Then `channels` have to be even.
    Shapes: [batch, height, width] -> the same.
    Raises ConfigError for another activation, norm or kind of couplings, and for channels that have no halves.
    Source: Ronneberger et al., arXiv 1505.04597, as AlgoPerf's fastmri has it, which is this class at its sizes.
    Couplings: Pendse et al., arXiv 2104.09648.
    """

    def __init__(
        self,
        *,
        channels: int,
        pools: int,
        activation: str,
        norm: str,
        residual: bool,
        dropout: float,
        output_gain: float,
        couplings: str = "none",
    ) -> None:
        super().__init__()
        for what, name, known in [
            ("activation", activation, list(_ACTIVATIONS)),
            ("norm", norm, list(_NORMS)),
            ("couplings", couplings, list(_COUPLINGS)),
        ]:
            if name not in known:
                raise ConfigError(f"{what} is {name!r}. Use one of {', '.join(known)}.")
        if couplings != "none" and channels % 2:
            raise ConfigError(f"channels is {channels}, and couplings are of halves of them. Use an even number.")

        def block(width_in: int, width: int) -> nn.Sequential:
            if couplings == "none":
                return _block([width_in, width, width], activation, norm, dropout)
            return nn.Sequential(
                _block([width_in, width], activation, norm, dropout),
                Couplings(
                    [
                        Coupling(*(_inverted_bottleneck(width // 2, activation, norm) for _ in range(2)))
                        for _ in range(_COUPLINGS_IN_BLOCK)
                    ],
                    are_recomputed=couplings == "recomputed",
                ),
            )

        widths = [channels * 2**level for level in range(pools + 1)]
        # Registered in AlgoPerf's order.
        self.down = nn.ModuleList(map(block, [1, *widths[:-2]], widths[:-1]))
        self.bottom = block(widths[-2], widths[-1])
        self.up = nn.ModuleList(block(2 * width, width) for width in reversed(widths[:-1]))
        self.output = nn.Conv2d(channels, 1, 1)
        self.enlarge = nn.ModuleList(_enlarging(width, activation) for width in reversed(widths[:-1]))
        self.is_residual = residual
        self.parameter_kinds = {"output.weight": ParameterKind.OUTPUT}
        self._draw_weights(output_gain)

    def forward(self, images: Tensor) -> Tensor:
        """The images that are made of `images`."""
        hidden = images.unsqueeze(1)
        passed: list[Tensor] = []
        for block in self.down:
            hidden = block(hidden)
            passed.append(hidden)
            hidden = F.avg_pool2d(hidden, 2)
        hidden = self.bottom(hidden)
        for enlarge, block, beside in zip(self.enlarge, self.up, reversed(passed), strict=True):
            hidden = enlarge(hidden)
            # Pooling drops the last row or column of an odd size.
            missing = [beside.shape[-1] - hidden.shape[-1], beside.shape[-2] - hidden.shape[-2]]
            if any(missing):
                hidden = F.pad(hidden, (0, missing[0], 0, missing[1]), "reflect")
            hidden = block(torch.cat([hidden, beside], dim=1))
        made: Tensor = self.output(hidden).squeeze(1)
        return images + made if self.is_residual else made

    def _draw_weights(self, output_gain: float) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                # A transposed convolution has [in, out, height, width], and torch's fan-in counts its outputs there.
                draw_lecun_normal(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        with torch.no_grad():
            self.output.weight.mul_(output_gain)


def _block(widths: list[int], activation: str, norm: str, dropout: float) -> nn.Sequential:
    """A convolution from each of the widths to the next."""
    layers: list[nn.Module] = []
    for width_in, width in itertools.pairwise(widths):
        layers.append(nn.Conv2d(width_in, width, 3, padding=1, bias=False))
        layers += [_NORMS[norm](width), _ACTIVATIONS[activation](), nn.Dropout2d(dropout)]
    return nn.Sequential(*layers)


def _inverted_bottleneck(width: int, activation: str, norm: str) -> nn.Sequential:
    """More channels, a 3x3 convolution of each by itself, as many channels as before."""
    wide = _EXPANSION * width
    layers: list[nn.Module] = []
    for convolution in (
        nn.Conv2d(width, wide, 1, bias=False),
        nn.Conv2d(wide, wide, 3, padding=1, groups=wide, bias=False),
    ):
        layers += [convolution, _NORMS[norm](wide), _ACTIVATIONS[activation]()]
    return nn.Sequential(*layers, nn.Conv2d(wide, width, 1, bias=False), _NORMS[norm](width))


def _enlarging(width: int, activation: str) -> nn.Sequential:
    """Twice the height and width, half the channels."""
    return nn.Sequential(
        nn.ConvTranspose2d(2 * width, width, 2, stride=2, bias=False),
        nn.InstanceNorm2d(width),
        _ACTIVATIONS[activation](),
    )

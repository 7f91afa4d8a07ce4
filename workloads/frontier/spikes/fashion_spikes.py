"""Clothes seen by a network of spikes, and what its spikes cost.

After Shen et al., "STEP: A unified spiking transformer evaluation platform for fair and reproducible benchmarking",
arXiv 2505.11151, whose networks are larger.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.api import Examples, ParameterKind
from workloads.data.fashion_mnist import FashionMnist, SmallFashionMnist
from workloads.frontier.spikes.neurons import THRESHOLD, Neurons
from workloads.networks.initial_weights import draw_lecun_normal

ACCUMULATE, MULTIPLY = 0.9, 4.6
"""Picojoules of an addition, and of a multiplication with one, in float32 at 45 nm. Source: Horowitz, ISSCC 2014."""
ATTENTION_SCALE = 1 / 8
_STRIDES = (1, 2, 2)
_LAST_SIDE = 4  # of what the strides leave of an image of 14x14
_PROBED = 256


class FashionSpikes(SmallFashionMnist):
    """Fashion-MNIST at 14x14 under a network of spikes; metric `error`. See SpikingNetwork for the options.

    Beside it, of the first 256 examples, `spike_rate`, the share of neurons and moments that fire, and `energy_share`:
    see `spent`.
    """

    has_open_division: ClassVar[bool] = False

    def __init__(self, *, widths: Sequence[int], moments: int, surrogate: str, attention: bool) -> None:
        self.widths = tuple(widths)
        self.moments = moments
        self.surrogate = surrogate
        self.attention = attention

    def build_model(self) -> nn.Module:
        """A new network. Shapes: [batch, 1, 14, 14] -> [batch, 10]. Raises ConfigError for another surrogate."""
        return SpikingNetwork(
            widths=self.widths, moments=self.moments, surrogate=self.surrogate, attention=self.attention
        )

    def decoded_metrics(self, model: nn.Module, examples: Examples) -> dict[str, float]:
        """`spike_rate` and `energy_share`."""
        assert isinstance(model, SpikingNetwork)
        device = next(model.parameters()).device
        batch = examples.gather(torch.arange(min(_PROBED, len(examples)), device=device))
        return spent(model, batch["inputs"])

    def resized(self) -> dict[str, Any]:
        """A channel more in each convolution."""
        return {"widths": [width + 1 for width in self.widths]}


class SpikingNetwork(nn.Module):
    """Three 3x3 convolutions with batch norm, a leaky neuron behind each number, a linear layer on their rates.

    The image is a constant current for so many `moments`. `attention`: one block of spiking self-attention between the
    last convolution and the rates. `surrogate`: see Neurons.
    Shapes: [batch, 1, 14, 14] -> [batch, 10]. Raises ConfigError for another surrogate.
    """

    def __init__(self, *, widths: Sequence[int], moments: int, surrogate: str, attention: bool) -> None:
        super().__init__()
        self.moments = moments
        self.convolutions = nn.ModuleList(
            nn.Conv2d(width_in, width, 3, stride=stride, padding=1, bias=False)
            for (width_in, width), stride in zip(itertools.pairwise([1, *widths]), _STRIDES, strict=True)
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for width in widths)
        self.neurons = nn.ModuleList(Neurons(surrogate) for _ in widths)
        self.attention = SpikingAttention(widths[-1], moments, surrogate) if attention else nn.Identity()
        self.output = nn.Linear(widths[-1] * _LAST_SIDE**2, FashionMnist.classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                draw_lecun_normal(module.weight)
        # Rounding decides what is near a threshold; at the start, nothing of that reaches the scores.
        for parameter in self.output.parameters():
            nn.init.zeros_(parameter)

    def forward(self, images: Tensor) -> Tensor:
        """Class scores before the softmax."""
        # On CPU convolutions are faster so; the weights stay as they are.
        hidden = images.contiguous(memory_format=torch.channels_last)
        for number, (convolution, norm, neurons) in enumerate(
            zip(self.convolutions, self.norms, self.neurons, strict=True)
        ):
            currents = norm(convolution(hidden))
            # Those of the image are the same at all moments.
            hidden = neurons([currents] * self.moments if number == 0 else currents.chunk(self.moments))
        rates = self.attention(hidden).unflatten(0, (self.moments, -1)).mean(dim=0)
        scores: Tensor = self.output(rates.flatten(1))
        return scores


class SpikingAttention(nn.Module):
    """Queries, keys and values are spikes; their product, without a softmax, is a current, and what fires is added.

    Shapes: [moments * batch, width, height, width of the image] -> the same.
    Source: Zhou et al., Spikformer, arXiv 2209.15425.
    """

    def __init__(self, width: int, moments: int, surrogate: str) -> None:
        super().__init__()
        self.moments = moments
        self.qkv = nn.Conv2d(width, 3 * width, 1, bias=False)
        self.qkv_norm = nn.BatchNorm2d(3 * width)
        # Else few of them fire, fewer meet, and their products would be far below the threshold.
        nn.init.constant_(self.qkv_norm.bias, THRESHOLD)
        self.qkv_neurons = Neurons(surrogate)
        self.mixed_neurons = Neurons(surrogate)
        self.out = nn.Conv2d(width, width, 1, bias=False)
        self.out_norm = nn.BatchNorm2d(width)
        self.out_neurons = Neurons(surrogate)
        self.parameter_kinds = {
            "qkv.weight": ParameterKind.ATTENTION_QKV,
            "out.weight": ParameterKind.ATTENTION_OUT,
        }

    def forward(self, hidden: Tensor) -> Tensor:
        """Spikes with what attention adds to them: 0, 1 or 2."""
        spikes = self.qkv_neurons(self.qkv_norm(self.qkv(hidden)).chunk(self.moments))
        queries, keys, values = spikes.flatten(2).chunk(3, dim=1)
        mixed = ATTENTION_SCALE * (values @ (keys.transpose(1, 2) @ queries))
        fired = self.mixed_neurons(mixed.view_as(hidden).chunk(self.moments))
        made: Tensor = hidden + self.out_neurons(self.out_norm(self.out(fired)).chunk(self.moments))
        return made


def spent(model: SpikingNetwork, images: Tensor) -> dict[str, float]:
    """`spike_rate`, of all neurons and moments, and `energy_share` of the convolutions.

    That is the energy of an addition for each spike and each number that it reaches, and of a multiplication for the
    first layer, which reads the image once, over what multiplications of the same convolutions, once, would take.
    """
    read: list[tuple[nn.Conv2d, Tensor]] = []
    fired: list[Tensor] = []

    def keep(module: nn.Module, given: tuple[Tensor], made: Tensor) -> None:
        if isinstance(module, nn.Conv2d):
            read.append((module, given[0]))
        else:
            fired.append(made)

    hooks = [
        module.register_forward_hook(keep) for module in model.modules() if isinstance(module, nn.Conv2d | Neurons)
    ]
    try:
        model(images)
    finally:
        for hook in hooks:
            hook.remove()
    dense = [len(images) / len(given) * additions(layer, torch.ones_like(given)) for layer, given in read]
    spiking = sum(additions(layer, given) for layer, given in read[1:])
    firing = sum(spikes.sum(dtype=torch.float64).item() for spikes in fired)
    return {
        "spike_rate": firing / sum(spikes.numel() for spikes in fired),
        "energy_share": (MULTIPLY * dense[0] + ACCUMULATE * spiking) / (MULTIPLY * sum(dense)),
    }


def additions(layer: nn.Conv2d, spikes: Tensor) -> float:
    """How many numbers the layer adds up for these spikes: each counts once for each output that it reaches."""
    ones = torch.ones_like(layer.weight[:1])
    reached = F.conv2d(spikes, ones, stride=layer.stride, padding=layer.padding)
    return layer.out_channels * reached.sum(dtype=torch.float64).item()

"""What the Conformer and the DeepSpeech network share: masks, norms, subsampling, SpecAugment."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def mask_of(lengths: Tensor, length: int) -> Tensor:
    """True where a frame is no padding. Shapes: int64 [batch] -> bool [batch, length]."""
    return torch.arange(length, device=lengths.device) < lengths[:, None]


def subsampled(frames: Tensor) -> Tensor:
    """Frames that are left of `frames` by two strides of 2, a begun one counting."""
    return (frames + 3) // 4


class OffsetLayerNorm(nn.LayerNorm):
    """Layer norm whose `weight` starts at zero and is added to a scale of one, so that weight decay pulls to one.

    Source: AlgoPerf's speech models (and Lingvo's before them), with their epsilon.
    """

    def __init__(self, width: int) -> None:
        super().__init__(width, eps=1e-6)

    def reset_parameters(self) -> None:
        """Scale one, bias zero."""
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, inputs: Tensor) -> Tensor:
        """Shapes: [..., width], kept."""
        return F.layer_norm(inputs, self.normalized_shape, 1 + self.weight, self.bias, self.eps)


class MaskedBatchNorm(_BatchNorm):
    """Batch norm over the frames that are no padding; gives zero at padding. `weight` is an offset, as above.

    Running statistics, also of the variance, are those of the batches without Bessel's correction.
    Source: AlgoPerf's speech models, where `momentum`, the share of the newest batch, is 0.001.
    """

    def __init__(self, width: int, momentum: float) -> None:
        super().__init__(width, eps=1e-3, momentum=momentum)

    def reset_parameters(self) -> None:
        """Statistics of a standard normal, scale one, bias zero."""
        self.reset_running_stats()
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, inputs: Tensor, mask: Tensor) -> Tensor:  # type: ignore[override]
        """Shapes: inputs [batch, frames, width], kept; mask [batch, frames, 1], 1 where there is no padding."""
        mean, variance = self.get_buffer("running_mean"), self.get_buffer("running_var")
        if self.training:
            count = mask.sum()
            mean = (inputs * mask).sum(dim=(0, 1)) / count
            variance = ((inputs - mean).square() * mask).sum(dim=(0, 1)) / count
            if self.track_running_stats:
                self._follow(mean.detach(), variance.detach())
        scale = (1 + self.weight) * torch.rsqrt(variance + self.eps)
        return torch.addcmul(self.bias, inputs - mean, scale) * mask

    def _follow(self, mean: Tensor, variance: Tensor) -> None:
        seen = self.get_buffer("num_batches_tracked").add_(1)
        # torch's meaning of None, which refreshing the statistics uses: the plain mean over all batches.
        share = 1 / seen.to(mean) if self.momentum is None else self.momentum
        self.get_buffer("running_mean").lerp_(mean, share)
        self.get_buffer("running_var").lerp_(variance, share)


class SpecAugment(nn.Module):
    """Zeroes random stretches of time and bands of frequency of each utterance in training; nothing otherwise.

    A stretch is up to `time_mask_share` of the utterance's frames long, a band up to `frequency_mask_bins` wide.
    Source: Park et al., arXiv 1904.08779, with the lengths of AlgoPerf: 10 stretches of up to 0.05, 2 bands of up to 27
    of 80 bins.
    """

    def __init__(
        self, *, time_masks: int, time_mask_share: float, frequency_masks: int, frequency_mask_bins: int
    ) -> None:
        super().__init__()
        self.time_masks = time_masks
        self.time_mask_share = time_mask_share
        self.frequency_masks = frequency_masks
        self.frequency_mask_bins = frequency_mask_bins

    def forward(self, features: Tensor, frames: Tensor) -> Tensor:
        """Shapes: features [batch, length, bins], kept; frames int64 [batch]."""
        if not self.training:
            return features
        _, length, bins = features.shape
        in_time = _stretches(frames * self.time_mask_share, frames, count=self.time_masks, length=length)
        all_bins = torch.full_like(frames, bins)
        widest = torch.full_like(frames, self.frequency_mask_bins)
        in_frequency = _stretches(widest, all_bins, count=self.frequency_masks, length=bins)
        return features.masked_fill(in_time[:, :, None] | in_frequency[:, None, :], 0.0)


def _stretches(longest: Tensor, room: Tensor, *, count: int, length: int) -> Tensor:
    """The union of `count` random stretches of each example, within its first `room` places.

    Shapes: longest and room [batch] -> bool [batch, length].
    """
    draws = torch.rand(2, len(room), count, device=room.device)
    sizes = (draws[0] * longest[:, None]).floor()
    starts = (draws[1] * (room[:, None] - sizes + 1)).floor()
    places = torch.arange(length, device=room.device)[:, None]
    inside = (places >= starts[:, None]) & (places < (starts + sizes)[:, None])
    return inside.any(dim=2)


class Subsampling(nn.Module):
    """Two 3x3 convolutions of stride 2 over time and bins, then a linear layer over what is left of the bins.

    Frames are padded as TensorFlow's "same": the place of the windows depends on whether the length is even, so
    `length` is a multiple of 4 wherever padding must change nothing.
    Shapes: [batch, length, bins] -> [batch, ceil(length / 4), width].
    """

    def __init__(self, *, bins: int, channels: int, width: int, activation: type[nn.Module]) -> None:
        super().__init__()
        self.convolution1 = nn.Conv2d(1, channels, kernel_size=3, stride=2)
        self.convolution2 = nn.Conv2d(channels, channels, kernel_size=3, stride=2)
        self.linear = nn.Linear((bins + 3) // 4 * channels, width)
        self.activation = activation()

    def forward(self, features: Tensor, frames: Tensor) -> Tensor:
        """`frames`: int64 [batch], how many of `length` are no padding."""
        hidden = features[:, None]
        for convolution in (self.convolution1, self.convolution2):
            frames = (frames + 1) // 2
            hidden = self.activation(convolution(F.pad(hidden, _same(hidden.shape[3]) + _same(hidden.shape[2]))))
            hidden = hidden * mask_of(frames, hidden.shape[2])[:, None, :, None]
        out: Tensor = self.linear(hidden.permute(0, 2, 3, 1).flatten(2))
        return out


def _same(length: int) -> tuple[int, int]:
    """TensorFlow's "same" padding before and after, for a kernel of 3 and a stride of 2."""
    return (1, 1) if length % 2 else (0, 1)


def draw_weights(model: nn.Module) -> None:
    """Glorot's uniform weights and zero biases for linear layers and convolutions; other modules keep their own.

    Source: AlgoPerf's speech models.
    """
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)

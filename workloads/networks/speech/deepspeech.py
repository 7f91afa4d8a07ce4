"""AlgoPerf's DeepSpeech-like network for speech recognition, at any size; data and loss are elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from harness.api import ParameterKind
from workloads.networks.speech.speech_layers import (
    MaskedBatchNorm,
    OffsetLayerNorm,
    SpecAugment,
    Subsampling,
    draw_weights,
    mask_of,
    subsampled,
)

_ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh}


@dataclass(frozen=True, kw_only=True)
class DeepSpeechSizes:
    """What makes a DeepSpeech network. AlgoPerf's has 80 bins, vocabulary 1,024, channels and width 512, 6 recurrent
    and 3 feed-forward layers, dropout 0.1, norm_momentum 0.001, and the masks that SpecAugment names.

    Its variants are `activation` tanh; `residual` false; and `norm` layer without `final_norm`, with 4 frequency and 15
    time masks.
    """

    bins: int
    vocabulary: int
    channels: int
    width: int
    recurrent_layers: int
    feed_forward_layers: int
    dropout: float
    norm_momentum: float
    time_masks: int
    time_mask_share: float
    frequency_masks: int
    frequency_mask_bins: int
    activation: Literal["relu", "tanh"] = "relu"
    norm: Literal["batch", "layer"] = "batch"
    final_norm: bool = True
    residual: bool = True


class DeepSpeech(nn.Module):
    """Subsampling, bidirectional LSTMs, feed-forward layers, one score per symbol.

    Shapes: features [batch, length, bins], frames int64 [batch] -> [batch, ceil(length / 4), vocabulary].
    Source: Amodei et al., arXiv 1512.02595, as AlgoPerf's librispeech_deepspeech in PyTorch has it.
    """

    def __init__(self, sizes: DeepSpeechSizes) -> None:
        super().__init__()
        self.residual = sizes.residual
        self.augment = SpecAugment(
            time_masks=sizes.time_masks,
            time_mask_share=sizes.time_mask_share,
            frequency_masks=sizes.frequency_masks,
            frequency_mask_bins=sizes.frequency_mask_bins,
        )
        self.subsampling = Subsampling(
            bins=sizes.bins,
            channels=sizes.channels,
            width=sizes.width,
            activation=_ACTIVATIONS[sizes.activation],
        )
        self.dropout = nn.Dropout(sizes.dropout)
        self.recurrent = nn.ModuleList(_Recurrent(sizes) for _ in range(sizes.recurrent_layers))
        self.feed_forward = nn.ModuleList(_FeedForward(sizes) for _ in range(sizes.feed_forward_layers))
        self.norm = OffsetLayerNorm(sizes.width) if sizes.final_norm else nn.Identity()
        self.output = nn.Linear(sizes.width, sizes.vocabulary)
        self.parameter_kinds = {"output.weight": ParameterKind.OUTPUT}
        draw_weights(self)

    def forward(self, features: Tensor, frames: Tensor) -> Tensor:
        """Scores of the symbols at each subsampled frame, before the softmax."""
        hidden = self.dropout(self.subsampling(self.augment(features, frames), frames))
        lengths = subsampled(frames)
        counts = mask_of(lengths, hidden.shape[1])[:, :, None].to(hidden.dtype)
        # Packing wants the lengths on the CPU: once, since on another device each copy waits for it.
        lengths = lengths.cpu()
        for layer in self.recurrent:
            hidden = self._added(hidden, layer(hidden, counts, lengths))
        for layer in self.feed_forward:
            hidden = self._added(hidden, layer(hidden, counts))
        scores: Tensor = self.output(self.norm(hidden))
        return scores

    def _added(self, hidden: Tensor, change: Tensor) -> Tensor:
        return hidden + change if self.residual else change


class _Norm(nn.Module):
    """The batch or layer norm in front of a layer; only the first needs the mask."""

    def __init__(self, sizes: DeepSpeechSizes) -> None:
        super().__init__()
        self.inner = (
            MaskedBatchNorm(sizes.width, sizes.norm_momentum) if sizes.norm == "batch" else OffsetLayerNorm(sizes.width)
        )

    def forward(self, hidden: Tensor, counts: Tensor) -> Tensor:
        out: Tensor = self.inner(hidden, counts) if isinstance(self.inner, MaskedBatchNorm) else self.inner(hidden)
        return out


class _Recurrent(nn.Module):
    def __init__(self, sizes: DeepSpeechSizes) -> None:
        super().__init__()
        self.norm = _Norm(sizes)
        self.lstm = nn.LSTM(sizes.width, sizes.width // 2, batch_first=True, bidirectional=True)

    def forward(self, hidden: Tensor, counts: Tensor, lengths: Tensor) -> Tensor:
        # Packed, so that the backward direction starts at each utterance's own end.
        packed = pack_padded_sequence(self.norm(hidden, counts), lengths, batch_first=True, enforce_sorted=False)
        out, _ = pad_packed_sequence(self.lstm(packed)[0], batch_first=True, total_length=hidden.shape[1])
        return out


class _FeedForward(nn.Module):
    def __init__(self, sizes: DeepSpeechSizes) -> None:
        super().__init__()
        self.norm = _Norm(sizes)
        self.linear = nn.Linear(sizes.width, sizes.width)
        self.activation = _ACTIVATIONS[sizes.activation]()
        self.dropout = nn.Dropout(sizes.dropout)

    def forward(self, hidden: Tensor, counts: Tensor) -> Tensor:
        out: Tensor = self.dropout(self.activation(self.linear(self.norm(hidden, counts))) * counts)
        return out

"""Log-mel features of speech, as AlgoPerf's frontend makes them. Knows no data set and no normalisation."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

_FLOOR = 1e-5


@dataclass(frozen=True)
class Frontend:
    """Sizes of the features: in samples, Hz and mel bins. AlgoPerf's are 16,000, 400, 160, 512, 80, 125 and 7,600."""

    sample_rate: int
    window: int
    hop: int
    transform: int
    bins: int
    lowest_hertz: float
    highest_hertz: float
    pre_emphasis: float = 0.97

    def log_mel(self, audio: Tensor) -> Tensor:
        """Logarithm of the energy in each mel bin of each frame, in the precision of `audio`, which is in [-1, 1].

        A frame takes one sample more than its window, for the pre-emphasis of its last sample; what does not fill a
        frame is left out. Shapes: [..., samples] -> [..., frames, bins].
        Source: AlgoPerf's librispeech frontend, which has these steps from Lingvo.
        """
        frames = audio.unfold(-1, self.window + 1, self.hop)
        first = frames[..., :1] * (1 - self.pre_emphasis)
        later = frames[..., 1:-1] - self.pre_emphasis * frames[..., :-2]
        window = torch.hann_window(self.window, periodic=True, dtype=audio.dtype, device=audio.device)
        spectrum = torch.fft.rfft(torch.cat([first, later], dim=-1) * window, n=self.transform)
        energy = spectrum.real.square() + spectrum.imag.square()
        features: Tensor = (energy @ self.mel_weights().to(energy)).clamp_min(_FLOOR).log()
        return features

    def mel_weights(self) -> Tensor:
        """Triangles that overlap by half on the mel scale of HTK; the constant part of a signal weighs nothing.

        Shape: float64 [transform / 2 + 1, bins].
        """
        hertz = torch.linspace(0, self.sample_rate / 2, self.transform // 2 + 1, dtype=torch.float64)
        mel = 1127.0 * torch.log1p(hertz / 700.0)
        low, high = (1127.0 * math.log1p(edge / 700.0) for edge in (self.lowest_hertz, self.highest_hertz))
        edges = torch.linspace(low, high, self.bins + 2, dtype=torch.float64)
        rising = (mel[:, None] - edges[:-2]) / (edges[1:-1] - edges[:-2])
        falling = (edges[2:] - mel[:, None]) / (edges[2:] - edges[1:-1])
        weights = torch.minimum(rising, falling).clamp_min(0.0)
        weights[0] = 0.0
        return weights

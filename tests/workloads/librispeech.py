"""AlgoPerf's speech inputs for which its models' outputs are known: noise as audio, under its frontend."""

from __future__ import annotations

import numpy
import torch
from torch import Tensor

from workloads.full.data.speech.log_mel import frames_of, normalised_log_mel


def audio() -> tuple[Tensor, Tensor]:
    """Two utterances, the second three quarters as long. Shapes: float32 [2, 64000], samples int64 [2]."""
    return torch.from_numpy(1000 * numpy.random.RandomState(7).standard_normal((2, 64_000))).float(), torch.tensor(
        [64_000, 48_000]
    )


def features() -> tuple[Tensor, Tensor]:
    """Their features. Shapes: float32 [2, 398, 80], frames int64 [2]: 398 and 300."""
    sound, samples = audio()
    return normalised_log_mel(sound, samples), frames_of(samples, sound.shape[1])


def targets() -> Tensor:
    """Ten symbols and, padded with blanks, eight. Shape: int64 [2, 10]."""
    symbols = torch.from_numpy(numpy.random.RandomState(9).randint(3, 1024, (2, 10)))
    symbols[1, 8:] = 0
    return symbols

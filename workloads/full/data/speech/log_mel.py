"""AlgoPerf's log-mel features of LibriSpeech, made on the device as the first part of each forward pass."""

from __future__ import annotations

import torch
from torch import Tensor

from workloads.data.speech_features import Frontend
from workloads.networks.speech.speech_layers import mask_of

FRONTEND = Frontend(
    sample_rate=16_000, window=400, hop=160, transform=512, bins=80, lowest_hertz=125.0, highest_hertz=7600.0
)
# Of each mel bin over LibriSpeech, from AlgoPerf's code.
MEANS = (
    -7.604782, -7.120623, -6.886425, -6.870577, -6.966772, -7.108409, -6.952803, -6.783994, -6.619552, -6.487627,
    -6.412066, -6.394048, -6.424487, -6.399371, -6.515827, -6.713800, -6.847688, -6.988500, -6.922139, -7.146149,
    -7.204040, -7.053755, -7.314038, -7.122325, -7.302514, -7.121214, -7.242573, -7.173054, -7.097941, -7.088748,
    -6.984991, -6.878773, -6.760275, -6.630095, -6.514577, -6.424506, -6.356514, -6.317876, -6.266077, -6.246833,
    -6.282153, -6.190839, -6.248435, -6.147264, -6.092473, -6.017100, -5.925040, -5.853583, -5.820911, -5.811893,
    -5.807837, -5.771463, -5.745373, -5.770566, -5.776564, -5.783167, -5.795409, -5.799482, -5.802348, -5.804712,
    -5.816818, -5.884480, -5.972711, -6.044466, -6.128487, -6.225759, -6.315750, -6.390612, -6.492860, -6.549846,
    -6.605432, -6.650838, -6.669176, -6.672689, -6.684235, -6.697458, -6.754718, -6.794914, -6.863421, -6.941865,
)  # fmt: skip
DEVIATIONS = (
    3.435328, 3.596293, 3.701247, 3.736921, 3.753510, 3.693629, 3.692250, 3.764152, 3.841972, 3.899985,
    3.929424, 3.931741, 3.913959, 3.903160, 3.869200, 3.815508, 3.764497, 3.709911, 3.696509, 3.600377,
    3.549323, 3.546512, 3.450036, 3.471281, 3.408461, 3.440814, 3.410488, 3.421764, 3.431285, 3.419921,
    3.430581, 3.438267, 3.458037, 3.481799, 3.495871, 3.503679, 3.504757, 3.498873, 3.493056, 3.482294,
    3.459430, 3.461277, 3.455906, 3.475542, 3.497155, 3.532656, 3.570520, 3.592031, 3.596907, 3.591350,
    3.586593, 3.582681, 3.583774, 3.589579, 3.581931, 3.583787, 3.586118, 3.588959, 3.592215, 3.593946,
    3.585663, 3.588411, 3.592102, 3.587049, 3.580657, 3.573107, 3.561753, 3.549807, 3.552737, 3.547537,
    3.538785, 3.525618, 3.503184, 3.492273, 3.487965, 3.472559, 3.455839, 3.435183, 3.428429, 3.429917,
)  # fmt: skip
_FULL_SCALE = 2**-15


def frames_of(samples: Tensor, length: int) -> Tensor:
    """How many frames of audio that is padded to `length` samples are no padding: those that hold any true sample.

    Shapes: int64 [batch], kept.
    """
    most = (length - FRONTEND.window - 1) // FRONTEND.hop + 1
    return ((samples + FRONTEND.hop - 1) // FRONTEND.hop).clamp_max(most)


def normalised_log_mel(audio: Tensor, samples: Tensor) -> Tensor:
    """Features with mean 0 and deviation 1 over LibriSpeech; of padding, whatever it holds, those of silence.

    Shapes: audio int16 or float [batch, length] in units of 16 bits, samples int64 [batch] -> float32 [batch, frames,
    80]: 1,998 frames of 20 seconds.
    """
    # In half precision a sum over a spectrum keeps two digits.
    with torch.autocast(audio.device.type, enabled=False):
        sound = (audio.float() * _FULL_SCALE).masked_fill(~mask_of(samples, audio.shape[1]), 0.0)
        means, deviations = (torch.tensor(each, device=audio.device) for each in (MEANS, DEVIATIONS))
        return (FRONTEND.log_mel(sound) - means) / deviations

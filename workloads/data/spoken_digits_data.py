"""Strings of spoken digits: synthetic speech by eSpeak NG with noise, as features that are made once and stored.

The speech is synthetic because no recorded corpus with several speakers ships in a package. Knows no model.
"""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from itertools import product
from pathlib import Path
from typing import Any, ClassVar

import numpy
import torch
from torch import Tensor

from harness.api import SPLITS, Batch, DataError, SplitName, TensorExamples
from workloads.data.sources import MadeFile, StoredFile, Wheel
from workloads.data.speech_features import Frontend

FRAMES = 160  # a multiple of 4, so that the subsampling of either model cuts no window
FEWEST_DIGITS, MOST_DIGITS = 2, 5
FRONTEND = Frontend(
    sample_rate=8000, window=200, hop=80, transform=256, bins=40, lowest_hertz=60.0, highest_hertz=3800.0
)
COUNTS: dict[SplitName, int] = {"train": 4000, "validation": 600, "test": 600}
RECORD = numpy.dtype(
    [("split", "u1"), ("frames", "u1"), ("digits", "u1", (MOST_DIGITS,)), ("features", "u1", (FRAMES, FRONTEND.bins))]
)
"""One utterance. `digits` are 1 for "zero" to 10 for "nine", then 0; `features` as `quantised` makes them."""

_LEVELS, _ZERO = 32, 128  # steps to a standard deviation, and the byte of a mean value and of padding
_SEED = 1234
# Long strings at a slow rate do not fit into FRAMES and are dropped, as AlgoPerf drops its longest ones.
_DRAWN = {"seen": 5100, "unseen": 700}
_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
DIGITS = len(_WORDS)
_ACCENTS = ["en", "en-029", "en-GB-scotland", "en-GB-x-gbclan", "en-GB-x-gbcwmd", "en-GB-x-rp", "en-US", "en-US-nyc"]
_VOICES = {
    "seen": ["m1", "m2", "m3", "m4", "m5", "m6", "m7", "m8", "f1", "f2", "f3", "Andy", "Alex", "adam", "belinda",
             "linda", "steph", "Mike", "aunty", "boris", "edward", "max", "victor", "zac", "john"],
    "unseen": ["f4", "f5", "Annie", "shelby", "paul", "david", "steph2", "grandpa"],
}  # fmt: skip
_PATIENCE_SECONDS = 3600


class Utterances(TensorExamples):
    """Utterances held as bytes, a quarter of the memory, and given out as normalised float32.

    Shapes: features uint8 [n, FRAMES, bins], frames int64 [n], targets int64 [n, MOST_DIGITS].
    """

    def gather(self, index: Tensor) -> Batch:
        """`inputs` float32 [batch, FRAMES, bins], zero at padding; `frames`, how many are no padding; `targets`."""
        batch = super().gather(index)
        features = batch.pop("features").to(torch.float32)
        return {"inputs": features.sub_(_ZERO).mul_(1 / _LEVELS), **batch}


class SpokenDigitsFile(MadeFile):
    """The file of all utterances, spoken on this machine by eSpeak NG out of a wheel that is read as a zip."""

    other_content: ClassVar[str] = "eSpeak NG speaks other samples on this machine"

    def __init__(self) -> None:
        super().__init__(
            name="spoken-digits",
            licence="none claimed on the features; spoken by eSpeak NG (GPL-3.0-or-later), two minutes of one core",
            size_megabytes=10.1,
            files=[
                StoredFile(
                    path="spoken_digits/utterances.bin",
                    size=RECORD.itemsize * sum(COUNTS.values()),
                    sha256="c93378603476472e0b98a8aa6edef7d326a2db03810b6ed04038fab550752345",
                )
            ],
        )

    def make(self, beside: Path) -> bytes:
        """Fetch the wheel, speak, and compute the features."""
        wheel = _wheel()
        wheel.fetch(beside)
        with zipfile.ZipFile(wheel.path(beside)) as archive:
            archive.extractall(beside / "espeak")
        return utterances(beside / "espeak" / "espeakng_loader").tobytes()

    def read(self, split: SplitName, folder: Path) -> Utterances:
        """One split. Raises DataError where the file is missing or cut short."""
        records = numpy.memmap(self.path(folder), RECORD, mode="r")
        chosen = records[records["split"] == SPLITS.index(split)]
        return Utterances(
            {
                "features": torch.from_numpy(chosen["features"].copy()),
                "frames": torch.from_numpy(chosen["frames"].astype(numpy.int64)),
                "targets": torch.from_numpy(chosen["digits"].astype(numpy.int64)),
            }
        )


def utterances(package: Path) -> numpy.ndarray:
    """All utterances of all splits as RECORDs, from the unpacked eSpeak NG. Raises DataError where it does not run.

    Training and validation share their voices, the test split has others.
    """
    # The stream of RandomState is frozen (NEP 19), that of a Generator may change with the version of numpy.
    stream = numpy.random.RandomState(_SEED)
    parts = [
        _part(stream, package, _VOICES["seen"], drawn=_DRAWN["seen"], splits=("train", "validation")),
        _part(stream, package, _VOICES["unseen"], drawn=_DRAWN["unseen"], splits=("test",)),
    ]
    split = numpy.concatenate([part[0] for part in parts])
    digits = numpy.concatenate([part[1] for part in parts])
    features = [each for part in parts for each in part[2]]
    records = numpy.zeros(len(split), RECORD)
    records["split"], records["digits"] = split, digits
    records["frames"] = [len(each) for each in features]
    training = numpy.concatenate([each for each, number in zip(features, split, strict=True) if number == 0])
    mean, deviation = training.mean(axis=0), training.std(axis=0)
    records["features"] = _ZERO
    for record, each in zip(records["features"], features, strict=True):
        record[: len(each)] = quantised((each - mean) / deviation)
    return records


def quantised(normalised: numpy.ndarray) -> numpy.ndarray:
    """Normalised features as bytes, values beyond 4 deviations at the ends.

    Bytes, because the last digits of sines and logarithms differ between machines: a rounded value almost never does.
    """
    levels: numpy.ndarray = numpy.clip(numpy.rint(_LEVELS * normalised) + _ZERO, 0, 255).astype(numpy.uint8)
    return levels


def _part(
    stream: numpy.random.RandomState, package: Path, voices: list[str], *, drawn: int, splits: tuple[SplitName, ...]
) -> tuple[numpy.ndarray, numpy.ndarray, list[numpy.ndarray]]:
    """Numbers of the splits, digits, and features of the utterances of some voices, in random order."""
    calls, digits = _calls(stream, voices, count=drawn)
    features = [_features(samples, stream) for samples in spoken(calls, package, seed=_SEED)]
    short = [number for number in stream.permutation(drawn) if len(features[number]) <= FRAMES]
    wanted = sum(COUNTS[split] for split in splits)
    if len(short) < wanted:
        raise DataError(f"eSpeak NG spoke {len(short)} strings of up to {FRAMES} frames, {wanted} are wanted")
    numbers = numpy.repeat([SPLITS.index(split) for split in splits], [COUNTS[split] for split in splits])
    chosen = short[:wanted]
    return numbers, digits[chosen], [features[number] for number in chosen]


def _calls(
    stream: numpy.random.RandomState, voices: list[str], *, count: int
) -> tuple[list[dict[str, Any]], numpy.ndarray]:
    """What to say and how, voice by voice, since changing the voice takes time; and the digits, padded with 0."""
    names = [f"gmw/{accent}+{voice}" for accent, voice in product(_ACCENTS, voices)]
    digits = stream.randint(1, 11, size=(count, MOST_DIGITS))
    digits[numpy.arange(MOST_DIGITS) >= stream.randint(FEWEST_DIGITS, MOST_DIGITS + 1, size=(count, 1))] = 0
    calls = [
        {
            "text": " ".join(_WORDS[digit - 1] for digit in row if digit),
            "voice": names[number * len(names) // count],
            "words_per_minute": int(stream.randint(150, 241)),
            "pitch": int(stream.randint(25, 76)),
        }
        for number, row in enumerate(digits)
    ]
    return calls, digits


def spoken(calls: list[dict[str, Any]], package: Path, *, seed: int) -> list[numpy.ndarray]:
    """Samples of each call, int16 at 22,050 Hz. A new process, since only that repeats. Raises DataError."""
    # -P: the folder of the program holds modules whose names could hide others.
    command = [sys.executable, "-P", str(Path(__file__).with_name("espeak.py")), str(package), str(seed)]
    try:
        done = subprocess.run(
            command, input=json.dumps(calls).encode(), capture_output=True, timeout=_PATIENCE_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise DataError(f"eSpeak NG did not end within {_PATIENCE_SECONDS} seconds. Run make data again.") from None
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise DataError(
            f"eSpeak NG does not run here ({said[-1] if said else f'exit code {done.returncode}'}). It is made "
            "for Linux on x86-64: run make data there and copy the data folder."
        )
    answers, place = [], 0
    for _ in calls:
        count = int.from_bytes(done.stdout[place : place + 8], sys.byteorder)
        answers.append(numpy.frombuffer(done.stdout, numpy.int16, count, place + 8))
        place += 8 + 2 * count
    return answers


def _features(samples: numpy.ndarray, stream: numpy.random.RandomState) -> numpy.ndarray:
    """Log-mel features of speech at 8 kHz under white noise of 5 to 20 dB. Shape: float64 [frames, bins]."""
    # Imported here: no trial needs it.
    from scipy.signal import resample_poly

    speech = resample_poly(samples / 32768.0, 160, 441)
    decibels = stream.uniform(5.0, 20.0)
    noise = stream.standard_normal(len(speech)) * speech.std() * 10 ** (-decibels / 20)
    features: numpy.ndarray = FRONTEND.log_mel(torch.from_numpy(speech + noise)).numpy()
    return features


def _wheel() -> Wheel:
    return Wheel(
        name="espeakng-loader",
        requirement="espeakng-loader==0.2.4",
        licence="GPL-3.0-or-later",
        file=StoredFile(
            path="wheels/espeakng_loader-0.2.4-py3-none-manylinux_2_17_x86_64.manylinux2014_x86_64.whl",
            size=10_078_484,
            sha256="08721baf27d13d461f6be6eed9a65277e70d68234ff484fd8b9897b222cdcb6d",
        ),
    )

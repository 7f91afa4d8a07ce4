"""Speaks with eSpeak NG: `python espeak.py PACKAGE_FOLDER SEED < calls.json > samples`. A program, never imported.

The library keeps state between calls (phases, random numbers), so its samples repeat only in a new process that seeds
once and makes the same calls in the same order. Standard input is a JSON list of calls, objects with `text`, `voice`,
`words_per_minute` and `pitch` (0 to 100). Standard output is, call by call, the number of samples as int64 and the
samples as int16 at 22,050 Hz, in the machine's byte order.
"""

from __future__ import annotations

import ctypes
import json
import sys
from pathlib import Path
from typing import Any

_RETRIEVAL = 1  # AUDIO_OUTPUT_RETRIEVAL of speak_lib.h: samples are handed back, nothing is played
_CHARS_UTF8 = 1
_POS_CHARACTER = 1
_RATE, _PITCH = 1, 3  # espeak_PARAMETER of speak_lib.h
_SAMPLE_RATE = 22_050
_ON_SAMPLES = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


class Speaker:
    """The library, initialised and seeded. Exits with one line on standard error where the library refuses."""

    def __init__(self, package: Path, seed: int) -> None:
        self._library = ctypes.CDLL(str(package / "libespeak-ng.so"))
        self._samples = bytearray()
        # ctypes does not keep it alive, the library calls it until the process ends.
        self._on_samples = _ON_SAMPLES(self._collect)
        _expect(self._library.espeak_Initialize(_RETRIEVAL, 0, str(package).encode(), 0), _SAMPLE_RATE, "initialise")
        self._library.espeak_SetSynthCallback(self._on_samples)
        self._library.espeak_ng_SetRandSeed.argtypes = [ctypes.c_long]
        self._library.espeak_ng_SetRandSeed(seed)

    def speak(self, *, text: str, voice: str, words_per_minute: int, pitch: int) -> bytes:
        """Samples of `text`, int16."""
        self._samples.clear()
        # An unknown voice would leave the last one in place.
        _expect(self._library.espeak_SetVoiceByName(voice.encode()), 0, f"take the voice {voice!r}")
        _expect(self._library.espeak_SetParameter(_RATE, words_per_minute, 0), 0, f"speak at {words_per_minute} words")
        _expect(self._library.espeak_SetParameter(_PITCH, pitch, 0), 0, f"take the pitch {pitch}")
        data = text.encode()
        spoken = self._library.espeak_Synth(data, len(data) + 1, 0, _POS_CHARACTER, 0, _CHARS_UTF8, None, None)
        _expect(spoken, 0, f"speak {text!r}")
        self._library.espeak_Synchronize()
        return bytes(self._samples)

    def _collect(self, samples: Any, count: int, _events: Any) -> int:
        if samples and count > 0:
            self._samples += ctypes.string_at(samples, 2 * count)
        return 0


def _expect(found: int, wanted: int, what: str) -> None:
    if found != wanted:
        sys.exit(f"eSpeak NG cannot {what}: it answers {found}, not {wanted}")


def main(package: str, seed: str) -> None:
    """Speak every call of standard input."""
    speaker = Speaker(Path(package), int(seed))
    for call in json.load(sys.stdin):
        samples = speaker.speak(**call)
        sys.stdout.buffer.write((len(samples) // 2).to_bytes(8, sys.byteorder) + samples)


if __name__ == "__main__":
    main(*sys.argv[1:])

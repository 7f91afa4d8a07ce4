"""Random numbers that are a function of a key alone: Philox4x32-10, for many keys at once. Keeps no state."""

from __future__ import annotations

import numpy

_Words = numpy.ndarray

_ROUNDS = 10
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_LOW, _HALF = numpy.uint64(0xFFFFFFFF), numpy.uint64(32)


def philox(counter: tuple[_Words, ...], key: tuple[_Words, ...]) -> tuple[_Words, ...]:
    """Four words of 32 bits, as uint64, of a counter of four such words under a key of two; shapes broadcast.

    Source: Salmon et al., Parallel random numbers: as easy as 1, 2, 3 (SC 2011).
    """
    first, second = (numpy.uint64(each) for each in _MULTIPLIERS)
    a, b, c, d = (numpy.asarray(word, numpy.uint64) for word in counter)
    left, right = (numpy.asarray(word, numpy.uint64) for word in key)
    for _ in range(_ROUNDS):
        one, other = a * first, c * second
        a, b, c, d = (other >> _HALF) ^ b ^ left, other & _LOW, (one >> _HALF) ^ d ^ right, one & _LOW
        left, right = (left + numpy.uint64(_WEYL[0])) & _LOW, (right + numpy.uint64(_WEYL[1])) & _LOW
    return a, b, c, d


def uniform(seeds: numpy.ndarray, count: int, *, stream: int = 0) -> numpy.ndarray:
    """`count` numbers in [0, 1) for each seed, others for each `stream`. Shapes: int64 [n] -> float32 [n, count].

    A seed and stream make what TensorFlow's stateless_uniform makes of the two as its seed (algorithm Philox).
    """
    words = numpy.asarray(seeds, numpy.int64).astype(numpy.uint64)[:, None]
    zero = numpy.zeros_like(words)
    # TensorFlow scrambles a seed into a key and the upper half of the counter.
    key = (zero + 0x3EC8F720, zero + 0x02461E29)
    mixed = philox((words & _LOW, words >> _HALF, zero + numpy.uint64(stream), zero), key)
    blocks = numpy.arange(-(-count // 4), dtype=numpy.uint64)[None]
    made = philox((blocks, numpy.zeros_like(blocks), mixed[2], mixed[3]), (mixed[0], mixed[1]))
    bits = numpy.stack(made, axis=2).reshape(len(words), -1)[:, :count].astype(numpy.uint32)
    # 23 bits as the fraction of a number in [1, 2).
    exponent = numpy.uint32(127 << 23)
    numbers: numpy.ndarray = ((bits & numpy.uint32(0x7FFFFF)) | exponent).view(numpy.float32) - numpy.float32(1)
    return numbers

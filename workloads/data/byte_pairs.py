"""Byte-pair encoding, small and repeatable: the same texts give the same vocabulary. Knows no workload."""

from __future__ import annotations

import heapq
import itertools
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

_BYTES = 256
# A merge never joins two of these pieces; a blank belongs to the piece after it.
_PIECE = re.compile(r" ?\w+| ?[^\w\s]+|\s")


class BytePairs:
    """Texts as numbers of byte sequences: the 256 bytes, then what the merges made. Every text has numbers, and back.

    Source: Sennrich, Haddow, Birch 2016, arXiv 1508.07909; on bytes as in Radford et al. 2019 (GPT-2).
    """

    def __init__(self, merges: Sequence[tuple[int, int]]) -> None:
        self._rank = {pair: _BYTES + number for number, pair in enumerate(merges)}
        self._bytes = [bytes([value]) for value in range(_BYTES)]
        for first, second in merges:
            self._bytes.append(self._bytes[first] + self._bytes[second])
        self._known: dict[str, list[int]] = {}

    def __len__(self) -> int:
        return len(self._bytes)

    def encode(self, text: str) -> list[int]:
        """Numbers of `text`. Each different piece is worked out once."""
        numbers: list[int] = []
        for piece in _PIECE.findall(text):
            if piece not in self._known:
                self._known[piece] = self._merge_all(list(piece.encode()))
            numbers += self._known[piece]
        return numbers

    def decode(self, numbers: Iterable[int]) -> str:
        """The text again; bytes that are no UTF-8 become replacement characters."""
        return b"".join(self._bytes[number] for number in numbers).decode(errors="replace")

    def _merge_all(self, numbers: list[int]) -> list[int]:
        while len(numbers) > 1:
            pair = min(itertools.pairwise(numbers), key=lambda pair: self._rank.get(pair, len(self)))
            if pair not in self._rank:
                break
            numbers = _merged(numbers, pair, self._rank[pair])
        return numbers


def learn_byte_pairs(texts: Iterable[str], *, size: int) -> BytePairs:
    """Merges the most frequent pair again and again, of equally frequent ones the lowest, up to `size` numbers.

    Fewer where no pair occurs twice. Words, with the blank before them, that occur once are not learnt from.
    """
    found = Counter(piece for text in texts for piece in _PIECE.findall(text))
    # Half of all pieces occur once: without them learning takes half the time, and no more tokens come out.
    counts = {piece: count for piece, count in found.items() if count > 1}
    pieces = [list(piece.encode()) for piece in counts]
    times = list(counts.values())
    pairs: Counter[tuple[int, int]] = Counter()
    places: dict[tuple[int, int], set[int]] = defaultdict(set)
    for place, numbers in enumerate(pieces):
        for pair in itertools.pairwise(numbers):
            pairs[pair] += times[place]
            places[pair].add(place)
    # A pair whose count has changed is pushed again; what it was pushed with before is skipped when it comes up.
    queue = [(-count, pair) for pair, count in pairs.items()]
    heapq.heapify(queue)
    merges: list[tuple[int, int]] = []
    while queue and len(merges) < size - _BYTES:
        count, best = heapq.heappop(queue)
        if -count != pairs[best] or count > -2:
            continue
        number = _BYTES + len(merges)
        merges.append(best)
        changed: Counter[tuple[int, int]] = Counter()
        for place in places.pop(best):
            before, after = pieces[place], _merged(pieces[place], best, number)
            pieces[place] = after
            for pair in itertools.pairwise(before):
                changed[pair] -= times[place]
            for pair in itertools.pairwise(after):
                changed[pair] += times[place]
                places[pair].add(place)
        for pair, change in changed.items():
            if change:
                pairs[pair] += change
                heapq.heappush(queue, (-pairs[pair], pair))
    return BytePairs(merges)


def _merged(numbers: list[int], pair: tuple[int, int], number: int) -> list[int]:
    """`numbers` with `number` in the place of each `pair`, from the left."""
    merged: list[int] = []
    place = 0
    while place < len(numbers):
        if place + 1 < len(numbers) and numbers[place] == pair[0] and numbers[place + 1] == pair[1]:
            merged.append(number)
            place += 2
        else:
            merged.append(numbers[place])
            place += 1
    return merged

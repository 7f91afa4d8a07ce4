"""Archives as statmt.org publishes them, a few kilobytes each, with sentences of made-up German and English."""

from __future__ import annotations

import gzip
import hashlib
import io
import random
import tarfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from harness.api import SPLITS, SplitName
from workloads.full.data.text.wmt17 import Archive, WmtSplits

Pair = tuple[str, str]
WORDS = [
    ("der", "the"), ("hund", "dog"), ("katze", "cat"), ("sieht", "sees"), ("nicht", "not"), ("haus", "house"),
    ("ist", "is"), ("grün", "green"), ("und", "and"), ("wasser", "water"), ("trinkt", "drinks"), ("heute", "today"),
]  # fmt: skip


def sentences(count: int, seed: int) -> list[Pair]:
    draw = random.Random(seed)
    chosen = ([draw.choice(WORDS) for _ in range(draw.randint(2, 7))] for _ in range(count))
    return [(" ".join(word[0] for word in words), " ".join(word[1] for word in words) + ".") for words in chosen]


def sgml(kind: str, texts: list[str]) -> str:
    lines = [f'<{kind} setid="newstest2014" srclang="any" trglang="en">', '<doc docid="a" genre="news">', "<p>"]
    lines += [f'<seg id="{number}">{text}</seg>' for number, text in enumerate(texts, 1)]
    return "\n".join([*lines, "</p>", "</doc>", f"</{kind}>", ""])


def write_archive(folder: Path, name: str, members: Mapping[str, str]) -> tuple[int, str]:
    """Size and SHA-256 of the archive."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    # Without a date in it, the same members give the same archive.
    with (
        path.open("wb") as file,
        gzip.GzipFile("", "wb", fileobj=file, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w") as archive,
    ):
        for member, text in members.items():
            entry = tarfile.TarInfo(member)
            entry.size = len(text.encode())
            archive.addfile(entry, io.BytesIO(text.encode()))
    return path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest()


def lines_of(pairs: list[Pair], side: int) -> str:
    return "".join(f"{pair[side]}\n" for pair in pairs)


def host_of(data: Path) -> Path:
    return data.with_name("host")


def write_archives(data: Path, texts: Mapping[SplitName, list[Pair]]) -> dict[SplitName, list[Archive]]:
    """Training in two archives, the other two splits in one, the test as SGML. They lie in `host`, beside `data`."""
    raw = host_of(data)
    half = len(texts["train"]) // 2
    found: dict[SplitName, list[Archive]] = {"train": []}
    for name, pairs in (("first.tgz", texts["train"][:half]), ("second.tgz", texts["train"][half:])):
        members = {f"training/{name}.de": lines_of(pairs, 0), f"training/{name}.en": lines_of(pairs, 1)}
        size, sha256 = write_archive(raw, name, members)
        found["train"].append(Archive((raw / name).as_uri(), size, sha256, *members))
    held_out = {
        "dev/newstest2013.de": lines_of(texts["validation"], 0),
        "dev/newstest2013.en": lines_of(texts["validation"], 1),
        "dev/newstest2014-deen-src.de.sgm": sgml("srcset", [german for german, _ in texts["test"]]),
        "dev/newstest2014-deen-ref.en.sgm": sgml("refset", [english for _, english in texts["test"]]),
    }
    size, sha256 = write_archive(raw, "dev.tgz", held_out)
    names = list(held_out)
    for split, members in (("validation", names[:2]), ("test", names[2:])):
        found[split] = [Archive((raw / "dev.tgz").as_uri(), size, sha256, *members)]  # type: ignore[index]
    return found


def texts_of_all_splits() -> dict[SplitName, list[Pair]]:
    return {split: sentences(count, seed) for seed, (split, count) in enumerate(zip(SPLITS, (120, 12, 9), strict=True))}


def prepared(data: Path, *, vocabulary: int, row_length: int) -> WmtSplits:
    """The splits of `texts_of_all_splits`, prepared in the data folder."""
    pytest.importorskip("sentencepiece")
    archives = write_archives(data, texts_of_all_splits())
    counts: dict[SplitName, int] = {"train": 120, "validation": 12, "test": 9}
    splits = WmtSplits(vocabulary=vocabulary, row_length=row_length, archives=archives, counts=counts, every=1)
    splits.fetch(data)
    return splits

"""FineWeb-Edu, sample-10BT: parquet of web pages, shuffled, cut into windows of GPT-2's tokens, prepared."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from harness.api import DataError, SplitName
from workloads.data.prepared import Chunk, PreparedSource, prepare
from workloads.full.data.download import download
from workloads.full.data.text.gpt2_tokens import MERGES_URL, Gpt2Encoding, check_merges
from workloads.full.data.text.token_windows import cut, from_to, window_field

COUNTS: Mapping[SplitName, int] = {"train": 8_749_870, "validation": 100_000, "test": 10_000}
"""Windows of each split: AlgoPerf's, which has no test split."""

_IN_ORDER: tuple[SplitName, ...] = ("validation", "test", "train")
_READER = "finewebedu 1"
_FILES = 14
_TERMS = "https://huggingface.co/datasets/HuggingFaceFW/fineweb-edu"
_PLACE = f"{_TERMS}/resolve/main/sample/10BT"
_ORDER_SEED = 1996
_TEXTS_AT_ONCE = 1000


def shuffled_texts(files: list[Path], *, cache: Path) -> Iterator[list[str]]:
    """The texts of all pages, once each, in a fixed order that depends on their number alone; some at a time.

    `cache`: where Hugging Face's `datasets` keeps what it reads. Raises DataError for a file that is no such parquet.
    """
    import datasets
    from datasets.exceptions import DatasetGenerationError

    try:
        pages = datasets.load_dataset(
            "parquet", data_files=[str(path) for path in files], split="train", columns=["text"], cache_dir=str(cache)
        )
    except (DatasetGenerationError, ValueError) as error:
        raise DataError(
            f"{files[0].parent} holds a file that cannot be read as parquet with texts ({error.__cause__ or error}). "
            f"Fetch it again from {_PLACE}, then run make data."
        ) from error
    for batch in pages.shuffle(seed=_ORDER_SEED).iter(batch_size=_TEXTS_AT_ONCE):
        yield batch["text"]


class FinewebEduSplits(PreparedSource):
    """Pages in `finewebedu_lm/raw` of the data folder, and windows of their tokens prepared from them.

    One row of tokens is made of all pages, each with its end, and cut into pieces of a window and a token, so that
    pieces share nothing. The first are for validation, the next for the test, and training has those after them.
    `counts`: how many of each; `files`: how many of parquet there are, and `place` where; `check`: of the merges.
    """

    name = "finewebedu_lm"
    size_megabytes = 28_500.0
    # Also what Hugging Face's datasets unpacks, and the splits.
    disk_megabytes = size_megabytes + 47_000.0 + 18_200.0
    licence = "ODC-By 1.0; of GPT-2's merges, MIT"
    notes = (
        f"14 files of {_TERMS} and GPT-2's merges, which need no account",
        "cutting into tokens and preparing takes hours; `raw` may be removed then",
    )

    def __init__(
        self,
        *,
        vocabulary: int,
        window: int,
        counts: Mapping[SplitName, int] = COUNTS,
        files: int = _FILES,
        place: str = _PLACE,
        check: Callable[[Path], None] = check_merges,
    ) -> None:
        self._vocabulary = vocabulary
        self._window = window
        self._counts = counts
        self._files = files
        self._place = place
        self._check = check

    def fetch(self, folder: Path) -> None:
        """Download files that are not there, and prepare the splits. Raises DataError where that fails."""
        raw = folder / self.name / "raw"
        if self.is_present(folder):
            return
        files = [raw / f"{number:03d}_00000.parquet" for number in range(self._files)]
        for path in files:
            if not path.is_file():
                download([f"{self._place}/{path.name}"], path, terms=_TERMS)
        merges = raw / "vocab.bpe"
        if not merges.is_file():
            download([MERGES_URL], merges, terms=MERGES_URL)
        self._check(merges)
        encoding = Gpt2Encoding(merges, vocabulary=self._vocabulary)

        first = 0
        for split in _IN_ORDER:
            end = first + self._counts[split]
            prepare(
                self.split_folder(folder, split),
                window_field(self._window),
                functools.partial(self._rest, files, encoding, first, end),
                about={
                    "reader": _READER,
                    "split": split,
                    "window": self._window,
                    "first": first,
                    "files": {path.name: path.stat().st_size for path in files},
                },
                count=self._counts[split],
            )
            first = end

    def _rest(self, files: list[Path], encoding: Gpt2Encoding, first: int, end: int, begin: int) -> Iterator[Chunk]:
        texts = shuffled_texts(files, cache=files[0].parent / "cache")
        return from_to(cut(encoding.tokens(texts), length=self._window + 1), first + begin, end)

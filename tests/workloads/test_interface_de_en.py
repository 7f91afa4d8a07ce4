"""Byte pairs, the texts of Home Assistant and their cleaning, errors of damaged files, BLEU."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from functools import cache
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.api import DataError, SplitName
from harness.config import WorkloadConfig, load
from harness.plugins.data import data_folder, is_present, load_verified
from harness.plugins.entries import create_workload
from tests.plugins.test_data import write_wheel
from workloads.data.byte_pairs import BytePairs, learn_byte_pairs
from workloads.interface_de_en import InterfaceDeEn, Sentences, clean, read_texts
from workloads.networks.encoder_decoder_transformer import EncoderDecoderTransformer

# --- byte pairs ---


def test_the_most_frequent_pair_is_merged_first_and_equals_in_their_order():
    # `ab` occurs three times, then `cab` three times; `xy` and `yz` twice each, the lower one first.
    pairs = learn_byte_pairs(["cab", "cab", "cab", "xyz", "xyz"], size=260)
    assert [pairs.decode([number]) for number in range(256, 260)] == ["ab", "cab", "xy", "xyz"]


def test_no_merge_joins_two_words():
    pairs = learn_byte_pairs(["to do to do to do"], size=300)
    learnt = {pairs.decode([number]) for number in range(256, len(pairs))}
    assert {" to", " do"} <= learnt
    assert not [text for text in learnt if " " in text[1:]]


def test_learning_stops_where_no_pair_occurs_twice():
    assert len(learn_byte_pairs(["abc", "abc", "ade"], size=300)) == 258


def test_an_overlapping_pair_is_merged_from_the_left():
    pairs = BytePairs([(97, 97)])
    assert pairs.encode("aaa") == [256, 97]


def test_encoding_uses_the_merges_in_the_order_in_which_they_were_learnt():
    # b+c was learnt first, so `abc` is a, bc although a+b is a merge too.
    pairs = BytePairs([(98, 99), (97, 98)])
    assert [pairs.decode([number]) for number in pairs.encode("abc")] == ["a", "bc"]


@settings(max_examples=60, deadline=None)
@given(st.text())
def test_every_text_comes_back(text):
    pairs = BytePairs([(195, 188), (102, 256), (114, 32), (97, 97)])
    assert pairs.decode(pairs.encode(text)) == text


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sampled_from(["abcab", "aabcc", "bcbca", "aaaab", "cabca"]), max_size=9))
def test_the_counts_kept_while_merging_are_those_of_counting_anew(words):
    shorter, longer = (learn_byte_pairs(words, size=size) for size in (260, 261))
    if len(longer) == 261:
        repeated = [word for word in words if words.count(word) > 1]
        counted = Counter(pair for word in repeated for pair in itertools.pairwise(shorter.encode(word)))
        best = min(counted, key=lambda pair: (-counted[pair], pair))
        assert longer.decode([260]) == shorter.decode(best)


# --- texts ---


def test_a_sentence_is_kept_once_whatever_numbers_it_has():
    texts = [
        ("Wait  for 10 seconds", "10 Sekunden\nwarten"),
        ("Wait for 25 seconds", "25 Sekunden warten"),
        ("Two words", "Zwei Wörter"),
        ("The same text here", "The same text here"),
        ("See http://example.org for more", "Mehr unter http://example.org"),
        ("word " * 21, "zu lang"),
    ]
    assert [pair for _, *pair in clean(texts)] == [["Wait for 10 seconds", "10 Sekunden warten"]]


def translations(**languages: object) -> dict[str, bytes]:
    return {
        f"homeassistant/components/lamp/translations/{language}.json": json.dumps(tree).encode()
        for language, tree in languages.items()
    }


def test_texts_are_aligned_by_their_keys(tmp_path: Path):
    members = translations(
        en={"title": "Lamp", "error": {"off": "The lamp is off", "gone": "The lamp is gone"}},
        de={"error": {"off": "Die Lampe ist aus"}, "title": "Lampe"},
    )
    wheel = write_wheel(tmp_path / "homeassistant-1.0-py3-none-any.whl", members)
    assert list(read_texts(wheel)) == [
        (("lamp", "title"), "Lamp", "Lampe"),
        (("lamp", "error", "off"), "The lamp is off", "Die Lampe ist aus"),
    ]


@pytest.mark.parametrize("damage", ["cut short", "another wheel", "no JSON"])
def test_a_damaged_wheel_gives_an_error_that_names_file_and_command(tmp_path: Path, damage: str):
    members = translations(en={"a": "b"}, de={"a": "c"})
    if damage == "another wheel":
        members = {"other/file.py": b""}
    if damage == "no JSON":
        members = dict.fromkeys(members, b"{")
    wheel = write_wheel(tmp_path / "homeassistant-1.0-py3-none-any.whl", members)
    if damage == "cut short":
        wheel.write_bytes(wheel.read_bytes()[:-30])
    with pytest.raises(DataError, match=r"homeassistant-1\.0.*make data"):
        list(read_texts(wheel))


def workload() -> InterfaceDeEn:
    configured = load("workload", "interface_de_en", WorkloadConfig)
    made = create_workload(configured.entry, configured.options)
    assert isinstance(made, InterfaceDeEn)
    return made


def test_a_wheel_that_is_missing_or_cut_short_names_the_command_that_brings_it(tmp_path: Path):
    with pytest.raises(DataError, match="make data"):
        workload().load("train", tmp_path)


@pytest.mark.parametrize(
    ("count", "words"), [(3, "byte pairs, the options ask for"), (6000, "train split")], ids=["fewer", "others"]
)
def test_an_altered_wheel_of_the_right_size_is_refused(tmp_path: Path, count: int, words: str):
    texts = {str(number): f"the {number * 7919 % 99_991:x} of {number:o}" for number in range(count)}
    [file] = workload().sources()[0].files
    wheel = write_wheel(
        tmp_path / file.path, translations(en=texts, de={key: f"{text}!" for key, text in texts.items()})
    )
    # Bytes before the archive are allowed by the format and read by nobody.
    packed = wheel.read_bytes()
    with wheel.open("wb") as handle:
        handle.truncate(file.size - len(packed))
        handle.seek(0, 2)
        handle.write(packed)
    with pytest.raises(DataError, match=rf"{words}.*make data"):
        load_verified(workload(), "train", tmp_path, load("workload", "interface_de_en", WorkloadConfig).data["train"])


# --- the splits and BLEU ---


@cache
def split_of(split: SplitName) -> Sentences:
    if not is_present(workload(), data_folder()):
        pytest.skip("the data of interface_de_en are not here: make data WORKLOAD=interface_de_en")
    examples = workload().load(split, data_folder())
    assert isinstance(examples, Sentences)
    return examples


def sources_of(split: SplitName) -> set[str]:
    rows = split_of(split).gather(torch.arange(len(split_of(split))))
    pieces = [
        tokens[segments == number]
        for tokens, segments in zip(rows["inputs"], rows["input_segments"], strict=True)
        for number in range(1, int(segments.max()) + 1)
    ]
    return set(split_of(split).texts(torch.nn.utils.rnn.pad_sequence(pieces, batch_first=True)))


def test_the_splits_have_the_published_sizes_and_share_no_source():
    train, validation, test = (sources_of(split) for split in ("train", "validation", "test"))
    assert (len(train), len(validation), len(test)) == (19_050, 1005, 1079)
    assert not train & validation
    assert not train & test
    assert not validation & test


def test_what_stands_alone_can_be_read():
    inputs, targets = split_of("validation").alone()
    assert len(inputs) == 100
    texts = list(zip(split_of("validation").texts(inputs), split_of("validation").texts(targets), strict=True))
    assert ("Water flow level", "Wasserdurchfluss") in texts


class Parrot(EncoderDecoderTransformer):
    """Writes the true targets by heart, in the order in which they stand alone, or each from its end."""

    def __init__(self, *, reverse: bool) -> None:
        super().__init__(workload().sizes)
        self.reverse = reverse

    def decode_greedily(self, inputs: torch.Tensor, *, length: int, end: int) -> torch.Tensor:  # noqa: ARG002
        _, targets = split_of("validation").alone()
        return targets.flip(1) if self.reverse else targets


def test_bleu_is_a_hundred_for_the_true_targets_and_small_for_garbled_ones():
    true = workload().decoded_metrics(Parrot(reverse=False), split_of("validation"))
    garbled = workload().decoded_metrics(Parrot(reverse=True), split_of("validation"))
    assert true["bleu"] == pytest.approx(100.0)
    assert garbled["bleu"] < 10.0

"""Texts in four languages: which are taken, how they become symbols, and that all languages count alike."""

from __future__ import annotations

import functools
import math

import pytest
import torch

from harness.api import DataError, SplitName, mean_loss
from harness.config import WorkloadConfig, load
from harness.plugins.data import data_folder, is_present
from harness.plugins.entries import create_workload
from workloads.frontier.language.languages_lm import LANGUAGES, LanguagesLm, Texts, plain


def workload(**others: int) -> LanguagesLm:
    settings = load("workload", "languages_lm", WorkloadConfig)
    made = create_workload(settings.entry, {**settings.options, **others})
    assert isinstance(made, LanguagesLm)
    return made


@functools.cache
def split(name: SplitName) -> Texts:
    if not is_present(workload(), data_folder()):
        pytest.skip("the texts are not here: make data WORKLOAD=languages_lm")
    examples = workload().load(name, data_folder())
    assert isinstance(examples, Texts)
    return examples


# --- the texts ---


def test_a_text_is_taken_once_in_the_order_of_a_hash_of_its_key():
    texts = {
        ("lamp", "off"): "The  lamp is\nturned off",
        ("lamp", "other"): "The lamp is turned off",
        ("lamp", "name"): "Short",
        ("lamp", "long"): "long" * 16,
        ("lamp", "link"): "See http://example.org for more",
        ("lamp", "field"): "The lamp {name} is off now",
        ("lamp", "on"): "The lamp is turned on",
    }
    found = plain(texts)
    assert sorted(text for _, text in found) == ["The lamp is turned off", "The lamp is turned on"]
    assert found == sorted(found)
    # Whatever comes first: which split a text is in hangs on its keys alone.
    assert plain(dict(reversed(texts.items()))) == found


def test_small_languages_have_a_hundredth_of_the_texts_and_as_many_held_out():
    assert split("train").tensors()["groups"].bincount().tolist() == [12_000, 1_200, 360, 120]
    assert split("train").tensors()["groups"].bincount().tolist() == list(LANGUAGES.values())
    for name in ("validation", "test"):
        assert split(name).tensors()["groups"].bincount().tolist() == [250] * 4
    assert torch.equal(workload().domains(split("train")), split("train").tensors()["groups"])


def test_a_text_begins_with_its_language_and_what_is_behind_its_end_does_not_count():
    texts = torch.zeros(2, 65, dtype=torch.uint8)
    texts[0, :4] = torch.tensor([2, 9, 8, 7])
    texts[1] = torch.tensor([4, *[6] * 63, 0])
    batch = Texts({"texts": texts, "groups": torch.tensor([1, 3])}).gather(torch.tensor([0, 1]))
    assert batch["inputs"][0, :5].tolist() == [2, 9, 8, 7, 0]
    assert batch["targets"][0, :5].tolist() == [9, 8, 7, 0, 0]
    # The end is foretold, and nothing after it.
    assert batch["weights"].sum(dim=1).tolist() == [4.0, 64.0]
    held = split("validation").gather(torch.arange(1_000))
    assert torch.equal(held["inputs"][:, 0], held["groups"] + 1)
    assert set(held["inputs"][:, 1:].unique().tolist()) <= {0, *range(5, 115)}
    assert held["weights"].sum(dim=1).min().item() >= 17


def test_texts_with_other_characters_than_the_options_say_are_answered():
    split("train")
    with pytest.raises(DataError, match="the texts have 110 characters, the options ask for 111"):
        workload(vocabulary=116).load("train", data_folder())


# --- the metric ---


def test_all_languages_count_alike_and_within_one_all_characters():
    made = workload()
    statistics = {
        "nats": torch.tensor([10.0, 30.0, 8.0, 6.0, 4.0]),
        "characters": torch.tensor([10.0, 10.0, 4.0, 2.0, 4.0]),
        "groups": torch.tensor([0, 0, 1, 2, 3]),
    }
    found = made.metrics(statistics)
    assert found == {"nats_de": 2.0, "nats_fr": 2.0, "nats_es": 3.0, "nats_et": 1.0, "nats_per_character": 2.0}


def test_even_scores_have_the_loss_of_a_guess_in_every_language():
    made, batch = workload(), split("test").gather(torch.arange(1_000))
    outputs = torch.zeros(1_000, 64, 115)
    assert mean_loss(*made.losses(outputs, batch, 0.0)).item() == pytest.approx(math.log(115), rel=1e-5)
    assert list(made.metrics(made.statistics(outputs, batch)).values()) == pytest.approx([math.log(115)] * 5, rel=1e-5)

"""LibriSpeech at full size: its files, its features, its batches, its metric, and a refereed trial from tiny files."""

from __future__ import annotations

import hashlib
import math
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import jiwer
import numpy
import pytest
import sentencepiece
import soundfile
import torch
from torch import Tensor, nn

from harness.api import SPLITS, DataError, SplitName, mean_loss, visible
from harness.config import WorkloadConfig, load
from harness.plugins.entries import create_workload
from harness.trial.parameter_kinds import kinds_of
from tests.workloads import librispeech
from tests.workloads.algoperf_weights import set_parity_weights
from tests.workloads.full.refereed import trial_and_evaluations
from tests.workloads.test_spoken_digits import REFERENCES
from workloads.full.data.archives import Archive
from workloads.full.data.pieces import Pieces, stored_pieces, text_of, trained_pieces
from workloads.full.data.speech.librispeech import (
    SUBSETS,
    LibrispeechSplits,
    Limits,
    Utterances,
    samples_of,
    utterances,
    within,
)
from workloads.full.data.speech.log_mel import FRONTEND, MEANS, frames_of, normalised_log_mel
from workloads.full.librispeech import Librispeech
from workloads.losses.ctc import ctc_losses
from workloads.losses.word_errors import word_error_rate, word_error_rate_algoperf
from workloads.networks.speech.speech_layers import MaskedBatchNorm, SpecAugment, mask_of, subsampled

CONFORMER, DEEPSPEECH = "librispeech_conformer", "librispeech_deepspeech"
VARIANTS = {
    f"{CONFORMER}_attention_temperature": 32_321_792,
    f"{CONFORMER}_layernorm": 32_317_696,
    f"{CONFORMER}_gelu": 32_321_792,
    f"{DEEPSPEECH}_tanh": 18_393_600,
    f"{DEEPSPEECH}_no_resnet": 18_393_600,
    f"{DEEPSPEECH}_norm_and_spec_aug": 18_392_576,
}
each_base = pytest.mark.parametrize("name", [CONFORMER, DEEPSPEECH])
SMALL: dict[str, Any] = {"samples": 16_000, "vocabulary": 36, "channels": 4, "width": 16, "dropout": 0.0}
SMALLEST = {
    CONFORMER: {**SMALL, "blocks": 1, "heads": 2, "hidden": 16},
    DEEPSPEECH: {**SMALL, "recurrent_layers": 1, "feed_forward_layers": 1},
}
WORDS = [
    "THE", "CAT", "SAT", "ON", "A", "MAT", "AND", "IT'S", "RUNNING", "UNDER", "TWO", "WONDERFUL", "OLD", "HOUSES", "OF",
    "BRICKS", "QUIZ", "JUMP", "VEX", "FIFTY",
]  # fmt: skip


def workload_of(name: str, **changed: Any) -> Librispeech:
    settings = load("workload", name, WorkloadConfig)
    made = create_workload(settings.entry, {**settings.options, **changed})
    assert isinstance(made, Librispeech)
    return made


# --- tiny files of the true format ---


def write_utterance(folder: Path, name: str, text: str, *, samples: int = 8000, seed: int = 0) -> Path:
    speaker, chapter, _ = name.split("-")
    place = folder / speaker / chapter
    place.mkdir(parents=True, exist_ok=True)
    sound = (3000 * numpy.random.RandomState(seed).standard_normal(samples)).astype(numpy.int16)
    soundfile.write(place / f"{name}.flac", sound, 16_000, subtype="PCM_16")
    with (place / f"{speaker}-{chapter}.trans.txt").open("a", encoding="utf-8") as file:
        file.write(f"{name} {text}\n")
    return place / f"{name}.flac"


def write_corpus(folder: Path, *, each: int = 6) -> Path:
    """A whole tree of all subsets, with so many utterances each of at most a second, two words that fit into it.

    One more is too long to be an example; the vocabulary is trained on its text.
    """
    stream = numpy.random.RandomState(1)
    raw = folder / "librispeech" / "raw" / "LibriSpeech"
    for number, subset in enumerate(subset for split in SPLITS for subset in SUBSETS[split]):
        for utterance in range(each):
            name = f"{100 * number}-{utterance % 2}-{utterance:04d}"
            samples, seed = int(stream.randint(14_000, 16_000)), 100 * number + utterance
            text = " ".join(stream.choice(WORDS, size=2))
            write_utterance(raw / subset, name, text, samples=samples, seed=seed)
    text = " ".join(word for _ in range(4) for word in stream.permutation(WORDS))
    write_utterance(raw / "train-clean-100", "0-9-0000", text, samples=16_001)
    return raw


def prepared(folder: Path, **changed: Any) -> LibrispeechSplits:
    options = {"vocabulary": 36, "limits": Limits(samples=16_000), "counts": None, "processes": 1, **changed}
    source = LibrispeechSplits(**options)
    source.fetch(folder)
    return source


def test_utterances_come_by_their_names_with_the_texts_of_their_chapters(tmp_path: Path):
    for name in ("7-9-0001", "7-10-0000", "7-9-0000", "10-2-0000"):
        write_utterance(tmp_path / "dev-clean", name, f"TEXT OF {name.replace('-', ' ')}")
    found = utterances(tmp_path, ["dev-clean"])
    assert [each.file.stem for each in found] == ["10-2-0000", "7-10-0000", "7-9-0000", "7-9-0001"]
    assert [each.text for each in found][:2] == ["TEXT OF 10 2 0000", "TEXT OF 7 10 0000"]


def test_long_sound_and_long_texts_are_left_out_and_the_limits_themselves_are_not(tmp_path: Path):
    for number, (text, samples) in enumerate([("A" * 256, 900), ("A" * 257, 900), ("A", 1000), ("A", 1001)]):
        write_utterance(tmp_path / "dev-clean", f"1-1-{number:04d}", text, samples=samples)
    found = within(utterances(tmp_path, ["dev-clean"]), Limits(samples=1000))
    assert [each.file.stem[-1] for each in found] == ["0", "2"]
    assert Limits() == Limits(characters=256, samples=20 * 16_000)


def test_samples_are_those_that_were_written(tmp_path: Path):
    path = write_utterance(tmp_path, "1-1-0000", "A", samples=5000, seed=3)
    expected = (3000 * numpy.random.RandomState(3).standard_normal(5000)).astype(numpy.int16)
    assert numpy.array_equal(samples_of(path), expected)


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        ("no flac", "1-1-0000.flac cannot be read as FLAC"),
        ("another rate", "16000 Hz and one channel"),
        ("two channels", "16000 Hz and one channel"),
        ("cut", r"1-1-0000.flac (cannot be read|ends after)"),
        ("no text", "1-1-0001 has no line of text"),
        ("no sound", "1-1-0002 has no FLAC file"),
        ("empty text", "'1-1-0003 ' is no name with its text"),
        ("nothing", "holds no transcripts"),
    ],
)
def test_damaged_files_give_one_error_that_names_the_file_and_the_way_out(tmp_path: Path, damage: str, complaint: str):
    place = write_utterance(tmp_path / "dev-clean", "1-1-0000", "ONE TWO")
    transcripts = place.with_name("1-1.trans.txt")
    if damage == "no flac":
        place.write_bytes(b"no sound at all")
    if damage in ("another rate", "two channels"):
        sound = numpy.zeros((100, 2 if damage == "two channels" else 1), numpy.int16)
        soundfile.write(place, sound, 8000 if damage == "another rate" else 16_000)
    if damage == "cut":
        place.write_bytes(place.read_bytes()[:-4000])
    if damage == "no text":
        place.with_name("1-1-0001.flac").write_bytes(place.read_bytes())
    if damage in ("no sound", "empty text"):
        extra = "1-1-0002 THREE" if damage == "no sound" else "1-1-0003 "
        transcripts.write_text(f"1-1-0000 ONE TWO\n{extra}\n", encoding="utf-8")
    if damage == "nothing":
        transcripts.unlink()

    def read() -> list[numpy.ndarray]:
        return [samples_of(each.file) for each in within(utterances(tmp_path, ["dev-clean"]), Limits())]

    with pytest.raises(DataError, match=rf"(?s){complaint}.*Remove the folder of its subset, and run make data"):
        read()


# --- the vocabulary ---


@pytest.fixture(scope="module")
def pieces() -> Pieces:
    stream = numpy.random.RandomState(0)
    return trained_pieces(
        (" ".join(stream.choice(WORDS, size=20)) for _ in range(60)), vocabulary=48, characters=100_000
    )


def test_a_vocabulary_is_the_same_each_time_it_is_trained_and_has_the_asked_size(pieces: Pieces):
    stream = numpy.random.RandomState(0)
    again = trained_pieces(
        (" ".join(stream.choice(WORDS, size=20)) for _ in range(60)), vocabulary=48, characters=100_000
    )
    assert again.model == pieces.model
    assert len(pieces.spellings()) == 48
    assert pieces.spellings()[:3] == ["", "", ""]


def test_it_is_trained_on_the_first_texts_of_so_many_characters(pieces: Pieces):
    stream = numpy.random.RandomState(0)
    texts = [" ".join(stream.choice(WORDS, size=20)) for _ in range(60)]
    more = trained_pieces([*texts, "ZZZ " * 99], vocabulary=48, characters=sum(map(len, texts)))
    assert more.model == pieces.model


def test_every_text_ends_with_the_mark_of_its_end_and_is_spelt_as_it_was(pieces: Pieces):
    tokens = pieces.tokens("IT'S TWO OLD HOUSES")
    assert tokens[-1] == 2
    assert min(tokens) >= 2, "0 is the blank of CTC"
    assert text_of(tokens, pieces.spellings()) == "IT'S TWO OLD HOUSES"


def test_any_tokens_are_joined_as_sentencepiece_joins_them(pieces: Pieces):
    stream = numpy.random.RandomState(5)
    processor = sentencepiece.SentencePieceProcessor(model_proto=pieces.model)
    for _ in range(200):
        tokens = stream.randint(1, 48, size=stream.randint(0, 9)).tolist()
        assert text_of(tokens, pieces.spellings()) == processor.decode(tokens)


def test_a_vocabulary_that_is_too_large_for_its_texts_is_refused():
    with pytest.raises(DataError, match=r"no vocabulary of 1024 pieces .*Vocabulary size"):
        trained_pieces(["A CAT"], vocabulary=1024, characters=100)


def test_a_file_that_holds_no_vocabulary_is_answered(tmp_path: Path):
    (tmp_path / "vocabulary.model").write_bytes(b"nothing of the kind")
    with pytest.raises(DataError, match=r"vocabulary\.model holds no model .*make data"):
        stored_pieces(tmp_path / "vocabulary.model")


# --- prepared splits ---


def stored(folder: Path, split: SplitName, *, samples: int = 1, tokens: int = 1) -> Utterances:
    return Utterances(LibrispeechSplits.split_folder(folder, split), samples=samples, tokens=tokens)


def test_the_splits_are_prepared_from_the_archives_and_give_padded_batches(tmp_path: Path):
    raw = write_corpus(tmp_path, each=3)
    source = prepared(tmp_path)
    assert source.is_present(tmp_path)
    assert {split: len(stored(tmp_path, split)) for split in SPLITS} == {
        "train": 9, "validation": 6, "test": 3,
    }  # fmt: skip
    examples = workload_of(CONFORMER, **SMALLEST[CONFORMER]).load("validation", tmp_path)
    assert isinstance(examples, Utterances)
    batch = examples.gather(torch.tensor([4, 0]))
    assert {key: (tuple(each.shape), each.dtype) for key, each in batch.items()} == {
        "inputs": ((2, 16_000), torch.int16), "samples": ((2,), torch.int64), "targets": ((2, 256), torch.int64),
    }  # fmt: skip
    found = utterances(raw, SUBSETS["validation"])
    for row, number in enumerate((4, 0)):
        sound = samples_of(found[number].file)
        assert batch["samples"][row] == len(sound)
        assert numpy.array_equal(batch["inputs"][row, : len(sound)].numpy(), sound)
        assert not batch["inputs"][row, len(sound) :].any()
        tokens = [token for token in batch["targets"][row].tolist() if token]
        assert tokens[-1] == 2
        assert text_of(tokens, examples.spellings) == found[number].text


def test_a_given_vocabulary_is_used_and_one_of_another_size_refused(tmp_path: Path, pieces: Pieces):
    write_corpus(tmp_path, each=2)
    (tmp_path / "librispeech" / "vocabulary.model").write_bytes(pieces.model)
    with pytest.raises(DataError, match=r"has 48 pieces, the workload asks for 36\. Replace or remove it"):
        prepared(tmp_path)
    prepared(tmp_path, vocabulary=48)
    assert stored(tmp_path, "test").spellings == pieces.spellings()


def test_another_number_of_utterances_than_the_published_one_is_refused(tmp_path: Path):
    write_corpus(tmp_path, each=2)
    with pytest.raises(DataError, match="6 examples were read, 7 are expected"):
        prepared(tmp_path, counts={"train": 7})
    assert not LibrispeechSplits(vocabulary=36, limits=Limits()).is_present(tmp_path)


def packed(folder: Path) -> list[Archive]:
    """The archives of a whole tree, as a server has them."""
    raw = write_corpus(folder / "elsewhere", each=2)
    archives = []
    for subset in (subset for split in SPLITS for subset in SUBSETS[split]):
        with tarfile.open(folder / f"{subset}.tar.gz", "w:gz") as file:
            file.add(raw / subset, f"LibriSpeech/{subset}")
        content = (folder / f"{subset}.tar.gz").read_bytes()
        places = [(folder / "moved").as_uri(), folder.as_uri()]
        sha256 = hashlib.sha256(content).hexdigest()
        archives.append(Archive(f"{subset}.tar.gz", places, sha256, f"LibriSpeech/{subset}"))
    return archives


def test_archives_are_fetched_unpacked_and_prepared_once(tmp_path: Path):
    archives = packed(tmp_path)
    prepared(tmp_path / "data", archives=archives)
    assert [path.name for path in visible(tmp_path / "data" / "librispeech" / "raw", "*")] == ["LibriSpeech"]
    assert len(workload_of(CONFORMER, **SMALLEST[CONFORMER]).load("train", tmp_path / "data")) == 6
    for archive in archives:
        (tmp_path / archive.name).unlink()
    prepared(tmp_path / "data", archives=archives)


def test_an_archive_that_is_not_there_stops_it_and_what_was_fetched_stays(tmp_path: Path):
    archives = packed(tmp_path)
    late = (tmp_path / "dev-other.tar.gz").rename(tmp_path / "late")
    with pytest.raises(DataError, match=r"dev-other\.tar\.gz cannot be fetched .*run make data again"):
        prepared(tmp_path / "data", archives=archives)
    late.rename(tmp_path / "data" / "librispeech" / "raw" / "dev-other.tar.gz")  # by hand
    (tmp_path / "train-clean-100.tar.gz").unlink()
    assert prepared(tmp_path / "data", archives=archives).is_present(tmp_path / "data")


def test_another_archive_than_the_published_one_is_refused_and_removed(tmp_path: Path):
    archives = packed(tmp_path)
    (tmp_path / "dev-clean.tar.gz").write_bytes((tmp_path / "dev-other.tar.gz").read_bytes())
    with pytest.raises(DataError, match=r"dev-clean\.tar\.gz had another content .*Run make data again"):
        prepared(tmp_path / "data", archives=archives)
    assert not (tmp_path / "data" / "librispeech" / "raw" / "dev-clean.tar.gz").exists()


def test_size_licence_mirrors_and_time_are_known_before_anything_is_fetched():
    source = workload_of(CONFORMER).sources()[0]
    assert (source.size_megabytes, source.disk_megabytes, source.licence) == (61_000, 205_000, "CC BY 4.0")
    assert "https://www.openslr.org/12" in source.notes[0]
    assert "us.openslr.org" in source.notes[0]


@pytest.mark.parametrize("changed", [{"samples": 32_000}, {"vocabulary": 1024}])
def test_splits_that_were_prepared_for_other_options_are_refused(tmp_path: Path, changed: dict[str, int]):
    write_corpus(tmp_path, each=2)
    prepared(tmp_path)
    with pytest.raises(DataError, match=r"test was prepared for sound of 16000 samples and 36 pieces.*make data"):
        workload_of(CONFORMER, **{**SMALLEST[CONFORMER], **changed}).load("test", tmp_path)


def test_a_longer_utterance_than_the_options_allow_is_refused(tmp_path: Path):
    write_corpus(tmp_path, each=2)
    prepared(tmp_path)
    with pytest.raises(DataError, match="samples or tokens, 5000 fit"):
        stored(tmp_path, "test", samples=5000, tokens=256).gather(torch.tensor([0]))


# --- features ---


def test_twenty_seconds_have_1998_frames_and_500_outputs():
    features = normalised_log_mel(torch.zeros(1, 320_000), torch.tensor([320_000]))
    assert features.shape == (1, 1998, 80)
    frames = frames_of(torch.tensor([320_000, 319_520, 160, 161, 1]), 320_000)
    assert frames.tolist() == [1998, 1997, 1, 2, 1]
    assert subsampled(frames).tolist()[:2] == [500, 500]


def test_samples_of_16_bits_are_halved_fifteen_times_and_silence_is_the_floor():
    features = normalised_log_mel(torch.zeros(1, 800, dtype=torch.int16), torch.tensor([800]))
    assert features[0, 0, 0].item() == pytest.approx((math.log(1e-5) - MEANS[0]) / 3.435328, rel=1e-5)
    sound = torch.from_numpy(numpy.random.RandomState(0).randint(-9000, 9000, (1, 800))).short()
    expected = FRONTEND.log_mel(sound.double() / 32_768)
    found = normalised_log_mel(sound, torch.tensor([800]))
    assert found[0, 1, 40].item() == pytest.approx((expected[0, 1, 40].item() - MEANS[40]) / 3.459430, rel=1e-4)


def test_features_are_made_in_full_precision_under_autocast():
    sound, samples = librispeech.audio()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = normalised_log_mel(sound, samples)
    assert torch.equal(found, normalised_log_mel(sound, samples))


# --- models ---


@pytest.mark.parametrize(("name", "parameters"), [(CONFORMER, 32_321_792), (DEEPSPEECH, 18_393_600), *VARIANTS.items()])
def test_each_yaml_gives_the_network_of_algoperf_that_its_name_says(name: str, parameters: int):
    with torch.device("meta"):
        model = workload_of(name).build_model()
    assert sum(each.numel() for each in model.parameters()) == parameters
    assert load("workload", name, WorkloadConfig).parameters == parameters
    shapes = [list(each.shape) for each in model.parameters()]
    assert shapes[:6] == [[512, 1, 3, 3], [512], [512, 512, 3, 3], [512], [512, 10_240], [512]]
    assert shapes[-2:] == [[1024, 512], [1024]]


@pytest.mark.parametrize("name", [CONFORMER, DEEPSPEECH, *VARIANTS])
def test_each_yaml_gives_the_masks_and_the_dropout_of_algoperf(name: str):
    with torch.device("meta"):
        model = workload_of(name).build_model()
    masks = next(module for module in model.modules() if isinstance(module, SpecAugment))
    many = name.endswith("spec_aug")
    assert (masks.time_masks, masks.time_mask_share) == (15 if many else 10, 0.05)
    assert (masks.frequency_masks, masks.frequency_mask_bins) == (4 if many else 2, 27)
    places = {place for place, module in model.named_modules() if isinstance(module, nn.Dropout) and module.p == 0.1}
    parts = ("feed_forward1", "attention", "convolution", "feed_forward2")
    if name.startswith(CONFORMER):
        assert places == {"dropout", *(f"blocks.{block}.{part}.dropout" for block in range(4) for part in parts)}
    else:
        assert places == {"dropout", *(f"feed_forward.{layer}.dropout" for layer in range(3))}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # AlgoPerf counts 18, 32 and 22 of the first three: linear layers of the convolution module as conv, the four
        # scales of queries, vectors of 64, as weights.
        (
            CONFORMER,
            {
                "conv": 6, "bias": 36, "weight": 29, "output": 1, "norm_scale": 25, "norm_bias": 25, "attention_qkv": 4,
                "attention_out": 4, "attention_bias": 8,
            },
        ),
        (
            DEEPSPEECH,
            {"conv": 2, "bias": 31, "weight": 4, "recurrent": 24, "output": 1, "norm_scale": 10, "norm_bias": 10},
        ),
    ],
)  # fmt: skip
def test_parameters_have_as_many_of_each_kind_as_algoperf_counts(name: str, expected: dict[str, int]):
    with torch.device("meta"):
        model = workload_of(name).build_model()
    assert Counter(kinds_of(model).values()) == expected


@each_base
def test_schedules_run_out_where_those_of_algoperf_do(name: str):
    config = load("workload", name, WorkloadConfig)
    assert config.budget.step_hint == config.published["v0.6"].step_hint


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_is_its_base_with_another_network_and_target(name: str):
    variant = load("workload", name, WorkloadConfig)
    base = load("workload", str(variant.variant_of), WorkloadConfig)
    assert (variant.data, variant.budget, variant.entry) == (base.data, base.budget, base.entry)
    assert variant.options != base.options
    assert variant.target != base.target


@each_base
def test_dropout_changes_training_alone(name: str):
    workload = workload_of(name, **{**SMALLEST[name], "dropout": 0.5}, time_masks=0, frequency_masks=0)
    batch, model = sounds([16_000, 9000], length=16_000), workload.build_model()
    with torch.no_grad():
        evaluated, trained = ([workload.outputs(model.train(mode), batch) for _ in range(2)] for mode in (False, True))
    assert torch.equal(*evaluated)
    assert not torch.allclose(*trained)


@pytest.mark.slow  # five seconds each: the networks alone are tested on every run
@pytest.mark.parametrize("number", range(len(REFERENCES)))
def test_from_sound_to_the_loss_each_yaml_computes_what_algoperf_computes(number: int):
    names = [
        CONFORMER, f"{CONFORMER}_attention_temperature", f"{CONFORMER}_layernorm", f"{CONFORMER}_gelu",
        DEEPSPEECH, f"{DEEPSPEECH}_tanh", f"{DEEPSPEECH}_no_resnet", f"{DEEPSPEECH}_norm_and_spec_aug",
    ]  # fmt: skip
    _, _, evaluated, trained, losses = REFERENCES[number]
    workload = workload_of(names[number], dropout=0.0, time_masks=0, frequency_masks=0)
    model = workload.build_model()
    set_parity_weights(model)
    sound, samples = librispeech.audio()
    batch = {"inputs": sound, "samples": samples, "targets": librispeech.targets()}
    for mode, expected in ((False, evaluated), (True, trained)):
        with torch.no_grad():
            outputs = workload.outputs(model.train(mode), batch)
        assert outputs.shape == (2, 100, 1024)
        flat = outputs.flatten()
        found = torch.cat([flat.mean()[None], flat.std(correction=0)[None], flat[:4], flat[-1:]])
        assert found.tolist() == pytest.approx(expected, abs=1e-4)
        if not mode:
            spread, is_token = workload.losses(outputs, batch, 0.0)
            assert (spread * is_token).sum(dim=1).tolist() == pytest.approx(losses, rel=1e-4)
            assert mean_loss(spread, is_token).item() == pytest.approx(sum(losses) / 18, rel=1e-4)


# --- rules of padding and batch norm ---


def sounds(samples: list[int], *, length: int, seed: int = 0) -> dict[str, Tensor]:
    """Utterances of noise, each with the tokens 5, 5, 9 and the end."""
    counts = torch.tensor(samples)
    noise = torch.from_numpy(3000 * numpy.random.RandomState(seed).standard_normal((len(samples), length))).short()
    targets = torch.tensor([5, 5, 9, 2, 0, 0]).repeat(len(samples), 1)
    return {"inputs": noise * mask_of(counts, length), "samples": counts, "targets": targets}


def step_of(workload: Librispeech, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Outputs that count, losses and statistics of a step of a new model, its gradients, and its buffers after it."""
    torch.manual_seed(0)
    model = workload.build_model().train()
    outputs = workload.outputs(model, batch)
    losses, weights = workload.losses(outputs, batch, 0.0)
    mean_loss(losses, weights).backward()
    found = {f"gradient of {key}": each.grad for key, each in model.named_parameters()}
    found |= {key: each.double() for key, each in model.named_buffers()}
    with torch.no_grad():
        found["evaluated"] = workload.losses(workload.outputs(model.eval(), batch), batch, 0.0)[0]
    return {**found, "losses": losses}


@each_base
def test_what_stands_behind_the_end_of_an_utterance_changes_nothing(name: str):
    workload = workload_of(name, **SMALLEST[name], time_masks=0, frequency_masks=0)
    batch = sounds([16_000, 9000, 7001], length=16_000)
    dirty = {**batch, "inputs": torch.where(mask_of(batch["samples"], 16_000), batch["inputs"], 9999)}
    clean, other = (step_of(workload, each) for each in (batch, dirty))
    assert all(torch.equal(clean[key], other[key]) for key in clean)


@each_base
def test_more_silence_in_the_padding_changes_nothing(name: str):
    workload = workload_of(name, **SMALLEST[name], time_masks=0, frequency_masks=0)
    # As many frames more as change the place of no window: a multiple of four.
    short = sounds([9000, 7001], length=16_000)
    long = {**short, "inputs": nn.functional.pad(short["inputs"], (0, 64 * 160))}
    once, again = (step_of(workload, each) for each in (short, long))
    for key in once:
        torch.testing.assert_close(once[key], again[key], rtol=1e-4, atol=1e-5)


@each_base
def test_statistics_of_batch_norm_move_by_a_thousandth_and_are_those_of_true_frames(name: str):
    workload = workload_of(name, **SMALLEST[name], time_masks=0, frequency_masks=0)
    batch = sounds([16_000, 5000], length=16_000)
    torch.manual_seed(0)
    model = workload.build_model().train()
    norm = next(module for module in model.modules() if isinstance(module, MaskedBatchNorm))
    seen: list[tuple[Tensor, Tensor]] = []
    norm.register_forward_pre_hook(lambda _, inputs: seen.append(inputs))
    workload.outputs(model, batch)
    inputs, mask = seen[0]
    assert mask.sum(dim=1).flatten().tolist() == subsampled(frames_of(batch["samples"], 16_000)).tolist()
    true = inputs[mask.squeeze(2) > 0]
    torch.testing.assert_close(norm.running_mean, 0.001 * true.mean(dim=0))
    torch.testing.assert_close(norm.running_var, 0.999 + 0.001 * true.var(dim=0, correction=0))


def test_the_loss_is_per_token_and_ignores_label_smoothing():
    workload = workload_of(CONFORMER, **SMALLEST[CONFORMER])
    batch = sounds([16_000, 9000], length=16_000)
    batch["targets"] = torch.tensor([[5, 7, 2], [9, 2, 0]])
    outputs = torch.randn(2, 25, 36, generator=torch.Generator().manual_seed(0))
    expected = ctc_losses(outputs, subsampled(frames_of(batch["samples"], 16_000)), batch["targets"]).sum() / 5
    for smoothing in (0.0, 0.1):
        assert mean_loss(*workload.losses(outputs, batch, smoothing)).item() == pytest.approx(expected.item())


@each_base
def test_a_made_up_batch_has_the_form_of_a_true_one_and_needs_no_data(name: str, tmp_path: Path):
    write_corpus(tmp_path, each=2)
    prepared(tmp_path)
    workload = workload_of(name, **SMALLEST[name])
    true = workload.load("train", tmp_path).gather(torch.arange(3))
    batch, again, other = (
        workload.synthetic_batch(3, torch.Generator().manual_seed(seed), tmp_path / "nothing") for seed in (1, 1, 2)
    )
    assert {key: (each.shape, each.dtype) for key, each in batch.items()} == {
        key: (each.shape, each.dtype) for key, each in true.items()
    }
    assert all(torch.equal(batch[key], again[key]) for key in batch)
    assert not torch.equal(batch["inputs"], other["inputs"])
    losses, weights = workload.losses(workload.outputs(workload.build_model(), batch), batch, 0.0)
    assert math.isfinite(mean_loss(losses, weights).item())
    assert weights.sum(dim=1).tolist() == [6.0, 6.0, 6.0]  # of 25 outputs


@pytest.mark.slow
def test_the_conformer_compiles_without_breaks():
    workload = workload_of(CONFORMER, **SMALLEST[CONFORMER])
    batch = workload.synthetic_batch(2, torch.Generator().manual_seed(0), Path())
    torch.manual_seed(0)
    model = workload.build_model().eval()
    torch._dynamo.reset()
    traced = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(workload.outputs(traced, batch), workload.outputs(model, batch))


# --- word error rates ---

TRUE = ["THE CAT SAT ON A MAT", "IT'S TWO OLD HOUSES", "QUIZ"]
READ = ["THE CAT ON A A MAT", "ITS TWO OLD HOUSES", ""]


def test_the_word_error_rate_is_jiwers():
    stream = numpy.random.RandomState(2)
    true = [" ".join(stream.choice(WORDS, size=stream.randint(1, 12))) for _ in range(100)]
    read = [
        " ".join(word for word in text.split() for _ in range(stream.randint(0, 3)) if stream.rand() < 0.8)
        for text in true
    ]
    assert word_error_rate(read, true) == jiwer.wer(true, read)
    assert word_error_rate(READ, TRUE) == jiwer.wer(TRUE, READ) == 4 / 11


def test_algoperfs_rate_has_two_words_more_in_each_text_and_minds_the_quotes_of_an_apostrophe():
    # 2 words of the first text are wrong; 2 of the second, as the marks around its first and last differ; and QUIZ.
    assert word_error_rate_algoperf(READ, TRUE) == 5 / (11 + 2 * 3)
    assert word_error_rate_algoperf(TRUE, TRUE) == 0.0
    printed = [[f"tf.Tensor({text.encode()!r}, shape=(), dtype=string)" for text in texts] for texts in (TRUE, READ)]
    assert word_error_rate_algoperf(READ, TRUE) == jiwer.wer(*printed)


def test_the_rate_of_nothing_read_is_algoperfs_plateau():
    # 44,289 words in 2,472 utterances: 0.899579550 in AlgoPerf's logs.
    words = [18] * 2265 + [17] * 207
    assert sum(words) == 44_289
    true = [" ".join(["A"] * count) for count in words]
    assert word_error_rate_algoperf([""] * 2472, true) == pytest.approx(0.899579550, abs=1e-9)
    assert word_error_rate([""] * 2472, true) == 1.0


@each_base
def test_the_metrics_are_those_of_the_greedy_reading_spelt_by_the_vocabulary_of_the_split(name: str, tmp_path: Path):
    write_corpus(tmp_path, each=2)
    prepared(tmp_path)
    workload = workload_of(name, **SMALLEST[name])
    with pytest.raises(DataError, match="none has been read yet"):
        workload.metrics({})
    examples = workload.load("validation", tmp_path)
    batch = examples.gather(torch.arange(4))
    batch["inputs"] = nn.functional.pad(batch["inputs"], (0, 160 * 800))  # frames enough for all tokens
    batch["samples"] = torch.full((4,), batch["inputs"].shape[1])
    lengths = subsampled(frames_of(batch["samples"], batch["inputs"].shape[1]))
    path = torch.zeros(4, int(lengths.max()), dtype=torch.int64)
    tokens = batch["targets"][:, : path.shape[1] // 2]
    path[:, : 2 * tokens.shape[1] : 2] = tokens
    perfect = nn.functional.one_hot(path, 36).float()
    assert workload.metrics(workload.statistics(perfect, batch)) == {
        "word_error_rate": 0.0, "word_error_rate_algoperf": 0.0,
    }  # fmt: skip
    nothing = nn.functional.one_hot(torch.zeros_like(path), 36).float()
    found = workload.metrics(workload.statistics(nothing, batch))
    assert found == {"word_error_rate": 1.0, "word_error_rate_algoperf": 2 / 4}


# --- a refereed trial ---


@pytest.mark.slow
@each_base
def test_three_steps_and_an_evaluation_through_the_referee_from_flac_files(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    write_corpus(tmp_path / "data", each=4)
    prepared(tmp_path / "data")
    monkeypatch.setenv("TIMETRIAL_DATA", str(tmp_path / "data"))
    trial, evaluations = trial_and_evaluations(
        tmp_path, name, options={"samples": 16_000, "vocabulary": 36}, batch_size=2, eval_batch_size=3
    )
    assert (trial["status"], trial["steps"]) == ("out_of_budget", 3)
    assert evaluations["validation"].between(0.0, 3.0).all()

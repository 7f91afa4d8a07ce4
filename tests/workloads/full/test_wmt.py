"""AlgoPerf's wmt: its models number by number, its archives, packing, masks, dropout, and BLEU of beam search."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
import torch.nn.functional as F
from sacrebleu.metrics.bleu import BLEU
from torch import Tensor, nn

from harness.api import DataError, mean_loss
from harness.config import WorkloadConfig, load
from harness.plugins.entries import create_workload
from harness.race.judge import Judge
from tests.workloads.algoperf_weights import set_parity_weights
from tests.workloads.full.refereed import trial_and_evaluations
from tests.workloads.full.wmt_files import (
    WORDS,
    host_of,
    prepared,
    sentences,
    texts_of_all_splits,
    write_archive,
    write_archives,
)
from workloads.full.data.pieces import END, text_of, trained_pieces
from workloads.full.data.text.wmt17 import (
    ARCHIVES,
    UNKNOWN,
    Archive,
    PackedPairRows,
    ShuffledPairs,
    SinglePairRows,
    WmtSplits,
    pairs_within,
    sentences_of,
    text_pairs,
    tokens_of,
)
from workloads.full.wmt import Wmt, up_to_end, up_to_end_or_first
from workloads.networks.encoder_decoder_transformer import EncoderDecoderTransformer

VARIANTS = ["wmt", "wmt_post_ln", "wmt_attention_temp", "wmt_glu_tanh"]
VOCABULARY, ROW = 45, 40
SMALL = {"vocabulary": VOCABULARY, "row_length": ROW, "width": 16, "heads": 2, "hidden": 16}


def config(name: str = "wmt") -> WorkloadConfig:
    return load("workload", name, WorkloadConfig)


def workload(name: str = "wmt", **changes: Any) -> Wmt:
    made = create_workload(config(name).entry, {**config(name).options, **changes})
    assert isinstance(made, Wmt)
    return made


def small(**changes: Any) -> Wmt:
    return workload(**{**SMALL, "encoder_layers": 2, "decoder_layers": 2, **changes})


def test_the_budget_and_the_evaluations_are_those_of_algoperf():
    settings, published = config(), config().published
    assert settings.budget.step_hint == published["algoperf_0.6"].step_hint == 120_000
    period = published["algoperf_0.6"].max_runtime / published["algoperf_0.6"].eval_period
    assert settings.budget.evaluations == round(period)
    assert {each.step_hint for each in published.values()} == {133_333, 120_000}


# --- the models ---


def shapes_of_algoperf(name: str) -> list[list[int]]:
    """All parameters in their order. Source: AlgoPerf's PyTorch models."""
    d, attention, norm = 1024, [[3072, 1024], [1024, 1024]], [[1024], [1024]]
    wide = [[d, d], [d]]
    feed_forward = wide * (3 if name == "wmt_glu_tanh" else 2)
    last = [] if name == "wmt_post_ln" else norm
    encoder = attention + feed_forward + norm * 2
    decoder = attention + [[d, d], [2 * d, d], [d, d]] + feed_forward + norm * 3
    return [[32_000, d], *encoder * 6, *last, *decoder * 6, *last]


@pytest.mark.parametrize("name", VARIANTS)
def test_each_model_has_the_parameters_of_algoperfs_in_their_order(name: str):
    with torch.device("meta"):
        model = workload(name).build_model()
    shapes = [list(parameter.shape) for parameter in model.parameters()]
    assert shapes == shapes_of_algoperf(name)
    assert sum(math.prod(shape) for shape in shapes) == config(name).parameters


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "mean", "deviation", "first", "last", "loss", "smoothed"),
    [
        ("wmt", -9.5e-05, 0.030985, [0.00838, 0.01527, -0.02948, -0.01205], 0.017, 10.37241, 10.37256),
        ("wmt_post_ln", -1.6e-05, 0.031458, [-0.01575, -0.01131, -0.00686, 0.03199], -0.03594, 10.3802, 10.37958),
        ("wmt_attention_temp", -6.8e-05, 0.031023, [0.00102, 0.01572, -0.02798, -0.01217], 0.01136, 10.37086, 10.37117),
        ("wmt_glu_tanh", -0.00018, 0.03138, [0.0084, 0.00882, -0.03983, 0.02326], -0.02744, 10.37546, 10.37531),
    ],
)
def test_each_model_computes_what_algoperfs_does(
    name: str, mean: float, deviation: float, first: list[float], last: float, loss: float, smoothed: float
):
    # Reference values of AlgoPerf's PyTorch models with the same weights and inputs, version 0.6.
    model = workload(name).build_model().eval()
    set_parity_weights(model)
    inputs, targets = (torch.from_numpy(numpy.random.RandomState(s).randint(3, 32_000, (2, 16))) for s in (7, 8))
    inputs[1, 12:] = 0
    targets[1, 10:] = 0
    batch = {
        "inputs": inputs,
        "targets": targets,
        "input_segments": (inputs > 0).long(),
        "target_segments": (targets > 0).long(),
    }
    with torch.no_grad():
        # As AlgoPerf's were made: without segments, so that positions run on over padding.
        scores = model(inputs, targets)
        with_segments = workload(name).outputs(model, batch)
        found = [mean_loss(*workload(name).losses(scores, batch, smoothing)).item() for smoothing in (0.0, 0.1)]
    torch.testing.assert_close(with_segments[targets > 0], scores[targets > 0])
    assert scores.shape == (2, 16, 32_000)
    assert scores.mean().item() == pytest.approx(mean, abs=5e-6)
    assert scores.std(unbiased=False).item() == pytest.approx(deviation, rel=1e-4)
    assert scores.flatten()[:4].tolist() == pytest.approx(first, abs=1e-5)
    assert scores.flatten()[-1].item() == pytest.approx(last, abs=1e-5)
    assert found == pytest.approx([loss, smoothed], abs=1e-5)


def test_initial_weights_are_spread_as_algoperfs():
    torch.manual_seed(0)
    model = small(width=64, hidden=64, heads=4, vocabulary=1000).build_model()
    spread = {name: parameter.std().item() for name, parameter in model.named_parameters()}
    # Of the fused matrix, whose fans are those of all three.
    assert spread["encoder.0.own.in_proj.weight"] == pytest.approx(math.sqrt(2 / (64 + 192)), rel=0.03)
    assert spread["decoder.0.across.kv_proj.weight"] == pytest.approx(math.sqrt(2 / (64 + 128)), rel=0.03)
    assert spread["decoder.1.feed_forward.widen.weight"] == pytest.approx(math.sqrt(2 / 128), rel=0.03)
    assert spread["decoder.1.feed_forward.widen.bias"] == pytest.approx(1e-6, rel=0.3)
    assert spread["embedding.weight"] == pytest.approx(1.0, rel=0.02)
    assert "output.weight" not in spread


def test_at_the_start_scores_have_a_deviation_of_one_as_algoperfs():
    # They add about a half to the loss of a guess; logs of the true size have 11.6 to 11.9, ln 32,000 is 10.4.
    torch.manual_seed(0)
    made = small(width=64, hidden=64, heads=4, vocabulary=2000)
    batch = {name: torch.randint(3, 2000, (8, ROW)) for name in ("inputs", "targets")}
    batch |= {name: torch.ones(8, ROW, dtype=torch.int64) for name in ("input_segments", "target_segments")}
    outputs = made.outputs(made.build_model().eval(), batch)
    assert outputs.std().item() == pytest.approx(1.0, rel=0.1)


# --- dropout ---


def dropouts_of_algoperf(model: nn.Module) -> dict[str, list[nn.Dropout]]:
    """Every place where AlgoPerf has dropout."""
    found = {name: module for name, module in model.named_modules() if isinstance(module, nn.Dropout)}
    places = {
        "positions": lambda name: name == "dropout",
        "attention probabilities": lambda name: name.endswith((".own.dropout", ".across.dropout")),
        "attention output": lambda name: name.endswith((".around_own.dropout", ".around_across.dropout")),
        "inside the feed-forward layer": lambda name: name.endswith(".feed_forward.dropout"),
        "output of the feed-forward layer": lambda name: name.endswith(".around_feed_forward.dropout"),
    }
    chosen = {place: [each for name, each in found.items() if is_there(name)] for place, is_there in places.items()}
    assert sum(map(len, chosen.values())) == len(found)
    return chosen


PLACES = {
    "positions": 1,
    "attention probabilities": 6,
    "attention output": 6,
    "inside the feed-forward layer": 4,
    "output of the feed-forward layer": 4,
}


@pytest.mark.parametrize("place", PLACES)
def test_dropout_acts_at_each_of_algoperfs_places_in_training_alone(place: str):
    torch.manual_seed(0)
    made = small()
    model = made.build_model()
    chosen = dropouts_of_algoperf(model)
    assert {name: len(modules) for name, modules in chosen.items()} == PLACES
    assert {module.p for modules in chosen.values() for module in modules} == {0.1}
    for name, modules in chosen.items():
        for module in modules:
            module.p = 0.5 if name == place else 0.0
    batch = one_batch(2)
    assert not torch.equal(made.outputs(model.train(), batch), made.outputs(model, batch))
    assert torch.equal(made.outputs(model.eval(), batch), made.outputs(model, batch))


# --- padding and labels ---


def one_batch(rows: int) -> dict[str, Tensor]:
    """Two pairs in each row, then padding."""
    generator = torch.Generator().manual_seed(1)
    segments = torch.tensor([1] * 6 + [2] * 8 + [0] * (ROW - 14)).expand(rows, -1)
    tokens = {name: torch.randint(3, VOCABULARY, (rows, ROW), generator=generator) for name in ("inputs", "targets")}
    return {
        **{name: values * (segments > 0) for name, values in tokens.items()},
        "input_segments": segments,
        "target_segments": segments,
    }


@pytest.mark.parametrize("name", VARIANTS)
def test_neither_padding_nor_another_pair_of_the_row_changes_a_score(name: str):
    torch.manual_seed(0)
    made = small(**{key: config(name).options[key] for key in ("norm", "activation", "gated", "attention_temperature")})
    model = made.build_model().eval()
    batch = one_batch(2)
    scores = made.outputs(model, batch)
    alone = {key: values[:, :6] for key, values in batch.items()}
    torch.testing.assert_close(made.outputs(model, alone), scores[:, :6])
    second = {key: values[:, 6:14] for key, values in batch.items()}
    torch.testing.assert_close(made.outputs(model, second), scores[:, 6:14])


def test_the_loss_counts_each_target_token_that_is_no_padding_and_the_unknown_one_too():
    made = small()
    outputs = torch.randn(2, 4, VOCABULARY)
    batch = {"targets": torch.tensor([[5, UNKNOWN, END, 0], [7, END, 0, 0]])}
    losses, weights = made.losses(outputs, batch, 0.0)
    assert weights.tolist() == [[1, 1, 1, 0], [1, 1, 0, 0]]
    log_chances = outputs.log_softmax(dim=2)
    by_hand = -sum(log_chances[row, place, token] for row, place, token in
                   [(0, 0, 5), (0, 1, UNKNOWN), (0, 2, END), (1, 0, 7), (1, 1, END)]) / 5  # fmt: skip
    torch.testing.assert_close(mean_loss(losses, weights), by_hand)
    assert made.statistics(outputs, batch)["tokens"].tolist() == [3, 2]


# --- archives ---


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


def test_pairs_are_read_from_archives_of_lines_and_of_sgml(data: Path):
    texts = texts_of_all_splits()
    archives = write_archives(data, texts)
    for split, pairs in texts.items():
        assert [pair for archive in archives[split] for pair in text_pairs(host_of(data), archive)] == pairs


def test_a_pair_without_text_on_one_side_is_left_out_and_an_odd_character_ends_no_line(tmp_path: Path):
    members = {"a.de": "eins\n\nzwei\u2028drei\x85\nvier\n", "a.en": "one\ntwo\nthree\n \n"}
    size, sha256 = write_archive(tmp_path, "a.tgz", members)
    archive = Archive("https://example.org/a.tgz", size, sha256, "a.de", "a.en")
    assert list(text_pairs(tmp_path, archive)) == [("eins", "one"), ("zwei\u2028drei", "three")]


def test_entities_of_sgml_are_characters(tmp_path: Path):
    members = {
        "a.de.sgm": '<srcset>\n<seg id="1">R&amp;D &quot;heute&quot;</seg>\n</srcset>\n',
        "a.en.sgm": '<refset>\n<hl>\n<seg id="1"> R&amp;D today </seg>\n</hl>\n</refset>\n',
    }
    size, sha256 = write_archive(tmp_path, "a.tgz", members)
    archive = Archive("https://example.org/a.tgz", size, sha256, "a.de.sgm", "a.en.sgm")
    assert list(text_pairs(tmp_path, archive)) == [('R&D "heute"', "R&D today")]


def test_sides_of_different_lengths_are_refused(tmp_path: Path):
    size, sha256 = write_archive(tmp_path, "a.tgz", {"a.de": "eins\nzwei\n", "a.en": "one\n"})
    archive = Archive("https://example.org/a.tgz", size, sha256, "a.de", "a.en")
    with pytest.raises(DataError, match=r"different numbers of sentences.*a\.tgz"):
        list(text_pairs(tmp_path, archive))


@pytest.mark.parametrize("damage", ["missing", "cut short", "other bytes"])
def test_an_archive_that_is_not_the_published_one_is_named_before_anything_is_prepared(data: Path, damage: str):
    archives = write_archives(data, texts_of_all_splits())
    path = host_of(data) / "second.tgz"
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(content[:-9] if damage == "cut short" else content[:-9] + bytes(9))
    splits = WmtSplits(vocabulary=VOCABULARY, row_length=ROW, archives=archives, counts=None, every=1)
    pytest.importorskip("sentencepiece")
    with pytest.raises(DataError, match=r"second\.tgz.*run make data again"):
        splits.fetch(data)
    assert not splits.is_present(data)
    path.write_bytes(content)
    (data / "wmt" / "raw" / "second.tgz").unlink(missing_ok=True)
    splits.fetch(data)
    assert splits.is_present(data)


def test_an_archive_without_its_member_is_refused(data: Path):
    archives = write_archives(data, texts_of_all_splits())
    odd = dataclasses.replace(archives["train"][0], german="training/none.de")
    with pytest.raises(DataError, match=r"none\.de.*first\.tgz"):
        list(text_pairs(host_of(data), odd))


def test_a_split_of_another_number_of_pairs_is_refused(data: Path):
    pytest.importorskip("sentencepiece")
    archives = write_archives(data, texts_of_all_splits())
    splits = WmtSplits(vocabulary=VOCABULARY, row_length=ROW, archives=archives, counts={"validation": 13}, every=1)
    with pytest.raises(DataError, match="validation split of wmt has 12 pairs, 13 are expected"):
        splits.fetch(data)


def test_what_is_fetched_is_what_the_corpora_of_wmt17_are():
    assert [archive.german.rpartition("/")[2] for archive in ARCHIVES["train"]] == [
        "europarl-v7.de-en.de",
        "commoncrawl.de-en.de",
        "news-commentary-v12.de-en.de",
        "rapid2016.de-en.de",
    ]
    assert WmtSplits.size_megabytes == pytest.approx(1944.2, abs=0.1)


# --- pieces, length and packing ---


def pieces(vocabulary: int = VOCABULARY) -> Any:
    pytest.importorskip("sentencepiece")
    texts = [side for pair in sentences(200, 5) for side in pair]
    return trained_pieces(texts, vocabulary=vocabulary, characters=10_000)


def test_a_text_ends_with_the_end_and_what_no_piece_covers_is_not_padding():
    found = tokens_of(pieces(), "der hund Ω")
    assert found[-1] == END
    assert UNKNOWN in found
    assert 0 not in found
    assert found.count(END) == 1


def test_a_pair_with_a_side_longer_than_a_row_is_left_out_whole():
    words = [german for german, _ in WORDS]
    cut = pieces()
    at_most = len(tokens_of(cut, " ".join(words[:4])))
    texts = [(" ".join(words[:4]), "the dog."), (" ".join(words[:5]), "the dog."), ("hund", " ".join(words[:5]))]
    found = list(pairs_within(texts, cut, row_length=at_most))
    assert [(text, len(source)) for source, _, text in found] == [("the dog.", at_most)]


def test_the_training_pairs_come_in_an_order_that_is_fixed_and_mixes_the_corpora():
    pairs = [([3, number + 3], [4, number + 3, END], "") for number in range(300)]
    first, again = ([(list(source), list(target)) for source, target in ShuffledPairs(iter(pairs))] for _ in range(2))
    assert first == again
    assert sorted(first) == sorted((source, target) for source, target, _ in pairs)
    assert len({source[1] < 153 for source, _ in first[:20]}) == 2


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wmt") / "data"
    prepared(folder, vocabulary=VOCABULARY, row_length=ROW)
    return folder


def split_of(ready: Path, split: Any) -> Any:
    return small().load(split, ready)


def loaded(ready: Path) -> tuple[Wmt, SinglePairRows]:
    made = small()
    validation = made.load("validation", ready)
    assert isinstance(validation, SinglePairRows)
    return made, validation


def pairs_in(batch: dict[str, Tensor]) -> Iterator[tuple[list[int], list[int]]]:
    for row in range(len(batch["inputs"])):
        for segment in range(1, int(batch["input_segments"][row].max()) + 1):
            source = batch["inputs"][row][batch["input_segments"][row] == segment]
            target = batch["targets"][row][batch["target_segments"][row] == segment]
            yield source.tolist(), target.tolist()


def test_training_rows_hold_all_pairs_once_several_in_a_row(ready: Path):
    train = split_of(ready, "train")
    assert isinstance(train, PackedPairRows)
    batch = train.gather(torch.arange(len(train)))
    assert {values.dtype for values in batch.values()} == {torch.int64}
    assert {tuple(values.shape) for values in batch.values()} == {(len(train), ROW)}
    found = list(pairs_in(batch))
    spellings = train.manifest.about["spellings"]
    texts = ["".join(spellings[token] for token in target).replace("\u2581", " ").strip() for _, target in found]
    fits = [english for german, english in texts_of_all_splits()["train"]]
    assert len(found) > 1.5 * len(train)
    assert set(texts) <= set(fits)
    assert all(source[-1] == target[-1] == END for source, target in found)
    assert torch.equal(batch["inputs"] == 0, batch["input_segments"] == 0)


def test_held_out_rows_hold_one_pair_each_with_its_published_text(ready: Path):
    validation = split_of(ready, "validation")
    assert isinstance(validation, SinglePairRows)
    index = torch.arange(len(validation))
    batch = validation.gather(index)
    assert int(batch["input_segments"].max()) == 1
    published = [english for _, english in texts_of_all_splits()["validation"]]
    assert sentences_of(batch) == published
    assert [text_of(up_to_end(row), validation.spellings) for row in batch["targets"].tolist()] == published


def test_splits_that_were_prepared_for_other_options_are_refused(ready: Path):
    for changes in ({"row_length": 32}, {"vocabulary": 46}):
        with pytest.raises(DataError, match=r"prepared for rows of 40 tokens and 45 pieces.*make data"):
            small(**changes).load("train", ready)


def test_preparing_again_gives_the_same_splits(ready: Path, tmp_path: Path):
    prepared(tmp_path, vocabulary=VOCABULARY, row_length=ROW)
    for split in ("train", "validation", "test"):
        assert split_of(tmp_path, split).digest() == split_of(ready, split).digest()


def test_a_made_up_batch_has_the_form_of_a_true_one(ready: Path):
    true = split_of(ready, "train").gather(torch.arange(3))
    batch = small().synthetic_batch(3, torch.Generator().manual_seed(0), ready)
    assert {name: (values.shape, values.dtype) for name, values in batch.items()} == {
        name: (values.shape, values.dtype) for name, values in true.items()
    }
    assert len(list(pairs_in(batch))) == 3 * 8


# --- BLEU ---


class Reciter(EncoderDecoderTransformer):
    """Writes for each source what it was told, and knows nothing else."""

    def __init__(self, made: Wmt, texts: dict[tuple[int, ...], list[int]]) -> None:
        super().__init__(made.sizes)
        self.texts = texts
        self.asked = 0

    def writing(self, inputs: Tensor, *, copies: int = 1) -> Any:
        self.asked += len(inputs)
        rows = [self.texts[tuple(token for token in row if token)] for row in inputs.tolist() for _ in range(copies)]
        return Recital(rows, self.sizes_vocabulary())

    def sizes_vocabulary(self) -> int:
        return self.embedding.num_embeddings


class Recital:
    def __init__(self, rows: list[list[int]], vocabulary: int) -> None:
        self.rows = rows
        self.vocabulary = vocabulary
        self.places = itertools.count()

    def scores_after(self, last: Tensor) -> Tensor:  # noqa: ARG002
        place = next(self.places)
        wanted = torch.tensor([row[place] if place < len(row) else END for row in self.rows])
        return 50.0 * F.one_hot(wanted, self.vocabulary)

    def keep(self, rows: Tensor) -> None:
        pass


def reciter(made: Wmt, examples: SinglePairRows, change: Any = lambda number, tokens: tokens) -> Reciter:  # noqa: ARG005
    batch = examples.gather(torch.arange(len(examples)))
    sources = [tuple(token for token in row if token) for row in batch["inputs"].tolist()]
    targets = [[token for token in row if token] for row in batch["targets"].tolist()]
    assert len(set(sources)) == len(sources)
    return Reciter(
        made, {each: change(n, target) for n, (each, target) in enumerate(zip(sources, targets, strict=True))}
    )


def test_bleu_is_a_hundred_for_the_references_and_small_for_them_backwards(ready: Path):
    made, validation = loaded(ready)
    true = made.decoded_metrics(reciter(made, validation), validation)
    backwards = made.decoded_metrics(reciter(made, validation, lambda _, row: [*row[:-1][::-1], END]), validation)
    assert true == pytest.approx({"bleu": 100.0, "bleu_algoperf": 100.0})
    assert backwards["bleu"] < 30.0


def test_bleu_is_sacrebleus_of_the_translations_against_the_published_texts(ready: Path):
    made, validation = loaded(ready)
    index = torch.arange(len(validation))
    model = reciter(made, validation, lambda number, row: [*row[: 2 + number % 4], END])
    texts = [text_of(up_to_end(each), validation.spellings) for each in model.texts.values()]
    found = made.decoded_metrics(model, validation)
    assert found["bleu"] == BLEU().corpus_score(texts, [sentences_of(validation.gather(index))]).score
    assert 0.0 < found["bleu"] < 100.0


def test_algoperfs_bleu_cuts_what_has_no_end_to_its_first_token_and_knows_the_pieces_alone():
    assert up_to_end([5, 6, END, 7]) == up_to_end_or_first([5, 6, END, 7]) == [5, 6]
    assert (up_to_end([5, 6, 7]), up_to_end_or_first([5, 6, 7])) == ([5, 6, 7], [5])


def test_algoperfs_bleu_compares_with_what_the_pieces_give_back(tmp_path: Path):
    pytest.importorskip("sentencepiece")
    texts = texts_of_all_splits()
    texts["validation"][0] = (texts["validation"][0][0], "the dog Ω sees.")
    archives = write_archives(tmp_path, texts)
    WmtSplits(vocabulary=VOCABULARY, row_length=ROW, archives=archives, counts=None, every=1).fetch(tmp_path)
    made = small()
    validation = made.load("validation", tmp_path)
    assert isinstance(validation, SinglePairRows)
    found = made.decoded_metrics(reciter(made, validation), validation)
    assert found["bleu_algoperf"] == pytest.approx(100.0)
    assert found["bleu"] < 100.0


def test_a_part_of_the_pairs_is_translated_until_its_bleu_is_near_the_target_and_all_are_then(ready: Path):
    made, validation = loaded(ready)
    asked = []
    for target in (40.0, 101.0, 140.0):
        coarse = dataclasses.replace(config().coarse, examples=4)
        judge = Judge(
            made, torch.device("cpu"), validation, validation, 4,
            target=dataclasses.replace(config().target, validation=target), coarse=coarse,
        )  # fmt: skip
        judge.model = reciter(made, validation)
        found = judge.validation()
        assert found["bleu_algoperf"] == pytest.approx(100.0)
        asked.append((judge.model.asked, found.get("examples")))
    assert asked == [(4 + 12, None), (4 + 12, None), (4, 4.0)]


@pytest.mark.slow
def test_the_network_compiles_without_breaks_to_the_same_outputs():
    made = small()
    torch.manual_seed(0)
    model = made.build_model().eval()
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    batch = made.synthetic_batch(2, torch.Generator().manual_seed(0), Path())
    assert made.compiles
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(made.outputs(compiled, batch), made.outputs(model, batch), rtol=1e-4, atol=1e-5)


# --- a trial ---


@pytest.mark.slow
def test_three_steps_and_an_evaluation_are_refereed_from_files_of_the_true_format(
    ready: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("TIMETRIAL_DATA", str(ready))
    trial, evaluations = trial_and_evaluations(
        tmp_path, "wmt", options={**SMALL, "encoder_layers": 1, "decoder_layers": 1}, batch_size=4, eval_batch_size=5
    )
    assert (trial["status"], trial["steps"]) == ("out_of_budget", 3)
    assert evaluations["validation"].between(0.0, 100.0).all()

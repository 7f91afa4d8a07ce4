"""Encoder-decoder transformer, packed pairs, greedy decoding and edit distance, on small made-up sequences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from harness.api import ConfigError, DataError, mean_loss
from harness.plugins.entries import create_workload
from workloads.losses.edit_distance import edit_distances
from workloads.losses.transduction import END, PackedPairs, Pair, Transduction, pack, packed_rows, written_by
from workloads.networks.encoder_decoder_transformer import EncoderDecoderTransformer, TransformerSizes

SMALL: dict[str, Any] = {
    "vocabulary": 11, "context": 12, "width": 16, "heads": 2, "hidden": 16, "encoder_layers": 2,
    "decoder_layers": 2, "norm": "pre", "activation": "relu", "gated": False, "attention_temperature": 1.0,
    "embedding_deviation": 1.0, "embedding_scaled": "output", "dropout": 0.0,
}  # fmt: skip
SIDES = (("inputs", "input_segments"), ("targets", "target_segments"))
VARIANTS: dict[str, dict[str, Any]] = {
    "wmt": {},
    "wmt_post_ln": {"norm": "post"},
    "wmt_attention_temp": {"attention_temperature": 4.0},
    "wmt_glu_tanh": {"activation": "tanh", "gated": True},
}


def small_transformer(**changes: Any) -> EncoderDecoderTransformer:
    torch.manual_seed(0)
    return EncoderDecoderTransformer(TransformerSizes(**{**SMALL, **changes})).eval()


def pairs_of(count: int, seed: int = 0) -> list[tuple[list[int], list[int]]]:
    draw = numpy.random.default_rng(seed)
    return [tuple([*draw.integers(2, 11, draw.integers(1, 5)).tolist(), END] for _ in range(2)) for _ in range(count)]


def packed(pairs: Sequence[Pair], *, row_length: int, alone: int = 0) -> PackedPairs:
    return PackedPairs(*pack(pairs, row_length=row_length, alone=alone))


# --- the model ---


@pytest.mark.parametrize("variant", VARIANTS)
def test_padding_changes_no_score(variant):
    transformer = small_transformer(**VARIANTS[variant])
    inputs, targets = torch.randint(2, 11, (3, 5)), torch.randint(2, 11, (3, 4))
    padded = transformer(F.pad(inputs, (0, 6)), F.pad(targets, (0, 3)))
    torch.testing.assert_close(padded[:, :4], transformer(inputs, targets))


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_pair_has_the_same_scores_alone_and_beside_others_in_a_row(variant):
    transformer = small_transformer(**VARIANTS[variant])
    batch = packed(pairs_of(3), row_length=12).gather(torch.tensor([0]))
    together = transformer(*batch.values())
    for number in (1, 2):
        inputs, targets = (batch[side][batch[segments] == number][None] for side, segments in SIDES)
        torch.testing.assert_close(together[batch["target_segments"] == number], transformer(inputs, targets)[0])


def test_no_score_depends_on_its_own_or_a_later_target():
    transformer = small_transformer()
    inputs, targets = torch.randint(2, 11, (2, 6)), torch.randint(2, 11, (2, 8))
    changed = targets.clone()
    changed[:, 5:] = 12 - changed[:, 5:]
    before, after = transformer(inputs, targets), transformer(inputs, changed)
    torch.testing.assert_close(before[:, :6], after[:, :6])
    assert not torch.allclose(before[:, 6:], after[:, 6:])


def test_scores_depend_on_every_input_and_on_its_place():
    transformer = small_transformer()
    targets = torch.tensor([[5, 6, 1]])
    scores = [transformer(torch.tensor([inputs]), targets) for inputs in ([2, 3, 4], [2, 3, 5], [3, 2, 4])]
    assert not torch.allclose(scores[0], scores[1], atol=1e-5)
    assert not torch.allclose(scores[0], scores[2], atol=1e-5)


def test_dropout_acts_in_training_alone():
    transformer = small_transformer(dropout=0.5)
    inputs, targets = torch.randint(2, 11, (2, 6)), torch.randint(2, 11, (2, 8))
    assert torch.equal(transformer(inputs, targets), transformer(inputs, targets))
    transformer.train()
    assert not torch.allclose(transformer(inputs, targets), transformer(inputs, targets))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"norm": "pst"}, "'pre' or 'post'"),
        ({"activation": "rellu"}, "'relu'"),
        ({"embedding_scaled": "in"}, "'input' or"),
        ({"heads": 3}, "multiple"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(changes, words):
    with pytest.raises(ConfigError, match=words):
        TransformerSizes(**{**SMALL, **changes})


def test_an_option_that_the_sizes_do_not_have_is_refused():
    sizes = {name: value for name, value in SMALL.items() if name != "context"}
    with pytest.raises(ConfigError, match="widht"):
        create_workload("workloads.cmudict_g2p.CmudictG2p", {**sizes, "row_length": 12, "widht": 16})


# --- decoding ---


@pytest.mark.parametrize("variant", VARIANTS)
def test_greedy_decoding_writes_the_likeliest_token_after_those_before(variant):
    transformer = small_transformer(**VARIANTS[variant])
    # A model with random weights repeats the symbol that it reads, which at the start is padding.
    transformer.embedding.weight.data[0] = 0.0
    inputs = torch.tensor([[2, 3, 4, 1], [5, 6, 1, 0], [7, 1, 0, 0]])
    written = transformer.decode_greedily(inputs, length=8, end=END)
    for row, tokens in zip(inputs, written, strict=True):
        length = int((tokens > END).sum())
        assert length > 0
        # One token more than was written: what stands in its place changes no score of it.
        scores = transformer(row[None], F.pad(tokens[:length], (0, 1), value=2)[None])[0]
        assert scores.argmax(dim=1)[:length].tolist() == tokens[:length].tolist()


def test_nothing_is_written_after_the_end():
    transformer = small_transformer()
    # The scores of the end are far above all others after the first token.
    transformer.decoder_norm.register_forward_hook(lambda _module, _inputs, normed: normed * 0 + 50.0)
    transformer.embedding.weight.data[END] = 1.0
    assert transformer.decode_greedily(torch.tensor([[2, 3, 1]]), length=5, end=END).tolist() == [[END, 0, 0, 0, 0]]


def test_what_is_written_does_not_depend_on_the_padding_of_its_batch():
    transformer = small_transformer()
    inputs = torch.tensor([[2, 3, 4, 1], [5, 6, 1, 0]])
    written = transformer.decode_greedily(inputs, length=6, end=END)
    alone = transformer.decode_greedily(inputs[1:, :3], length=6, end=END)
    assert torch.equal(written[1:], alone)


def test_every_pair_that_stands_alone_is_decoded_in_its_order():
    transformer = small_transformer()
    examples = packed(pairs_of(300), row_length=12, alone=300)
    written, targets = written_by(transformer, examples)
    assert written.shape == targets.shape == (300, 5)
    inputs, _ = examples.alone()
    one = transformer.decode_greedily(inputs[280:281], length=5, end=END)
    assert torch.equal(written[280:281], one)


# --- packing ---


def test_packed_rows_hold_every_pair_once_and_in_order():
    pairs = pairs_of(40)
    batch = packed(pairs, row_length=12).gather(torch.arange(len(packed(pairs, row_length=12))))
    found = [
        tuple(row[side][row[segments] == number].tolist() for side, segments in SIDES)
        for row in rows_of(batch)
        for number in range(1, int(row["input_segments"].max()) + 1)
    ]
    assert found == [(list(inputs), list(targets)) for inputs, targets in pairs]
    assert all(torch.equal(batch[side] == 0, batch[segments] == 0) for side, segments in SIDES)


def rows_of(batch: dict[str, Tensor]) -> list[dict[str, Tensor]]:
    return [{name: values[row] for name, values in batch.items()} for row in range(len(batch["inputs"]))]


def test_a_pair_begins_a_row_where_one_of_its_sides_does_not_fit():
    batch = packed([([2, 1], [3, 3, 1]), ([4, 1], [5, 1])], row_length=4).gather(torch.tensor([0, 1]))
    assert batch["inputs"].tolist() == [[2, 1, 0, 0], [4, 1, 0, 0]]
    assert batch["targets"].tolist() == [[3, 3, 1, 0], [5, 1, 0, 0]]


def test_a_row_ends_with_its_group_whatever_it_holds():
    pairs = pairs_of(10)
    rows = numpy.stack(list(packed_rows(pairs, row_length=100, group=4)))
    assert rows[:, 2].max(axis=1).tolist() == [4, 4, 2]
    assert [len(list(packed_rows(pairs, row_length=100, group=size))) for size in (10, 11, None)] == [1, 1, 1]


def test_pairs_stand_alone_with_shorter_inputs_first():
    inputs, targets = packed([([2, 3, 1], [4, 1]), ([5, 1], [6, 7, 8, 1])], row_length=8, alone=2).alone()
    assert inputs.tolist() == [[5, 1, 0, 0], [2, 3, 1, 0]]
    assert targets.tolist() == [[6, 7, 8, 1], [4, 1, 0, 0]]


def test_a_sequence_longer_than_a_row_gives_an_error_that_names_the_option():
    with pytest.raises(DataError, match="row_length"):
        packed([([2, 3, 4, 1], [5, 1])], row_length=3)


# --- loss and metrics ---


class Copying(Transduction):
    def sources(self):
        return []

    def load(self, split, folder):
        raise NotImplementedError


def small_workload() -> Copying:
    return Copying(row_length=12, **{name: value for name, value in SMALL.items() if name != "context"})


def test_loss_and_token_error_are_means_over_tokens_however_they_are_packed():
    workload, transformer, pairs = small_workload(), small_transformer(), pairs_of(30)
    found = []
    for row_length in (5, 12):
        examples = packed(pairs, row_length=row_length)
        batch = examples.gather(torch.arange(len(examples)))
        outputs = workload.outputs(transformer, batch)
        loss = mean_loss(*workload.losses(outputs, batch, 0.0)).item()
        found.append((loss, workload.metrics(workload.statistics(outputs, batch))["token_error"]))
    assert len({error for _, error in found}) == 1
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-5)
    assert sum(len(targets) for _, targets in pairs) == int(workload.statistics(outputs, batch)["tokens"].sum())


# --- edit distance ---


def distance(written: str, true: str) -> int:
    symbols, targets = (torch.tensor([[*map(ord, word), *[0] * (9 - len(word))]]) for word in (written, true))
    return int(edit_distances(symbols, symbols > 0, targets))


@pytest.mark.parametrize(
    ("written", "true", "expected"),
    [("sitting", "kitten", 3), ("", "abc", 3), ("abc", "", 3), ("abc", "abc", 0), ("bc", "abc", 1), ("abdc", "abc", 1)],
)
def test_the_edit_distance_counts_insertions_deletions_and_substitutions(written, true, expected):
    assert distance(written, true) == expected


def by_definition(written: str, true: str) -> int:
    if not written or not true:
        return len(written) + len(true)
    return min(
        by_definition(written[1:], true) + 1,
        by_definition(written, true[1:]) + 1,
        by_definition(written[1:], true[1:]) + (written[0] != true[0]),
    )


@settings(max_examples=60, deadline=None)
@given(st.text("ab", max_size=5), st.text("ab", max_size=5))
def test_the_edit_distance_is_that_of_its_definition(written, true):
    assert distance(written, true) == by_definition(written, true)

"""Texts found by their translations: scores and ranks by hand, projections, what padding may change, arcs and names."""

from __future__ import annotations

import functools
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from harness.api import ConfigError, Examples, SplitName
from harness.plugins.data import data_folder, is_present
from tests.workloads.plain_training import adamw, trained
from workloads.frontier.retrieval.interface_retrieval import (
    PROJECTIONS,
    InterfaceRetrieval,
    Projection,
    TokenVectors,
    max_sim,
)
from workloads.frontier.retrieval.interface_uniformity import (
    InterfaceUniformity,
    between,
    hashed,
    likeness,
    spread_of,
)
from workloads.frontier.retrieval.texts import VOCABULARY, mrr_error, told_apart
from workloads.interface_de_en import read_names, read_pairs

SIZES: dict[str, Any] = {"width": 16, "heads": 2, "hidden": 16, "layers": 1}


def retrieval_with(projection: str = "linear") -> InterfaceRetrieval:
    return InterfaceRetrieval(**SIZES, projection=projection)


def uniformity_with(*, calibrated: bool = True) -> InterfaceUniformity:
    return InterfaceUniformity(**SIZES, uniformity=1.0, calibrated=calibrated)


@functools.cache
def split_of(split: SplitName, *, named: bool = False) -> Examples:
    workload = uniformity_with() if named else retrieval_with()
    if not is_present(workload, data_folder()):
        pytest.skip("the data are not here: make data WORKLOAD=interface_retrieval")
    return workload.load(split, data_folder())


def network() -> TokenVectors:
    torch.manual_seed(0)
    model = retrieval_with().build_model()
    assert isinstance(model, TokenVectors)
    return model.eval()


def tokens_of(*lengths: tuple[int, int], padded_to: int = 24) -> Tensor:
    """Pairs of texts of these lengths."""
    drawn = torch.randint(2, VOCABULARY, (len(lengths), 2, padded_to), generator=torch.Generator().manual_seed(0))
    kept = torch.arange(padded_to) < torch.tensor(lengths)[..., None]
    return drawn * kept


# --- the data ---


def test_texts_are_their_tokens_without_an_end_and_pairs_with_a_longer_one_are_left_out():
    rows = split_of("validation").gather(torch.arange(len(split_of("validation"))))["inputs"]
    pairs, _ = read_pairs("validation", data_folder(), vocabulary=VOCABULARY)
    short = [pair for pair in pairs if max(map(len, pair)) <= 25]
    assert 0.8 * len(pairs) < len(rows) == len(short) < 0.95 * len(pairs)
    for row, pair in zip(rows.tolist(), short, strict=True):
        for side, tokens in zip(row, pair, strict=True):
            assert side == [*tokens[:-1], *[0] * (25 - len(tokens))]


# --- scores and ranks ---


def test_a_query_has_for_each_token_the_nearest_of_a_document_and_padding_is_near_to_nothing():
    torch.manual_seed(0)
    queries, documents = torch.randn(3, 4, 5), torch.randn(2, 4, 5)
    queries[0, 2:] = 0
    tokens = torch.tensor([[7, 8, 9, 3], [5, 6, 0, 0]])
    expected = [
        [
            sum(max((word @ documents[place, at]).item() for at in range(4) if tokens[place, at] > 0) for word in query)
            for place in range(2)
        ]
        for query in (queries[0, :2], queries[1], queries[2])
    ]
    torch.testing.assert_close(max_sim(queries, documents, tokens), torch.tensor(expected))


def test_the_rank_of_the_right_one_counts_by_its_reciprocal():
    # First of three; second; third.
    scores = torch.tensor([[3.0, 2.0, 1.0], [5.0, 4.0, 1.0], [3.0, 2.0, 1.0]])
    assert mrr_error(scores) == pytest.approx(1 - (1 + 1 / 2 + 1 / 3) / 3)


def test_scores_that_are_all_alike_are_no_first_rank():
    assert mrr_error(torch.zeros(9, 9)) == pytest.approx(1 - 1 / 5)


def test_scores_by_chance_have_the_mean_reciprocal_of_all_ranks():
    torch.manual_seed(0)
    harmonic = sum(1 / rank for rank in range(1, 501)) / 500
    assert mrr_error(torch.randn(500, 500)) == pytest.approx(1 - harmonic, abs=0.008)


def test_texts_whose_tokens_are_those_of_their_translation_are_all_found():
    words = F.one_hot(torch.arange(8).view(4, 2), 8).float()
    scores = max_sim(words / 2, words, torch.ones(4, 2, dtype=torch.long))
    torch.testing.assert_close(scores, torch.eye(4))
    assert mrr_error(scores) == 0.0
    torch.testing.assert_close(told_apart(scores), torch.full((4,), math.log(math.e + 3) - 1))


def test_the_loss_of_a_split_is_that_of_its_blocks():
    batch = {"inputs": tokens_of(*[(5, 7)] * 40)}
    outputs = retrieval_with().outputs(network(), batch).detach()
    found = retrieval_with().metrics(retrieval_with().statistics(outputs, batch))
    parts = [
        retrieval_with().losses(outputs[part], {"inputs": batch["inputs"][part]}, 0.0)[0]
        for part in (slice(0, 32), slice(32, 40))
    ]
    assert found["loss"] == pytest.approx(torch.cat(parts).mean().item(), rel=1e-5)


# --- the network ---


def test_tokens_of_documents_are_directions_and_those_of_queries_are_sharpened_and_shared_out():
    lengths = [(3, 5), (24, 1)]
    vectors = network()(tokens_of(*lengths))
    for pair, (query, document) in zip(vectors, lengths, strict=True):
        torch.testing.assert_close(pair[1].norm(dim=1), (torch.arange(24) < document).float())
        torch.testing.assert_close(pair[0].norm(dim=1), 20.0 / query * (torch.arange(24) < query))


def test_padding_changes_nothing():
    tokens = tokens_of((3, 5), (6, 2), padded_to=6)
    short, long = network()(tokens), network()(F.pad(tokens, (0, 18)))
    torch.testing.assert_close(long[:, :, :6], short)
    assert not long[:, :, 6:].any()


def test_the_same_tokens_are_seen_otherwise_in_the_other_language():
    tokens = tokens_of((4, 4))[:, :1].expand(-1, 2, -1)
    first, other = (F.normalize(each, dim=-1) for each in network().projection(network().encoder(tokens)).unbind(1))
    assert not torch.allclose(first[:, :4], other[:, :4], atol=1e-3)


@pytest.mark.parametrize("kind", PROJECTIONS)
def test_a_projection_is_what_it_says(kind: str):
    torch.manual_seed(0)
    projection, tokens = Projection(16, kind), torch.randn(3, 16)
    weights = {name: parameter.detach() for name, parameter in projection.named_parameters()}
    assert weights["output.weight"].shape == (32, 32 if kind == "upscaled" else 16)
    hidden = tokens if kind == "linear" else tokens @ weights["hidden.weight"].T
    if kind == "glu":
        hidden = hidden * F.gelu(tokens @ weights["gate.weight"].T)
    elif kind != "linear":
        hidden = F.gelu(hidden)
    expected = hidden @ weights["output.weight"].T
    if kind == "skip":
        expected = expected + tokens @ weights["beside.weight"].T
    torch.testing.assert_close(projection(tokens), expected)


def test_another_projection_is_refused():
    with pytest.raises(ConfigError, match=r"projection is 'deep'\. Use one of linear, ffn, glu, skip, upscaled"):
        retrieval_with("deep")


# --- one direction for each text ---


def test_the_same_words_have_the_same_numbers_and_a_name_has_those_of_all_its_keys():
    assert hashed(("hue", "config_step")).sum() == 3
    torch.testing.assert_close(hashed(("hue", "config_step")), hashed(("Step",)) + hashed(("hue.config",)))


def test_names_are_those_under_which_the_texts_stand():
    batch = split_of("validation", named=True).gather(torch.arange(5))
    pairs, _ = read_pairs("validation", data_folder(), vocabulary=VOCABULARY)
    names = read_names("validation", data_folder(), vocabulary=VOCABULARY)
    short = [name for name, pair in zip(names, pairs, strict=True) if max(map(len, pair)) <= 25]
    torch.testing.assert_close(batch["names"], torch.stack([hashed(name) for name in short[:5]]))
    torch.testing.assert_close(batch["inputs"], split_of("validation").gather(torch.arange(5))["inputs"])


def test_names_are_alike_within_limits():
    names = torch.eye(64)[:3]
    names[2] = names[0]
    torch.testing.assert_close(likeness(names), torch.tensor([[0.9, 0.1, 0.9], [0.1, 0.9, 0.1], [0.9, 0.1, 0.9]]))


def test_a_mix_goes_along_the_arc():
    first, other = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    for share in (0.0, 0.3, 1.0):
        angle = (1 - share) * math.pi / 2
        found = between(first, other, torch.tensor([[share]]))
        torch.testing.assert_close(found, torch.tensor([[math.cos(angle), math.sin(angle)]]))
    for end in (first, -first):
        assert between(first, end, torch.tensor([[0.5]])).isfinite().all()


def test_the_spread_is_that_of_pairs_and_names_that_are_alike_push_less():
    torch.manual_seed(0)
    directions = F.normalize(torch.randn(4, 6), dim=1)
    pairs = [(i, j) for i in range(4) for j in range(4) if i != j]
    squares = torch.stack([(directions[i] - directions[j]).square().sum() for i, j in pairs])
    torch.testing.assert_close(spread_of(directions), (-2 * squares).exp().mean().log())
    alike = torch.rand(4, 4)
    given = torch.stack([alike[i, j] for i, j in pairs])
    torch.testing.assert_close(spread_of(directions, alike), (-2 * (squares - 2 + 2 * given)).exp().mean().log())
    # A likeness of 1 is the plain form.
    torch.testing.assert_close(spread_of(directions, torch.ones(4, 4)), spread_of(directions))
    assert spread_of(directions[:1]).item() == 0.0


def test_the_loss_of_a_batch_is_its_squares_and_its_spread():
    torch.manual_seed(0)
    outputs, names = F.normalize(torch.randn(6, 2, 32), dim=2), torch.rand(6, 64)
    queries, documents = outputs.unbind(dim=1)
    distance = (queries - documents).square().sum(dim=1).mean()
    for calibrated in (True, False):
        pushed = spread_of(queries) + spread_of(documents, likeness(names) if calibrated else None)
        found = uniformity_with(calibrated=calibrated).losses(outputs, {"names": names}, 0.0)[0]
        torch.testing.assert_close(found.mean(), distance + pushed / 2)


def test_documents_are_mixed_anew_in_training_and_half_and_half_otherwise():
    workload = uniformity_with()
    torch.manual_seed(0)
    model = workload.build_model()
    batch = {"inputs": tokens_of((3, 5), (6, 2)), "names": torch.rand(2, 64)}
    first, other = (workload.outputs(model.train(), batch) for _ in range(2))
    torch.testing.assert_close(first[:, 0], other[:, 0])
    assert not torch.allclose(first[:, 1], other[:, 1])
    state = torch.get_rng_state()
    whole, again = (workload.outputs(model.eval(), batch) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(whole, again)
    torch.testing.assert_close(whole.norm(dim=2), torch.ones(2, 2))
    directions = F.normalize(model.names(batch["names"]), dim=1)
    to_name = (whole[:, 1] * directions).sum(dim=1).acos()
    # As far from the name as the text is from the mix.
    mixed_again = between(whole[:, 1], directions, torch.full((2, 1), 2.0))
    torch.testing.assert_close((mixed_again * whole[:, 1]).sum(dim=1).acos(), to_name, atol=1e-3, rtol=0)


# --- what training finds ---


@pytest.mark.slow
def test_a_short_training_finds_most_translations_among_the_first_three():
    split_of("train")
    workload = InterfaceRetrieval(width=64, heads=4, hidden=128, layers=2, projection="linear")
    _, [seen] = trained(workload, adamw(2e-3), steps=200, batch_size=32)
    assert seen["mrr_error"] < 0.6

"""Beam search, against the best of all targets that there are, on a transformer of five symbols."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch

from workloads.losses.beam_search import beam_search
from workloads.losses.transduction import END
from workloads.networks.encoder_decoder_transformer import EncoderDecoderTransformer, TransformerSizes

SYMBOLS = 5
LENGTH = 4
INPUTS = torch.tensor([[2, 3, 4, 1], [4, 4, 1, 0], [3, 1, 0, 0]])


SIZES = TransformerSizes(
    vocabulary=SYMBOLS, context=8, width=16, heads=2, hidden=16, encoder_layers=1, decoder_layers=2, norm="pre",
    activation="relu", gated=False, attention_temperature=1.0, embedding_deviation=2.0, embedding_scaled="output",
    dropout=0.0,
)  # fmt: skip


def transformer(seed: int) -> EncoderDecoderTransformer:
    torch.manual_seed(seed)
    made = EncoderDecoderTransformer(SIZES).eval()
    # A model with random weights repeats the symbol that it reads.
    made.decoder_norm.weight.data = 2.0 * torch.randn(16)
    return made


def log_probability(made: EncoderDecoderTransformer, inputs: torch.Tensor, target: list[int]) -> float:
    scores = made(inputs[None], torch.tensor([target]))[0].log_softmax(dim=1)
    return float(scores[torch.arange(len(target)), torch.tensor(target)].double().sum())


def score(made: EncoderDecoderTransformer, inputs: torch.Tensor, target: list[int]) -> float:
    return log_probability(made, inputs, target) / ((5 + len(target)) / 6) ** 0.6


def all_targets() -> list[list[int]]:
    bodies = (body for length in range(LENGTH) for body in itertools.product(range(2, SYMBOLS), repeat=length))
    return [[*body, END] for body in bodies]


def padded(target: list[int]) -> list[int]:
    return target + [0] * (LENGTH - len(target))


@pytest.mark.parametrize("seed", range(4))
def test_a_wide_enough_search_finds_the_best_of_all_targets_per_length(seed: int):
    made = transformer(seed)
    with torch.no_grad():
        best = [max(all_targets(), key=lambda target: score(made, inputs[inputs > 0], target)) for inputs in INPUTS]
        found = beam_search(made, INPUTS, beams=40, length=LENGTH, end=END)
    assert found.tolist() == [padded(target) for target in best]


def test_the_penalty_of_the_length_decides_between_a_short_and_a_long_target():
    # Otherwise the test above would hold without it.
    differ = 0
    for seed in range(4):
        made = transformer(seed)
        with torch.no_grad():
            for inputs in INPUTS:
                by_score = max(all_targets(), key=lambda target: score(made, inputs[inputs > 0], target))
                likeliest = max(all_targets(), key=lambda target: log_probability(made, inputs[inputs > 0], target))
                differ += by_score != likeliest
    assert differ > 0


def searched_to_the_end(made: EncoderDecoderTransformer, inputs: torch.Tensor, beams: int, length: int) -> list[int]:
    """What the search finds if it never stops before `length`, written out."""
    live: list[tuple[float, list[int]]] = [(0.0, [])]
    done: list[tuple[float, list[int]]] = []
    for place in range(length):
        found = []
        for before, target in live:
            chances = made(inputs[None], torch.tensor([[*target, 2]]))[0, -1].log_softmax(dim=0).tolist()
            found += [(before + chances[symbol], [*target, symbol]) for symbol in range(1, SYMBOLS)]
        best = sorted(found, reverse=True)[: 2 * beams]
        done += [(score / ((6 + place) / 6) ** 0.6, target) for score, target in best if target[-1] == END]
        live = [(score, target) for score, target in best if target[-1] != END][:beams]
    return max(done)[1] if done else live[0][1]


@pytest.mark.parametrize("seed", range(8))
@torch.no_grad()
def test_a_search_that_stops_early_finds_what_it_would_have_found(seed: int):
    made = transformer(seed)
    # Ends are likely, so that the beams are full of finished targets soon.
    made.embedding.weight.data[END] += 0.5 * made.decoder_norm.weight
    wanted = [searched_to_the_end(made, inputs[inputs > 0], 2, 8) for inputs in INPUTS]
    found = beam_search(made, INPUTS, beams=2, length=8, end=END)
    assert found.tolist() == [target + [0] * (8 - len(target)) for target in wanted]


class Hesitant(EncoderDecoderTransformer):
    """Ends at once, a little more likely than not; else goes on for five symbols, surely, and ends then."""

    place = 0

    def writing(self, inputs: torch.Tensor, *, copies: int = 1) -> Any:  # noqa: ARG002
        return self

    def scores_after(self, last: torch.Tensor) -> torch.Tensor:
        scores = torch.full((len(last), SYMBOLS), -50.0)
        self.place += 1
        scores[:, END] = 0.1 if self.place == 1 else -50.0 if self.place < 6 else 50.0
        scores[:, 2] = 0.0
        scores[:, 3] = 0.05 if self.place == 1 else -50.0
        return scores

    def keep(self, rows: torch.Tensor) -> None:
        pass


def test_the_search_goes_on_while_a_longer_target_may_still_become_better():
    made = Hesitant(SIZES)
    [found] = beam_search(made, INPUTS[:1], beams=1, length=8, end=END).tolist()
    assert found == [3, 2, 2, 2, 2, END, 0, 0]


@torch.no_grad()
def test_a_search_of_one_beam_goes_on_from_the_likeliest_symbol_that_ends_nothing():
    made = transformer(0)
    [found] = beam_search(made, INPUTS[:1], beams=1, length=LENGTH, end=END).tolist()
    body: list[int] = []
    finished: list[list[int]] = []
    for _ in range(LENGTH):
        chances = made(INPUTS[:1], torch.tensor([[*body, 2]]))[0, -1].log_softmax(dim=0)
        chances[0] = -math.inf
        if END in chances.topk(2).indices:
            finished.append([*body, END])
        chances[END] = -math.inf
        body = [*body, int(chances.argmax())]
    best = max(finished, key=lambda target: score(made, INPUTS[0], target)) if finished else body
    assert found == padded(best)


@torch.no_grad()
def test_what_is_found_does_not_depend_on_the_other_rows_of_the_batch():
    made = transformer(1)
    together = beam_search(made, INPUTS, beams=3, length=LENGTH, end=END)
    alone = [beam_search(made, row[row > 0][None], beams=3, length=LENGTH, end=END)[0] for row in INPUTS]
    assert torch.equal(together, torch.stack(alone))


@torch.no_grad()
def test_where_nothing_ends_the_likeliest_target_stands_without_an_end():
    made = transformer(0)

    def without_end(_module: object, _inputs: object, scores: torch.Tensor) -> torch.Tensor:
        return scores.index_fill(-1, torch.tensor([END]), -math.inf)

    made.output.register_forward_hook(without_end)
    [found] = beam_search(made, INPUTS[:1], beams=30, length=3, end=END).tolist()
    every = [list(body) for body in itertools.product(range(2, SYMBOLS), repeat=3)]
    assert found == max(every, key=lambda target: log_probability(made, INPUTS[0], target))

"""Words that are spoken by a policy: what is drawn, how likely it is, and what each symbol is credited with."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from harness.api import Batch, Policy
from tests.trial.test_rewards import trial_on
from workloads.cmudict_g2p import CmudictG2p
from workloads.losses.edit_distance import edit_distances, edit_distances_of_beginnings
from workloads.losses.transduction import END, PackedPairs, Pair, pack, written_by

VOCABULARY = 9
SIZES = {
    "row_length": 12, "vocabulary": VOCABULARY, "width": 8, "heads": 2, "hidden": 12, "encoder_layers": 1,
    "decoder_layers": 1, "norm": "pre", "activation": "relu", "gated": False, "attention_temperature": 1.0,
    "embedding_deviation": 1.5, "embedding_scaled": "output", "dropout": 0.0,
}  # fmt: skip
# Two words share the first row; the third begins another.
PAIRS: list[Pair] = [
    ([2, 3, END], [5, 6, 7, END]),
    ([4, 2, 4, END], [8, END]),
    ([3, 3, 2, 4, 2, 3, END], [6, 6, 5, 8, END]),
]


class Spoken(CmudictG2p):
    """The three words, in place of the dictionary."""

    def load(self, split: str, folder: object) -> PackedPairs:  # type: ignore[override]  # noqa: ARG002
        return PackedPairs(*pack(PAIRS, row_length=self.row_length, alone=len(PAIRS)))


def workload() -> Spoken:
    return Spoken(**SIZES)


def policy() -> Policy:
    found = workload().policy()
    assert found is not None
    return found


def rows() -> Batch:
    return workload().load("train", None).gather(torch.tensor([0, 1]))


def answer(*words: list[int], length: int = 5, slots: int = 4) -> list[int]:
    """Words in their slots."""
    padded = [word + [0] * (length - len(word)) for word in [*words, *[[]] * (slots - len(words))]]
    return [symbol for word in padded for symbol in word]


def answers_to_both(first: list[list[int]], second: list[list[int]]) -> Tensor:
    return torch.tensor([[answer(*first)], [answer(*second)]])


RIGHT = answers_to_both([[5, 6, 7, END], [8, END]], [[6, 6, 5, 8, END]])


def test_a_demonstration_has_each_target_of_a_row_in_its_slot():
    assert torch.equal(policy().demonstrations(rows()), RIGHT[:, 0])


def test_a_reward_is_one_less_the_edits_per_symbol_of_the_row():
    # A symbol too few and one that is wrong, of four; the end of the second answer is missing, and one is too much.
    others = answers_to_both([[5, 6, END], [4, END]], [[6, 6, 5, 8, 2]])
    found = policy().credits(rows(), torch.cat([RIGHT, others], dim=1)).sum(dim=2)
    torch.testing.assert_close(found, torch.tensor([[1.0, 1 - 2 / 4], [1.0, 1 - 1 / 4]]))


def test_a_symbol_is_credited_with_what_it_brings_nearer_to_the_target():
    # From 5 6 7 nothing is three edits away, 6 two, 6 6 two as well, 6 6 7 one. The other word is left out.
    credits = policy().credits(rows(), answers_to_both([[6, 6, 7, END], [END]], [[2, 2, 2, 2, 2]]))
    assert credits[0, 0, :5].tolist() == [0.25, 0.0, 0.25, 0.0, 0.0]
    assert credits[0, 0, 5:].abs().sum().item() == 0.0
    # The fifth symbol is one that has to be taken out again.
    assert credits[1, 0, :5].tolist() == [0.0, 0.0, 0.0, 0.0, -0.25]


def test_distances_of_beginnings_end_with_that_of_the_whole():
    generator = torch.Generator().manual_seed(0)
    symbols, targets = (torch.randint(1, 4, (50, 6), generator=generator) for _ in range(2))
    targets[:, 4:] *= torch.randint(2, (50, 1), generator=generator)
    is_read = torch.rand(50, 6, generator=generator) < 0.8
    found = edit_distances_of_beginnings(symbols, is_read, targets)
    assert torch.equal(found[:, 0], (targets != 0).sum(dim=1))
    for place in range(7):
        before = is_read & (torch.arange(6) < place)
        assert torch.equal(found[:, place], edit_distances(symbols, before, targets))


def test_the_likeliest_answer_is_what_is_judged():
    trial = trial_on(workload())
    written, _ = written_by(trial.model.eval(), trial.train_set)
    slots = trial.likeliest(rows())[:, :10].reshape(2, 2, 5)
    # Alone, shorter inputs come first: the order of these three words.
    assert torch.equal(torch.stack([slots[0, 0], slots[0, 1], slots[1, 0]]), written[:, :5])


def test_padding_is_never_drawn_and_what_is_likely_is_drawn_often():
    trial = trial_on(workload())
    batch = rows()
    drawn = trial.sample(batch, 4000, generator=torch.Generator().manual_seed(0)).unflatten(2, (4, 5))
    first = torch.bincount(drawn[0, :, 0, 0], minlength=VOCABULARY) / 4000
    assert first[0].item() == 0.0
    assert not drawn[0, :, 2:].any()
    assert not drawn[1, :, 1:].any()
    # After its end an answer has padding alone.
    is_over = (drawn == END).cumsum(dim=3) - (drawn == END).long() > 0
    assert not drawn[is_over].any()
    every = torch.tensor([[answer([symbol]) for symbol in range(1, VOCABULARY)]] * 2)
    with torch.no_grad():
        chances = trial.log_probabilities(batch, every)[0, :, 0].exp()
    assert chances.sum().item() == pytest.approx(1.0, abs=1e-5)
    assert (first[1:] - chances).abs().max().item() < 0.03


def test_log_probabilities_are_those_of_the_decoder_on_the_packed_row():
    trial = trial_on(workload())
    batch = rows()
    with torch.no_grad():
        # Teacher forcing in the packed form, which masks nothing: without padding among the choices it is the same.
        scores = trial.outputs(batch)
        scores[..., 0] = -torch.inf
        packed = scores.log_softmax(dim=2).gather(2, batch["targets"][..., None]).squeeze(2)
        said = trial.log_probabilities(batch, trial.demonstrations(batch)[:, None])
    expected = torch.where(batch["targets"] > 0, packed, 0.0).sum(dim=1)
    torch.testing.assert_close(said.sum(dim=(1, 2)), expected)
    assert (said != 0).sum(dim=(1, 2)).tolist() == (batch["targets"] > 0).sum(dim=1).tolist()


def test_log_probabilities_of_several_answers_are_those_of_each():
    trial = trial_on(workload(), micro_batch=1)
    batch = rows()
    answers = trial.sample(batch, 3, generator=torch.Generator().manual_seed(1))
    together = trial.log_probabilities(batch, answers)
    together.sum().backward()
    assert all(parameter.grad is not None for parameter in trial.model.parameters())
    for number in range(3):
        alone = trial.log_probabilities(batch, answers[:, number : number + 1])
        torch.testing.assert_close(together[:, number : number + 1], alone)

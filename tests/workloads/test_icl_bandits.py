"""Bandits in context: what is exact about them, what the experts' terms are by hand, and what training finds."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy
import pytest
import scipy.stats
import torch
from torch import Tensor, nn

from harness.api import Examples, terms_of
from tests.workloads.short_runs import NOWHERE, made, whole
from workloads.frontier.decisions.arm_chooser import PULLS, ArmChooser, counts
from workloads.frontier.decisions.bandits import best_values, posteriors, second_is_better, states, worth
from workloads.frontier.decisions.icl_bandits import (
    IclBandits,
    IclBanditsTaskExperts,
    IclBanditsTokenExperts,
)
from workloads.frontier.decisions.routed import RoutedBlock, balance, contrast

BEST = 0.60218
THOMPSON = 0.57045
NAMES = ["icl_bandits", "icl_bandits_token_experts", "icl_bandits_task_experts"]


class Table(ArmChooser):
    """Answers with a chance of the second arm that it looks up by the counts."""

    def __init__(self, chances: numpy.ndarray) -> None:
        nn.Module.__init__(self)
        self.chances = torch.from_numpy(chances).float()

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        second = self.chances[tuple(counts(tokens).unbind(-1))]
        return torch.stack([1 - second, second], dim=-1).log(), torch.zeros(*tokens.shape, 0)


@functools.cache
def held_out() -> Examples:
    return made("icl_bandits").load("validation", NOWHERE)


# --- what is exact ---


def test_a_pull_wins_at_best_what_dynamic_programming_says():
    assert best_values(10)[0][0, 0, 0, 0] / 10 == pytest.approx(BEST, abs=5e-6)
    assert best_values(20)[0][0, 0, 0, 0] / 20 == pytest.approx(0.62156, abs=5e-6)
    # One pull knows nothing; of two the second repeats what won: 1/2 + (1/2 * 2/3 + 1/2 * 1/2), over two.
    assert best_values(1)[0][0, 0, 0, 0] == pytest.approx(0.5)
    assert best_values(2)[0][0, 0, 0, 0] / 2 == pytest.approx((1 / 2 + 1 / 3 + 1 / 4) / 2)


def test_the_chance_that_the_second_arm_is_better_is_the_integral():
    for state in [(0, 0, 0, 0), (3, 1, 2, 4), (0, 5, 4, 0), (2, 0, 1, 6)]:
        first, second = (scipy.stats.beta(state[at] + 1, state[at + 1] + 1) for at in (0, 2))
        grid = (numpy.arange(20_000) + 0.5) / 20_000
        assert second_is_better(state) == pytest.approx((second.pdf(grid) * first.cdf(grid)).mean(), abs=1e-6)


def test_rules_are_worth_what_they_win_on_simulated_bandits():
    stream = numpy.random.RandomState(0)
    chances, each = stream.random_sample((100_000, 2)), numpy.arange(100_000)
    seen, won = numpy.ones((2, 100_000, 2)), 0.0
    for _ in range(PULLS):
        arm = stream.beta(*seen).argmax(axis=1)
        wins = stream.random_sample(100_000) < chances[each, arm]
        # What pulls at random win of the same bandits is known to be a half.
        won += (chances[each, arm] - chances.mean(axis=1)).mean() + 0.5
        seen[1 - wins.astype(int), each, arm] += 1
    assert worth(second_is_better, pulls=PULLS) == pytest.approx(won / PULLS, abs=1.5e-3)
    assert worth(second_is_better, pulls=PULLS) == pytest.approx(THOMPSON, abs=5e-6)
    assert worth(lambda _: 0.5, pulls=PULLS) == pytest.approx(0.5)


def test_what_is_given_away_adds_up_to_the_regret_of_a_rule():
    lost = best_values(PULLS)[1]
    # Nothing is ever learned of the first arm, so that the counts of the second are even: (w + l + 1) states of a pull.
    given_away = [numpy.mean([lost[0, 0, won, done - won, 1] for won in range(done + 1)]) for done in range(PULLS)]
    assert sum(given_away) / PULLS == pytest.approx(BEST - worth(lambda _: 1.0, pulls=PULLS), abs=1e-5)
    assert worth(lambda _: 1.0, pulls=PULLS) == pytest.approx(0.5)


# --- the data and the metrics ---


def test_histories_win_as_often_as_their_arms_chances_and_the_target_is_the_better_arm():
    batch = whole(made("icl_bandits"), "validation")
    arms, won = batch["inputs"][:, :, 1::2], batch["inputs"][:, :, 2::2] - 2
    assert set(batch["inputs"][:, :, 0].flatten().tolist()) == {4}
    chances = batch["chances"][:, None].expand(-1, 2, -1).gather(2, arms)
    assert (won - chances).mean().item() == pytest.approx(0.0, abs=0.01)
    assert ((won - chances) * (chances - 0.5)).mean().item() == pytest.approx(0.0, abs=0.005)
    assert arms.float().mean().item() == pytest.approx(0.5, abs=0.01)
    assert torch.equal(batch["targets"], batch["chances"].argmax(dim=1))


def test_counts_are_of_the_pulls_before():
    # start; first arm lost; second arm won; second arm won
    found = counts(torch.tensor([[4, 0, 2, 1, 3, 1, 3]]))
    assert found.tolist() == [[[0, 0, 0, 0], [0, 1, 0, 0], [0, 1, 1, 0], [0, 1, 2, 0]]]


def test_who_knows_the_posterior_has_no_excess_and_the_regret_of_thompsons_rule():
    workload = made("icl_bandits")
    knows = Table(posteriors(PULLS))
    found = workload.decoded_metrics(knows, held_out())
    assert found["regret"] == pytest.approx(BEST - THOMPSON, abs=6e-4)
    # What is won depends on the luck of 512 bandits.
    assert found["value"] == pytest.approx(THOMPSON, abs=0.02)
    batch = whole(workload, "validation")
    statistics = workload.statistics(workload.outputs(knows, batch), batch)
    assert workload.metrics(statistics)["excess"] == pytest.approx(0.0, abs=1e-5)


def test_an_even_answer_has_the_regret_of_pulls_at_random_and_the_best_rule_none():
    workload = made("icl_bandits")
    even = Table(numpy.full((PULLS,) * 4, 0.5))
    assert workload.decoded_metrics(even, held_out())["regret"] == pytest.approx(BEST - 0.5, abs=6e-3)
    best = Table((best_values(PULLS)[1][..., 1] == 0).astype(float))
    assert workload.decoded_metrics(best, held_out())["regret"] == pytest.approx(0.0, abs=1e-6)


# --- experts ---


def test_balance_is_one_where_all_experts_are_as_likely_and_their_number_where_one_takes_all():
    even = 1e-3 * torch.eye(4)[None].expand(3, 4, 4)
    assert balance(even).mean().item() == pytest.approx(1.0, abs=1e-4)
    assert balance(torch.tensor([[[100.0, 0.0, 0.0, 0.0]]])).tolist() == pytest.approx([4.0])
    # Three quarters of the tokens go to the first, whose mean likelihood is 0.7: 2 (0.75 * 0.7 + 0.25 * 0.3).
    likelihoods = torch.tensor([[0.9, 0.1], [0.8, 0.2]]), torch.tensor([[0.9, 0.1], [0.2, 0.8]])
    scores = torch.stack(likelihoods).log()
    assert balance(scores).mean().item() == pytest.approx(2 * (0.75 * 0.7 + 0.25 * 0.3), abs=1e-6)


def test_contrast_is_a_guess_where_all_readings_are_alike_and_nothing_where_each_is_its_own():
    assert contrast(torch.ones(5, 4), torch.ones(5, 4)).tolist() == pytest.approx([math.log(5)] * 5)
    own = 10 * torch.eye(4)
    assert contrast(own, own).max().item() < 1e-6
    assert contrast(own, own.flip(0)).min().item() > 50


def test_a_token_goes_through_one_expert_times_its_likelihood():
    torch.manual_seed(0)
    block = RoutedBlock(5, 8, 2, 8, experts=3, by_history=False)
    hidden = torch.randn(2, 5, 8)
    out, scores = block.routed(hidden, None)
    before = hidden + block.attention(block.attention_norm(hidden), None)
    normed = block.feed_forward_norm(before)
    layers = [(block.widen, block.narrow), *((each.widen, each.narrow) for each in block.others)]
    for example in range(2):
        for place in range(5):
            chances = (block.router.weight @ normed[example, place]).softmax(dim=0)
            widen, narrow = layers[int(chances.argmax())]
            added = chances.max() * narrow(nn.functional.glu(widen(normed[example, place])))
            torch.testing.assert_close(out[example, place], before[example, place] + added)
    torch.testing.assert_close(scores, block.router(normed))


@pytest.mark.parametrize("name", NAMES)
def test_an_answer_does_not_depend_on_later_pulls(name: str):
    torch.manual_seed(0)
    model = made(name).build_model()
    tokens = whole(made(name), "validation")["inputs"][:8, 0]
    other = tokens.clone()
    other[:, 11] = 1 - other[:, 11]
    before, after = (model(each)[0] for each in (tokens, other))
    torch.testing.assert_close(before[:, :6], after[:, :6])
    assert not torch.allclose(before[:, 6:], after[:, 6:], atol=1e-6)
    torch.testing.assert_close(model(tokens[:, :5])[0], before[:, :3])


def test_the_terms_of_experts_are_those_of_the_block():
    sizes: dict[str, Any] = {"examples": 64, "width": 16, "layers": 2, "heads": 2, "hidden": 16}
    for workload in (IclBanditsTokenExperts(**sizes), IclBanditsTaskExperts(**sizes)):
        torch.manual_seed(0)
        model, batch = workload.build_model(), workload.load("train", NOWHERE).gather(torch.arange(6))
        routes = [model(batch["inputs"][:, history])[1] for history in (0, 1)]
        terms = {term.name: term for term in terms_of(workload, workload.outputs(model, batch), batch, 0.0)}
        torch.testing.assert_close(terms["balance"].losses, balance(torch.cat(routes, dim=1)))
        plain = IclBandits(**sizes)
        surprise, _ = plain.losses(plain.outputs(model, batch), batch, 0.0)
        torch.testing.assert_close(terms["prediction"].losses, surprise)
        if "contrast" in terms:
            torch.testing.assert_close(terms["contrast"].losses, contrast(routes[0][:, -1], routes[1][:, -1]))


def test_states_after_so_many_pulls_are_all_that_there_are():
    assert [len(list(states(done))) for done in range(4)] == [1, 4, 10, 20]

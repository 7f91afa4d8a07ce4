"""Networks that write answers: rewards, gradients that do not depend on who reads the prompt, what is found."""

from __future__ import annotations

import contextlib
import math
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor, nn

from harness.api import SPLITS, Batch, ConfigError, Hyperparameters, LossKind, mean_loss
from harness.plugins.submission import load_submission
from harness.trial.conversation import TrialOver
from submissions.hpt.submission import train as train_hybrid
from tests.trial.test_rewards import trial_on
from tests.workloads.short_runs import NOWHERE, adam, trained, validated, whole
from workloads.frontier.policies.answering_transformer import AnsweringTransformer
from workloads.frontier.policies.compression_policy import PARTS, TABLE, CompressionPolicy, every_choice
from workloads.frontier.policies.group_gradient import GROUP, GroupGradient
from workloads.frontier.policies.sorting_rewards import SortingRewards
from workloads.networks.drawn_symbols import drawn_symbols

SIZES = {"width": 48, "layers": 2, "heads": 4, "hidden": 96}


def sorting(*, reward: str = "share", shared_prefix: bool = False) -> SortingRewards:
    return SortingRewards(reward=reward, shared_prefix=shared_prefix, **SIZES)


def prompts(split: str, count: int) -> Batch:
    return {name: values[:count] for name, values in whole(sorting(), split).items()}


def network(workload: GroupGradient, *, spread: float = 0.3) -> nn.Module:
    """A new one whose weights are far enough from zero that answers differ in how likely they are."""
    torch.manual_seed(0)
    model = workload.build_model()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(spread * torch.randn_like(parameter) * (parameter.ndim > 1))
    return model


# --- the task ---


def test_every_prompt_of_four_digits_is_in_one_split_and_a_demonstration_has_its_digits_in_order():
    seen = []
    for split, size in zip(SPLITS, (8000, 1000, 1000), strict=True):
        batch = whole(sorting(), split)
        assert len(batch["inputs"]) == size
        assert torch.equal(sorting().demonstrations(batch), batch["inputs"].sort(dim=1).values)
        seen += (batch["inputs"] * torch.tensor([1000, 100, 10, 1])).sum(dim=1).tolist()
    assert sorted(seen) == list(range(10_000))


def test_a_reward_is_the_share_of_right_places_or_counts_whole_answers_alone():
    batch = {"inputs": torch.tensor([[7, 1, 1, 3]]), "targets": torch.tensor([[1, 1, 3, 7]])}
    answers = torch.tensor([[[1, 1, 3, 7], [1, 1, 3, 8], [7, 1, 1, 3], [0, 0, 0, 0]]])
    shares, exact = (sorting(reward=reward).credits(batch, answers) for reward in ("share", "exact"))
    assert shares.sum(dim=2).tolist() == [[1.0, 0.75, 0.25, 0.0]]
    assert shares[0, 2].tolist() == [0.0, 0.25, 0.0, 0.0]
    assert exact.sum(dim=2).tolist() == [[1.0, 0.0, 0.0, 0.0]]


def test_another_reward_is_an_error_that_names_those_that_there_are():
    with pytest.raises(ConfigError, match=r"reward is 'dense'\. Use one of share, exact"):
        sorting(reward="dense")


# --- drawing ---


def test_symbols_are_drawn_as_often_as_their_probability_says():
    scores = torch.tensor([0.5, 0.3, 0.2, 1e-30]).log().expand(10_000, -1)
    drawn = drawn_symbols(scores, (torch.arange(10_000) + 0.5) / 10_000)
    assert torch.bincount(drawn, minlength=4).tolist() == pytest.approx([5000, 3000, 2000, 0], abs=1)
    assert drawn_symbols(scores[:2], None).tolist() == [0, 0]
    # The sum of all may be rounded to less than the largest number there is below one.
    assert drawn_symbols(torch.zeros(1, 3), torch.tensor([1.0])).tolist() == [2]


def test_answers_come_from_the_probabilities_that_the_network_says():
    """Of one prompt: how often each first and each second digit is drawn, against the sum over all answers."""
    workload = sorting()
    model, batch = network(workload).eval(), prompts("train", 1)
    every = torch.cartesian_prod(*[torch.arange(10)] * 4)[None]
    with torch.no_grad():
        chances = workload.log_probabilities(model, batch, every).sum(dim=2).exp()[0]
        drawn = workload.sample(model, batch, count=20_000, generator=torch.Generator().manual_seed(0))[0]
    assert chances.sum().item() == pytest.approx(1.0, abs=1e-4)
    for place in range(4):
        expected = torch.zeros(10).index_add(0, every[0, :, place], chances)
        found = torch.bincount(drawn[:, place], minlength=10) / len(drawn)
        assert (found - expected).abs().max().item() < 0.015
    assert expected.max().item() > 0.2, "the probabilities are too much alike to be told apart"


def test_the_likeliest_answer_takes_the_likeliest_symbol_at_each_place():
    workload = sorting()
    model, batch = network(workload).eval(), prompts("train", 40)
    with torch.no_grad():
        answers = workload.likeliest(model, batch)
        scores = model(batch["inputs"], answers[:, None])
    assert torch.equal(scores[:, 0].argmax(dim=2), answers)


def test_a_generator_decides_what_is_drawn():
    workload = sorting()
    model, batch = network(workload).eval(), prompts("train", 5)
    drawn = [
        workload.sample(model, batch, count=6, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    ]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert drawn[0].shape == (5, 6, 4)


# --- a prompt that is read once ---


def gradients(model: nn.Module, loss: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(loss, list(model.parameters())))


@pytest.mark.parametrize("length", [4, 24])
def test_answers_that_share_their_prompt_have_the_scores_and_gradients_of_those_that_read_it_each(length: int):
    models = []
    for shared_prefix in (False, True):
        torch.manual_seed(0)
        models.append(
            AnsweringTransformer(symbols=10, prompt=length, answer=length, shared_prefix=shared_prefix, **SIZES)
        )
    generator = torch.Generator().manual_seed(1)
    read = torch.randint(10, (6, length), generator=generator)
    answers = torch.randint(10, (6, GROUP, length), generator=generator)
    worth = torch.randn(6, GROUP, 1, generator=generator)
    plain, shared = (model(read, answers) for model in models)
    torch.testing.assert_close(shared, plain, rtol=0, atol=1e-6)
    found = []
    for model, scores in zip(models, (plain, shared), strict=True):
        said = scores.log_softmax(dim=3).gather(3, answers[..., None]).squeeze(3)
        found.append(gradients(model, (worth * said).mean()))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(other, one, rtol=0, atol=1e-6)
    assert max(each.abs().max().item() for each in found[0]) > 1e-3


# --- the loss ---


def test_the_loss_of_training_is_minus_the_reward_and_its_gradient_is_that_of_the_policy_gradient():
    workload = sorting()
    model, batch = network(workload).train(), prompts("train", 16)
    torch.manual_seed(5)
    outputs = workload.outputs(model, batch)
    losses, weights = workload.losses(outputs, batch, 0.0)
    assert weights is None
    assert workload.loss_kind is LossKind.POLICY_GRADIENT
    found = gradients(model, mean_loss(losses, None))
    torch.manual_seed(5)
    answers = workload.sample(model, batch, count=GROUP, generator=None)
    rewards = workload.credits(batch, answers).sum(dim=2)
    torch.testing.assert_close(losses, -rewards)
    advantages = rewards - rewards.mean(dim=1, keepdim=True)
    said = workload.log_probabilities(model, batch, answers).sum(dim=2)
    expected = gradients(model, -(advantages * said).mean())
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-7)


def test_the_loss_of_an_evaluation_estimates_minus_the_reward_without_drawing_anything():
    workload = sorting()
    model, batch = network(workload).eval(), whole(workload, "validation")
    with torch.no_grad():
        before = torch.get_rng_state()
        losses = workload.losses(workload.outputs(model, batch), batch, 0.0)[0]
        assert torch.equal(torch.get_rng_state(), before)
        answers = workload.sample(model, batch, count=50, generator=torch.Generator().manual_seed(0))
        rewards = workload.credits(batch, answers).sum(dim=2).mean().item()
    error = losses.mean(dim=1).std().item() / math.sqrt(len(losses))
    assert abs(losses.mean().item() + rewards) < 4 * error
    assert error < 0.02


class Sorts(nn.Module):
    """Knows the answer."""

    def forward(self, prompts: Tensor, answers: Tensor | None = None, **_: object) -> Tensor:
        if answers is None:
            return prompts.sort(dim=1).values[:, None]
        right = nn.functional.one_hot(prompts.sort(dim=1).values, 10)[:, None].expand(-1, answers.shape[1], -1, -1)
        return 100.0 * right


@pytest.mark.parametrize("reward", ["share", "exact"])
def test_whoever_sorts_has_a_reward_of_one_and_no_error(reward: str):
    workload, model = sorting(reward=reward), Sorts().eval()
    examples = workload.load("test", NOWHERE)
    assert workload.decoded_metrics(model, examples) == {"exact_error": 0.0, "digit_error": 0.0}
    batch = whole(workload, "test")
    losses = workload.losses(workload.outputs(model, batch), batch, 0.0)[0]
    # Only right answers count, of which about a tenth of what was tried is.
    assert losses.mean().item() == pytest.approx(-1.0, abs=0.15)


def test_errors_are_counted_by_prompt_and_by_digit():
    class Repeats(nn.Module):
        def forward(self, prompts: Tensor) -> Tensor:
            return prompts[:, None]

    batch = whole(sorting(), "validation")
    wrong = batch["inputs"] != batch["targets"]
    found = sorting().decoded_metrics(Repeats(), sorting().load("validation", Path()))
    assert found["digit_error"] == pytest.approx(wrong.double().mean().item())
    assert found["exact_error"] == pytest.approx(wrong.any(dim=1).double().mean().item())
    assert found["exact_error"] > found["digit_error"] > 0.5


# --- compression_policy ---


def compression() -> CompressionPolicy:
    return CompressionPolicy(width=32)


def test_a_choice_is_worth_the_share_that_is_gone_and_the_answers_that_are_left():
    choices = every_choice()
    assert choices[0b101].tolist() == [1, 0, 1, *[0] * 9]
    with numpy.load(TABLE) as table:
        right = table["right"].astype(float)
    for split, first in (("train", 0), ("validation", 16), ("test", 17)):
        batch = whole(compression(), split)
        gone = 1 - choices.double().mean(dim=1).numpy()
        worth = gone * (2 - gone) * right[first] / right[first, -1]
        assert batch["targets"][0].numpy() == pytest.approx(worth / worth.max(), rel=1e-6)
        # Nothing is gained where nothing is dropped, and the best drops some parts and keeps others.
        assert not batch["targets"][:, -1].any()
        kept = compression().demonstrations(batch).sum(dim=1)
        assert 0 < kept.min().item() <= kept.max().item() < PARTS
        rewards = compression().credits(batch, compression().demonstrations(batch)[:, None]).sum(dim=2)
        assert torch.equal(rewards, torch.ones(len(rewards), 1))


def test_the_expected_reward_is_a_sum_over_all_choices_and_that_of_drawn_ones():
    workload = compression()
    torch.manual_seed(0)
    model, batch = workload.build_model().eval(), whole(workload, "validation")
    with torch.no_grad():
        outputs = workload.outputs(model, batch)
        chances = (outputs[..., 0].double().exp() / 4096).sum(dim=1)
        torch.testing.assert_close(chances, torch.ones(1, dtype=torch.float64), atol=1e-5, rtol=0)
        regret = workload.metrics(workload.statistics(outputs, batch))["regret"]
        assert workload.losses(outputs, batch, 0.0)[0].mean().item() == pytest.approx(regret - 1, abs=1e-5)
        drawn = workload.sample(model, batch, count=10_000, generator=torch.Generator().manual_seed(0))
        found = workload.credits(batch, drawn).sum(dim=2)
    assert 1 - found.mean().item() == pytest.approx(regret, abs=4 * found.std().item() / 100)


def test_drawn_choices_are_as_likely_as_the_policy_says():
    workload = compression()
    model, batch = network(workload), {name: values[:1] for name, values in whole(workload, "train").items()}
    with torch.no_grad():
        said = workload.log_probabilities(model, batch, every_choice()[None]).sum(dim=2).exp()[0]
        drawn = workload.sample(model, batch, count=20_000, generator=torch.Generator().manual_seed(1))[0]
    expected, found = said @ every_choice().float(), drawn.float().mean(dim=0)
    assert (found - expected).abs().max().item() < 0.02
    assert torch.equal(workload.likeliest(model, batch)[0, :1], (expected[:1] > 0.5).long())


class Knows(nn.Module):
    """Takes one choice for certain, whatever network it is."""

    def __init__(self, choices: Tensor) -> None:
        super().__init__()
        self.choices = choices

    def forward(self, parts: Tensor, answers: Tensor | None = None) -> Tensor:  # noqa: ARG002
        if answers is None:
            return self.choices[:, None]
        return 100.0 * nn.functional.one_hot(self.choices, 2)[:, None].expand(-1, answers.shape[1], -1, -1)


def test_whoever_takes_the_best_choice_regrets_nothing_and_who_drops_nothing_regrets_all():
    workload, examples = compression(), compression().load("test", NOWHERE)
    batch = whole(workload, "test")
    for choices, regret in ((workload.demonstrations(batch), 0.0), (torch.ones(1, PARTS, dtype=torch.int64), 1.0)):
        model = Knows(choices).eval()
        found = workload.metrics(workload.statistics(workload.outputs(model, batch), batch))
        assert found["regret"] == pytest.approx(regret, abs=1e-6)
        assert workload.decoded_metrics(model, examples)["likeliest_regret"] == pytest.approx(regret, abs=1e-6)


def test_one_change_at_a_time_leads_to_many_choices_that_are_not_the_best():
    """What makes the task hard: 35 choices cannot be bettered by one part more or less."""
    workload = compression()
    with numpy.load(TABLE) as table:
        right = table["right"][:16].astype(float).sum(axis=0)
    gone = 1 - every_choice().double().mean(dim=1).numpy()
    worth = gone * (2 - gone) * right / right[-1]
    numbers = numpy.arange(4096)
    near = worth[numbers[:, None] ^ (1 << numpy.arange(PARTS))]
    is_local = (worth[:, None] >= near).all(axis=1)
    judged = whole(workload, "validation")["targets"][0].numpy()
    assert int(is_local.sum()) == 35
    # On other images: whoever finds the best choice regrets hardly anything, one who draws blindly 0.41.
    assert 1 - judged[worth.argmax()] == pytest.approx(0.006, abs=0.001)
    assert 1 - judged.mean() == pytest.approx(0.414, abs=0.001)
    assert 1 - numpy.median(judged[is_local]) == pytest.approx(0.162, abs=0.001)


# --- what is found ---


def error_after(workload: GroupGradient, train: Any, submission: str, *, steps: int, **changes: Any) -> float:
    """Metric on the validation split after so many steps of a submission at its defaults, but for `changes`."""
    trial = trial_on(workload, batch_size_hint=32, step_hint=steps, evaluate_every_steps=steps)
    with contextlib.suppress(TrialOver):
        train(trial, Hyperparameters({**load_submission(submission).hyperparameters, **changes}))
    return validated(workload, trial.model)["exact_error"]


@pytest.mark.slow
def test_where_only_whole_answers_count_rewards_teach_nothing_until_demonstrations_have_begun():
    workload = sorting(reward="exact")
    shown, alone = (error_after(workload, train_hybrid, "hpt", steps=150, gate=gate) for gate in (0.0, -1.0))
    assert shown < 0.2  # 0.05
    assert alone > 0.99


@pytest.mark.slow
def test_right_places_are_learned_from_rewards_alone():
    model = trained(sorting(), adam(3e-3), steps=300, batch_size=32)
    assert validated(sorting(), model)["exact_error"] < 0.7

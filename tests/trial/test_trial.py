"""What a submission sees: every member of the table in DESIGN, section 4."""

from __future__ import annotations

import math
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from harness.api import Batch, ConfigError, LossKind, ParameterKind, Target, TensorExamples
from harness.trial.conversation import Conditions, Evaluation, Go, Progress, TrialOver
from harness.trial.order import Order, stream_seed
from harness.trial.parameter_kinds import kinds_of
from harness.trial.trial import Trial
from tests.blobs import Blobs


def make_trial(
    words: list[Go | None] | None = None,
    *,
    every: int | None = 1000,
    seed: int = 1,
    go: Go = Go(0.0),  # noqa: B008 - nobody changes it
    **options: Any,
) -> tuple[Trial, list[Progress]]:
    """A trial whose referee answers with `words`, one per evaluation, and what it was told each time."""
    workload = Blobs(**options)
    told: list[Progress] = []
    answers = iter(words or [])

    def hand_over(_: nn.Module, progress: Progress) -> Go | None:
        told.append(progress)
        return next(answers)

    torch.manual_seed(stream_seed(seed, "model"))
    model = workload.build_model()
    conditions = Conditions(
        seed=seed,
        device=torch.device("cpu"),
        batch_size_hint=32,
        step_hint=90,
        target=Target("error", "min", 0.02),
        budget_seconds=10.0,
        eval_period=1.0,
        evaluate_every_steps=every,
    )
    trial = Trial(workload, model, workload.load("train", Path()), conditions, hand_over)
    trial.go(go)
    return trial, told


def draw(trial: Trial, count: int, batch_size: int | None = None) -> list[Batch]:
    return [trial.next_batch(batch_size) for _ in range(count)]


def rows(batches: list[Batch]) -> torch.Tensor:
    return torch.cat([batch["inputs"] for batch in batches])


def test_one_iteration_over_batches_is_one_step_and_the_loop_ends_with_the_clock():
    trial, told = make_trial([Go(1.0), None], every=3)
    assert sum(1 for _ in trial.batches()) == 6
    assert trial.is_over
    assert [(progress.step, progress.examples) for progress in told] == [(3, 96), (6, 192)]


def test_a_loop_over_batches_that_is_begun_again_after_the_end_does_not_run():
    trial, _ = make_trial([None], every=1)
    assert sum(1 for _ in trial.batches()) == 1
    assert sum(1 for _ in trial.batches()) == 0


def test_a_hand_written_loop_ends_by_trial_over():
    trial, _ = make_trial([None], every=2)
    draw(trial, 3)
    trial.end_step()
    draw(trial, 3)
    with pytest.raises(TrialOver):
        trial.end_step()
    assert trial.step == 2


def test_every_example_comes_once_before_any_comes_again():
    trial, _ = make_trial()
    epoch = rows(draw(trial, 16))
    assert len(torch.unique(epoch, dim=0)) == len(epoch) == 512
    assert not torch.equal(epoch, rows(draw(trial, 16)))


@pytest.mark.parametrize("batch_size", [7, 100, 511, 600])
def test_batches_of_any_size_use_all_examples_equally(batch_size):
    trial, _ = make_trial()
    count = -(-512 * 3 // batch_size)
    _, counts = torch.unique(rows(draw(trial, count, batch_size)), dim=0, return_counts=True)
    assert set(counts.tolist()) <= {3, 4, 5}
    assert len(counts) == 512


@given(st.lists(st.integers(1, 70), max_size=12), st.lists(st.integers(1, 70), min_size=1, max_size=12))
def test_an_order_goes_on_from_its_state_whatever_is_drawn(before, after):
    order, again = (Order(50, 1, torch.device("cpu")) for _ in range(2))
    for count in before:
        order.draw(count)
    again.load(order.state())
    for count in after:
        assert torch.equal(order.draw(count), again.draw(count))


def test_the_batch_size_may_change_within_an_epoch():
    trial, _ = make_trial()
    epoch = rows([*draw(trial, 3, 32), *draw(trial, 4, 64), *draw(trial, 20, 8)])
    assert len(torch.unique(epoch, dim=0)) == 512


def test_the_same_seed_gives_the_same_weights_and_batches_and_another_seed_others():
    first, second, other = (make_trial(seed=seed)[0] for seed in (1, 1, 2))
    assert torch.equal(rows(draw(first, 3)), rows(draw(second, 3)))
    assert torch.equal(first.model[-1].weight, second.model[-1].weight)
    assert not torch.equal(rows(draw(first, 3)), rows(draw(other, 3)))
    assert not torch.equal(first.model[-1].weight, other.model[-1].weight)


def test_drawing_from_the_own_generator_changes_no_batch():
    first, second = make_trial()[0], make_trial()[0]
    torch.rand(100, generator=first.generator)
    torch.rand(100)
    assert torch.equal(rows(draw(first, 3)), rows(draw(second, 3)))


@pytest.mark.parametrize("size", [0, -1, 1.5, "32"])
def test_a_batch_size_that_is_no_whole_number_from_one_on_is_an_error(size):
    trial, _ = make_trial()
    with pytest.raises(ConfigError, match=f"batch size is {size}. Use a whole number"):
        trial.next_batch(size)
    with pytest.raises(ConfigError, match=f"batch size is {size}"):
        next(trial.batches(size))


def test_a_batch_size_may_be_a_number_of_numpy_and_none_means_the_hint():
    trial, _ = make_trial()
    assert len(trial.next_batch(np.int64(7))["inputs"]) == 7
    assert len(trial.next_batch(None)["inputs"]) == trial.batch_size_hint


def test_the_training_split_can_be_read_by_index():
    trial, _ = make_trial()
    assert len(trial.train_set) == 512
    assert trial.train_set[3]["inputs"].shape == (8,)
    assert torch.equal(trial.train_set.gather(torch.tensor([3, 5]))["inputs"][0], trial.train_set[3]["inputs"])
    assert sum(1 for _ in trial.train_set) == 512


def test_loss_is_mean_sum_or_one_number_per_example():
    trial, _ = make_trial()
    batch = trial.next_batch()
    each = trial.loss(batch, reduction="none").detach()
    assert each.shape == (32,)
    assert trial.loss(batch).item() == pytest.approx(each.mean().item())
    assert trial.loss(batch, reduction="sum").item() == pytest.approx(each.sum().item(), rel=1e-5)


def test_masked_examples_do_not_count():
    trial, _ = make_trial()
    batch = trial.next_batch()
    weights = torch.ones(32)
    weights[10:] = 0.0
    masked, shorter = {**batch, "weights": weights}, {name: values[:10] for name, values in batch.items()}
    assert trial.loss(masked).item() == pytest.approx(trial.loss(shorter).item())
    assert trial.loss(masked, reduction="sum").item() == pytest.approx(trial.loss(shorter, reduction="sum").item())
    assert trial.loss({**batch, "weights": torch.zeros(32)}).item() == 0.0


def test_loss_takes_outputs_that_were_made_before():
    trial, _ = make_trial()
    batch = trial.next_batch()
    outputs = trial.outputs(batch)
    assert float(trial.loss(batch, outputs=outputs)) == float(trial.loss(batch))
    assert float(trial.loss(batch, outputs=outputs * 0)) == pytest.approx(0.6931, abs=1e-4)


def test_label_smoothing_moves_the_loss_towards_the_uniform_one():
    trial, _ = make_trial()
    batch = trial.next_batch()
    sure = 100.0 * nn.functional.one_hot(batch["targets"], 2)
    assert float(trial.loss(batch, outputs=sure)) == pytest.approx(0.0, abs=1e-6)
    assert float(trial.loss(batch, outputs=sure, label_smoothing=0.1)) == pytest.approx(5.0, rel=1e-3)


@pytest.mark.parametrize(("bad", "word"), [({"reduction": "median"}, "median"), ({"label_smoothing": 1.5}, "1.5")])
def test_a_loss_of_another_kind_is_an_error(bad, word):
    trial, _ = make_trial()
    with pytest.raises(ConfigError, match=word):
        trial.loss(trial.next_batch(), **bad)


def test_hints_and_target_are_what_the_workload_says():
    trial, _ = make_trial()
    assert (trial.step_hint, trial.batch_size_hint, trial.budget_seconds) == (90, 32, 10.0)
    assert trial.loss_kind is LossKind.SOFTMAX_CROSS_ENTROPY
    assert (trial.target.metric, trial.target.validation) == ("error", 0.02)
    assert (trial.rank, trial.world_size) == (0, 1)
    assert torch.equal(trial.all_reduce_mean(torch.ones(3)), torch.ones(3))
    assert trial.seed == 1
    assert trial.device == torch.device("cpu")


def test_elapsed_seconds_go_on_from_what_was_charged():
    trial, _ = make_trial([Go(7.0), None], every=1)
    assert 0 <= trial.elapsed_seconds < 1
    trial.end_step()
    assert 7 <= trial.elapsed_seconds < 8


def test_the_validation_history_grows_with_each_evaluation():
    seen = Evaluation(1, 1.5, {"error": 0.5, "loss": 0.7})
    trial, _ = make_trial([Go(1.5, seen), None], every=1)
    trial.end_step()
    assert trial.evaluations == [seen]


def test_by_the_clock_an_evaluation_comes_at_the_first_end_of_a_step_after_it_was_due():
    go = Go(5.0, evaluation_due=5.0)
    trial, told = make_trial([go, Go(5.0, evaluation_due=7.0)], every=None, go=go)
    for _ in range(5):
        trial.end_step()
    assert [(progress.step, progress.is_last) for progress in told] == [(1, False), (2, False)]


def test_the_last_weights_are_handed_over_when_no_further_step_fits_into_the_budget():
    trial, told = make_trial([None], every=None, go=Go(9.0))
    time.sleep(0.1)  # what comes before the end of the first step comes once
    trial.end_step()
    time.sleep(0.5)
    with pytest.raises(TrialOver):
        trial.end_step()
    assert [(progress.step, progress.is_last, progress.is_finished) for progress in told] == [(2, True, False)]


def test_the_last_weights_are_handed_over_as_early_as_the_hand_over_before_took():
    trial, told = make_trial([Go(9.0), None], every=None, go=Go(5.0, evaluation_due=5.0))
    trial.end_step()  # four of the ten seconds: hooks, copying, the referee's way to its clock
    with pytest.raises(TrialOver):
        trial.end_step()
    assert [progress.is_last for progress in told] == [False, True]


def test_hooks_run_before_and_after_an_evaluation_and_not_after_the_last():
    trial, _ = make_trial([Go(1.0), None], every=1)
    calls: list[str] = []
    trial.before_evaluation(lambda: calls.append("before"))
    trial.after_evaluation(lambda: calls.append("after"))
    for _ in trial.batches():
        calls.append("step")
    assert calls == ["step", "before", "after", "step", "before"]


def test_reported_numbers_go_with_the_next_evaluation():
    trial, told = make_trial([Go(1.0), None], every=1)
    trial.log(train_loss=torch.tensor(0.25), rate=1)
    trial.end_step()
    assert told[0].reported == {"train_loss": 0.25, "rate": 1.0}


def test_what_was_reported_before_an_evaluation_is_not_reported_again_at_the_next():
    trial, told = make_trial([Go(1.0), Go(2.0), None], every=1)
    trial.after_evaluation(lambda: trial.log(evaluations=len(told)))
    trial.log(train_loss=1.0, warmed_up=True)
    trial.end_step()
    trial.log(train_loss=0.5)
    trial.end_step()
    assert [progress.reported for progress in told] == [
        {"train_loss": 1.0, "warmed_up": 1.0},
        {"train_loss": 0.5, "evaluations": 1.0},
    ]


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (np.float32(0.5), 0.5),
        (np.float16(0.5), 0.5),
        (np.int64(3), 3.0),
        (np.bool_(True), 1.0),
        (np.array(0.5), 0.5),
        (np.array([[3]], dtype=np.uint8), 3.0),
        (torch.tensor(3), 3.0),
        (torch.tensor([[0.5]], dtype=torch.bfloat16, requires_grad=True), 0.5),
        (torch.tensor(True), 1.0),
        (True, 1.0),
        (Fraction(1, 4), 0.25),
        (10**400, math.inf),
        (-(10**400), -math.inf),
        (np.float32("nan"), math.nan),
        (torch.tensor(-math.inf), -math.inf),
    ],
    ids=repr,
)
def test_any_real_number_can_be_reported_and_what_is_not_finite_is_reported_as_such(value, number):
    trial, told = make_trial([None], every=1)
    trial.log(value=value)
    with pytest.raises(TrialOver):
        trial.end_step()
    assert told[0].reported == pytest.approx({"value": number}, nan_ok=True)
    assert type(told[0].reported["value"]) is float


@pytest.mark.parametrize(
    "value",
    [
        "many",
        None,
        1j,
        [1.0],
        torch.ones(2),
        torch.ones((), dtype=torch.complex64),
        torch.ones((), device="meta"),
        np.ones(2),
        np.array("1"),
        np.array(None),
        np.datetime64("2026-01-01"),
    ],
    ids=repr,
)
def test_what_is_no_number_is_said_once_and_ends_nothing(value, capsys):
    trial, told = make_trial([Go(1.0), None], every=2)
    for _ in trial.batches():
        trial.log(loss=value, rate=0.5)
    assert [progress.reported for progress in told] == [{"rate": 0.5}] * 2
    said = capsys.readouterr().out
    assert said.count("\n") == 1
    assert said.startswith("trial.log(loss=...) got a ")


def test_a_tensor_is_reported_as_it_was_when_it_was_given():
    trial, told = make_trial([None], every=1)
    total = torch.ones(())
    trial.log(total=total)
    total.zero_()
    with pytest.raises(TrialOver):
        trial.end_step()
    assert told[0].reported == {"total": 1.0}


def test_names_without_number_or_end_end_no_trial(capsys):
    trial, told = make_trial([None], every=1)
    trial.log(**{f"loss_{number}": number for number in range(1000)}, self=1, **{"x" * 10_000: 1})
    with pytest.raises(TrialOver):
        trial.end_step()
    assert list(told[0].reported) == [f"loss_{number}" for number in range(64)]
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 2
    assert max(map(len, said)) < 400


def test_finish_hands_over_the_last_weights_and_ends_the_trial():
    trial, told = make_trial([None])
    with pytest.raises(TrialOver):
        trial.finish()
    assert trial.is_over
    assert told[0].is_finished


def test_resumable_takes_things_with_state_and_refuses_others():
    trial, _ = make_trial()
    optimizer = torch.optim.SGD(trial.model.parameters(), lr=0.1)
    trial.resumable(optimizer=optimizer)
    with pytest.raises(ConfigError, match="named twice"):
        trial.resumable(optimizer=optimizer)
    with pytest.raises(ConfigError, match="state_dict"):
        trial.resumable(count=3)


def test_dropout_can_be_set_where_the_model_has_it():
    trial, _ = make_trial(dropout=0.5)
    trial.set_dropout(0.25)
    assert trial.model[0].p == 0.25
    with pytest.raises(ConfigError, match="dropout is 1"):
        trial.set_dropout(1.0)


def test_refreshed_batch_norm_statistics_are_those_of_the_training_data():
    trial, _ = make_trial(batch_norm=True)
    norm = trial.model[1]
    norm.running_mean.fill_(100.0)
    trial.refresh_batch_norm(64)  # four epochs
    inputs = trial.train_set.tensors()["inputs"]
    assert torch.allclose(norm.running_mean, inputs.mean(dim=0), atol=0.02)
    assert torch.allclose(norm.running_var, inputs.var(dim=0), rtol=0.05)
    assert norm.momentum == 0.1
    assert trial.model.training


def test_refreshing_batch_norm_changes_no_later_batch():
    first, second = make_trial(batch_norm=True)[0], make_trial(batch_norm=True)[0]
    first.refresh_batch_norm(3)
    assert torch.equal(rows(draw(first, 3)), rows(draw(second, 3)))


def test_refreshing_batch_norm_leaves_each_module_in_its_mode():
    trial, _ = make_trial(batch_norm=True)
    trial.model[1].eval()  # frozen
    trial.refresh_batch_norm(1)
    assert [module.training for module in trial.model] == [True, False, True]
    trial.model.eval()
    trial.model[0].train()
    trial.refresh_batch_norm(1)
    assert [trial.model.training, *(module.training for module in trial.model)] == [False, True, False, False]


def test_refreshing_batch_norm_changes_no_later_dropout_mask():
    trial, _ = make_trial(batch_norm=True, dropout=0.5)
    before = torch.get_rng_state()
    trial.refresh_batch_norm(3)
    assert torch.equal(torch.get_rng_state(), before)


def test_refreshing_a_model_without_batch_norm_does_nothing():
    trial, _ = make_trial()
    trial.refresh_batch_norm(1)
    with pytest.raises(ConfigError, match="0 batches"):
        trial.refresh_batch_norm(0)


def test_kinds_come_from_the_module_tree_whatever_the_names_are():
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bias_norm_embedding = nn.Linear(4, 4)
            self.linear = nn.Embedding(3, 4)
            self.weight = nn.Conv1d(4, 4, 1)
            self.conv = nn.LayerNorm(4)
            self.bn = nn.GRU(4, 4)
            self.attn = nn.MultiheadAttention(4, 2)
            self.last = nn.Linear(4, 2)

    kinds = kinds_of(Odd())
    assert kinds["bias_norm_embedding.weight"] == ParameterKind.WEIGHT
    assert kinds["bias_norm_embedding.bias"] == ParameterKind.BIAS
    assert kinds["linear.weight"] == ParameterKind.EMBEDDING
    assert kinds["weight.weight"] == ParameterKind.CONV
    assert kinds["conv.weight"] == ParameterKind.NORM_SCALE
    assert kinds["conv.bias"] == ParameterKind.NORM_BIAS
    assert kinds["bn.weight_hh_l0"] == ParameterKind.RECURRENT
    assert kinds["attn.in_proj_weight"] == ParameterKind.ATTENTION_QKV
    assert kinds["attn.out_proj.weight"] == ParameterKind.ATTENTION_OUT
    assert kinds["attn.out_proj.bias"] == ParameterKind.ATTENTION_BIAS
    assert kinds["last.weight"] == ParameterKind.OUTPUT


def test_a_module_may_declare_kinds_and_the_output_is_then_not_guessed():
    class Declared(nn.Module):
        parameter_kinds = {"head.weight": ParameterKind.OUTPUT}  # noqa: RUF012 - read only

        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(4, 2)
            self.body = nn.Linear(4, 4)

    kinds = kinds_of(nn.Sequential(Declared()))
    assert kinds["0.head.weight"] == ParameterKind.OUTPUT
    assert kinds["0.body.weight"] == ParameterKind.WEIGHT


def test_tied_weights_appear_once_with_the_role_of_their_first_use():
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(5, 4)
            self.head = nn.Linear(4, 5, bias=False)
            self.head.weight = self.embedding.weight

    assert kinds_of(Tied()) == {"embedding.weight": ParameterKind.EMBEDDING}


def test_a_split_of_tensors_of_different_lengths_is_an_error():
    with pytest.raises(Exception, match="one length"):
        TensorExamples({"inputs": torch.zeros(3), "targets": torch.zeros(4)})


def test_the_digest_of_a_split_changes_with_its_content():
    same = TensorExamples({"inputs": torch.zeros(3)}).digest()
    assert same == TensorExamples({"inputs": torch.zeros(3)}).digest()
    assert same != TensorExamples({"inputs": torch.ones(3)}).digest()
    assert same != TensorExamples({"inputs": torch.zeros(3, dtype=torch.float64)}).digest()

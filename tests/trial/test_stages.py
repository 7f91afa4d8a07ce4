"""A trial on a stream of tasks: one stage after the other, and nothing of the others while it lasts."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from harness.api import ConfigError, DataError, Target, TensorExamples
from harness.trial.conversation import Conditions, Evaluation, Go, Progress
from harness.trial.stages import CurrentStage
from harness.trial.trial import Trial
from tests.blobs import Blobs
from tests.streams import SIZES, STAGES, BlobStream

LENGTH = 30  # of a stage, in steps


def make_trial(*, steps: int = 100, every: int = 1000, **options: bool) -> tuple[Trial, list[Progress]]:
    """A trial whose stages are of thirty steps, and what its referee was told; it ends after `steps`."""
    told: list[Progress] = []

    def hand_over(_: nn.Module, progress: Progress) -> Go | None:
        told.append(progress)
        over = progress.step >= steps
        return None if over else Go(0.0, Evaluation(progress.step, 0.0, {"error": 0.5, "loss": 1.0}))

    workload = BlobStream(**options)
    torch.manual_seed(0)
    conditions = Conditions(
        seed=1,
        device=torch.device("cpu"),
        batch_size_hint=16,
        step_hint=STAGES * LENGTH,
        target=Target("error", "min", 0.02),
        budget_seconds=10.0,
        eval_period=1.0,
        evaluate_every_steps=every,
    )
    trial = Trial(workload, workload.build_model(), workload.load("train", Path()), conditions, hand_over)
    trial.go(Go(0.0))
    return trial, told


def stages_of(batch: dict[str, Tensor]) -> set[int]:
    return set(batch["stages"].tolist())


def test_stages_come_in_their_order_each_for_an_even_share_of_the_step_hint_and_the_last_lasts_to_the_end():
    trial, _ = make_trial(every=110, steps=110)
    seen = [(trial.step, trial.stage, stages_of(batch)) for batch in trial.batches()]
    assert [stage for _, stage, _ in seen] == [0] * LENGTH + [1] * LENGTH + [2] * 50
    assert all(there == {stage} for _, stage, there in seen)


def test_a_stage_uses_each_of_its_examples_once_before_any_comes_again():
    trial, _ = make_trial()
    for size in SIZES[:2]:
        epoch = trial.next_batch(size)["inputs"]
        assert len(torch.unique(epoch, dim=0)) == size
        trial.next_stage()
        trial.end_step()


def test_where_a_stage_ends_its_functions_are_called_then_the_weights_are_judged_then_the_next_begins():
    trial, told = make_trial(steps=200)
    events: list[tuple[object, ...]] = []

    def note(name: str) -> None:
        events.append((name, trial.step, trial.stage, len(trial.train_set), len(told)))

    trial.on_stage_end(lambda: note("end"))
    trial.before_evaluation(lambda: note("before"))
    trial.after_evaluation(lambda: note("after"))
    for _ in range(2 * LENGTH):
        trial.next_batch()
        trial.end_step()
    assert events == [
        ("end", 30, 0, SIZES[0], 0), ("before", 30, 0, SIZES[0], 0), ("after", 30, 0, SIZES[0], 1),
        ("end", 60, 1, SIZES[1], 1), ("before", 60, 1, SIZES[1], 1), ("after", 60, 1, SIZES[1], 2),
    ]  # fmt: skip
    assert [(progress.step, progress.ends_stage, progress.stages_left) for progress in told] == [
        (30, True, 2),
        (60, True, 1),
    ]
    assert (trial.stage, len(trial.train_set)) == (2, SIZES[2])


def test_an_evaluation_that_is_due_where_a_stage_ends_is_made_once():
    trial, told = make_trial(every=20)
    assert sum(1 for _ in trial.batches()) == 100
    assert [(progress.step, progress.stages_left) for progress in told] == [
        (20, 2), (30, 2), (40, 1), (60, 1), (80, 0), (100, 0),
    ]  # fmt: skip


def test_a_submission_may_end_a_stage_early_but_not_the_last():
    trial, told = make_trial()
    for number, _ in enumerate(trial.batches()):
        if trial.stage + 1 == trial.stages:
            break
        if number in (4, 9):
            trial.next_stage()
            assert trial.stage == (number > 4)  # the step is still of this one
    assert [progress.step for progress in told] == [5, 10]
    with pytest.raises(ConfigError, match="in stage 2, the last of 3"):
        trial.next_stage()


def test_a_workload_that_is_no_stream_has_one_stage_which_no_submission_can_end():
    workload = Blobs()
    examples = workload.load("train", Path())
    conditions = Conditions(1, torch.device("cpu"), 32, 90, Target("error", "min", 0.0), 10.0, 1.0)
    trial = Trial(workload, workload.build_model(), examples, conditions, lambda *_: None)
    assert (trial.stage, trial.stages) == (0, 1)
    assert trial.train_set is examples
    with pytest.raises(ConfigError, match="the last of 1"):
        trial.next_stage()


def numbers(value: object) -> set[int]:
    """The stages of examples that can be had from a public member of a trial."""
    if isinstance(value, CurrentStage):
        everything = [value.gather(torch.arange(-len(value), len(value))), value.tensors(), *value]
        everything.append(value.to(torch.device("cpu")).tensors())
        return {int(number) for each in everything for number in each["stages"].flatten()}
    return set()


def test_nothing_of_another_stage_can_be_had_from_what_a_trial_shows():
    trial, _ = make_trial(batch_norm=True)
    seen: list[Tensor] = []
    for stage in range(STAGES):
        members = {name: getattr(trial, name) for name in dir(trial) if not name.startswith("_")}
        assert set().union(*(numbers(value) for value in members.values())) == {stage}
        assert stages_of(trial.take(torch.arange(len(trial.train_set)))) == {stage}
        hook = trial.model.register_forward_pre_hook(lambda _, given: seen.append(given[0][:, 7]))
        trial.refresh_batch_norm(20)
        hook.remove()
        assert set(torch.cat(seen).tolist()) == {stage}
        seen.clear()
        with pytest.raises(IndexError):
            trial.train_set.gather(torch.tensor([len(trial.train_set)]))
        with pytest.raises(IndexError):
            trial.train_set[len(trial.train_set)]
        if stage + 1 < STAGES:
            trial.next_stage()
            trial.end_step()


def test_what_a_submission_has_copied_it_may_use_again():
    trial, _ = make_trial()
    kept = trial.train_set.gather(torch.arange(10))
    trial.next_stage()
    trial.end_step()
    assert stages_of(kept) == {0}
    assert torch.isfinite(trial.loss(kept))


@pytest.mark.parametrize(
    ("tensors", "complaint"),
    [
        ({"inputs": torch.zeros(4, 8)}, "a tensor 'stages' in its split, found inputs"),
        ({"stages": torch.tensor([0, 0, 2, 2])}, r"have \[2, 0, 2\]"),
        ({"stages": torch.tensor([0, 1, 2, 3])}, r"have \[1, 1, 1\]"),
    ],
)
def test_a_split_that_is_no_stream_of_so_many_stages_is_answered(tensors: dict[str, Tensor], complaint: str):
    with pytest.raises(DataError, match=complaint):
        CurrentStage(TensorExamples(tensors), 3)


def test_a_split_that_draws_something_for_an_example_is_no_stream():
    class Drawn(TensorExamples):
        def gather_augmented(self, index: Tensor, seeds: Tensor) -> dict[str, Tensor]:
            return {"stages": index + seeds}

    with pytest.raises(DataError, match="draws nothing for an example"):
        CurrentStage(Drawn({"stages": torch.arange(3)}), 3)

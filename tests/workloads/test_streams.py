"""Streams of tasks on pictures of clothes: what is in which stage, what counts, and what plain loops forget."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import cache

import pytest
import torch
from torch import Tensor, nn

from harness.api import SPLITS, Batch, Examples, SplitName, Target
from harness.plugins.data import data_folder, is_present
from harness.race.evaluation import evaluate
from harness.race.outcome import Observation
from harness.race.stages.stream import Stream
from harness.trial.conversation import Conditions, Evaluation, Go, Progress, TrialOver
from harness.trial.trial import Trial
from workloads.data.fashion_mnist import read_idx
from workloads.frontier.streams.fashion_stream import FashionStream

OWN, SHARED = (FashionStream(hidden=[128, 128], shared_head=shared) for shared in (False, True))
LENGTH, BATCH = 150, 64  # of a stage, in steps


@cache
def split_of(split: SplitName) -> Examples:
    if not is_present(OWN, data_folder()):
        pytest.skip("the data of fashion_stream are not here: make data WORKLOAD=fashion_stream")
    return OWN.load(split, data_folder())


def test_each_stage_has_two_kinds_of_clothes_and_about_a_fifth_of_all_images():
    found = split_of("train").tensors()
    kinds = read_idx(data_folder() / "FashionMNIST" / "raw" / "train-labels-idx1-ubyte")[:20_000]
    assert (2 * found["stages"] + found["targets"]).tolist() == kinds.tolist()
    for split in SPLITS:
        stages = split_of(split).tensors()["stages"]
        assert ((stages.bincount() / len(stages) - 0.2).abs() < 0.02).all()


def test_an_input_is_the_mean_of_two_by_two_pixels():
    inputs = split_of("train")[7]["inputs"].view(14, 14)
    pixels = read_idx(data_folder() / "FashionMNIST" / "raw" / "train-images-idx3-ubyte")[7].astype(float)
    assert inputs[5, 6].item() == pytest.approx((pixels[10:12, 12:14].mean() / 255 - 0.286) / 0.353, rel=1e-6)


def test_the_outputs_of_other_stages_say_nothing_of_an_example():
    torch.manual_seed(0)
    model = OWN.build_model()
    batch = split_of("train").gather(torch.arange(100))
    before = OWN.outputs(model, batch)
    with torch.no_grad():
        model[-1].weight[2:4] += 1.0
    after = OWN.outputs(model, batch)
    is_of_it = batch["stages"] == 1
    assert torch.equal(before[~is_of_it], after[~is_of_it])
    assert not torch.isclose(before[is_of_it], after[is_of_it]).any()


def test_the_mean_error_is_that_over_the_stages_however_many_examples_each_has():
    statistics = {
        "wrong": torch.tensor([True, False, False, False, True, False, False, True]),
        "stage": torch.tensor([0, 0, 0, 0, 1, 2, 3, 4]),
    }
    assert OWN.metrics(statistics) == {
        "mean_error": pytest.approx((0.25 + 1 + 0 + 0 + 1) / 5),
        "error_stage_0": 0.25,
        "error_stage_1": 1.0,
        "error_stage_2": 0.0,
        "error_stage_3": 0.0,
        "error_stage_4": 1.0,
    }


# --- what plain loops come to ---

Method = Callable[[Trial], Iterator[tuple[Batch, torch.optim.Optimizer]]]


def adam(trial: Trial) -> Iterator[tuple[Batch, torch.optim.Optimizer]]:
    optimizer = torch.optim.Adam(trial.model.parameters(), lr=1e-3)
    return ((batch, optimizer) for batch in trial.batches())


def gradient_descent(trial: Trial) -> Iterator[tuple[Batch, torch.optim.Optimizer]]:
    optimizer = torch.optim.SGD(trial.model.parameters(), lr=0.05)
    return ((batch, optimizer) for batch in trial.batches())


def replay(trial: Trial) -> Iterator[tuple[Batch, torch.optim.Optimizer]]:
    """Adam with a batch more in each step, from forty images of each stage before."""
    kept: list[Batch] = []
    trial.on_stage_end(lambda: kept.append(trial.train_set.gather(torch.arange(40))))
    for batch, optimizer in adam(trial):
        if kept:
            old = {name: torch.cat([each[name] for each in kept]) for name in batch}
            index = torch.randint(len(old["targets"]), (BATCH,), generator=trial.generator)
            batch = {name: torch.cat([batch[name], old[name][index]]) for name in batch}
        yield batch, optimizer


def all_at_once(trial: Trial) -> Iterator[tuple[Batch, torch.optim.Optimizer]]:
    """What nobody can have who is held to the stages."""
    for _, optimizer in adam(trial):
        index = torch.randint(len(split_of("train")), (BATCH,), generator=trial.generator)
        yield split_of("train").gather(index), optimizer


def trained(workload: FashionStream, method: Method) -> dict[str, float]:
    """Metrics on the validation split at the end, with those that the referee adds."""
    seen: list[Observation] = []
    stream = Stream(workload)
    torch.manual_seed(0)
    model = workload.build_model()

    def hand_over(_: nn.Module, progress: Progress) -> Go | None:
        found = evaluate(workload, model, split_of("validation"), 1000)
        found |= stream.transfer(seen, found)
        seen.append(Observation(progress.step, 0, 0.0, found, None, {}, stages_left=progress.stages_left))
        if progress.ends_stage:
            stream.end()
        model.train()
        return None if progress.step >= 5 * LENGTH else Go(0.0, Evaluation(progress.step, 0.0, found))

    conditions = Conditions(
        seed=0,
        device=torch.device("cpu"),
        batch_size_hint=BATCH,
        step_hint=5 * LENGTH,
        target=Target("mean_error", "min", 0.0),
        budget_seconds=600.0,
        eval_period=600.0,
        evaluate_every_steps=5 * LENGTH,
    )
    trial = Trial(workload, model, split_of("train"), conditions, hand_over)
    trial.go(Go(0.0))
    with contextlib.suppress(TrialOver):
        for batch, optimizer in method(trial):
            optimizer.zero_grad()
            loss: Tensor = trial.loss(batch)
            loss.backward()
            optimizer.step()
    return seen[-1].validation


def test_plain_descent_forgets_less_than_adam():
    adams, plain = trained(OWN, adam), trained(OWN, gradient_descent)
    assert adams["mean_error"] > 2 * plain["mean_error"]
    assert adams["backward_transfer"] < 2 * plain["backward_transfer"] < 0
    assert adams["forgetting"] == pytest.approx(-adams["backward_transfer"], abs=0.02)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("workload", "errors", "transfers"),
    [
        (OWN, [0.118, 0.043, 0.012, 0.011], [-0.135, -0.041, -0.002, 0.001]),
        (SHARED, [0.294, 0.246, 0.041, 0.030], [-0.355, -0.294, -0.035, 0.000]),
    ],
    ids=["own outputs", "shared outputs"],
)
def test_a_few_images_of_each_stage_are_nearly_as_good_as_all_at_once(
    workload: FashionStream, errors: list[float], transfers: list[float]
):
    found = [trained(workload, method) for method in (adam, gradient_descent, replay, all_at_once)]
    # Of one seed: the next has a few hundredths more or less where much is forgotten.
    assert [each["mean_error"] for each in found] == pytest.approx(errors, abs=0.004, rel=0.3)
    assert [each["backward_transfer"] for each in found] == pytest.approx(transfers, abs=0.01, rel=0.3)

"""A trial on a stream of tasks in two processes: what is judged when, what counts, and going on in mid-stage."""

from __future__ import annotations

import math
import shutil

import pytest
import torch

from harness.api import Target, TrialStatus
from harness.plugins.audit.twins import twin_of
from harness.race.outcome import Continuation, Observation
from harness.race.protocol import TrialEnded
from harness.race.stages.stream import Stream
from harness.study.audit.twin_trials import steps_at
from harness.study.rows import summary
from tests.conftest import SGD
from tests.streams import BlobStream

STREAM = {"entry": "tests.streams.BlobStream", "step_hint": 90, "max_runtime": 60.0, "eval_period": 60.0}
BY_STEPS = {**STREAM, "evaluate_every_steps": 20, "budget_steps": 100}
STATEFUL = """
    import torch

    class Kept:
        # What each stage leaves behind, and the stage that it is of.
        def __init__(self):
            self.sums = []

        def state_dict(self):
            return {"sums": list(self.sums)}

        def load_state_dict(self, state):
            self.sums = list(state["sums"])

    def train(trial, hp):
        optimizer = torch.optim.SGD(trial.model.parameters(), lr=0.05, momentum=0.9)
        kept = Kept()
        trial.resumable(optimizer=optimizer, kept=kept)
        trial.on_stage_end(lambda: kept.sums.append(float(trial.train_set.tensors()["inputs"].sum())))
        for batch in trial.batches():
            optimizer.zero_grad()
            (trial.loss(batch) * (1.0 + 1e-3 * sum(kept.sums))).backward()
            optimizer.step()
            trial.log(stage=trial.stage, kept=len(kept.sums))
"""


def test_the_weights_at_the_end_of_each_stage_are_judged_whatever_the_clock_says(race):
    outcome = race(SGD + "            if trial.step == 120: trial.finish()\n", **STREAM)
    assert outcome.status == "finished", outcome.reason
    assert [(seen.step, seen.stages_left) for seen in outcome.observations] == [(30, 2), (60, 1), (120, 0)]


def test_who_replays_has_the_weights_of_the_workloads_network_judged(race, tmp_path):
    submission = {"folder": str(tmp_path / "submission"), "entry": None, "division": "replay"}
    outcome = race(SGD, **BY_STEPS, target=Target("error", "min", 1.0), submission=submission)
    assert outcome.status == "reached", outcome.reason


def test_the_target_counts_from_the_last_stage_on(race):
    outcome = race(SGD, **BY_STEPS, target=Target("error", "min", 1.0))
    assert outcome.status == "reached"
    assert [(seen.step, seen.stages_left) for seen in outcome.observations] == [
        (20, 2), (30, 2), (40, 1), (60, 1), (80, 0),
    ]  # fmt: skip
    assert [seen.test is not None for seen in outcome.observations] == [False] * 4 + [True]
    columns = summary(outcome.observations, Target("error", "min", 1.0))
    assert columns["steps_to_target"] == 80
    assert steps_at(outcome.observations, Target("error", "min", 1.0)) == 80
    early = summary(outcome.observations[:4], Target("error", "min", 1.0))
    assert (early["time_to_target"], early["best_validation"]) == (math.inf, None)


def test_what_later_stages_did_to_earlier_ones_is_a_metric_of_each_evaluation(race):
    outcome = race(SGD, **BY_STEPS)
    at = {seen.step: seen.validation for seen in outcome.observations}
    assert all("forgetting" not in at[step] for step in (20, 30))
    last, first_end, second_end = at[100], at[30], at[60]
    changes = [
        first_end["error_stage_0"] - last["error_stage_0"],
        second_end["error_stage_1"] - last["error_stage_1"],
    ]
    assert last["backward_transfer"] == pytest.approx(sum(changes) / 2)
    assert at[60]["backward_transfer"] == pytest.approx(first_end["error_stage_0"] - at[60]["error_stage_0"])
    # Each stage turns round what the one before it has taught of an input.
    assert at[60]["error_stage_0"] > first_end["error_stage_0"]
    assert last["forgetting"] >= -last["backward_transfer"]


def stream(*errors: tuple[int, float, float]) -> list[Observation]:
    return [
        Observation(
            1, 1, 1.0, {"error_stage_0": a, "error_stage_1": b, "error_stage_2": 0.5}, None, {}, stages_left=left
        )
        for left, a, b in errors
    ]


def test_transfer_and_forgetting_are_those_of_the_papers():
    # Ends of stages: the last evaluations with so many left. The first in each stage counts for nothing.
    seen = stream((2, 0.9, 0.5), (2, 0.2, 0.5), (1, 0.9, 0.5), (1, 0.1, 0.3), (0, 0.9, 0.9))
    found = Stream(BlobStream(), ended=2).transfer(seen, {"error_stage_0": 0.4, "error_stage_1": 0.2})
    assert found["backward_transfer"] == pytest.approx(((0.2 - 0.4) + (0.3 - 0.2)) / 2)
    # Stage 0 was at its best at the end of stage 1.
    assert found["forgetting"] == pytest.approx(((0.4 - 0.1) + (0.2 - 0.3)) / 2)
    assert Stream(BlobStream()).transfer(seen, {}) == {}


def test_the_last_stage_has_no_end():
    one = Stream(BlobStream(), ended=1)
    one.check_end()
    one.end()
    with pytest.raises(TrialEnded, match="ended stage 2, the last of 3") as found:
        one.check_end()
    assert found.value.status is TrialStatus.REFUSED


def test_a_trainer_cannot_have_itself_judged_by_ending_stages_that_there_are_not(race):
    source = """
        def train(trial, hp):
            trial._pace._stages = 1000
            for batch in trial.batches():
                trial.next_stage()
    """
    outcome = race(source, **STREAM)
    assert (outcome.status, len(outcome.observations)) == ("refused", 2)
    assert outcome.reason == "the trainer ended stage 2, the last of 3, before the trial"


@pytest.mark.parametrize("evaluations", [1, 2, 3])
def test_a_trial_goes_on_in_mid_stage_and_where_one_ends_as_if_it_had_not_been_killed(race, tmp_path, evaluations):
    kept = []

    def take_over(checkpoint, folder):
        if checkpoint.evaluations == evaluations:
            shutil.copytree(folder, tmp_path / "kept", symlinks=True)
            kept.append(checkpoint)

    whole = race(STATEFUL, **BY_STEPS, checkpoint_evaluations=1, on_checkpoint=take_over)
    assert (kept[0].step, kept[0].stages_ended) == {1: (20, 0), 2: (30, 1), 3: (40, 1)}[evaluations]
    past = Continuation(kept[0], tmp_path / "kept", whole.observations[:evaluations], resumes=1)
    rest = race(STATEFUL, **BY_STEPS, continuation=past)
    assert [seen.reported["stage"] for seen in rest.observations] == [0, 0, 1, 1, 2, 2]
    for part, all_at_once in zip(rest.observations, whole.observations, strict=True):
        assert (part.step, part.stages_left) == (all_at_once.step, all_at_once.stages_left)
        assert (part.validation, part.reported) == (all_at_once.validation, all_at_once.reported)


def test_the_twin_of_a_stream_is_one():
    twin = twin_of(BlobStream(), lambda options: BlobStream(**options), 1)
    assert twin.stages == 3
    examples = twin.load("validation", None)
    batch = examples.gather(torch.arange(len(examples)))
    found = twin.metrics(twin.statistics(twin.outputs(twin.build_model(), batch), batch))
    assert set(twin.stage_metrics()) < set(found)
    assert "error_stage_0" not in found

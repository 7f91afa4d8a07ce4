"""Several devices for one trial: two CPU processes under torch's elastic agent, which talk by gloo."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.api import ConfigError, Target
from harness.plugins.submission import SUBMISSIONS, copy_of, files_of, load_submission
from harness.race import device as devices
from harness.race.outcome import Outcome
from harness.race.sandbox import Sandbox
from harness.study.machine.hardware import departures, this_machine
from tests.conftest import SGD, race_on
from tests.race.test_trial_process import children_of

BY_STEPS = {"evaluate_every_steps": 10, "budget_steps": 40, "max_runtime": 20.0}


@pytest.fixture
def sandbox_of_two(sandbox: Sandbox) -> Iterator[Sandbox]:
    sandbox.devices = 2
    yield sandbox
    sandbox.devices = 1


@pytest.fixture
def race_of_two(sandbox_of_two: Sandbox, tmp_path: Path) -> Callable[..., Outcome]:
    return lambda source, **changes: race_on(sandbox_of_two, tmp_path, source, **changes)


def curves_on_one_and_two(sandbox: Sandbox, folder: Path, source: str, **changes: Any) -> list[list[float]]:
    curves, examples = [], []
    for count in (1, 2):
        sandbox.devices = count
        outcome = race_on(sandbox, folder, source, **BY_STEPS, **changes)
        assert [seen.step for seen in outcome.observations] == [10, 20, 30, 40], outcome.reason
        examples.append([seen.examples for seen in outcome.observations])
        curves.append([seen.validation["loss"] for seen in outcome.observations])
    assert examples[0] == examples[1]
    if "submission" not in changes:  # some decide themselves how large a batch is
        assert examples[0] == [320, 640, 960, 1280]
    return curves


def test_two_devices_go_through_the_stages_of_a_stream_as_one_does(sandbox_of_two, tmp_path):
    source = f"{SGD}            if trial.step == 16: trial.next_stage()\n"
    found = []
    for count in (1, 2):
        sandbox_of_two.devices = count
        outcome = race_on(sandbox_of_two, tmp_path, source, entry="tests.streams.BlobStream", step_hint=36, **BY_STEPS)
        assert [(seen.step, seen.stages_left) for seen in outcome.observations] == [
            (10, 2), (12, 2), (17, 1), (20, 0), (30, 0), (40, 0),
        ], outcome.log  # fmt: skip
        found.append([seen.validation["loss"] for seen in outcome.observations])
    assert found[0] == pytest.approx(found[1], rel=1e-5)


def test_a_stage_that_one_rank_alone_ends_is_one_line_that_says_so(race_of_two):
    source = f"{SGD}            if trial.step == 5 and trial.rank: trial.next_stage()\n"
    outcome = race_of_two(source, entry="tests.streams.BlobStream", step_hint=36, **BY_STEPS)
    assert outcome.status == "crashed"
    assert outcome.reason.startswith("rank 1: it ends a stage at step 6 where rank 0 ends step 6.")


@pytest.mark.parametrize("masked", [False, True], ids=["all examples count", "masked examples"])
def test_two_devices_give_the_loss_curve_of_one_with_the_same_global_batch(sandbox_of_two, tmp_path, masked):
    options = {"hidden": 16, "masked": masked}
    source = SGD.replace("lr=0.05", "lr=0.05, momentum=0.9")
    one, two = curves_on_one_and_two(sandbox_of_two, tmp_path, source, options=options)
    assert one == pytest.approx(two, rel=1e-5)


def test_two_devices_give_the_loss_curve_of_one_where_the_loss_has_several_terms(sandbox_of_two, tmp_path):
    # What each term counts falls unevenly on the ranks.
    source = """
        import torch

        def train(trial, hp):
            optimizer = torch.optim.SGD(trial.model.parameters(), lr=0.05, momentum=0.9)
            for batch in trial.batches():
                outputs = trial.outputs(batch)
                terms = trial.loss_terms(batch, outputs=outputs)
                for term in terms.values():
                    assert torch.equal(trial.all_reduce_mean(term), term)
                total = trial.loss(batch, outputs=outputs, reduction="sum") / 32
                torch.testing.assert_close(total, sum(terms.values()))
                optimizer.zero_grad()
                (sum(terms.values()) if trial.step % 2 else total).backward()
                optimizer.step()
    """
    options = {"hidden": 16, "masked": True}
    one, two = curves_on_one_and_two(
        sandbox_of_two, tmp_path, source, options=options, entry="tests.made_losses.TwoTerms"
    )
    assert one == pytest.approx(two, rel=1e-5)


# Rounding differs with the number of devices, and these make it larger: bases and roots of matrices of low rank turn
# freely in the directions that no gradient has; and dropout draws other masks on each rank.
LARGER_ROUNDING = {
    *("caspr", "dct_adamw", "distributed_shampoo", "gn_smoothness", "lanton", "psgd_kron", "soap", "soap_muon"),
    *("schedule_free_adamw_v2", "sophia", "trion"),
}
NAMES = sorted(path.parent.name for path in SUBMISSIONS.glob("*/submission.yaml"))
BY_DEFAULT = {"adamw", "muon", "nadamw", "nesterov", "sam"}


@pytest.mark.parametrize(
    "name", [name if name in BY_DEFAULT else pytest.param(name, marks=pytest.mark.slow) for name in NAMES]
)
def test_a_submission_gives_the_same_loss_curve_on_two_devices_as_on_one(sandbox_of_two, tmp_path, name):
    chosen = load_submission(name)
    if chosen.division == "open":
        pytest.skip("the open division trains on one device")
    with copy_of(chosen, files_of(chosen), tmp_path / "copy") as copied:
        one, two = curves_on_one_and_two(
            sandbox_of_two,
            tmp_path,
            "",
            submission={"folder": str(copied.folder), "entry": chosen.entry.message() if chosen.entry else None},
            hyperparameters=dict(chosen.hyperparameters),
            options={"hidden": 16},
        )
    # They start at about 0.7.
    assert one == pytest.approx(two, rel=0.2 if name in LARGER_ROUNDING else 1e-5, abs=1e-5)
    assert two[-1] < two[0]


BACKWARD = """
    import torch

    def train(trial, hp):
        optimizer = torch.optim.AdamW(trial.model.parameters(), lr=0.01, weight_decay=0.1)
        for batch in trial.batches():
            optimizer.zero_grad()
            outputs = trial.outputs(batch)
            loss = trial.loss(batch, outputs=outputs)
            BACKWARD
            optimizer.step()
"""


@pytest.mark.parametrize(
    "backward",
    [
        "(loss if trial.step % 2 else trial.model[1].weight.square().mean()).backward()",
        "(loss if trial.step > 5 else trial.model[-1].bias.square().sum() + trial.model[-1].bias.sum()).backward()",
        "loss.backward(retain_graph=True); trial.loss(batch, outputs=outputs).square().backward()",
        "loss.backward(); trial.model[-1].weight.square().sum().backward()",
    ],
    ids=["part of the parameters", "first part of them", "twice through one forward pass", "a pass without a forward"],
)
def test_two_devices_average_whatever_a_backward_pass_reaches(sandbox_of_two, tmp_path, backward):
    source = BACKWARD.replace("BACKWARD", backward)
    one, two = curves_on_one_and_two(sandbox_of_two, tmp_path, source, options={"hidden": 16})
    assert one == pytest.approx(two, rel=1e-5)


def test_a_parameter_that_only_one_rank_has_reached_has_the_same_mean_on_all(race_of_two):
    source = """
        import torch

        def train(trial, hp):
            for batch in trial.batches():
                trial.model.zero_grad()
                loss = trial.loss(batch)
                first, second = trial.model[1].weight, trial.model[3].weight
                (loss if trial.rank == 0 else second.sum() + 0.0 * loss.detach()).backward()
                assert torch.equal(trial.all_reduce_mean(first.grad), first.grad)
                assert torch.equal(trial.all_reduce_mean(second.grad), second.grad)
                assert first.grad.any()
    """
    outcome = race_of_two(source, **BY_STEPS, options={"hidden": 16})
    assert outcome.status == "out_of_budget", outcome.log


def test_what_the_ranks_share_and_what_differs_between_them(race_of_two):
    source = """
        import torch
        from harness import ConfigError

        def is_equal(trial, tensor):
            return torch.equal(trial.all_reduce_mean(tensor), tensor)

        def train(trial, hp):
            assert trial.world_size == 2
            assert float(trial.all_reduce_mean(torch.tensor(float(trial.rank)))) == 0.5
            assert is_equal(trial, torch.rand(4, generator=trial.generator))
            assert not is_equal(trial, torch.rand(4))
            try:
                trial.next_batch(33)
                raise AssertionError
            except ConfigError as error:
                assert "batch size 33 does not divide by hardware.devices=2" in str(error)
            optimizer = torch.optim.AdamW(trial.model.parameters())
            for batch in trial.batches():
                assert len(batch["inputs"]) == 16
                assert not is_equal(trial, batch["inputs"])
                loss = trial.loss(batch)
                assert is_equal(trial, loss)
                assert is_equal(trial, trial.loss(batch, reduction="sum"))
                optimizer.zero_grad()
                if trial.step % 2:
                    loss.backward()
                else:  # a forward pass of the submission's own
                    torch.nn.functional.cross_entropy(trial.model(batch["inputs"]), batch["targets"]).backward()
                optimizer.step()
                assert all(is_equal(trial, parameter) for parameter in trial.model.parameters())
                assert is_equal(trial, torch.tensor(trial.elapsed_seconds, dtype=torch.float64))
                trial.model[-1].bias.requires_grad_(trial.step < 10)
            assert len(trial.evaluations) == 3
    """
    outcome = race_of_two(source, **BY_STEPS, options={"dropout": 0.3, "hidden": 16})
    assert outcome.status == "out_of_budget", outcome.log
    assert outcome.reason == "the budget of 40 steps was used up"
    assert "Error" not in outcome.log


def test_local_gradients_are_averaged_by_nobody_and_rank_0_is_judged(race_of_two):
    source = """
        import torch

        def train(trial, hp):
            with trial.local_gradients():
                for batch in trial.batches():
                    trial.loss(batch).backward()
                    gradient = trial.model[-1].bias.grad
                    assert not torch.equal(trial.all_reduce_mean(gradient), gradient)
                    with torch.no_grad():
                        trial.model[-1].bias.fill_(trial.rank)
                        trial.model[-1].weight.zero_()
    """
    outcome = race_of_two(source, **BY_STEPS)
    assert [seen.step for seen in outcome.observations] == [10, 20, 30, 40], outcome.log
    # Rank 0's weights say that both classes are as likely.
    assert outcome.observations[-1].validation["loss"] == pytest.approx(0.693147, abs=1e-5)


def test_statistics_of_batch_norm_are_averaged_before_they_are_judged(race_of_two):
    source = """
        import torch

        def train(trial, hp):
            norm = trial.model[1]
            for batch in trial.batches():
                trial.loss(batch).backward()
                if trial.step == 9:
                    norm.running_mean.fill_(trial.rank)

            assert torch.equal(norm.running_mean, torch.full((8,), 0.5))
    """
    outcome = race_of_two(source, **{**BY_STEPS, "budget_steps": 10}, options={"batch_norm": True})
    assert outcome.status == "out_of_budget"
    assert "Error" not in outcome.log


def test_ranks_whose_weights_have_come_apart_are_a_crash(race_of_two):
    source = """
        import torch

        def train(trial, hp):
            for batch in trial.batches():
                gradients = torch.autograd.grad(trial.loss(batch), list(trial.model.parameters()))
                with torch.no_grad():
                    for parameter, gradient in zip(trial.model.parameters(), gradients):
                        parameter -= 0.1 * gradient
    """
    outcome = race_of_two(source, **BY_STEPS, target=Target("error", "min", 1.0))  # which any weights reach
    assert outcome.status == "crashed"
    assert "the weights of rank 1 differ from those of rank 0 at step 10." in outcome.reason
    assert outcome.observations == []


@pytest.mark.parametrize(
    "change", ["parameter.flatten()[0] += 1.0", "parameter.fill_(float('nan'))"], ids=["first element", "no number"]
)
def test_a_rank_whose_weights_differ_in_one_element_or_are_no_numbers_is_a_crash(race_of_two, change):
    source = f"""
        import torch

        def train(trial, hp):
            optimizer = torch.optim.SGD(trial.model.parameters(), lr=0.1)
            for batch in trial.batches():
                optimizer.zero_grad()
                trial.loss(batch).backward()
                optimizer.step()
                if trial.rank == 1 and trial.step == 9:
                    with torch.no_grad():
                        for parameter in trial.model.parameters():
                            {change}
    """
    outcome = race_of_two(source, **BY_STEPS, target=Target("error", "min", 1.0))
    assert outcome.status == "crashed"
    assert "the weights of rank 1 differ from those of rank 0 at step 10." in outcome.reason


def test_ranks_that_take_different_steps_are_a_crash(race_of_two):
    source = """
        def train(trial, hp):
            for batch in trial.batches():
                if trial.step == 5 + trial.rank:
                    return
    """
    outcome = race_of_two(source)
    assert outcome.status == "crashed"
    assert outcome.reason.startswith("rank 1: it ends step 6 where rank 0 finishes at step 5.")


@pytest.mark.parametrize(
    ("way", "reason"),
    [
        ("raise ValueError('no such luck')", "rank 1: ValueError: no such luck (submission.py:6)"),
        ("os.kill(os.getpid(), 9)", "rank 1 was killed by SIGKILL (the system may have been out of memory)"),
    ],
)
def test_a_crash_on_one_rank_ends_the_trial_with_the_reason_of_that_rank(race_of_two, sandbox_of_two, way, reason):
    source = f"""
        import os

        def train(trial, hp):
            for batch in trial.batches():
                if trial.rank == 1 and trial.step == 3: {way}
                trial.loss(batch).backward()
    """
    outcome = race_of_two(source, max_runtime=20.0)
    assert outcome.status == "crashed"
    assert outcome.reason == reason
    assert children_of(sandbox_of_two) == []


def test_no_rank_runs_while_the_referee_evaluates_and_all_are_killed_at_the_budget(
    race_of_two, sandbox_of_two, tmp_path
):
    source = """
        import threading, time

        def train(trial, hp):
            beats = open(f"beats{trial.rank}", "a", buffering=1)

            def count():
                while True:
                    beats.write(f"{time.monotonic()}\\n")
                    time.sleep(0.01)

            threading.Thread(target=count, daemon=True).start()
            for batch in trial.batches():
                trial.loss(batch).backward()
            time.sleep(1000)
    """
    ends: list[float] = []
    outcome = race_of_two(
        source,
        max_runtime=1.2,
        eval_period=0.4,
        options={"slow_evaluation": 0.5},
        on_evaluation=lambda _: ends.append(time.monotonic()),
    )
    assert outcome.status == "out_of_budget"
    assert outcome.charged_seconds == pytest.approx(1.2, abs=0.2)
    assert len(ends) in (2, 3)
    for rank in range(2):
        beats = [float(line) for line in (tmp_path / "scratch" / f"beats{rank}").read_text().split()]
        assert len(beats) > 20
        assert [beat for beat in beats if any(end - 0.4 < beat < end for end in ends)] == []
    assert children_of(sandbox_of_two) == []
    # Two interpreters with torch are more than one: memory is that of all ranks.
    assert outcome.peak_host_bytes is not None
    assert outcome.peak_host_bytes > 300 << 20


def test_another_number_of_devices_is_another_machine():
    one, same, two = (this_machine("local", "cpu", 1, None, count) for count in (1, 1, 2))
    assert one.fingerprint == same.fingerprint != two.fingerprint
    assert (one.device_name, two.device_name) == ("cpu", "2 x cpu")
    wanted = {"system": "Linux", "malloc": one.properties["malloc"]}
    assert departures(one, wanted) == []
    assert departures(two, wanted) == ["devices is 2 instead of 1"]
    assert departures(two, two.properties) == []


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"precision": "bf16"}, "precision is 'bf16' instead of 'float32'"),
        ({"compiles": True}, "compile is True instead of False"),
    ],
)
def test_a_machine_that_is_used_in_another_way_is_another_one(how, said):
    usual, other = this_machine("local", "cpu", 1, None), this_machine("local", "cpu", 1, None, **how)
    assert usual.fingerprint != other.fingerprint
    assert departures(other, {"system": "Linux", "malloc": other.properties["malloc"]}) == [said]
    assert departures(other, other.properties) == []


def test_a_number_of_devices_that_there_is_not_is_refused():
    with pytest.raises(ConfigError, match=r"hardware\.devices is 0\. Use at least 1"):
        devices.resolve("cpu", 0)
    found = torch.cuda.device_count()
    if found:
        with pytest.raises(ConfigError, match=f"this machine has {found} CUDA devices"):
            devices.resolve("cuda", found + 1)

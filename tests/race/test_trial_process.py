"""A trial in two processes: every way to end it, the clock, and what is left behind."""

from __future__ import annotations

import itertools
import math
import platform
import threading
import time
from pathlib import Path

import psutil
import pytest
import torch

from harness.api import Target
from harness.race.outcome import Outcome
from harness.race.processes import ALLOCATOR, malloc_of_trainers
from harness.race.sandbox import Sandbox
from tests.conftest import SGD, interrupted, race_on

REACHABLE = Target("error", "min", 0.02)


def test_a_trial_ends_when_the_target_is_reached(race):
    outcome = race(SGD, target=REACHABLE)
    assert outcome.status == "reached"
    assert outcome.observations[-1].validation["error"] <= 0.02
    assert outcome.charged_seconds < 2.0


def test_a_trial_that_misses_the_target_uses_up_its_budget(race):
    outcome = race(SGD, max_runtime=1.0)
    assert outcome.status == "out_of_budget"
    assert outcome.charged_seconds == pytest.approx(1.0, abs=0.1)
    assert len(outcome.observations) in (4, 5)  # 5, but where the machine stumbles in the last moment


def test_a_plain_loop_has_as_many_evaluations_as_periods_and_the_last_weights_are_judged_within_the_budget(race):
    # The slow hook of the first evaluations makes the trainer leave room for one in the end, more than any noise takes.
    source = """
        import time

        def train(trial, hp):
            trial.before_evaluation(lambda: time.sleep(0.3 if trial.elapsed_seconds < 1.9 else 0.0))
            for batch in trial.batches():
                time.sleep(0.01)
    """
    outcome = race(source, max_runtime=2.4, eval_period=0.8)
    assert outcome.status == "out_of_budget"
    seconds = [seen.charged_seconds for seen in outcome.observations]
    assert [int(at / 0.8) for at in seconds] == [1, 2, 2]
    assert 1.9 < seconds[-1] == outcome.charged_seconds < 2.4


def test_a_late_evaluation_makes_no_later_one_late(race):
    source = """
        import time

        def train(trial, hp):
            for batch in trial.batches():
                time.sleep(0.5 if trial.elapsed_seconds < 0.3 else 0.001)
    """
    outcome = race(source, max_runtime=1.5, eval_period=0.3)
    seconds = [seen.charged_seconds for seen in outcome.observations]
    assert seconds[0] > 0.5
    # One in each period, at its beginning, from the next one on; 0.15 is for the noise of a machine.
    assert all(at / 0.3 % 1.0 < 0.5 for at in seconds[1:-1])
    assert len({int(at / 0.3) for at in seconds[:-1]}) == len(seconds) - 1


def test_a_loop_that_finishes_at_the_last_moment_has_no_more_evaluations_than_one_that_does_not(race):
    source = """
        import time

        def train(trial, hp):
            for batch in trial.batches():
                time.sleep(0.001)
                if trial.elapsed_seconds > trial.budget_seconds - 0.02:
                    trial.finish()
    """
    assert len(race(source, max_runtime=1.0, eval_period=0.2).observations) <= 5


def test_a_submission_that_returns_early_is_judged_once_more_and_finished(race):
    outcome = race("def train(trial, hp):\n    trial.next_batch()\n    trial.end_step()\n")
    assert outcome.status == "finished"
    assert [seen.step for seen in outcome.observations] == [1]


def test_a_submission_may_finish_from_inside_its_loop(race):
    source = """
        def train(trial, hp):
            for batch in trial.batches():
                if trial.step == 3:
                    trial.finish()
    """
    outcome = race(source)
    assert outcome.status == "finished"
    assert outcome.observations[-1].step == 3


def test_frozen_weights_are_those_of_the_referee_whatever_a_trainer_makes_of_them(race):
    change = """
        import torch

        def train(trial, hp):
            with torch.no_grad():
                for name, values in trial.model.named_buffers():
                    values.mul_(HOW_OFTEN)
            trial.finish()
    """
    adapted = {"entry": "harness.plugins.conformance.problems.AdaptedStripes", "target": Target("loss", "min", -1.0)}
    untouched, changed = (race(change.replace("HOW_OFTEN", often), **adapted) for often in ("1.0", "0.0"))
    assert (untouched.status, changed.status) == ("finished", "finished")
    assert changed.observations[-1].validation == untouched.observations[-1].validation


def test_an_exception_is_a_crash_with_its_place(race):
    outcome = race("def train(trial, hp):\n    raise ValueError('no such luck')\n")
    assert outcome.status == "crashed"
    assert outcome.reason == "ValueError: no such luck (submission.py:2)"
    assert "Traceback" in outcome.log


def test_a_submission_that_cannot_be_imported_is_a_crash(race):
    outcome = race("import nothing_of_this_name\n\ndef train(trial, hp): ...\n")
    assert outcome.status == "crashed"
    assert "nothing_of_this_name" in outcome.reason


@pytest.mark.parametrize("way", ["raise SystemExit(3)", "os._exit(3)", "os.kill(os.getpid(), 9)", "os.abort()"])
def test_a_trainer_that_exits_is_a_crash(race, way):
    outcome = race(f"import os\n\ndef train(trial, hp):\n    {way}\n")
    assert outcome.status == "crashed"
    assert outcome.reason
    assert "\n" not in outcome.reason


def test_weights_that_are_not_finite_are_a_divergence(race):
    source = """
        import torch

        def train(trial, hp):
            for batch in trial.batches():
                with torch.no_grad():
                    for parameter in trial.model.parameters():
                        parameter.fill_(float("nan"))
    """
    outcome = race(source)
    assert outcome.status == "diverged"
    assert "not finite" in outcome.reason


def test_weights_so_large_that_the_loss_overflows_are_a_divergence(race):
    source = """
        import torch

        def train(trial, hp):
            for batch in trial.batches():
                with torch.no_grad():
                    for parameter in trial.model.parameters():
                        parameter.fill_(3e38)
    """
    outcome = race(source)
    assert outcome.status == "diverged"


def test_a_hanging_submission_is_killed_at_its_budget(race):
    outcome = race("import time\n\ndef train(trial, hp):\n    time.sleep(1000)\n", max_runtime=1.0)
    assert outcome.status == "out_of_budget"
    assert "nothing was heard" in outcome.reason
    assert outcome.charged_seconds < 2.0


def test_a_submission_that_ignores_every_signal_is_killed_at_its_budget(race):
    source = """
        import signal

        def train(trial, hp):
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN)
            while True:
                try:
                    for batch in trial.batches():
                        pass
                except BaseException:
                    pass
    """
    outcome = race(source, max_runtime=0.5)
    assert outcome.status == "out_of_budget"


def test_a_submission_that_eats_memory_is_a_crash(race):
    source = """
        import torch

        def train(trial, hp):
            hoard = []
            for batch in trial.batches():
                hoard.append(torch.ones(64 << 20))
    """
    outcome = race(source, max_runtime=30.0)
    assert outcome.status == "crashed"
    assert "memory" in outcome.reason


def test_memory_is_counted_over_all_processes_of_a_trainer(race):
    source = """
        import os, time
        import torch

        def train(trial, hp):
            for _ in range(4):
                if os.fork() == 0:
                    hoard = torch.ones(200 << 20)
                    time.sleep(1000)
            time.sleep(1000)
    """
    outcome = race(source, max_runtime=30.0)
    assert outcome.status == "crashed"
    assert "GiB are allowed" in outcome.reason


def test_a_submission_that_forks_is_judged_by_its_first_process_and_leaves_none_behind(race, sandbox):
    source = """
        import os, time

        def train(trial, hp):
            if os.fork() == 0:
                os.setsid()
                if os.fork() == 0:
                    time.sleep(1000)
            for batch in trial.batches():
                pass
    """
    outcome = race(source, max_runtime=1.0)
    assert outcome.status == "out_of_budget"
    assert children_of(sandbox) == []


def test_a_fork_bomb_is_a_crash(race, sandbox):
    source = """
        import os, time

        def train(trial, hp):
            for _ in range(400):
                try:
                    if os.fork() == 0:
                        time.sleep(1000)
                except OSError:  # the system may refuse more before the referee has counted
                    break
            time.sleep(1000)
    """
    outcome = race(source, max_runtime=30.0)
    assert outcome.status == "crashed"
    assert "256 are allowed" in outcome.reason
    assert children_of(sandbox) == []


def test_a_submission_that_prints_megabytes_runs_as_any_other_and_its_log_is_cut(race):
    source = SGD.replace("optimizer.step()", "optimizer.step(); print('x' * 100_000)")
    outcome = race(source, max_runtime=1.0)
    assert outcome.status == "out_of_budget"
    assert outcome.observations
    assert 300_000 < len(outcome.log) < 400_000
    assert "[... cut ...]" in outcome.log


@pytest.mark.parametrize("forks", [True, False], ids=["forked", "fresh interpreter"])
def test_what_a_trial_printed_is_kept_when_it_is_killed_at_its_budget(tmp_path, forks):
    source = SGD.replace("        for batch", "        print('began \u2192', '\\udcff')\n        for batch")
    with Sandbox(torch.device("cpu"), threads=1, forks=forks) as sandbox:
        outcome = race_on(sandbox, tmp_path, source, max_runtime=0.5)
    assert outcome.status == "out_of_budget"
    assert outcome.log == "began \u2192 \\udcff\n"


def test_a_model_in_another_dtype_is_refused(race):
    outcome = race("def train(trial, hp):\n    trial.model.half()\n    trial.finish()\n")
    assert outcome.status == "refused"
    assert "float16" in outcome.reason
    assert "float32" in outcome.reason


def test_a_model_with_another_parameter_is_refused(race):
    source = """
        import torch

        def train(trial, hp):
            trial.model.register_parameter("extra", torch.nn.Parameter(torch.zeros(3)))
            trial.finish()
    """
    outcome = race(source)
    assert outcome.status == "refused"
    assert "extra" in outcome.reason


def test_a_snapshot_before_its_time_is_refused(race):
    source = """
        def train(trial, hp):
            for batch in trial.batches():
                trial._pace._next_evaluation_at = 0.0
    """
    outcome = race(source)
    assert outcome.status == "refused"
    assert "evaluation period" in outcome.reason


@pytest.mark.parametrize(
    "message",
    [
        b"nonsense\n",
        b"[1]\n",
        b'{"type":"snapshot","step":"many"}\n',
        b'{"type":"win"}\n',
        b'{"type":"checkpoint"}\n',
        b"x" * (2 << 20),
    ],
)
def test_nonsense_on_the_channel_is_refused(race, message):
    source = f"""
        import os, socket

        def train(trial, hp):
            for descriptor in range(3, 64):
                try:
                    channel = socket.socket(fileno=os.dup(descriptor))
                    channel.getpeername()
                except OSError:
                    continue
                channel.sendall({message!r})
                break
            for batch in trial.batches():
                pass
    """
    outcome = race(source)
    assert outcome.status == "refused"
    assert outcome.reason.startswith("the trainer sent")


@pytest.mark.parametrize("way", ["pass", "os.mkdir('checkpoint')", "os.symlink('/', 'checkpoint')", "link()"])
def test_a_checkpoint_that_was_announced_and_not_written_is_refused(race, way):
    source = f"""
        import os, socket

        def link():
            os.mkdir("checkpoint")
            os.symlink("/etc/hostname", "checkpoint/0.pt")

        def train(trial, hp):
            for batch in trial.batches():
                if trial.step == 25:
                    {way}
                    for descriptor in range(3, 64):
                        try:
                            channel = socket.socket(fileno=os.dup(descriptor))
                            channel.getpeername()
                        except OSError:
                            continue
                        channel.sendall(b'{{"type":"checkpoint"}}\\n')
                        break
    """
    kept: list[object] = []
    outcome = race(
        source, evaluate_every_steps=20, checkpoint_evaluations=1, on_checkpoint=lambda *seen: kept.append(seen)
    )
    assert outcome.status == "refused"
    assert "announced a checkpoint that it has not written" in outcome.reason
    assert kept == []


def test_taking_a_checkpoint_over_is_not_charged_and_writing_it_is(race):
    named = SGD.replace("for batch", "trial.resumable(optimizer=optimizer, slow=Slow())\n        for batch")
    source = named.replace(
        "    def train(",
        """    import time

    class Slow:
        def state_dict(self):
            time.sleep(0.3)

        def load_state_dict(self, state): ...

    def train(""",
    )
    spent = []

    def take_over(checkpoint, folder):
        assert (folder / "0.pt").exists()
        spent.append(checkpoint)
        time.sleep(0.5)

    outcome = race(source, evaluate_every_steps=100, checkpoint_evaluations=2, on_checkpoint=take_over)
    assert [checkpoint.step for checkpoint in spent] == [200]
    assert spent[0].charged_seconds - outcome.observations[1].charged_seconds == pytest.approx(0.3, abs=0.15)
    assert outcome.observations[2].charged_seconds - spent[0].charged_seconds < 0.4
    assert outcome.total_seconds > outcome.charged_seconds + 0.5


def test_a_trial_is_pruned_when_it_passes_the_best_time_of_its_study(race):
    outcome = race(SGD, prune_at=0.5, pruned_by="an earlier trial reached the target at 0.50 s")
    assert outcome.status == "pruned"
    assert outcome.pruned_by == "an earlier trial reached the target at 0.50 s"
    assert outcome.charged_seconds == pytest.approx(0.5, abs=0.1)


def test_a_submission_that_sleeps_a_second_per_step_is_charged_a_second_per_step(race):
    source = """
        import time

        def train(trial, hp):
            for batch in trial.batches():
                time.sleep(1.0)
    """
    outcome = race(source, max_runtime=5.5, eval_period=0.9)
    steps = [seen.charged_seconds for seen in outcome.observations]
    lengths = [after - before for before, after in itertools.pairwise(steps)]
    assert len(lengths) >= 3
    # Never less; and no more than the sleep, unless others keep the processor, which they do not do all the time.
    assert min(lengths) == pytest.approx(1.0, rel=0.01)
    assert all(length > 0.999 for length in lengths)


def test_evaluation_is_not_charged(race):
    outcome = race(SGD, max_runtime=0.5, eval_period=0.2, options={"slow_evaluation": 2.5})
    assert outcome.evaluation_seconds >= 5.0  # validation and test, at least once
    assert outcome.charged_seconds == pytest.approx(0.5, abs=0.1)
    assert outcome.status == "out_of_budget"


def test_no_thread_or_child_of_the_trainer_runs_while_the_referee_evaluates(race, tmp_path):
    source = """
        import os, threading, time

        def count():
            beats = open("beats", "a", buffering=1)
            while True:
                beats.write(f"{time.monotonic()}\\n")
                time.sleep(0.01)

        def train(trial, hp):
            threading.Thread(target=count, daemon=True).start()
            if os.fork() == 0:
                os.setsid()
                count()
            for batch in trial.batches():
                time.sleep(0.01)
    """
    quiet = []

    def look(_):
        quiet.append(time.monotonic())

    race(source, max_runtime=0.5, eval_period=0.2, options={"slow_evaluation": 0.5}, on_evaluation=look)
    beats = [float(line) for line in (tmp_path / "scratch" / "beats").read_text().split()]
    # on_evaluation is called when the evaluation, of half a second or more, has just ended
    during = [beat for beat in beats if any(end - 0.4 < beat < end for end in quiet)]
    assert len(beats) > 20
    assert quiet
    assert during == []


def test_importing_the_submission_is_charged(race):
    outcome = race(
        "import time\ntime.sleep(0.6)\n" + "def train(trial, hp):\n    trial.next_batch(); trial.end_step()\n"
    )
    assert outcome.charged_seconds > 0.6
    assert outcome.first_step_seconds > 0.6


def test_two_trials_of_one_seed_have_bit_equal_curves_when_evaluated_by_steps(race):
    def curve(outcome: Outcome) -> list[tuple[int, float, float]]:
        return [(seen.step, seen.validation["loss"], seen.validation["error"]) for seen in outcome.observations]

    options = {"dropout": 0.3, "batch_norm": True}
    first, second = (race(SGD, evaluate_every_steps=100, options=options) for _ in range(2))
    assert [seen.step for seen in first.observations] == [100, 200, 300, 400]
    assert curve(first) == curve(second)
    assert curve(first) != curve(race(SGD, evaluate_every_steps=100, options=options, seed=2))


def test_a_trial_is_evaluated_at_the_steps_that_it_is_given_and_ends_at_the_last(race):
    every = race(SGD, evaluate_every_steps=100)
    given = race(SGD, evaluate_at_steps=(7, 200, 400))
    assert [seen.step for seen in given.observations] == [7, 200, 400]
    assert [seen.validation for seen in given.observations[1:]] == [
        seen.validation for seen in every.observations[1::2]
    ]
    assert given.status == "out_of_budget"


def test_test_is_evaluated_only_where_validation_is_at_its_best(race):
    outcome = race(SGD, evaluate_every_steps=20)
    best = math.inf
    for seen in outcome.observations:
        assert (seen.test is not None) == (seen.validation["error"] < best)
        best = min(best, seen.validation["error"])


def test_the_trainer_does_not_get_the_environment_of_the_referee(race, monkeypatch):
    source = """
        import os

        def train(trial, hp):
            raise ValueError(",".join(sorted(os.environ)))
    """
    monkeypatch.setenv("WANDB_API_KEY", "secret")
    outcome = race(source)
    assert "PATH" in outcome.reason
    assert "WANDB" not in outcome.reason


@pytest.mark.parametrize("forks", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_trainer_takes_large_memory_in_huge_pages_where_the_system_has_them_for_those_who_ask(tmp_path, forks):
    source = """
        import os

        def train(trial, hp):
            held = bytearray(64 << 20)
            with open("/proc/self/smaps") as maps:
                asked = any(line.startswith("VmFlags") and "hg" in line.split() for line in maps)
            raise ValueError(f"{os.environ['GLIBC_TUNABLES']} {asked} {len(held)}")
    """
    with Sandbox(torch.device("cpu"), threads=1, forks=forks) as sandbox:
        outcome = race_on(sandbox, tmp_path, source)
    assert f"{ALLOCATOR['GLIBC_TUNABLES']} {malloc_of_trainers() == 'huge pages'} " in outcome.reason


@pytest.mark.parametrize(
    ("modes", "malloc"),
    [("always [madvise] never\n", "huge pages"), ("[always] madvise never\n", "as it comes"), (None, "as it comes")],
)
def test_the_kernel_says_whether_malloc_may_ask_for_huge_pages(tmp_path, modes, malloc):
    file = tmp_path / "sys/kernel/mm/transparent_hugepage/enabled"
    if modes is not None:
        file.parent.mkdir(parents=True)
        file.write_text(modes, encoding="ascii")
    library, version = platform.libc_ver()
    knows = library == "glibc" and tuple(map(int, version.split("."))) >= (2, 35)
    assert malloc_of_trainers(tmp_path) == (malloc if knows else "as it comes")


def test_the_trainer_works_in_a_folder_of_its_own(race, tmp_path):
    race("def train(trial, hp):\n    open('left_behind', 'w').close()\n    trial.finish()\n")
    assert (tmp_path / "scratch" / "left_behind").exists()


def test_workers_of_a_data_loader_run_however_long_the_name_of_the_results_folder_is(sandbox, tmp_path):
    source = """
        import os, tempfile
        import torch

        def train(trial, hp):
            loader = torch.utils.data.DataLoader(torch.arange(8.0), batch_size=4, num_workers=2)
            assert [batch.tolist() for batch in loader] == [[0.0, 1.0, 2.0, 3.0], [4.0, 5.0, 6.0, 7.0]]
            open("place", "w").write(tempfile.mkdtemp())
            trial.finish()
    """
    folder = tmp_path / ("results of the year " * 5) / "runs"
    folder.mkdir(parents=True)
    outcome = race_on(sandbox, folder, source, max_runtime=20.0)
    assert outcome.status == "finished", outcome.log
    place = Path((folder / "scratch" / "place").read_text())
    assert not place.exists()


def test_swapped_weights_are_what_is_judged(race):
    source = """
        import torch

        def train(trial, hp):
            layer = trial.model[-1]
            def swap_in():
                with torch.no_grad():
                    layer.weight.copy_(torch.tensor([[-1.0] * 8, [1.0] * 8]))
                    layer.bias.zero_()
            def swap_out():
                with torch.no_grad():
                    layer.weight.zero_()
            trial.before_evaluation(swap_in)
            trial.after_evaluation(swap_out)
            swap_out()
            for batch in trial.batches():
                assert float(layer.weight.abs().sum()) == 0.0
    """
    outcome = race(source, target=REACHABLE)
    assert outcome.status == "reached"


def test_a_submission_sees_its_validation_history_and_never_the_test_split(race):
    source = """
        def train(trial, hp):
            for batch in trial.batches():
                if len(trial.evaluations) == 2:
                    seen = trial.evaluations[-1]
                    raise ValueError(f"{sorted(seen.validation)} {trial.target.test} {seen.step > 0}")
    """
    assert race(source).reason.startswith("ValueError: ['error', 'loss'] None True")


def test_what_a_submission_reports_is_kept_with_the_evaluation(race):
    source = SGD.replace("optimizer.step()", "optimizer.step(); trial.log(train_loss=0.5, rate=torch.tensor(2.0))")
    outcome = race(source, evaluate_every_steps=100)
    assert outcome.observations[0].reported == {"train_loss": 0.5, "rate": 2.0}


def test_a_loss_that_is_not_finite_is_kept_as_such_and_ends_nothing(race):
    logged = "train_loss=float('nan') if trial.step >= 150 else 0.5, most=float('-inf'), text='x'"
    source = SGD.replace("optimizer.step()", f"optimizer.step(); trial.log({logged})")
    outcome = race(source, evaluate_every_steps=100)
    first, second = (seen.reported for seen in outcome.observations[:2])
    assert first == {"train_loss": 0.5, "most": -math.inf}
    assert math.isnan(second["train_loss"])
    assert outcome.status == "out_of_budget"
    assert outcome.log.count("trial.log(text=...)") == 1


def test_peak_memory_and_step_times_are_recorded(race):
    outcome = race(SGD)
    assert outcome.peak_host_bytes > 50 << 20
    assert 0 < outcome.median_step_seconds <= outcome.p90_step_seconds
    assert outcome.frozen


def test_a_trainer_that_is_a_fresh_interpreter_runs_as_a_forked_one_does(race, tmp_path):
    def curve(outcome: Outcome) -> list[float]:
        return [seen.validation["loss"] for seen in outcome.observations]

    with Sandbox(torch.device("cpu"), threads=1, forks=False) as sandbox:
        fresh = race_on(sandbox, tmp_path, SGD, evaluate_every_steps=100)
        crashed = race_on(sandbox, tmp_path, "def train(trial, hp):\n    raise ValueError('no')\n")
        server = psutil.Process(sandbox._server.pid)
    forked = race(SGD, evaluate_every_steps=100)
    assert curve(fresh) == curve(forked)
    assert crashed.reason == "ValueError: no (submission.py:2)"
    assert not server.is_running()


def test_a_server_that_was_killed_is_started_again(tmp_path):
    with Sandbox(torch.device("cpu"), threads=1) as sandbox:
        race_on(sandbox, tmp_path, SGD, evaluate_every_steps=400)
        sandbox._server.kill()
        sandbox._server.wait()
        assert race_on(sandbox, tmp_path, SGD, evaluate_every_steps=400).observations


def test_an_interrupted_start_leaves_nothing_that_the_next_trial_would_take_for_its_own(tmp_path):
    with Sandbox(torch.device("cpu"), threads=1) as sandbox:
        race_on(sandbox, tmp_path, SGD, evaluate_every_steps=400)
        server = psutil.Process(sandbox._server.pid)
        server.suspend()  # so that it answers when nobody waits any more
        with pytest.raises(KeyboardInterrupt), interrupted(lambda over: over.wait(0.3)):
            race_on(sandbox, tmp_path, SGD, evaluate_every_steps=400)
        if server.is_running():
            server.resume()
        outcome = race_on(sandbox, tmp_path, SGD, evaluate_every_steps=400)
        assert (outcome.status, outcome.reason) == ("out_of_budget", "the budget of 400 steps was used up")


def test_an_interrupt_while_a_trainer_is_being_ended_leaves_nothing_of_it_behind(tmp_path):
    source = """
        import tempfile, time

        def train(trial, hp):
            for batch in trial.batches():
                pass
            open("place", "w").write(tempfile.mkdtemp())
            time.sleep(1000)
    """
    place = tmp_path / "scratch" / "place"

    def watch(over: threading.Event) -> None:
        while not place.exists() and not over.is_set():
            time.sleep(0.01)
        over.wait(0.3)  # of the two seconds that the referee gives it to end by itself

    before = psutil.Process().children(recursive=True)
    with Sandbox(torch.device("cpu"), threads=1) as sandbox:
        with pytest.raises(KeyboardInterrupt), interrupted(watch):
            race_on(sandbox, tmp_path, source, evaluate_every_steps=400)
        assert [each for each in psutil.Process().children(recursive=True) if each not in before] == []
        assert not Path(place.read_text()).exists()
        assert race_on(sandbox, tmp_path, SGD, evaluate_every_steps=400).status == "out_of_budget"


def test_each_workload_has_a_server_of_its_own_so_that_none_counts_as_memory_of_another(tmp_path):
    def server() -> int:
        return sandbox._server.pid

    with Sandbox(torch.device("cpu"), threads=1) as sandbox:
        race_on(sandbox, tmp_path, SGD, evaluate_every_steps=400)
        first = server()
        race_on(sandbox, tmp_path, SGD, evaluate_every_steps=400)
        assert server() == first
        race_on(sandbox, tmp_path, SGD, evaluate_every_steps=400, options={"hidden": 4})
        assert server() != first
        assert not psutil.pid_exists(first)


def children_of(sandbox) -> list[psutil.Process]:
    deadline = time.monotonic() + 5.0
    server = psutil.Process(sandbox._server.pid)
    while (
        left := [one for one in server.children(recursive=True) if one.pid != sandbox._builder]
    ) and time.monotonic() < deadline:
        time.sleep(0.05)
    return left

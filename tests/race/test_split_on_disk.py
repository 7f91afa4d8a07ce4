"""Trials on a split that lies on the disk: what the trainer sees of it, and the processes that gather its batches."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import torch

from harness.api import Batch, Coarse, DataError, Target
from harness.race.judge import Judge
from harness.race.process import descendants
from harness.race.sandbox import Sandbox
from harness.trial.loader import Loader, example_seeds
from harness.trial.order import Order
from tests.conftest import SGD, race_on
from tests.workloads.prepared_blobs import PreparedBlobs

ON_DISK = {"entry": "tests.workloads.prepared_blobs.PreparedBlobs", "options": {"stored": True}}
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(CPU, threads=1, memory_bytes=2 << 30) as sandbox:
        yield sandbox


def test_a_trainer_sees_the_folder_of_its_split_and_of_no_other(sandbox: Sandbox, tmp_path: Path):
    source = """
        import os

        def train(trial, hp):
            split = trial.train_set.folder
            print("FOUND", os.listdir(split.parent), os.listdir(split.parent.parent))
            try:
                open(split / "00000.inputs", "r+b")
            except OSError as error:
                print("WRITING", error.errno)
            print("BATCH", trial.next_batch(16)["inputs"].shape)
            trial.finish()
    """
    outcome = race_on(sandbox, tmp_path, source, max_runtime=120.0, eval_period=60.0, **ON_DISK)
    if sandbox.missing:
        pytest.skip(f"this system lacks {sandbox.missing}")
    assert outcome.status == "finished", outcome.log
    found, writing, batch = outcome.log.strip().splitlines()
    assert sorted(path.name for path in (tmp_path / "data/blobs").iterdir()) == ["test", "train", "validation"]
    assert found == "FOUND ['train'] ['blobs']"
    assert writing.split()[1] in ("13", "30"), "no permission, or a file system that is read alone"
    assert batch == "BATCH torch.Size([16, 8])"


def test_a_trial_learns_from_the_disk_with_workers_as_without(sandbox: Sandbox, tmp_path: Path):
    seen = []
    for workers in (0, 2):
        sandbox.loader_workers = workers
        outcome = race_on(sandbox, tmp_path, SGD, evaluate_every_steps=20, budget_steps=60, max_runtime=60.0, **ON_DISK)
        assert outcome.status == "out_of_budget", outcome.reason
        seen.append([(each.step, each.validation["loss"]) for each in outcome.observations])
    assert seen[0] == seen[1] != []


def test_workers_stand_still_while_the_referee_evaluates(sandbox: Sandbox, tmp_path: Path):
    sandbox.loader_workers = 2
    counts = []

    def look(_: object) -> None:
        assert sandbox._server is not None
        states = [each.status() for each in descendants(sandbox._server.pid)]
        counts.append((states.count(psutil.STATUS_STOPPED), states.count(psutil.STATUS_RUNNING)))

    race_on(sandbox, tmp_path, SGD, on_evaluation=look, evaluate_every_steps=20, budget_steps=40, **ON_DISK)
    assert counts
    assert all(stopped >= 3 and running == 0 for stopped, running in counts), counts


def test_a_killed_worker_ends_the_trial_as_crashed_and_nothing_is_left(sandbox: Sandbox, tmp_path: Path):
    sandbox.loader_workers = 2
    source = """
        import os, signal
        from pathlib import Path

        def train(trial, hp):
            for number, batch in enumerate(trial.batches()):
                trial.loss(batch).backward()
                if number == 5:
                    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
                    print("WORKERS", len(children))
                    os.kill(int(children[0]), signal.SIGKILL)
    """
    outcome = race_on(sandbox, tmp_path, source, max_runtime=60.0, eval_period=30.0, **ON_DISK)
    assert "WORKERS 2" in outcome.log
    assert outcome.status == "crashed"
    assert "worker" in outcome.reason, outcome.log
    assert "\n" not in outcome.reason
    assert sandbox._server is not None
    left = [each for each in descendants(sandbox._server.pid) if each.pid != sandbox._builder]
    assert left == []


# --- the loader itself ---


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    PreparedBlobs().store(folder)
    return folder


def batches(data: Path, *, workers: int, sizes: list[int], seed: int = 1) -> list[Batch]:
    """Batches of these sizes, one after the other."""
    examples = PreparedBlobs().load("train", data)
    loader, order = Loader(examples, seed, workers=workers), Order(len(examples), seed, CPU)
    found, position = [], 0
    for size in sizes:
        found.append(loader.batch(order.draw(size), position, order))
        position += size
    return found


def are_equal(these: list[Batch], those: list[Batch]) -> bool:
    return len(these) == len(those) and all(
        torch.equal(one[name], other[name]) for one, other in zip(these, those, strict=True) for name in one
    )


def test_any_number_of_workers_gives_the_same_batches_bit_for_bit(data: Path):
    # Two epochs of 512 examples, and another batch size from the middle of the first on.
    sizes = [48] * 6 + [100] * 8
    alone, one, two = (batches(data, workers=workers, sizes=sizes) for workers in (0, 1, 2))
    assert are_equal(alone, one)
    assert are_equal(alone, two)
    assert not are_equal(alone, batches(data, workers=0, sizes=sizes, seed=2))


@pytest.mark.parametrize("workers", [0, 2])
def test_after_a_kill_in_the_middle_of_an_epoch_the_next_example_is_the_next(data: Path, workers: int):
    whole = batches(data, workers=0, sizes=[48] * 20)
    examples = PreparedBlobs().load("train", data)
    killed, order = Loader(examples, 1, workers=workers), Order(len(examples), 1, CPU)
    for number in range(13):
        killed.batch(order.draw(48), number * 48, order)
    again = Order(len(examples), 1, CPU)
    again.load(order.state())
    resumed = Loader(examples, 1, workers=workers)
    assert are_equal(whole[13:], [resumed.batch(again.draw(48), number * 48, again) for number in range(13, 20)])


def test_an_example_is_drawn_anew_in_each_epoch_and_by_its_own_seed():
    examples, epochs = torch.tensor([0, 1, 0, 1]), torch.tensor([0, 0, 1, 1])
    seeds = example_seeds(5, epochs, examples)
    assert len(set(seeds.tolist())) == 4
    assert seeds.min() >= 0
    assert torch.equal(example_seeds(5, epochs[2:3], examples[2:3]), seeds[2:3])
    assert not torch.equal(example_seeds(6, epochs, examples), seeds)


def test_the_number_of_workers_moves_no_random_stream_of_the_trainer(data: Path):
    drawn = []
    for workers in (0, 1):
        torch.manual_seed(0)
        batches(data, workers=workers, sizes=[32, 32])
        drawn.append(torch.rand(1).item())
    assert drawn[0] == drawn[1]


def test_what_a_worker_finds_wrong_with_the_disk_is_said_as_it_is(tmp_path: Path):
    PreparedBlobs().store(tmp_path)
    examples = PreparedBlobs().load("train", tmp_path)
    path = tmp_path / "blobs/train/00000.inputs"
    path.write_bytes(b"")
    order = Order(len(examples), 1, CPU)
    with pytest.raises(DataError, match=r"00000\.inputs is cut short"):
        Loader(examples, 1, workers=1).batch(order.draw(512), 0, order)


# --- runs ---


def test_runs_of_neighbours_come_in_another_order_and_all_examples_once_in_each_epoch():
    order = Order(103, 1, CPU, run=10)
    first, second = (torch.cat([order.draw(size) for size in (50, 53)]) for _ in range(2))
    assert first.sort().values.tolist() == second.sort().values.tolist() == list(range(103))
    assert first.tolist() != second.tolist() != list(range(103))
    places = first.argsort()
    neighbours = [(each, each + 1) for each in range(102) if each % 10 != 9]
    assert all(places[one] + 1 == places[other] for one, other in neighbours)


@pytest.mark.parametrize("run", [1, 10])
def test_what_comes_next_is_known_and_asking_for_it_changes_nothing(run: int):
    asked, plain = Order(100, 3, CPU, run=run), Order(100, 3, CPU, run=run)
    for size in [7] * 40 + [33] * 20:
        assert torch.equal(asked.draw(size), plain.draw(size))
        upcoming = asked.upcoming(size, 5)
        again = Order(100, 9, CPU, run=run)
        again.load(asked.state())
        assert [each.tolist() for each in upcoming] == [again.draw(size).tolist() for _ in range(5)]


@pytest.mark.parametrize("coarse", [None, Coarse(examples=64, within=1e-6)], ids=["whole", "a part"])
def test_workers_of_the_referee_change_no_evaluation(data: Path, coarse: Coarse | None):
    seen = []
    for workers in (0, 2):
        workload = PreparedBlobs()
        torch.manual_seed(0)
        validation, test = (workload.load(split, data) for split in ("validation", "test"))
        target = Target("error", "min", 0.0)
        judge = Judge(workload, CPU, validation, test, 48, target=target, coarse=coarse, loader_workers=workers)
        seen.append((judge.validation(), judge.test(), judge.validation()))
    assert seen[0] == seen[1]

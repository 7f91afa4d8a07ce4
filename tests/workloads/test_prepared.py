"""Splits on the disk: written shard by shard, read back by index, known by their manifest."""

from __future__ import annotations

import multiprocessing
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor

from harness.api import Batch, DataError, visible
from harness.config import WorkloadConfig, build, load, values_of
from harness.plugins.data import Watch, load_verified
from harness.study.identity import with_content, workload_hash
from tests.workloads.prepared_blobs import PreparedBlobs
from workloads.data.prepared import Field, Manifest, PreparedExamples, Raw, one_by_one, prepare

FIELDS = {"inputs": Field("<f4", (3,)), "targets": Field("<i8"), "letters": Field("|u1", None)}
ABOUT = {"reader": "test", "version": 1}
COUNT = 23


def example(number: int) -> dict[str, Any]:
    return {
        "inputs": numpy.arange(3, dtype=numpy.float32) + number,
        "targets": numpy.int64(number),
        "letters": numpy.full(number % 4, number, dtype=numpy.uint8),
    }


def examples_from(begin: int, count: int = COUNT) -> Iterator[Any]:
    return one_by_one((example(number) for number in range(begin, count)), size=2)


class Letters(PreparedExamples):
    """Letters padded with zeros; augmented, the inputs get a number that is drawn by the seed."""

    def decode(self, raw: Raw, seeds: Tensor | None) -> Batch:
        letters = [torch.from_numpy(each) for each in raw.pop("letters")]
        batch = super().decode(raw, seeds)
        batch["letters"] = torch.nn.utils.rnn.pad_sequence(letters, batch_first=True)
        if seeds is not None:
            batch["inputs"] = batch["inputs"] + (seeds % 7)[:, None]
        return batch


def written(folder: Path, shard_bytes: int = 100) -> Manifest:
    return prepare(folder, FIELDS, examples_from, about=ABOUT, count=COUNT, shard_bytes=shard_bytes)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    written(tmp_path / "train")
    return tmp_path / "train"


@pytest.mark.parametrize("index", [[0], [22, 3, 3, 11, 12, 13], list(range(23)), list(range(22, -1, -1)), []])
def test_examples_come_back_as_they_were_written_in_any_order_and_twice(folder: Path, index: list[int]):
    raw = Letters(folder).raw(torch.tensor(index, dtype=torch.int64))
    wanted = [example(number) for number in index]
    assert raw["targets"].tolist() == index
    assert raw["inputs"].tolist() == [each["inputs"].tolist() for each in wanted]
    assert [each.tolist() for each in raw["letters"]] == [each["letters"].tolist() for each in wanted]


def test_the_size_of_the_shards_changes_no_batch(folder: Path, tmp_path: Path):
    written(tmp_path / "one", shard_bytes=1 << 20)
    index = torch.tensor([5, 20, 1])
    assert len(visible(tmp_path / "one", "*.inputs")) == 1 < len(visible(folder, "*.inputs"))
    one, many = Letters(tmp_path / "one").gather(index), Letters(folder).gather(index)
    assert all(torch.equal(one[name], many[name]) for name in FIELDS)


def test_what_is_drawn_follows_from_the_seed_of_the_example_alone(folder: Path):
    split = Letters(folder)
    together = split.gather_augmented(torch.tensor([4, 9]), torch.tensor([10, 12]))
    alone = split.gather_augmented(torch.tensor([9]), torch.tensor([12]))
    assert torch.equal(together["inputs"][1], alone["inputs"][0])
    assert not torch.equal(alone["inputs"], split.gather(torch.tensor([9]))["inputs"])


def test_one_example_has_no_batch_dimension_and_iteration_stops(folder: Path):
    split = Letters(folder)
    assert split[-1]["targets"].item() == 22
    assert len(list(split)) == len(split) == COUNT


def test_an_example_past_the_end_is_refused(folder: Path):
    with pytest.raises(DataError, match="split of 23"):
        Letters(folder).gather(torch.tensor([23]))


def test_a_pickled_split_is_small_and_reads_the_same(folder: Path):
    split = Letters(folder)
    split.gather(torch.tensor([0]))
    content = pickle.dumps(split)
    assert torch.equal(
        pickle.loads(content).gather(torch.tensor([7]))["inputs"], split.gather(torch.tensor([7]))["inputs"]
    )


def test_a_preparation_that_was_cut_off_goes_on_and_gives_the_same_split(folder: Path, tmp_path: Path):
    asked = []

    def cut_off(begin: int) -> Iterator[Any]:
        asked.append(begin)
        if len(asked) == 1:
            yield from examples_from(begin, 13)
            raise DataError("the network is gone")
        yield from examples_from(begin)

    for _ in range(2):
        try:
            prepare(tmp_path / "again", FIELDS, cut_off, about=ABOUT, count=COUNT, shard_bytes=100)
        except DataError:
            assert not (tmp_path / "again").exists()
    assert asked[0] == 0 < asked[1] <= 12
    assert Letters(tmp_path / "again").digest() == Letters(folder).digest()
    assert [path.name for path in tmp_path.iterdir() if path.name[0] == "."] == []


def test_a_split_that_is_there_is_not_read_again_and_one_of_another_reader_is(folder: Path):
    def nothing(begin: int) -> Iterator[Any]:
        raise AssertionError(begin)

    prepare(folder, FIELDS, nothing, about=ABOUT)
    prepare(folder, FIELDS, lambda begin: examples_from(begin, 5), about={**ABOUT, "version": 2})
    assert len(Letters(folder)) == 5


def _prepare_in_another(folder: Path, began: Any) -> None:
    def slowly(begin: int) -> Iterator[Any]:
        began.set()
        yield from examples_from(begin)

    prepare(folder, FIELDS, slowly, about=ABOUT, count=COUNT)


def test_processes_that_prepare_at_once_read_the_files_once(tmp_path: Path):
    context = multiprocessing.get_context("fork")
    events = [context.Event() for _ in range(3)]
    processes = [context.Process(target=_prepare_in_another, args=(tmp_path / "train", each)) for each in events]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert [event.is_set() for event in events].count(True) == 1
    assert len(Letters(tmp_path / "train")) == COUNT


def test_another_number_of_examples_than_expected_is_an_error_and_no_split(tmp_path: Path):
    with pytest.raises(DataError, match=r"23 examples were read, 24 are expected\. .*run make data again"):
        prepare(tmp_path / "train", FIELDS, examples_from, about=ABOUT, count=24)
    assert list(tmp_path.iterdir()) == []


def test_a_reader_that_gives_another_dtype_is_found_out(tmp_path: Path):
    with pytest.raises(DataError, match=r"targets as int64 \[2\], its field is float32 \[2\]"):
        prepare(tmp_path / "train", {**FIELDS, "targets": Field("<f4")}, examples_from, about=ABOUT)


def test_a_folder_that_cannot_be_written_is_an_error_that_says_what_to_do(tmp_path: Path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match="TIMETRIAL_DATA"):
        written(tmp_path / "file" / "train")


@pytest.mark.parametrize(
    ("harm", "complaint"),
    [
        (lambda path: path.unlink(), "is missing"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "bytes instead of"),
        (lambda path: path.write_bytes(bytes(path.stat().st_size)), "another content"),
    ],
    ids=["missing", "cut short", "altered"],
)
def test_a_damaged_file_is_named(folder: Path, harm: Any, complaint: str):
    split = Letters(folder)
    split.verify(whole=True)
    harm(folder / "00001.inputs")
    with pytest.raises(DataError, match=rf"00001\.inputs .*{complaint}.*make data"):
        split.verify(whole=True)


def test_a_sample_reads_the_content_of_one_shard(tmp_path: Path):
    written(tmp_path / "train", shard_bytes=1 << 20)
    path = tmp_path / "train" / "00000.inputs"
    path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(DataError, match="another content"):
        Letters(tmp_path / "train").verify(whole=False)


def test_a_folder_without_a_manifest_holds_no_split(tmp_path: Path):
    with pytest.raises(DataError, match=r"no prepared split\. Run: make data"):
        Letters(tmp_path)


def test_a_damaged_manifest_is_named(folder: Path):
    (folder / "manifest.json").write_text("{")
    with pytest.raises(DataError, match=r"manifest\.json is damaged"):
        Letters(folder)


def test_a_file_that_is_altered_while_a_trial_runs_is_noticed(folder: Path):
    split = Letters(folder)
    watch = Watch({"validation": split}, {"validation": split.digest()}, folder.parent)
    watch.check()
    path = folder / "00000.inputs"
    path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(DataError, match="validation split were altered"):
        watch.check()


# --- what the suite makes of it ---

ENTRY = "tests.workloads.prepared_blobs.PreparedBlobs"


def settings(**changes: Any) -> WorkloadConfig:
    values = {**values_of("workload", "deep_linear"), "entry": ENTRY, "options": {}, "data": "prepared", **changes}
    return build(WorkloadConfig, values, "a test")


def test_a_prepared_workload_is_known_by_the_manifests_of_its_splits(tmp_path: Path):
    assert with_content(settings(), tmp_path) == settings(), "nothing is prepared yet"
    PreparedBlobs().store(tmp_path)
    found = with_content(settings(), tmp_path)
    assert found.content == {split: PreparedBlobs().load(split, tmp_path).digest() for split in found.content}
    assert found.data_hash() != settings().data_hash()
    assert workload_hash(found) != workload_hash(settings())
    assert len(load_verified(PreparedBlobs(), "train", tmp_path, found.content["train"])) == 512
    assert len(load_verified(PreparedBlobs(), "train", tmp_path, settings().content["train"])) == 512
    with pytest.raises(DataError, match="its YAML says 000000"):
        load_verified(PreparedBlobs(), "train", tmp_path, "0" * 64)


def test_published_budgets_change_no_identity():
    published = {"v0_6": {"max_runtime": 7703, "eval_period": 120, "step_hint": 10666, "hardware": "8 x V100"}}
    found = settings(published=published)
    assert found.published["v0_6"].step_hint == 10666
    assert workload_hash(found) == workload_hash(settings())
    pinned = load("workload", "deep_linear", WorkloadConfig)
    assert pinned.content == pinned.data

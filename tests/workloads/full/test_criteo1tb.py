"""criteo1tb: AlgoPerf's counts and hashes, its reading of the published files, and an evaluation that holds no rows."""

from __future__ import annotations

import dataclasses
import gzip
import json
import math
from pathlib import Path

import numpy
import pytest
import torch

from harness.api import SPLITS, Coarse, DataError, SplitName, Target
from harness.config import WorkloadConfig, load
from harness.plugins.entries import create_workload
from harness.race.evaluation import evaluate
from harness.race.sandbox import Sandbox
from tests.conftest import race_on
from tests.workloads.full.criteo_days import write_days
from tests.workloads.full.refereed import STEPS, trial_and_evaluations
from workloads.full.criteo1tb import Criteo1tb
from workloads.full.data.criteo import LEVELS, ROWS, TEST_ROWS, Clicks, chunks_from, parts_of, prepare_clicks
from workloads.full.data.farm_hash import fingerprints

DAYS = [120, 80, 300]
TEST = 100
TINY = {
    "tables": [64, 64], "embedding_width": 8, "bottom": [16, 8], "top": [16], "embedding_scale": 0.1,
    "float_ids": False,
}  # fmt: skip
NAMES = ["criteo1tb", "criteo1tb_layernorm", "criteo1tb_embed_init", "criteo1tb_resnet", "criteo1tb_test"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_days(folder / "criteo1tb/raw", DAYS)
    for split in SPLITS:
        prepare_clicks(folder / "criteo1tb", split, rows=DAYS, test_rows=TEST, shard_bytes=10_000)
    return folder


def of(text: str) -> int:
    return int(fingerprints(numpy.frombuffer(text.encode(), numpy.uint8)[None])[0])


def test_the_published_rows_are_those_of_algoperfs_splits():
    assert (sum(ROWS[:-1]), ROWS[-1] - TEST_ROWS, TEST_ROWS) == (4_195_197_692, 83_274_637, 95_000_000)


@pytest.mark.parametrize("name", NAMES)
def test_the_model_has_algoperfs_parameters(name: str):
    config = load("workload", name, WorkloadConfig)
    with torch.device("meta"):
        model = create_workload(config.entry, config.options).build_model()
    assert sum(parameter.numel() for parameter in model.parameters()) == config.parameters
    assert config.budget.step_hint == 10_666


@pytest.mark.parametrize(
    ("text", "value"),
    [
        # Google's own bindings (pyfarmhash 0.5.1), BigQuery's FARM_FINGERPRINT, Redshift's farmFingerprint64.
        ("", 11160318154034397263),
        ("a", 12917804110809363939),
        ("ab", 12289600257749001502),
        ("abc", 2640714258260161385),
        ("abcd", 1897425971756105985),
        ("abcdefg", 4341691227789030229),
        ("alphabet", -2427165924636348523 % 2**64),
        ("Amazon Redshift", 8085098817162212970),
        ("0123456789abcdef", 6105018409752412263),
    ],
)
def test_fingerprints_are_those_of_farmhash(text: str, value: int):
    assert of(text) == value


@pytest.mark.parametrize(
    ("column", "text", "wanted"), [(0, "68fd1e64", 6734129), (1, "80e26c9b", 16854), (2, "00000000", 4188)]
)
def test_ids_are_those_of_algoperf(column: int, text: str, wanted: int):
    assert of(f"{text}{column}") % LEVELS[column] == wanted


def plainly(line: str) -> tuple[int, list[float], list[int]]:
    label, *fields = line.split("\t")
    numbers = [math.log(max(int(each or 0), 0) + 1) for each in fields[:13]]
    texts = [each if each not in ("", "-1") else "00000000" for each in fields[13:]]
    return int(label), numbers, [of(f"{text}{column}") % LEVELS[column] for column, text in enumerate(texts)]


def lines_of(path: Path) -> list[str]:
    return gzip.decompress(path.read_bytes()).decode().splitlines()


def test_each_split_has_its_rows_in_the_order_of_the_files(folder: Path):
    days = [lines_of(folder / f"criteo1tb/raw/day_{day}.gz") for day in range(3)]
    wanted: dict[SplitName, list[str]] = {
        "train": days[0] + days[1], "test": days[2][:TEST], "validation": days[2][TEST:],
    }  # fmt: skip
    for split, lines in wanted.items():
        examples = Clicks(folder / "criteo1tb" / split)
        assert len(examples) == len(lines)
        batch = examples.gather(torch.arange(len(lines)))
        labels, numbers, ids = zip(*map(plainly, lines), strict=True)
        assert batch["targets"].tolist() == list(labels)
        assert batch["ids"].tolist() == list(ids)
        torch.testing.assert_close(batch["numbers"], torch.tensor(numbers))


def test_minus_one_is_a_missing_category_too(tmp_path: Path):
    fields = ["1", *["5"] * 13, *["-1"] * 26]
    (tmp_path / "day_0.gz").write_bytes(gzip.compress(("\t".join(fields) + "\n").encode()))
    (tmp_path / "day_1.gz").write_bytes(b"")
    [chunk] = chunks_from(parts_of(tmp_path, "train", [1, 0]))
    assert chunk["ids"].tolist() == [plainly("\t".join(fields))[2]]


def test_a_preparation_that_goes_on_reads_the_rows_that_are_left(folder: Path):
    parts = parts_of(folder / "criteo1tb/raw", "train", DAYS, TEST)
    whole = numpy.concatenate([chunk["ids"] for chunk in chunks_from(parts)])
    for begin in (0, 1, 119, 120, 199):
        rest = numpy.concatenate([chunk["ids"] for chunk in chunks_from(parts, begin)])
        assert numpy.array_equal(rest, whole[begin:])


@pytest.mark.parametrize(
    ("harm", "complaint"),
    [
        (lambda path: path.unlink(), r"day_1\.gz is not there\. Run: make data"),
        (lambda path: path.write_bytes(path.read_bytes()[:-200]), r"day_1\.gz is damaged or cut short .* make data"),
        (lambda path: path.write_bytes(b"<html>"), r"day_1\.gz is damaged"),
        (lambda path: path.write_bytes(gzip.compress(b"1\t2\n")), r"day_1\.gz has 1 instead of 80 rows"),
        (lambda path: path.write_bytes(gzip.compress(b"1\t2\n" * 80)), r"day_1\.gz holds something else than clicks"),
        (lambda path: path.write_bytes(path.read_bytes() + gzip.compress(b"1\n")), r"day_1\.gz has more than 80 rows"),
    ],
    ids=["missing", "cut", "no gzip", "short", "other columns", "long"],
)
def test_a_file_that_is_not_as_published_is_named_and_makes_no_split(tmp_path: Path, harm, complaint: str):
    write_days(tmp_path / "raw", DAYS)
    harm(tmp_path / "raw/day_1.gz")
    with pytest.raises(DataError, match=complaint):
        prepare_clicks(tmp_path, "train", rows=DAYS, test_rows=TEST)
    assert not (tmp_path / "train").exists()


def test_made_up_rows_have_the_form_of_true_ones_without_any(folder: Path, tmp_path: Path):
    workload = Criteo1tb(**TINY)
    made = workload.synthetic_batch(5, torch.Generator().manual_seed(0), tmp_path)
    true = Clicks(folder / "criteo1tb" / "train").gather(torch.arange(5))
    assert {name: (each.shape, each.dtype) for name, each in made.items()} == {
        name: (each.shape, each.dtype) for name, each in true.items()
    }
    assert (made["ids"] < torch.tensor(LEVELS)).all()
    assert workload.losses(workload.outputs(workload.build_model(), made), made, 0.0)[0].isfinite().all()


def test_an_evaluation_adds_up_as_it_goes_and_does_not_depend_on_the_batch_size(folder: Path):
    workload = Criteo1tb(**TINY)
    torch.manual_seed(0)
    model = workload.build_model()
    examples = workload.load("validation", folder)
    found = evaluate(workload, model, examples, 64)
    batch = examples.gather(torch.arange(len(examples)))
    wanted = workload.losses(workload.outputs(model, batch), batch, 0.0)[0].double().mean().item()
    assert found == {"loss": pytest.approx(wanted, rel=1e-6), "bce": pytest.approx(wanted, rel=1e-6)}
    assert evaluate(workload, model, examples, 7) == pytest.approx(found, rel=1e-6)


def test_ids_may_pass_through_float32_as_algoperfs_do():
    exact, rounded = Criteo1tb(**TINY), Criteo1tb(**{**TINY, "float_ids": True})
    torch.manual_seed(0)
    model = exact.build_model()
    batch = {"ids": torch.full((1, 26), 2**24 + 1, dtype=torch.int32), "numbers": torch.zeros(1, 13)}
    even = {**batch, "ids": torch.full((1, 26), 2**24, dtype=torch.int32)}
    assert torch.equal(rounded.outputs(model, batch), exact.outputs(model, even))
    assert not torch.equal(exact.outputs(model, batch), exact.outputs(model, even))


def test_training_takes_runs_of_neighbours(folder: Path):
    assert Clicks(folder / "criteo1tb/train").run_length == 4096


@pytest.mark.slow
def test_three_steps_and_an_evaluation_from_small_files_of_the_published_form(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("TIMETRIAL_DATA", str(folder))
    row, evaluations = trial_and_evaluations(
        tmp_path, "criteo1tb_test", options={}, batch_size=64, eval_batch_size=32, coarse=Coarse(64, 1e-9)
    )
    assert (row["status"], row["steps"], row["examples"]) == ("out_of_budget", STEPS, 64 * STEPS)
    splits = {split: Clicks(folder / "criteo1tb" / split).digest() for split in SPLITS}
    settings = dataclasses.replace(load("workload", "criteo1tb_test", WorkloadConfig), data=splits)
    assert row["data_hash"] == settings.data_hash()
    assert math.isfinite(evaluations["validation"].iloc[-1])
    assert json.loads(evaluations["other_metrics"].iloc[-1])["validation_examples"] == 64


@pytest.mark.slow
def test_a_trainer_that_is_a_fresh_interpreter_reads_its_own_folder_too(folder: Path, tmp_path: Path):
    (tmp_path / "data").symlink_to(folder)
    source = """
        import os

        def train(trial, hp):
            split = trial.train_set.folder
            print("FOUND", os.listdir(split.parent), len(trial.next_batch(16)["ids"]))
            trial.finish()
    """
    with Sandbox(torch.device("cpu"), threads=1, memory_bytes=2 << 30, forks=False, loader_workers=1) as sandbox:
        outcome = race_on(
            sandbox, tmp_path, source, entry="workloads.full.criteo1tb.Criteo1tb", options=TINY,
            target=Target("bce", "min", -1.0), max_runtime=120.0, eval_period=60.0,
        )  # fmt: skip
        if sandbox.missing:
            pytest.skip(f"this system lacks {sandbox.missing}")
    assert outcome.status == "finished", outcome.log
    assert outcome.log.strip() == "FOUND ['train'] 16"

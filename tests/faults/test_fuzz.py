"""Inputs that nobody meant to write give a result or an error of ours, in every reader of what others have written."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from harness.api import HarnessError, Target
from harness.command_line import PlainConsole
from harness.commands.imports.import_algoperf import Import, run_import
from harness.config import CONF, WorkloadConfig, build, values_of
from harness.plugins.search import deal
from harness.plugins.submission import load_submission
from harness.race import protocol
from harness.race.channel import Channel, ChannelClosed
from harness.race.outcome import Observation
from harness.race.protocol import TrialEnded
from harness.records.imported.nanogpt_logs import find_runs, import_runs
from harness.records.imported.plain_logs import PlainRace, import_plain_logs
from harness.records.tables import EVALUATIONS, SCHEMA_VERSION, TRIALS, Records, TrialKey, read_parquet, read_table
from harness.study.rows import evaluation_row
from tests.records.test_tables import KEY, trial_row
from tests.records.test_tables import evaluation_row as some_evaluation

INPUTS = [100, pytest.param(10_000, marks=pytest.mark.slow)]
_HANGS_AFTER = 60


@contextlib.contextmanager
def no_hang() -> Iterator[None]:
    """One input may not take a minute."""

    def hung(*_: object) -> None:
        raise AssertionError(f"no answer within {_HANGS_AFTER} s")

    before = signal.signal(signal.SIGALRM, hung)
    signal.alarm(_HANGS_AFTER)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def fuzz(count: int, inputs: st.SearchStrategy[Any], take: Callable[[Any], object], *errors: type[Exception]) -> None:
    """Give `take` so many inputs, each of which it answers or refuses with one of our own errors."""

    # What fails is printed as it was found: shrinking it takes minutes.
    @settings(
        max_examples=count, phases=[Phase.generate], deadline=None, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(inputs)
    def one(given_input: Any) -> None:
        with no_hang(), contextlib.suppress(HarnessError, *errors):
            take(given_input)

    one()


# --- texts that are nearly right ---

_ODD = [
    *("", "0", "-1", "1e999", "-.inf", ".nan", "null", "~", "true", "[]", "{}", "[[]]", "{a: 1}", "'", '"', "\\", "\0"),
    *("&a", "*a", "<<: *a", "!!python/object:os.system", "!!binary x", "${x}", "${oc.env:HOME}", "???", "1_0", "0x1F"),
    *("9" * 400, "1" * 5000, "é", "\ud7ff", "\u2028", "- ", ": ", "#", "|", ">", "%", "@", "2026-11-27", "1:2:3"),
    *("__main__.x", "torch", "os.path", "a.b.c", "\t", "\r", "\x85", "{" * 300, "[" * 3000),
]  # fmt: skip


@st.composite
def nearly(draw: st.DrawFn, texts: list[str]) -> bytes:
    """One of the texts with a few of its lines and words lost, doubled or replaced, or with bytes changed."""
    text = draw(st.sampled_from(texts))
    for _ in range(draw(st.integers(0, 4))):
        words = text.split(" ") if draw(st.booleans()) else text.splitlines(keepends=True)
        separator = " " if " ".join(words) == text else ""
        if not words:
            break
        place = draw(st.integers(0, len(words) - 1))
        deed = draw(st.sampled_from(["lose", "double", "odd", "other", "text"]))
        if deed == "lose":
            del words[place]
        elif deed == "double":
            words.insert(place, words[place])
        elif deed == "odd":
            words[place] = draw(st.sampled_from(_ODD)) + draw(st.sampled_from(["", "\n"]))
        elif deed == "other":
            words[place] = draw(st.sampled_from(words))
        else:
            words[place] = draw(st.text(max_size=8))
        text = separator.join(words)
    content = bytearray(text.encode(errors="surrogatepass"))
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 3]))):
        if content:
            content[draw(st.integers(0, len(content) - 1))] = draw(st.integers(0, 255))
    if draw(st.integers(0, 9)) == 0:
        del content[draw(st.integers(0, len(content))) :]
    return bytes(content)


def trees(names: list[str], values: list[object]) -> st.SearchStrategy[Any]:
    """Nested lists and mappings of such names and values, and of others."""
    leaves = (
        st.sampled_from(values) | st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6)
        | st.sampled_from([10**400, -(10**400), 1e308, 5e-324, -0.0])
    )  # fmt: skip
    keys = st.sampled_from(names) | st.text(max_size=6) | st.integers() | st.booleans()
    return st.recursive(
        leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=6), max_leaves=12
    )


def laid_over(base: dict[str, Any], tree: st.SearchStrategy[Any]) -> st.SearchStrategy[bytes]:
    """YAML of `base` with some of its values replaced by trees, anywhere in it."""

    @st.composite
    def made(draw: st.DrawFn) -> bytes:
        content = json.loads(json.dumps(base))
        for _ in range(draw(st.integers(1, 3))):
            place = content
            while True:
                key = draw(st.sampled_from(list(place))) if draw(st.integers(0, 5)) else draw(st.text(max_size=5))
                if isinstance(place.get(key), dict) and place[key] and draw(st.booleans()):
                    place = place[key]
                    continue
                place[key] = draw(tree)
                break
        return yaml.safe_dump(content, allow_unicode=True).encode(errors="surrogatepass")

    return made()


# --- the channel ---

SNAPSHOT = {
    "type": "snapshot",
    "step": 3,
    "examples": 96,
    "is_finished": False,
    "is_last": False,
    "ends_stage": False,
    "reported": {"train_loss": 0.5, "rate": "NaN"},
    "first_step_seconds": 0.1,
    "median_step_seconds": 0.01,
    "p90_step_seconds": None,
    "peak_device_bytes": 1 << 20,
}
WORDS = [json.dumps(SNAPSHOT), *(json.dumps({"type": kind, "reason": "x", "step": 3}) for kind in
         ("ready", "restored", "checkpoint", "crashed", "refused", "not_continued"))]  # fmt: skip
SEEN = Observation(2, 64, 1.0, {"error": 0.5, "loss": 1.0}, None, {})
MESSAGES = st.fixed_dictionaries(
    {}, optional={name: trees([*SNAPSHOT], ["snapshot", "ready", "NaN", 3, 96]) for name in [*SNAPSHOT, "reason"]}
)
SAID = (
    nearly([f"{word}\n" for word in WORDS])
    | st.builds(lambda message: json.dumps({**SNAPSHOT, **message}).encode() + b"\n", MESSAGES)
    | st.binary(max_size=200)
    | st.sampled_from(
        [b"x" * (1 << 21), b"[" * 100_000 + b"\n", b'{"a":' * 100_000 + b"\n", b"\n", b"1" * 5000 + b"\n"]
    )
)


def hear(parts: list[bytes]) -> None:
    """All that the referee makes of what a trainer says."""
    ours, theirs = socket.socketpair()
    channel = Channel(ours)
    try:
        theirs.setblocking(False)
        for part in parts:
            with contextlib.suppress(BlockingIOError):
                theirs.send(part)
        theirs.close()
        while True:
            message = channel.receive(time.monotonic() + 10.0)
            for answer in (lambda m: protocol.check_failure(m, patience=0.0), protocol.check_ready):
                with contextlib.suppress(TrialEnded):
                    answer(message)
            protocol.is_restored(message, 3)
            protocol.is_checkpoint(message)
            protocol.is_not_continued(message)
            snapshot = protocol.snapshot(message, SEEN)
            observation = Observation(
                snapshot.step, snapshot.examples, 2.0, {"error": 0.1, "loss": 0.2}, None, snapshot.reported
            )
            row = evaluation_row(TrialKey("w", "s", "t"), 0, observation, "error")
            pa.Table.from_pylist([row], schema=EVALUATIONS)
    finally:
        channel.close()


@pytest.mark.parametrize("count", INPUTS)
def test_whatever_a_trainer_says_is_a_snapshot_or_a_refusal(count):
    fuzz(count, st.lists(SAID, max_size=3), hear, ChannelClosed, TrialEnded)


# --- YAML ---

PLAIN = """title: a test
authors: nobody
paper: none
hyperparameters:
  learning_rate: 1e-3
  betas: [0.9, 0.999]
  kind: sgd
  nesterov: true
  warmup_steps: 100
  weight_decay: null
search_space:
  kind: {values: [sgd, adam]}
  learning_rate: {min: 1e-4, max: 1e-1, scaling: log}
  betas.0: {min: 0.5, max: 0.99}
  warmup_steps: {min: 10, max: 1000, integer: true, scaling: log, when: {kind: [adam]}}
"""
GROUPS = """title: a test
authors: nobody
paper: none
groups:
  matrices: {entry: torch.optim.Muon, arguments: {nesterov: true}}
  rest: torch.optim.AdamW
schedule: warmup_cosine
hyperparameters: {warmup_fraction: 0.1, matrices: {lr: 0.02}, rest: {lr: 0.001, betas: [0.9, 0.95]}}
search_space:
- {matrices.lr: 0.01}
- {rest.lr: 0.1}
"""
ENTRY = """title: a test
authors: nobody
entry: torch.optim.SGD
step: plain
arguments: {momentum: 0.9}
hyperparameters: {lr: 0.1}
"""
YAMLS = [PLAIN, GROUPS, ENTRY]
NAMES = [
    *("title", "authors", "hyperparameters", "search_space", "entry", "groups", "schedule", "step", "api", "arguments"),
    *("learning_rate", "betas", "betas.0", "kind", "min", "max", "values", "when", "scaling", "integer", "rest", "lr"),
]


def tree_of(text: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(json.dumps(yaml.safe_load(text)))
    return found


SUBMISSION_YAMLS = (
    nearly(YAMLS)
    | st.one_of(
        [
            laid_over(tree_of(text), trees(NAMES, ["log", "linear", "torch.optim.SGD", "__main__.x", 0.1, 10]))
            for text in YAMLS
        ]
    )
    | st.binary(max_size=100)
)


@pytest.mark.parametrize("count", INPUTS)
def test_any_submission_yaml_is_a_submission_with_points_or_an_error(count, tmp_path):
    with_code, without = tmp_path / "with_code", tmp_path / "without"
    for folder in (with_code, without):
        folder.mkdir()
    (with_code / "submission.py").write_text("def train(trial, hp): ...\n")

    def read(given_input: tuple[Path, bytes]) -> None:
        folder, content = given_input
        (folder / "submission.yaml").write_bytes(content)
        submission = load_submission(str(folder))
        points = deal(submission.space, study=1, studies=3, trials=5, seed=0)
        assert len(points) == 5
        json.dumps([dict(point) for point in points], allow_nan=False)

    fuzz(count, st.tuples(st.sampled_from([with_code, without]), SUBMISSION_YAMLS), read)


WORKLOADS = [
    (CONF / "workload" / f"{name}.yaml").read_text(encoding="utf-8") for name in ("digits_mlp", "digits_mlp_wide")
]
WORKLOAD_NAMES = [*WorkloadConfig.__dataclass_fields__, "steps", "metric", "goal", "validation", "defaults"]


@pytest.mark.parametrize("count", INPUTS)
def test_any_workload_yaml_is_a_workload_or_an_error(count, tmp_path):
    folder = tmp_path / "workload"
    folder.mkdir()
    shutil.copy(CONF / "workload" / "digits_mlp.yaml", folder)

    def read(content: bytes) -> None:
        (folder / "fuzzed.yaml").write_bytes(content)
        build(WorkloadConfig, values_of("workload", "fuzzed", tmp_path), "fuzzed.yaml")

    overlaid = [laid_over(tree_of(text), trees(WORKLOAD_NAMES, ["min", "digits_mlp", "_self_"])) for text in WORKLOADS]
    fuzz(count, nearly(WORKLOADS) | st.one_of(overlaid) | st.binary(max_size=100), read)


# --- AlgoPerf's logs ---

LOG = (
    "global_step,score,validation/ssim,validation/loss,test/ssim,test/loss,accumulated_eval_time,total_duration\n"
    "1,10.5,0.61,0.4,0.6,0.41,3.0,14.0\n"
    "200,40.25,0.72,0.29,0.71,0.3,6.0,50.0\n"
    "400,80.0,0.7344,,nan,inf,9.0,95.0\n"
)
META = """{"rng_seed": 7, "gpu_count": 8, "gpu_model_name": "V100", "workload.max_allowed_runtime_sec": 8859.0,
"workload.eval_period_time_sec": 80, "cpu_count": 48, "git_commit_hash": "abc", "workload.test_target_value": 0.74}
"""
HPARAMS = '{"learning_rate": 0.001, "one_minus_beta1": 0.1}\n'
TARGETS = (
    '{"benchmark_version": "0.5", "workloads": {"fastmri":\n'
    ' {"target_metric_name": "ssim", "validation_target_value": 0.7344}}}\n'
)
LOGS = {"eval_measurements.csv": LOG, "meta_data_0.json": META, "hparams.json": HPARAMS, "targets.json": TARGETS}


@pytest.mark.parametrize("count", INPUTS)
def test_any_log_of_algoperf_is_imported_or_an_error(count, tmp_path):
    logs, targets = tmp_path / "logs", tmp_path / "targets.json"
    trial = logs / "adamw" / "study_0" / "fastmri_pytorch" / "trial_1"
    trial.mkdir(parents=True)

    def read(given_input: tuple[str, bytes]) -> None:
        for name, text in LOGS.items():
            (targets if name == "targets.json" else trial / name).write_text(text)
        name, content = given_input
        (targets if name == "targets.json" else trial / name).write_bytes(content)
        results = tmp_path / "results"
        shutil.rmtree(results, ignore_errors=True)
        run_import(Import(logs, targets, results, workers=1), PlainConsole(io.StringIO()))
        assert len(read_table(results / "runs", "trials")) in (0, 1)  # none where it has no target

    def inputs(name: str) -> st.SearchStrategy[tuple[str, bytes]]:
        texts = nearly([LOGS[name]]) | st.binary(max_size=60)
        if name.endswith(".json"):
            base = json.loads(LOGS[name])
            tree = trees([*base, "fastmri"], ["ssim", 0.5, "0.5"])
            whole = st.fixed_dictionaries({}, optional=dict.fromkeys(base, tree))
            texts |= st.builds(lambda over: json.dumps({**base, **over}).encode(), whole) | st.builds(
                lambda any_tree: json.dumps(any_tree).encode(), tree
            )
        return st.tuples(st.just(name), texts)

    fuzz(count, st.one_of([inputs(name) for name in LOGS]), read)


# --- logs of others ---

PLAIN_LOGS = {
    ".csv": "step,seconds,loss,seed,lr\n10,1.5,2.0,7,0.1\n20,3.0,,7,0.1\n30,4.5,0.9,7,nan\n",
    ".json": '{"submission": "mine", "seed": 7, "evaluations":\n [{"step": 10, "seconds": 1.5, "loss": 2.0}]}\n',
    ".jsonl": '{"step": 10, "seconds": 1.5, "loss": 2.0}\n{"step": 20, "seconds": 3, "loss": 0.9, "trial": 1}\n',
}
NANOGPT_LOG = """Running PyTorch 2.10.0 compiled for CUDA 12.8
Running on device_name=NVIDIA L40S with world_size=4
step:0/300 val_loss:10.8 train_time:0.000s step_avg:0.06ms
step:125/300 val_loss:3.4 train_time:60.5s step_avg:484.00ms
step:300/300 val_loss:3.27 train_time:145200ms step_avg:484.00ms
"""


@pytest.mark.parametrize("count", INPUTS)
def test_any_log_of_a_training_script_is_imported_or_an_error(count, tmp_path):
    race = PlainRace("w", Target("loss", "min", 1.0), "desk")

    def read(given_input: tuple[str, bytes]) -> None:
        suffix, content = given_input
        log = tmp_path / f"run{suffix}"
        log.write_bytes(content)
        shutil.rmtree(tmp_path / "runs", ignore_errors=True)
        counts = import_plain_logs(log, runs=tmp_path / "runs", race=race)
        assert len(read_table(tmp_path / "runs", "trials")) == sum(counts.values())

    fuzz(count, st.one_of([st.tuples(st.just(name), nearly([text])) for name, text in PLAIN_LOGS.items()]), read)


@pytest.mark.parametrize("count", INPUTS)
def test_any_log_of_modded_nanogpt_is_imported_or_an_error(count, tmp_path):
    def read(content: bytes) -> None:
        log = tmp_path / "run.txt"
        log.write_bytes(content)
        shutil.rmtree(tmp_path / "runs", ignore_errors=True)
        counts = import_runs(find_runs(log), runs=tmp_path / "runs")
        assert len(read_table(tmp_path / "runs", "trials")) == sum(counts.values())

    fuzz(count, nearly([NANOGPT_LOG]) | st.binary(max_size=60), read)


# --- tables ---


@pytest.fixture
def tables(tmp_path: Path) -> Records:
    records = Records(tmp_path / "runs")
    records.finish(KEY, trial_row(), [some_evaluation(1), some_evaluation(2)])
    return records


_TYPES: list[pa.DataType] = [
    *(pa.string(), pa.int8(), pa.int64(), pa.float64(), pa.bool_(), pa.binary(), pa.null(), pa.list_(pa.int8())),
    *(pa.timestamp("ns"), pa.dictionary(pa.int8(), pa.string()), pa.struct([("a", pa.int8())]), pa.decimal128(5, 2)),
]


@st.composite
def other_tables(draw: st.DrawFn, schema: pa.Schema) -> pa.Table:
    """A table with some of the columns lost, doubled or of another type, and with another word on its version."""
    columns: list[tuple[str, pa.Array]] = []
    length = draw(st.integers(0, 3))
    for field in schema:
        kind = draw(st.sampled_from([field.type] * 40 + _TYPES)) if draw(st.booleans()) else field.type
        fate = draw(st.integers(0, 99))
        if fate != 0:
            columns.append((field.name, pa.nulls(length, kind)))
        if fate == 1:
            columns.append((field.name, pa.nulls(length, kind)))
    version = draw(st.sampled_from([str(SCHEMA_VERSION).encode()] * 5 + [b"1", b"99", b"x", b"", b"-1", b"\xff"]))
    table = pa.Table.from_arrays([column for _, column in columns], names=[name for name, _ in columns])
    return table.replace_schema_metadata({b"timetrial_schema_version": version})


@pytest.mark.parametrize("count", INPUTS)
def test_any_file_is_a_table_or_is_left_out_with_a_word(count, tables):
    path, good = tables.path("trials", KEY), tables.path("trials", KEY).read_bytes()
    evaluations = tables.path("evaluations", KEY)
    good_evaluations = evaluations.read_bytes()

    def read(given_input: tuple[bytes | pa.Table, bytes | pa.Table]) -> None:
        for file, content in zip((path, evaluations), given_input, strict=True):
            if isinstance(content, bytes):
                file.write_bytes(content)
            else:
                pq.write_table(content, file)
        for table, file, schema in (("trials", path, TRIALS), ("evaluations", evaluations, EVALUATIONS)):
            said: list[str] = []
            frame = read_table(tables.runs, table, left_out=said.append)
            assert isinstance(frame, pd.DataFrame)
            assert set(frame.columns) >= set(schema.names)
            for read_one in (lambda t=table: read_table(tables.runs, t), lambda f=file, s=schema: read_parquet(f, s)):
                with contextlib.suppress(HarnessError):
                    read_one()
        if tables.is_done(KEY):
            tables.trial(KEY)

    def spoilt(content: bytes) -> st.SearchStrategy[bytes]:
        @st.composite
        def made(draw: st.DrawFn) -> bytes:
            changed = bytearray(content)
            near_end = draw(st.booleans())  # where the footer is
            for _ in range(draw(st.integers(0, 4))):
                low = max(0, len(changed) - 3000) if near_end else 0
                changed[draw(st.integers(low, len(changed) - 1))] = draw(st.integers(0, 255))
            return bytes(changed[: draw(st.sampled_from([len(changed)] * 4 + [len(changed) // 2, 8, 4, 0]))])

        return made()

    trials = spoilt(good) | other_tables(TRIALS) | st.binary(max_size=50)
    fuzz(count, st.tuples(trials, spoilt(good_evaluations) | other_tables(EVALUATIONS)), read)


@pytest.mark.parametrize("count", INPUTS)
def test_any_journal_is_read_as_far_as_it_is_whole(count, tmp_path):
    records = Records(tmp_path)
    lines = [
        '{"kind": "start", "trial_id": "x", "conditions": {}}\n',
        json.dumps({"kind": "evaluation", **some_evaluation(1)}) + "\n",
    ]
    path = tmp_path / "journal" / f"{KEY.trial_id}.jsonl"

    def read(content: bytes) -> None:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        with records.journal(KEY) as journal:
            kept = journal.lines()
            assert all(isinstance(line["kind"], str) for line in kept)
            journal.append("end", {})
            assert [line["kind"] for line in journal.lines()] == [*(line["kind"] for line in kept), "end"]

    fuzz(count, nearly(["".join(lines)]) | st.binary(max_size=80), read)


def test_what_is_fuzzed_is_sound_before_it_is_spoilt(tmp_path, tables):
    for text in YAMLS:
        folder = tmp_path / f"s{len(text)}"
        folder.mkdir()
        (folder / "submission.yaml").write_text(text)
        if "entry" not in text:
            (folder / "submission.py").write_text("def train(trial, hp): ...\n")
        assert load_submission(str(folder)).title
    assert len(read_table(tables.runs, "trials")) == 1
    with pytest.raises(ChannelClosed):
        hear([json.dumps(SNAPSHOT).encode() + b"\n"])
    assert Target("ssim", "max", 0.7344).is_reached_by(0.7344)

"""Studies on joblib, Ray and submitit: the same table, nothing lost with a job, clear words where they cannot start."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import io
import shutil
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import psutil
import pytest
from rich.text import Text

from harness.api import ConfigError, visible
from harness.command_line import PlainConsole
from harness.commands import bench
from harness.study import launch
from harness.study.jobs import JobConsole, JobsDisplay
from harness.study.machine.calibration import Calibration, Measurement
from harness.study.machine.hardware import this_machine
from hydra_plugins.timetrial_launchers.engines import RayLauncher, imported
from tests import conftest
from tests.faults.cells import wrong_clock
from tests.study.machine.test_calibration import SUBJECT, measured

YAML = "title: a test\nauthors: nobody\npaper: none\nhyperparameters: {learning_rate: 0.05}\n"

# Ends after 40 steps wherever it runs and however loaded the machine is, so that tables can be compared.
FORTY_STEPS = """
    import torch

    def train(trial, hp):
        optimizer = torch.optim.%s(trial.model.parameters(), lr=hp.learning_rate)
        for step, batch in enumerate(trial.batches()):
            if step == 40:
                trial.finish()
            optimizer.zero_grad()
            trial.loss(batch).backward()
            optimizer.step()
"""
# Lasts long enough to be killed in.
TEN_SECONDS = """
    import time

    def train(trial, hp):
        for step, batch in enumerate(trial.batches()):
            time.sleep(0.1)
            if step == 100:
                trial.finish()
"""
ENDLESS = """
    def train(trial, hp):
        for batch in trial.batches():
            pass
"""
STEADY = ["tracking=off", "hardware.memory_gib=4", "evaluate_every_steps=40"]
"""With a budget that no trial here uses up: nothing depends on time."""
WORKLOADS = ("digits_mlp", "kjv_char_lm")


def needs(module: str) -> pytest.MarkDecorator:
    present = importlib.util.find_spec(module) is not None
    return pytest.mark.skipif(not present, reason=f"{module} is not installed: .venv/bin/pip install '.[ray,slurm]'")


def slurm_answers() -> bool:
    return shutil.which("sinfo") is not None and subprocess.run(["sinfo"], capture_output=True).returncode == 0


def write(folder: Path, source: str) -> Path:
    folder.mkdir(parents=True)
    (folder / "submission.py").write_text(textwrap.dedent(source))
    (folder / "submission.yaml").write_text(YAML)
    return folder


def command(*arguments: object) -> list[str]:
    budgets = [f"++hardware.seconds_per_step.{name}=1.0" for name in WORKLOADS]
    return [sys.executable, "-m", "harness.commands.bench", *STEADY, *budgets, *map(str, arguments)]


def environment() -> dict[str, str]:
    # One thread wherever it runs: the sums of an evaluation depend on their number in the last bits.
    return conftest.environment(OMP_NUM_THREADS="1", COLUMNS="200")


def run(folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """`make bench` in another folder, as a process of its own."""
    return subprocess.run(
        command(*arguments), cwd=folder, env=environment(), capture_output=True, text=True, timeout=540, check=False
    )


def tables(results: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Both tables without what depends on the moment."""
    trials = pd.read_parquet(results / "runs" / "trials").sort_values("trial_id").reset_index(drop=True)
    timed = [name for name in trials if name.endswith(("seconds", "bytes", "joules", "started_at", "git_revision"))]
    evaluations = pd.read_parquet(results / "runs" / "evaluations").sort_values(["trial_id", "step"])
    return trials.drop(columns=timed), evaluations.drop(columns="charged_seconds").reset_index(drop=True)


@pytest.fixture(scope="module")
def submissions(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("submissions")
    return ",".join(str(write(folder / name.lower(), FORTY_STEPS % name)) for name in ("SGD", "Adam"))


@pytest.fixture(scope="module")
def local_results(tmp_path_factory: pytest.TempPathFactory, submissions: str) -> Path:
    """What one process makes of two submissions on two workloads."""
    folder = tmp_path_factory.mktemp("local")
    done = run(folder, f"workload={','.join(WORKLOADS)}", f"submission={submissions}", "results=results")
    assert done.returncode == 0, done.stderr
    return folder / "results"


@pytest.mark.slow
@pytest.mark.parametrize(
    "launcher",
    [
        pytest.param("joblib", marks=needs("joblib")),
        pytest.param("ray", marks=needs("ray")),
        pytest.param("submitit_local", marks=needs("submitit")),
        pytest.param("submitit_slurm", marks=pytest.mark.skipif(not slurm_answers(), reason="no Slurm here")),
    ],
)
def test_every_launcher_gives_the_table_of_the_local_one(tmp_path, submissions, local_results, launcher):
    chosen = [f"workload={','.join(WORKLOADS)}", f"submission={submissions}", f"hydra/launcher={launcher}"]
    done = run(tmp_path, *chosen, "results=results")  # relative to where the bench was started, not to where a job runs
    assert done.returncode == 0, done.stderr
    for expected, found in zip(tables(local_results), tables(tmp_path / "results"), strict=True):
        pd.testing.assert_frame_equal(found, expected, check_exact=True)
    trials, evaluations = tables(tmp_path / "results")
    assert len(trials) == 4
    assert set(trials["status"]) == {"finished"}
    assert evaluations.groupby("trial_id")["step"].max().tolist() == [40] * 4
    assert sum("  finished  " in line for line in done.stdout.splitlines()) == 4
    assert visible(tmp_path / "results" / "jobs", "*") == []


@contextlib.contextmanager
def started(folder: Path, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """`make bench` while it runs; nothing of it is left behind."""
    process = subprocess.Popen(
        command(*arguments), cwd=folder, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        yield process
    finally:
        for each in [*psutil.Process(process.pid).children(recursive=True), process] if process.poll() is None else []:
            each.kill()


def racing(bench_process: int, seconds: float = 200.0) -> psutil.Process:
    """The process below the bench that runs a trial: its referee."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        time.sleep(0.2)
        for process in psutil.Process(bench_process).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if any("/journal/" in file.path for file in process.open_files()) and process.children():
                    return process
    raise AssertionError(f"no trial within {seconds} s")


def killed(process: psutil.Process) -> None:
    process.kill()


def ended_by_a_scheduler(process: psutil.Process) -> None:
    for each in [*process.children(recursive=True), process]:  # Slurm signals all of a job, its trainers too
        each.terminate()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launcher", "option", "end", "code"),
    [
        pytest.param("joblib", "n_jobs=2", killed, 2, marks=needs("joblib")),
        pytest.param("joblib", "n_jobs=2", ended_by_a_scheduler, 2, marks=needs("joblib")),
        pytest.param("ray", "remote.max_retries=0", killed, 2, marks=needs("ray")),
        pytest.param("ray", "remote.max_retries=1", killed, 0, marks=needs("ray")),
        pytest.param("submitit_local", "jobs_at_once=2", killed, 2, marks=needs("submitit")),
        pytest.param("submitit_local", "jobs_at_once=2", ended_by_a_scheduler, 2, marks=needs("submitit")),
    ],
)
def test_a_job_that_is_killed_loses_nothing(tmp_path, launcher, option, end, code):
    submissions = [write(tmp_path / "short", FORTY_STEPS % "SGD"), write(tmp_path / "long", TEN_SECONDS)]
    results = tmp_path / "results"
    chosen = ["workload=digits_mlp", f"results={results}"]
    assert run(tmp_path, *chosen, f"submission={submissions[0]}").returncode == 0
    done = {path: path.read_bytes() for path in visible(results, "**/submission=short/*.parquet")}
    assert len(done) == 2
    chosen.append(f"submission={','.join(map(str, submissions))}")
    arguments = [*chosen, f"hydra/launcher={launcher}", f"hydra.launcher.{option}"]
    with started(tmp_path, *arguments) as process:
        end(racing(process.pid))
        said = process.communicate(timeout=200)[0]
    assert process.returncode == code, said
    if code:
        assert f"digits_mlp {submissions[1]} study 0: lost: " in said
        assert "of 2 studies were lost" in said
        assert "run the same command again" in said
        again = run(tmp_path, *arguments)
        assert again.returncode == 0, again.stderr
    assert tables(results)[0].groupby("submission")["status"].agg(list).to_dict() == {
        "long": ["finished"],
        "short": ["finished"],
    }
    assert {path: path.read_bytes() for path in done} == done


@pytest.mark.slow
@needs("joblib")
def test_a_process_that_got_sigterm_starts_no_further_study_and_writes_no_row_of_a_crash(tmp_path):
    submissions = [write(tmp_path / name, TEN_SECONDS) for name in ("one", "two", "three", "four")]
    results = tmp_path / "results"
    chosen = ["workload=digits_mlp", f"results={results}", f"submission={','.join(map(str, submissions))}"]
    with started(tmp_path, *chosen, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2") as process:
        racing(process.pid).terminate()
        said = process.communicate(timeout=200)[0]
    assert process.returncode == 2, said
    assert said.count("lost: ended by SIGTERM") == 1
    assert said.count("lost: not started, since SIGTERM had ended a study before it") >= 1
    assert set(tables(results)[0]["status"]) == {"finished"}


@pytest.mark.slow
@needs("joblib")
def test_jobs_on_this_machine_start_after_the_reference_has_been_measured_once(tmp_path):
    submissions = [write(tmp_path / name, FORTY_STEPS % "SGD") for name in ("one", "two")]
    chosen = ["workload=digits_mlp", f"submission={','.join(map(str, submissions))}", "tracking=offline"]
    arguments = [
        sys.executable,
        "-m",
        "harness.commands.bench",
        *chosen,
        "hardware.memory_gib=4",
        "hydra/launcher=joblib",
    ]
    done = subprocess.run(
        arguments, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [number for number, line in enumerate(lines) if line.startswith("measuring seconds per step")] == [0]
    assert "W&B" not in done.stdout
    assert len(visible(tmp_path / "results" / "wandb", "offline-run-*/*.wandb")) == 2


def test_two_processes_that_measure_at_once_take_turns_and_keep_both_measurements(tmp_path):
    machine = this_machine("local", "cpu", 1, 1.0)
    inside: list[str] = []

    def of(workload: str) -> Measurement:
        return measured(0.5, subject=dataclasses.replace(SUBJECT, workload=workload))

    def measure(name: str) -> None:
        with Calibration(tmp_path, machine).alone():
            inside.append(name)
            time.sleep(0.2)
            Calibration(tmp_path, machine).keep(of(name))
            inside.append(name)

    threads = [threading.Thread(target=measure, args=(name,)) for name in ("a", "b", "c")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert inside[0::2] == inside[1::2]
    assert all(Calibration(tmp_path, machine).find(of(name).subject) == of(name) for name in "abc")


@needs("ray")
@pytest.mark.parametrize(
    ("given", "environment", "address", "is_here"),
    [(None, None, "local", True), ("local", None, "local", True), (None, "head:6379", "head:6379", False),
     ("auto", None, "auto", False)],
)  # fmt: skip
def test_without_an_address_no_cluster_that_ray_finds_is_joined(monkeypatch, given, environment, address, is_here):
    import ray

    if environment is None:
        monkeypatch.delenv("RAY_ADDRESS", raising=False)
    else:
        monkeypatch.setenv("RAY_ADDRESS", environment)
    asked = []

    def init(**options):
        asked.append(options["address"])
        raise RuntimeError("asked")

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr("socket.create_connection", lambda *_, **__: io.BytesIO())
    launcher = RayLauncher(init={"address": given}, remote={})
    with pytest.raises(ConfigError, match="asked"):
        list(launcher.results([]))
    assert asked == [address]
    assert launcher.runs_here == is_here


BAD = [
    (["hydra/launcher=joblb"], ["joblb", "joblib"]),
    (["hydra/launcher=slurm"], ["slurm", "submitit_slurm"]),
    (["hydra/launcher=joblib", "hydra.launcher.n_job=2"], ["n_job", "n_jobs"]),
    (["hydra/launcher=joblib", "hydra.launcher.n_jobs=many"], ["conf/hydra/launcher/joblib.yaml", "n_jobs", "many"]),
    (["hydra/launcher=joblib", "hydra.launcher.n_jobs=0"], ["n_jobs", "0"]),
    (["hydra.launcher.n_jobs=2"], ["hydra.launcher.n_jobs"]),
    pytest.param(
        ["hydra/launcher=ray", "+hydra.launcher.init.adress=auto"], ["conf/hydra/launcher/ray.yaml", "adress"],
        marks=needs("ray"),
    ),
    pytest.param(
        ["hydra/launcher=ray", "+hydra.launcher.remote.num_cpu=2"], ["conf/hydra/launcher/ray.yaml", "num_cpu"],
        marks=[needs("ray"), pytest.mark.slow],
    ),
    pytest.param(
        ["hydra/launcher=ray", "hydra.launcher.init.address=127.0.0.1:9"], ["launcher/ray.yaml", "127.0.0.1"],
        marks=needs("ray"),
    ),
    pytest.param(
        ["hydra/launcher=submitit_slurm"], ["conf/hydra/launcher/submitit_slurm.yaml", "srun"],
        marks=[needs("submitit"), pytest.mark.skipif(bool(shutil.which("srun")), reason="Slurm is installed here")],
    ),
    pytest.param(
        ["hydra/launcher=submitit_local", "hydra.launcher.timeout_min=long"], ["timeout_min", "long"],
        marks=needs("submitit"),
    ),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "words"), BAD)
def test_a_launcher_that_cannot_start_is_one_clear_error_and_exit_code_two(tmp_path, capfd, arguments, words):
    frozen = "++hardware.seconds_per_step.digits_mlp=1.0"
    results = tmp_path / "results"
    chosen = ["workload=digits_mlp", "submission=adamw", frozen, "tracking=off", f"results={results}"]
    assert bench.main([*chosen, *arguments]) == 2
    lines = capfd.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("error: ")
    for word in words:
        assert word in lines[0]
    assert not (results / "runs").exists()
    assert not visible(results, "jobs/*")


def test_an_engine_that_is_not_installed_is_named_with_the_command_that_installs_it():
    with pytest.raises(ConfigError, match=r"no_such_engine.*pip install .*\[ray\]"):
        imported("no_such_engine", "ray")


def test_what_jobs_say_is_shown_in_whole_lines_and_once(tmp_path):
    shown = io.StringIO()
    consoles = []
    for number in range(2):
        (tmp_path / str(number)).mkdir()
        consoles.append(JobConsole(tmp_path / str(number)))
    with JobsDisplay(PlainConsole(shown, width=80), tmp_path, 3):
        for round_ in range(20):
            for number, console in enumerate(consoles):
                console.print(f"job {number} says {round_} " + "and goes on " * 10, soft_wrap=True)
        consoles[0].show(Text("0.5/2.0 s"))
        assert (tmp_path / "0" / "now.txt").read_text() == "0.5/2.0 s\n"
        for console in consoles:
            console.end()
    lines = shown.getvalue().splitlines()
    assert sorted(lines) == sorted(
        f"job {number} says {round_} " + "and goes on " * 10 for number in range(2) for round_ in range(20)
    )
    assert not (tmp_path / "0" / "now.txt").exists()


def test_on_a_terminal_the_last_lines_say_where_each_job_is(tmp_path):
    shown = io.StringIO()
    for number in range(3):
        (tmp_path / str(number)).mkdir()
        JobConsole(tmp_path / str(number)).show(Text(f"trial {number} at 1.0/2.0 s"))
    terminal = PlainConsole(shown, width=80, force_terminal=True)
    with JobsDisplay(terminal, tmp_path, 4):
        JobConsole(tmp_path / "2").end()
    assert "trial 0 at 1.0/2.0 s" in shown.getvalue()
    assert "trial 1 at 1.0/2.0 s" in shown.getvalue()
    assert "1 of 4 studies done, 2 in a trial" in shown.getvalue()


def test_a_job_whose_lines_cannot_be_written_brings_them_back_itself(tmp_path):
    console = JobConsole(tmp_path / "nowhere")
    console.print("error: the disk is full", soft_wrap=True)
    console.show(Text("1.0/2.0 s"))
    console.end()
    assert console.unsaid == ["error: the disk is full"]


def test_a_results_folder_that_cannot_be_written_is_said_before_anything_runs(tmp_path, capfd):
    (tmp_path / "file").write_text("not a folder")
    for launcher in ("basic", "joblib"):
        chosen = ["workload=digits_mlp", "submission=adamw", "tracking=off", f"hydra/launcher={launcher}"]
        assert bench.main([*chosen, f"results={tmp_path / 'file' / 'results'}"]) == 2
        captured = capfd.readouterr()
        assert captured.out == ""
        assert "cannot write (Not a directory)" in captured.err


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["basic", pytest.param("joblib", marks=needs("joblib"))])
def test_a_full_disk_is_said_and_nothing_recorded_is_lost(tmp_path, small_disk, launcher):
    first, second = (write(tmp_path / name, FORTY_STEPS % "SGD") for name in ("first", "second"))
    arguments = ["workload=digits_mlp", f"results={small_disk}", f"hydra/launcher={launcher}"]
    assert run(tmp_path, *arguments, f"submission={first}").returncode == 0
    recorded = {path: path.read_bytes() for path in visible(small_disk, "**/*.parquet")}
    (small_disk / "filler").write_bytes(bytes(shutil.disk_usage(small_disk).free - (24 << 10)))
    full = run(tmp_path, *arguments, f"submission={first},{second}")
    assert full.returncode == 2
    said = full.stdout + full.stderr
    assert "No space left on device" in said, said
    assert "nothing that was finished is lost" in said
    assert "Traceback" not in said
    (small_disk / "filler").write_bytes(b"")
    (small_disk / "filler").unlink()
    again = run(tmp_path, *arguments, f"submission={first},{second}")
    assert again.returncode == 0, again.stderr
    assert sorted(tables(small_disk)[0]["submission"]) == ["first", "second"]
    assert {path: path.read_bytes() for path in recorded} == recorded


@pytest.mark.slow
def test_a_clock_that_jumps_by_days_changes_nothing(tmp_path):
    if shutil.which("cc") is None:
        pytest.skip("there is no C compiler (cc) to make the clock with")
    clock, fake = tmp_path / "clock", wrong_clock(tmp_path)
    clock.write_text("864000\n")
    submission = write(tmp_path / "endless", ENDLESS)
    arguments = [
        sys.executable, "-m", "harness.commands.bench", "workload=digits_mlp", f"submission={submission}",
        "results=results",
        "tracking=off", "hardware.memory_gib=4", "++hardware.seconds_per_step.digits_mlp=0.0025",
    ]  # fmt: skip
    results = tmp_path / "results"
    process = subprocess.Popen(arguments, cwd=tmp_path, env={**environment(), **fake}, stdout=subprocess.PIPE)
    while process.poll() is None:
        for jump in (864_000, -864_000):
            if visible(results, "runs/journal/*.jsonl"):
                clock.write_text(f"{jump}\n")
            time.sleep(0.5)
    assert process.returncode == 0
    trial = pd.read_parquet(results / "runs" / "trials").iloc[0]
    evaluations = pd.read_parquet(results / "runs" / "evaluations").sort_values("evaluation")
    assert trial["status"] == "out_of_budget"
    assert abs(trial["started_at"] - pd.Timestamp.now("UTC")) > pd.Timedelta(days=9)  # the clock did jump
    assert trial["charged_seconds"] == pytest.approx(6.0, abs=0.5)
    assert trial["charged_seconds"] <= trial["total_seconds"] < 120.0
    assert (evaluations["charged_seconds"].diff().dropna() > 0.1).all()
    assert 2 <= len(evaluations) <= 40


@needs("submitit")
def test_a_job_whose_time_is_up_for_good_says_so_and_is_no_fault_of_ours(tmp_path, monkeypatch):
    from submitit.core.utils import UncompletedJobError

    def ended(*_):
        raise UncompletedJobError("Job not requeued because: timed-out too many times.")

    monkeypatch.setattr(launch, "run_study", ended)
    request = bench.parse(["workload=digits_mlp", "submission=adamw", f"results={tmp_path}", "tracking=off"])
    (config,) = bench.studies_of(request)
    shown = io.StringIO()
    report = launch.run_and_report(config, PlainConsole(shown, width=400), warn=False)
    assert "Slurm ends this job (Job not requeued because: timed-out too many times.)" in shown.getvalue()
    assert "hydra.launcher.timeout_min" in shown.getvalue()
    assert "fault" not in shown.getvalue()
    assert report.missing == 1

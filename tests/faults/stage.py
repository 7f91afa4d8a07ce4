"""A bench whose trials stop at every state until somebody lets them go on, so that faults can strike exactly there.

A process that reaches a state makes an empty file and waits for its removal: the trainer in its scratch folder, the
referee in the folder that STAGE names. The referee's are found by the audit events of Python, at the operation itself.
"""

from __future__ import annotations

import atexit
import base64
import os
import pickle
import sys
import textwrap
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch

from harness import command_line
from harness.api import Budget, Target
from harness.command_line import PlainConsole
from harness.commands import bench as commands_bench
from harness.config import HardwareConfig, PruningConfig, RulesetConfig, StudyConfig, TrackingConfig, WorkloadConfig
from harness.study.identity import describe
from harness.study.study import run_study
from tests.faults.staged import STAGE, Staged, reach

TRIALS, STRUCK = 3, 1
"""Trials of the study, and the one that faults strike: the one before it has its row, the one after it has its turn."""
EVERY, EVALUATIONS = 4, 6

# Keeps state in an optimizer and a counter, prints, and stops at every place that a submission can be in.
SUBMISSION = """
    import time
    from pathlib import Path

    import torch

    SCRATCH = Path.cwd()

    def reach(state):
        mark = SCRATCH / f"at-{state}"
        try:
            open(mark, "w").close()
        except OSError:
            return
        while mark.exists():
            time.sleep(0.001)

    reach("importing")

    class Count:
        value = 0

        def state_dict(self):
            reach("saving its state")
            return {"value": self.value}

        def load_state_dict(self, state):
            reach("loading its state")
            self.value = state["value"]

    def train(trial, hp):
        optimizer = torch.optim.SGD(trial.model.parameters(), lr=hp.learning_rate, momentum=0.9)
        count = Count()
        trial.resumable(optimizer=optimizer, count=count)
        trial.before_evaluation(lambda: reach("before an evaluation"))
        trial.after_evaluation(lambda: reach("after an evaluation"))
        print("a word for the log", flush=True)
        for batch in trial.batches():
            count.value += 1
            if trial.step in (0, 9, 21):
                reach(f"in step {trial.step + 1}")
            optimizer.zero_grad()
            trial.loss(batch).backward()
            optimizer.step()
        reach("after its end")
"""


def write_submission(folder: Path) -> Path:
    """The directory of the submission that walks through the states."""
    folder.mkdir(parents=True)
    (folder / "submission.py").write_text(textwrap.dedent(SUBMISSION), encoding="utf-8")
    words = "title: a walk\nauthors: nobody\npaper: none\nhyperparameters: {learning_rate: 0.05}\n"
    (folder / "submission.yaml").write_text(words, encoding="utf-8")
    return folder


def study_config(results: Path, submission: Path, *, tracking: str = "off") -> StudyConfig:
    """Trials of 24 steps, evaluated every 4, with a checkpoint at every second evaluation; data in TIMETRIAL_DATA."""
    splits = {split: Staged()._drawn(split).digest() for split in ("train", "validation", "test")}
    workload = WorkloadConfig(
        name="staged",
        version=1,
        entry="tests.faults.staged.Staged",
        options={},
        parameters=18,
        batch_size=32,
        eval_batch_size=256,
        target=Target("error", "min", -1.0),
        budget=Budget(steps=EVERY * EVALUATIONS, evaluations=EVALUATIONS),
        data=splits,
        checkpoint_evaluations=2,
    )
    return StudyConfig(
        workload=workload,
        ruleset=RulesetConfig("faults", 1, 1, TRIALS, "defaults", 1.0, "adamw"),
        # No trial here uses up its seconds.
        hardware=HardwareConfig("local", "cpu", 1, 4.0, {"staged": 10.0}),
        tracking=TrackingConfig(tracking, "timetrial"),
        pruning=PruningConfig("none"),
        submission=str(submission),
        study=0,
        seed=0,
        hp={},
        results=results,
        evaluate_every_steps=EVERY,
    )


def overrides(results: Path, submission: Path) -> list[str]:
    """What `make bench` is told for the same with two submissions, one trial each."""
    splits = {split: Staged()._drawn(split).digest() for split in ("train", "validation", "test")}
    other = submission.parent / "other"
    if not other.exists():
        write_submission(other)
    return [
        "workload=digits_mlp",
        f"submission={submission},{other}",
        f"results={results}",
        "tracking=off",
        "hardware.memory_gib=4",
        "++hardware.seconds_per_step.digits_mlp=10.0",
        f"evaluate_every_steps={EVERY}",
        "workload.entry=tests.faults.staged.Staged",
        "workload.options.hidden=0",
        "workload.parameters=18",
        "workload.batch_size=32",
        "workload.eval_batch_size=256",
        f"workload.budget.steps={EVERY * EVALUATIONS}",
        f"workload.budget.evaluations={EVALUATIONS}",
        "workload.target.metric=error",
        "workload.target.validation=-1.0",
        "workload.checkpoint_evaluations=2",
        *(f"workload.data.{split}='{digest}'" for split, digest in splits.items()),
    ]


def bench(config: StudyConfig) -> int:
    """What a command does with one study, from its signals to its exit code."""

    def run(_: object) -> int:
        run_study(describe(config), PlainConsole(width=200))
        return 0

    return command_line.run(run)


def bench_launched(config: StudyConfig) -> int:
    """`make bench` of two submissions, side by side on joblib's processes."""
    jobs = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    return commands_bench.main([*overrides(config.results, Path(config.submission)), *jobs])


@dataclass(frozen=True)
class Scene:
    """What a bench on the stage finds: `folder` is the cell's own, `first_path` is searched for modules before others.

    `user`: whose rights it has; None: those of whoever runs the cell. `is_watched`: its referee stops at states.
    """

    config: StudyConfig
    folder: Path
    data: Path
    first_path: str = ""
    user: int | None = None
    is_watched: bool = True

    def written(self) -> str:
        """As text, for a process that is not forked from this one."""
        return base64.b64encode(pickle.dumps(self)).decode()

    def play(self, act: Callable[[StudyConfig], int]) -> NoReturn:
        """Run `act` in this process, which is for nothing else; never returns."""
        os.setsid()
        said = os.open(self.folder / "said.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        os.dup2(said, 1)
        os.dup2(said, 2)
        os.environ.update({"TIMETRIAL_DATA": str(self.data), "TMPDIR": str(self.folder / "t")})
        os.environ["LOGNAME"] = marker(self.folder)
        if self.first_path:
            sys.path.insert(0, self.first_path)
        if self.user is not None:
            os.setgroups([])
            os.setgid(self.user)
            os.setuid(self.user)
        torch.set_num_threads(1)
        if self.is_watched:
            os.environ[STAGE] = str(self.folder / "stage")
            watch(self.config.results, self.folder / "stage")
        code = 1
        try:
            code = act(self.config)
        except BaseException:
            # There is no interpreter above this that would.
            traceback.print_exc()
        finally:
            # As at the end of an interpreter, which this process does not come to: threads first, as joblib's workers
            # end with one of theirs.
            threading._shutdown()  # type: ignore[attr-defined]
            atexit._run_exitfuncs()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)


def marker(folder: Path) -> str:
    """What all processes of a cell have in their environment, wherever they are."""
    return f"timetrial-faults-{folder.parent.name}-{folder.name}"


def watch(results: Path, place: Path) -> None:
    """Reach a state at every operation of this process on what is in `results`, just before it is done."""
    inside = str(results / "runs")

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        state = _state(event, arguments, inside)
        if state is not None:
            reach(state, place)

    sys.addaudithook(hook)


_OPERATIONS = {
    ("os.mkdir", "scratch"): "making the scratch folder",
    ("open", "journal"): "opening the journal",
    ("os.rename", "checkpoints"): "taking a checkpoint over",
    ("shutil.rmtree", "checkpoints"): "removing checkpoints",
    ("open", "evaluations"): "writing the evaluations",
    ("os.rename", "evaluations"): "naming the evaluations",
    ("open", "trials"): "writing the trial",
    ("os.link", "trials"): "naming the trial",
    ("os.remove", "trials"): "removing the second name",
    ("open", "logs"): "writing the log",
    ("os.remove", "journal"): "removing the journal",
    ("shutil.rmtree", "scratch"): "clearing the scratch folder",
}
"""The state in which the operation of an audit event on a folder of `runs` stands for."""


def _state(event: str, arguments: tuple[Any, ...], inside: str) -> str | None:
    if event == "subprocess.Popen" and "harness.race.forkserver" in arguments[1]:
        return "starting the server"
    if event not in {event for event, _ in _OPERATIONS}:
        return None
    path = arguments[1] if event in ("os.rename", "os.link") else arguments[0]
    if not isinstance(path, str | os.PathLike):
        return None
    name = os.fspath(path)
    if not isinstance(name, str) or not name.startswith(inside + os.sep):
        return None
    if event == "open" and not arguments[2] & (os.O_WRONLY | os.O_RDWR):
        return None
    if event == "os.mkdir" and not Path(name).name.isalnum():
        return None
    return _OPERATIONS.get((event, name[len(inside) + 1 :].partition(os.sep)[0]))


if __name__ == "__main__":
    from tests.faults import stage

    # Of the class in the module by its name, not in __main__.
    scene: stage.Scene = pickle.loads(base64.b64decode(sys.argv[1]))
    scene.play(stage.bench)

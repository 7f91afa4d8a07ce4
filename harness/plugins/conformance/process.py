"""The checks of a submission's training in a process that is thrown away, with what it leaves behind."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path

from harness.plugins.conformance.check import Check, Outcome
from harness.plugins.conformance.training import Candidate, check_training, measured
from harness.plugins.submission import Submission, load_submission

_ROOT = Path(__file__).resolve().parents[3]
_SECONDS = 300.0


@dataclass
class Found:
    """What the process has said. `is_whole`: to its last line, and not ended by what it looked at."""

    checks: list[Check] = field(default_factory=list)
    measured: dict[str, float] = field(default_factory=dict)
    is_whole: bool = False


def check_training_of(submission: Submission, *, seconds: float = _SECONDS) -> Found:
    """What `check_training` finds in a new process, which is ended after so many seconds."""
    # A submission that compiles its steps would compile them for minutes, for models that are thrown away.
    environment = {**os.environ, "TORCHDYNAMO_DISABLE": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-m", "harness.plugins.conformance.process", str(submission.folder)]
    with tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as printed:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=said, stderr=printed, env=environment, start_new_session=True
        )
        fault = None
        try:
            if process.wait(seconds) != 0:
                printed.seek(0)
                last = printed.read().decode("utf-8", errors="replace").strip().rpartition("\n")[2]
                fault = f"it ended its process with exit code {process.returncode}. Its last words: {last or 'none'}"
        except subprocess.TimeoutExpired:
            fault = f"it was not done after {seconds:.0f} seconds. Let its loop draw from trial.batches()."
        finally:
            with contextlib.suppress(ProcessLookupError):  # children that it has left behind, too
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        said.seek(0)
        found = _read(said.read().decode("utf-8", errors="replace"))
    if fault is None and not found.is_whole:
        fault = "it ended its process before all was looked at. Let its training return."
    if fault is not None:
        found.checks.append(Check("trains", Outcome.FAILED, fault))
    return found


def _read(lines: str) -> Found:
    found = Found()
    for line in lines.splitlines():
        with contextlib.suppress(ValueError):  # half a line of a process that was ended
            answer = json.loads(line)
            if "done" in answer:
                found.is_whole = True
            elif "measured" in answer:
                found.measured = answer["measured"]
            else:
                found.checks.append(Check(**{**answer, "outcome": Outcome(answer["outcome"])}))
    return found


def main() -> None:
    """In the new process: a line of JSON for each check, one for what was measured, and one at the end."""
    import torch

    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a submission prints is no answer
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        candidate = Candidate(load_submission(sys.argv[1]), Path(folder))
        runs = True
        for check in check_training(candidate):
            runs = runs and check.outcome is Outcome.PASSED
            answers.write(json.dumps(asdict(check)) + "\n")
            answers.flush()
        if runs:
            answers.write(json.dumps({"measured": measured(candidate)}) + "\n")
        answers.write(json.dumps({"done": True}) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()

"""Whether optimizer classes of libraries run as a submission.yaml names them: asked in a process that is thrown away.

That process knows the harness, the installed packages, and no file of a submission.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import json
import math
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch.optim import Optimizer

from harness.api import ConfigError, Hyperparameters
from harness.plugins.entries import load_entry
from harness.plugins.optimizer_entry import Entry, Part
from harness.plugins.optimizer_mends import Finding, find, one_line

_ROOT = Path(__file__).resolve().parents[2]
_SECONDS_EACH = 60.0


def check(entries: Sequence[tuple[Entry, Mapping[str, Any]]], *, device: str = "cpu") -> list[Finding]:
    """What becomes of each entry with these hyperparameters; one that is too slow to tell counts as one that runs.

    Runs no line of a library in this process.
    """
    asked = [{"entry": entry.message(), "hyperparameters": dict(values)} for entry, values in entries]
    found = [Finding(**answer) for answer in _ask({"entries": asked, "device": device})]
    return found + [Finding("the process that tried it has died")] * (len(entries) - len(found))


def classes_of(library: str) -> tuple[list[str], dict[str, str]]:
    """Dotted names of the optimizer classes that `library` gives out, and why others of them are left out, by name.

    Raises ConfigError where it cannot be imported.
    """
    answers = _ask({"library": library})
    if not answers or "error" in answers[0]:
        why = answers[0]["error"] if answers else "the process that tried it has died"
        raise ConfigError(
            f"the library {library!r} cannot be imported ({why}). Check the name, or install it; "
            "some are in .venv/bin/pip install -c constraints.txt '.[optimizers]'."
        )
    return answers[0]["classes"], answers[0]["left_out"]


def in_one_line(keys: Mapping[str, Any]) -> str:
    """Keys of a submission.yaml in one line, each as YAML has it."""
    import yaml

    def flow(pair: dict[str, Any]) -> str:
        return yaml.safe_dump(pair, default_flow_style=True, width=math.inf, sort_keys=False).strip()[1:-1]

    return " and ".join(flow({key: value}) for key, value in keys.items())


def _ask(request: dict[str, Any]) -> list[dict[str, Any]]:
    """The lines of JSON with which a new process answers."""
    # A class that compiles its steps would compile them for minutes, for a model that is thrown away.
    environment = {**os.environ, "TORCHDYNAMO_DISABLE": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-m", "harness.plugins.optimizer_check"],
        input=json.dumps(request),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
        encoding="utf-8",
        check=False,
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


def main() -> None:
    """In the new process: answer one request of `_ask`, with a line for each entry, or one for a library."""
    request = json.load(sys.stdin)
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a library prints is no answer
    torch.set_num_threads(1)
    if "library" in request:
        answers.write(json.dumps(_listed(request["library"])) + "\n")
        answers.flush()
        return
    # What torch imports when it is first used would be imported in every child.
    find(Entry((Part("torch.optim.SGD"),)), Hyperparameters({}), torch.device("cpu"))
    for asked in request["entries"]:
        for part in asked["entry"]["parts"]:
            with contextlib.suppress(Exception):  # a fault shows again where the entry is tried
                load_entry(part["entry"])
    for asked in request["entries"]:
        entry, hp = Entry.from_message(asked["entry"]), Hyperparameters(asked["hyperparameters"])
        finding = _in_child(functools.partial(find, entry, hp, torch.device(request["device"])))
        answers.write(json.dumps(asdict(finding)) + "\n")
        answers.flush()


def _listed(library: str) -> dict[str, Any]:
    try:
        module = importlib.import_module(library)
    except Exception as error:
        return {"error": one_line(error)}
    found: dict[type, str] = {}
    for name, kind in sorted(vars(module).items()):
        # A class that is given out under several names has one here, its own if that is among them.
        if isinstance(kind, type) and issubclass(kind, Optimizer) and (kind not in found or name == kind.__name__):
            found[kind] = name
    package = library.partition(".")[0]
    others = {name: kind for kind, name in found.items() if kind.__module__.partition(".")[0] != package}
    return {
        "classes": [f"{library}.{name}" for name in sorted(found.values()) if name not in others],
        "left_out": {f"{library}.{name}": f"is {kind.__module__}.{kind.__name__}" for name, kind in others.items()},
    }


def _in_child(tried: functools.partial[Finding]) -> Finding:
    """What `tried` returns in a fork of this process, so that no class leaves anything to the next one."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            os.write(writing, json.dumps(asdict(tried())).encode())
        os._exit(0)
    os.close(writing)
    said, deadline = b"", time.monotonic() + _SECONDS_EACH
    while select.select([reading], [], [], max(0.0, deadline - time.monotonic()))[0]:
        chunk = os.read(reading, 1 << 16)
        if not chunk:
            break
        said += chunk
    else:
        os.kill(child, signal.SIGKILL)
    os.close(reading)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if said:
        return Finding(**json.loads(said))
    return Finding() if code == -signal.SIGKILL else Finding(f"it ended its process with exit code {code}")


if __name__ == "__main__":
    main()

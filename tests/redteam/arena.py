"""Where attacks are run: through a real referee, on a machine that has something to lose."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from harness.race.outcome import Outcome
from harness.race.sandbox import Sandbox
from tests.blobs import Blobs
from tests.conftest import ROOT, race_on
from tests.redteam.attacks import PRELUDE, Attack

SECRET = "TIMETRIAL_SECRET"


@dataclass(frozen=True)
class End:
    """How an attack ended, and what it got."""

    outcome: Outcome
    gained: list[str]

    def departure(self, attack: Attack) -> str | None:
        """How this differs from the end that the attack must get; None where it does not."""
        if self.gained:
            return f"it gained: {', '.join(self.gained)}"
        outcome = self.outcome
        if outcome.status != attack.status or attack.reason not in outcome.reason:
            wanted = f"{attack.status} ({attack.reason})" if attack.reason else attack.status
            return f"it ended {outcome.status} ({outcome.reason}) instead of {wanted}"
        return None

    @property
    def had_the_processor(self) -> bool:
        """Whether it got more of the processor than one thread can use, so that there was something to refuse."""
        used = self.outcome.cpu_seconds
        return used is not None and used > 1.1 * self.outcome.charged_seconds + 0.25


@contextlib.contextmanager
def new_sandbox(**options: Any) -> Iterator[Sandbox]:
    """A sandbox whose limits are reached in seconds, in a referee with a secret in its environment."""
    os.environ[SECRET] = "a key of the referee's"
    try:
        with Sandbox(torch.device("cpu"), threads=1, memory_bytes=2 << 30, disk_bytes=64 << 20, **options) as sandbox:
            yield sandbox
    finally:
        del os.environ[SECRET]


def run(attack: Attack, sandbox: Sandbox, folder: Path) -> End:
    """Run the attack as often as it asks for, in an empty folder with a short path."""
    results = folder / "results"
    (results / "runs").mkdir(parents=True)
    (results / "runs" / "journal.jsonl").write_text("the referee's\n")
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as by_path:
        by_path.bind(str(folder / "socket"))
        by_path.listen()
        with socket.socket(socket.AF_UNIX) as abstract:
            abstract.bind("\0timetrial." + str(os.getpid()))
            abstract.listen()
            world = {
                "data": str(folder / "data"),
                "results": str(results),
                "repository": str(ROOT),
                "referee": os.getpid(),
                "port": server.getsockname()[1],
                "unix": str(folder / "socket"),
                "abstract": "timetrial." + str(os.getpid()),
                "hidden_row": _disguised("validation"),
                "seen_row": _disguised("train"),
            }
            prelude = textwrap.dedent(PRELUDE) + f"WORLD = json.loads({json.dumps(world)!r})\n"
            changes = {"options": {}, "max_runtime": 1.0, **attack.changes}
            if "entry" not in changes:
                changes["options"] = {"stored": True, **changes["options"]}
            gained: list[str] = []
            for _ in range(attack.trials):
                outcome = race_on(sandbox, folder, prelude + textwrap.dedent(attack.source), **changes)
                gained += [line for line in outcome.log.splitlines() if line.startswith("GAINED")]
    found = {path.name: path.read_text() for path in (results / "runs").iterdir()}
    if found != {"journal.jsonl": "the referee's\n"}:
        gained.append("results")
    return End(outcome, gained)


def _disguised(split: Any) -> str:
    """A row of the split that is not in memory because it is written here: its bytes turned over, in hexadecimal."""
    row = Blobs()._drawn(split).tensors()["inputs"][7]
    return f"{int.from_bytes(row.numpy().tobytes(), 'big') ^ ((1 << 256) - 1):064x}"

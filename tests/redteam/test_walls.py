"""What a trainer sees from inside, and what happens where the system has no namespaces to give."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from harness.race.sandbox import Sandbox
from tests.blobs import FILE
from tests.conftest import ROOT, race_on
from tests.redteam import arena
from tests.redteam.table import BEGIN, END, rows


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with arena.new_sandbox() as sandbox:
        yield sandbox


def test_no_file_of_the_data_folder_is_anywhere_in_what_a_trainer_sees(sandbox: Sandbox, tmp_path: Path):
    source = """
        import os
        from pathlib import Path

        def train(trial, hp):
            seen, of_data, writable = 0, [], []
            for folder, folders, files in os.walk("/"):
                folders[:] = [name for name in folders if f"{folder}/{name}" not in ("//proc", "//sys")]
                seen += len(files)
                of_data += [name for name in files if name == "FILE"]
                is_private = folder.startswith(("/tmp", "/dev/shm", os.getcwd()))
                if os.access(folder, os.W_OK) and not is_private:
                    writable.append(folder)
            print("SEEN", seen, "DATA", len(of_data), "WRITABLE", sorted(writable))
            print("PROCESSES", len([name for name in os.listdir("/proc") if name.isdigit()]))
            trial.finish()
    """
    outcome = race_on(
        sandbox, tmp_path, source.replace("FILE", FILE), options={"stored": True}, max_runtime=120.0, eval_period=60.0
    )
    if not outcome.sandboxed:
        pytest.skip(f"this system lacks {sandbox.missing}")
    assert (tmp_path / "data" / FILE).exists()
    words = outcome.log.split()
    assert int(words[words.index("SEEN") + 1]) > 1000
    assert words[words.index("DATA") + 1] == "0"
    # What lies below /tmp is a file system in memory, the folders on the way to other paths included.
    assert "WRITABLE []" in outcome.log
    assert words[words.index("PROCESSES") + 1] == "2"


def test_where_namespaces_are_not_allowed_a_trial_runs_and_one_line_says_what_is_missing(tmp_path: Path):
    code = f"""
        from harness.race.confinement import namespaces
        namespaces.forbid()
        from pathlib import Path
        import torch
        from harness.race.sandbox import Sandbox
        from tests.conftest import SGD, race_on
        with Sandbox(torch.device("cpu"), threads=1) as sandbox:
            outcome = race_on(sandbox, Path({str(tmp_path)!r}), SGD, evaluate_every_steps=100)
            print(outcome.status, outcome.sandboxed, len(outcome.observations))
            print(sandbox.notice())
            print(sandbox.notice())
    """
    lines = [line.removeprefix("        ") for line in code.splitlines()]
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], cwd=ROOT, capture_output=True, text=True)
    if "Permission" in done.stderr or "not permitted" in done.stderr:
        pytest.skip("this system does not let a process take namespaces from itself")
    assert done.returncode == 0, done.stderr
    first, notice, again = done.stdout.strip().splitlines()
    assert first == "out_of_budget False 4"
    assert notice.startswith("no sandbox: this system lacks user namespaces")
    assert again == "None"


def test_a_fresh_interpreter_is_kept_in_as_a_forked_trainer_is(tmp_path: Path):
    source = """
        import os, socket

        def train(trial, hp):
            print("LISTED", sorted(os.listdir("REPOSITORY")), len(socket.if_nameindex()))
            trial.finish()
    """
    with Sandbox(torch.device("cpu"), threads=1, forks=False) as sandbox:
        outcome = race_on(sandbox, tmp_path, source.replace("REPOSITORY", str(ROOT)), options={"stored": True})
        if sandbox.missing:
            pytest.skip(f"this system lacks {sandbox.missing}")
    assert outcome.status == "finished", outcome.log
    assert "README.md" not in outcome.log
    assert "'harness'" in outcome.log
    assert outcome.log.rstrip().endswith(" 1")


def test_the_table_of_attacks_in_the_documentation_is_that_of_the_tests():
    text = (ROOT / "docs" / "trust.md").read_text(encoding="utf-8")
    table = text.partition(BEGIN)[2].partition(END)[0].strip().splitlines()
    assert table == rows(), "run python -m tests.redteam table=1 and put its lines into docs/trust.md"

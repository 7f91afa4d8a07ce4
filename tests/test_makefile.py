"""The Makefile: what was typed arrives as it was typed, and a `.venv` is made whole or not at all."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

# Not the one of the .venv, whose path may have a blank: make takes PYTHON for a command.
PYTHON = os.path.realpath(sys.executable)
# In place of the .venv's Python: prints what a target calls it with.
SHOW = f"{PYTHON} -c 'import sys; print(*sys.argv[1:], sep=\"\\n\")'"
ODD = [
    "Mü",
    "res (1)",
    "[1]",
    "#1",
    "a=b",
    "a,b",
    "t~",
    "a&b",
    "it's",
    "back\\slash",
    "${x}",
    "$(x)",
    '"q"',
    "100%",
]


def make(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHON": PYTHON, **environment}
    return subprocess.run(["make", *arguments], cwd=folder, env=environment, capture_output=True, text=True)


def called_with(target: str, *arguments: str, **environment: str) -> list[str]:
    done = make(ROOT, "--old-file=.venv/installed", target, f"PY={SHOW}", *arguments, **environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize("name", ODD)
def test_a_path_reaches_the_command_as_it_was_typed(name):
    expected = ["-m", "harness.commands.bench", f"submission=/t/{name}/mine", f"results=/t/{name}"]
    assert called_with("bench", f"SUBMISSION=/t/{name}/mine", f"RESULTS=/t/{name}") == expected
    assert called_with("bench", RESULTS=f"/t/{name}", SUBMISSION=f"/t/{name}/mine") == expected


def test_every_target_that_writes_or_reads_rows_hears_of_the_results_folder():
    for target in (
        *(
            "status",
            "diagnose",
            "leaderboard",
            "dashboard",
            "agreement",
            "replay",
            "doctor",
            "calibrate",
            "noise",
            "sync",
        ),
    ):
        assert "results=/t/it's" in called_with(target, "RESULTS=/t/it's"), target


def test_what_ranks_hears_of_the_reference_board_that_was_chosen():
    for target in ("bench", "leaderboard"):
        assert "against=it's" in called_with(target, "AGAINST=it's"), target


def test_the_name_of_a_new_submission_is_quoted_too():
    assert called_with("submission", "NAME=it's") == ["-m", "harness.commands.skeleton", "name=it's"]


@pytest.fixture
def checkout(tmp_path) -> Path:
    """What `make` reads before there is a .venv, in a folder of its own."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def test_a_python_that_does_not_fit_is_named_before_anything_is_made(checkout):
    path = checkout / "pyproject.toml"
    written = path.read_text(encoding="utf-8")
    path.write_text(written.replace('requires-python = ">=3.11,<3.14"', 'requires-python = ">=3.98,<3.99"'), "utf-8")
    done = make(checkout, "doctor")
    assert done.returncode == 2
    version = ".".join(map(str, sys.version_info[:3]))
    assert f"PYTHON is {PYTHON}, Python {version}, but pyproject.toml wants >=3.98,<3.99" in done.stderr
    assert not (checkout / ".venv").exists()


def test_a_python_that_is_not_there_is_named(checkout):
    done = make(checkout, "doctor", PYTHON="python9")
    assert done.returncode == 2
    assert "PYTHON is python9" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_python_without_pip_for_a_venv_names_the_package_that_brings_it(checkout):
    (checkout / "without").mkdir()
    (checkout / "without" / "ensurepip.py").write_text("raise ImportError('as on Debian without python3-venv')\n")
    done = make(checkout, "doctor", PYTHONPATH=str(checkout / "without"))
    assert done.returncode == 2
    assert "apt install python3-venv" in done.stderr
    assert not (checkout / ".venv").exists()


def test_a_half_made_venv_is_made_anew(checkout):
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", ".venv"], cwd=checkout, check=True)
    pip = [".venv/bin/python", "-m", "pip", "--version"]
    assert subprocess.run(pip, cwd=checkout, capture_output=True).returncode != 0
    # Installing needs the network, which tests do not have; what comes before it does not.
    done = make(checkout, "doctor", PIP_NO_INDEX="1")
    assert "No module named pip" not in done.stderr
    assert subprocess.run(pip, cwd=checkout, capture_output=True).returncode == 0
    assert not (checkout / ".venv" / "installed").exists()


def test_a_venv_whose_python_is_gone_is_no_finished_one(checkout):
    (checkout / ".venv").mkdir()
    (checkout / ".venv" / "installed").touch()
    done = make(checkout, "doctor", PYTHON="python9")
    assert "PYTHON is python9" in done.stderr

"""Every path and module that README, docs, Makefile and the design name is there."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

from tests.conftest import ROOT, SHARED

DESIGN = SHARED / "DESIGN.md"
PAGES = [ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "AGENTS.md", "Makefile")]
PAGES += [*sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / ".github").rglob("*.[my]*"))]
TOP = "benchmarks|conf|docs|harness|hydra_plugins|submissions|tests|workloads"
PATH = re.compile(rf"(?<![\w./~-])((?:{TOP})/[\w./-]*\w/?)")
FILE = re.compile(r"(?<![\w./~-])([\w-]+(?:/[\w-]+)*\.(?:py|yaml))\b")
MODULE = re.compile(r"(?<![\w./-])((?:harness|benchmarks|workloads)(?:\.[a-z_0-9]+)+)\b")
# Written by a reader of the page, in a folder of their own.
EXAMPLES = {"submission.py", "submission.yaml", "my_rule/submission.py", "my_rule/submission.yaml"}
EXAMPLES |= {"conf/hardware/mycluster.yaml", "conf/hardware/our_cluster.yaml", "conf/hydra/launcher/ours.yaml"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_path_that_a_page_names_is_there(page):
    text = page.read_text(encoding="utf-8")
    missing = [name for name in PATH.findall(text) if not _is_there(name) and not _is_pattern(text, name)]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_module_that_a_page_names_is_there(page):
    names = {name for name in MODULE.findall(page.read_text(encoding="utf-8")) if not name.endswith((".py", ".yaml"))}
    assert not [name for name in names if not _resolves(name)]


@pytest.mark.skipif(not DESIGN.exists(), reason="the design lies beside the repository, where there is one")
def test_every_file_that_the_design_names_is_there():
    text = DESIGN.read_text(encoding="utf-8")
    # A line of the tree that names a folder holds for the files that follow on it.
    missing = [name for name in FILE.findall(text) if name not in EXAMPLES and not _lies_somewhere(name)]
    assert not missing


def _is_there(name: str) -> bool:
    return name in EXAMPLES or (ROOT / name).exists()


def _lies_somewhere(name: str) -> bool:
    return any((ROOT / folder / name).exists() for folder in ("", "conf", "harness"))


def _is_pattern(text: str, name: str) -> bool:
    """Whether the page goes on with a star or a placeholder, or the name is one that a reader makes."""
    rest = text[text.index(name) + len(name) :][:1]
    return (
        rest in ("*", "<", "{", "$")
        or bool(re.search(r"[A-Z]{4,}", Path(name).name))
        or name.startswith("submissions/x")
    )


def _resolves(name: str) -> bool:
    """Whether the dotted name is a module, or something in one."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        module = ".".join(parts[:length])
        try:
            if importlib.util.find_spec(module) is None:
                continue
        except ModuleNotFoundError:
            continue
        found = importlib.import_module(module)
        for attribute in parts[length:]:
            if not hasattr(found, attribute):
                return False
            found = getattr(found, attribute)
        return True
    return False

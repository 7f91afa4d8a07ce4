"""The layers of DESIGN, section 3, read off the imports; and what importing the package costs."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

# Who sits where: a module may import from its own row's right side alone.
LOWEST = {"api"}
UPON_API = {"clock", "channel", "search", "hardware"}
FORBIDDEN = {
    "trainer": {"referee", "sandbox", "study", "bench", "records", "tracking"},
    "referee": {"trainer", "trial", "study", "bench", "submission"},
    "trial": {"referee", "trainer", "sandbox", "records", "study", "bench"},
    "sandbox": {"referee", "trainer", "study", "bench"},
}


def modules() -> list[Path]:
    return sorted((ROOT / "harness").rglob("*.py"))


def imported(path: Path, *, with_functions: bool = True) -> set[str]:
    """Dotted names that a file imports."""
    tree = ast.parse(path.read_text())
    names: set[str] = set()
    for node in ast.walk(tree) if with_functions else tree.body:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def ours(path: Path) -> set[str]:
    """Modules of the harness that a file imports, by their first name."""
    return {name.split(".")[1] for name in imported(path) if name.startswith("harness.")}


def module(name: str) -> Path:
    return ROOT / "harness" / f"{name}.py"


def test_the_vocabulary_imports_nothing_of_ours():
    assert not ours(module("api"))


@pytest.mark.parametrize("name", sorted(UPON_API))
def test_the_second_layer_imports_no_process_and_no_orchestration(name):
    assert not ours(module(name)) & {"trial", "trainer", "referee", "sandbox", "study", "bench", "board"}


@pytest.mark.parametrize("name", sorted(FORBIDDEN))
def test_referee_and_trainer_are_kept_apart(name):
    assert not ours(module(name)) & FORBIDDEN[name]


def test_scoring_imports_the_vocabulary_alone():
    for path in (ROOT / "harness" / "scoring").glob("*.py"):
        assert ours(path) <= {"api", "scoring"}, path


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_the_harness_names_no_workload_and_no_submission(path):
    assert not {name for name in imported(path) if name.split(".")[0] in ("workloads", "submissions")}
    names = {each.stem for each in (ROOT / "conf" / "workload").glob("*.yaml")}
    code = ast.unparse(_without_docstrings(ast.parse(path.read_text())))
    assert not [name for name in names if name in code]


@pytest.mark.parametrize("path", sorted((ROOT / "workloads").rglob("*.py")), ids=lambda path: path.stem)
def test_workloads_import_the_vocabulary_and_their_own_helpers(path):
    assert ours(path) <= {"api"}


@pytest.mark.parametrize("path", sorted((ROOT / "submissions").rglob("*.py")), ids=lambda path: path.parent.name)
def test_submissions_import_public_names_alone(path):
    import harness

    for name in imported(path):
        if name.split(".")[0] == "harness":
            assert name == "harness" or name.split(".")[1] in harness.__all__


@pytest.mark.parametrize("path", sorted((ROOT / "workloads").rglob("*.py")), ids=lambda path: path.stem)
def test_torchvision_is_imported_in_one_place(path):
    if path.stem != "torchvision_import":
        assert not [name for name in imported(path) if name.split(".")[0] == "torchvision"]


def test_importing_the_package_brings_no_heavy_library():
    heavy = ("torchvision", "wandb", "hydra", "datasets", "pandas", "sklearn", "rich", "scipy")
    code = f"import harness, sys; print([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


def test_a_trainer_starts_without_hydra_pandas_or_wandb():
    heavy = ("torchvision", "wandb", "hydra", "pandas", "rich", "omegaconf", "pydantic")
    code = f"import harness.trainer, sys; print([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_importing_a_module_has_no_effect(path):
    """Only definitions, constants and guarded entry points stand at the top of a file."""
    for node in ast.parse(path.read_text()).body:
        is_call = isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
        assert not is_call, f"{path}:{node.lineno}"
        assert not isinstance(node, ast.For | ast.While | ast.With), f"{path}:{node.lineno}"


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
            value = body[0].value
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                body[0] = ast.Pass()
    return tree

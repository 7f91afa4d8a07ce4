"""The rooms of DESIGN, section 3, read off the imports; and what importing the package costs."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

GROUND = {"api", "config", "command_line"}
# Which rooms each room may import, beside itself and the ground.
MAY_IMPORT = {
    "trial": set(),
    "scoring": set(),
    "plugins": {"trial"},
    "records": {"scoring"},
    "diagnostics": {"trial", "plugins", "records", "scoring"},
    "board": {"scoring"},
    "race": {"trial", "plugins"},
    "study": {"race", "plugins", "records", "scoring"},
    "commands": {"study", "race", "trial", "plugins", "records", "diagnostics", "scoring", "board"},
}
FLOORS_AT_MOST = 7
FILES_AT_MOST = 15
WORKLOADS = [path.stem for path in (ROOT / "conf" / "workload").glob("*.yaml")]


def modules(folder: str = "harness") -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


@functools.cache
def imported(path: Path) -> frozenset[str]:
    """Dotted names that a file imports, inside functions too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(names)


def rooms_imported(path: Path) -> set[str]:
    """Rooms and ground modules of the harness that a file imports."""
    return {name.split(".")[1] for name in imported(path) if name.startswith("harness.")} & {*MAY_IMPORT, *GROUND}


def room(name: str) -> list[Path]:
    return sorted((ROOT / "harness" / name).rglob("*.py"))


def imports_of_rooms() -> dict[str, set[str]]:
    """For each room, the rooms that its files import, the ground counted as one."""
    return {
        name: {"ground" if other in GROUND else other for path in room(name) for other in rooms_imported(path)} - {name}
        for name in MAY_IMPORT
    } | {"ground": set()}


def test_every_folder_of_the_harness_is_a_room_and_every_file_beside_them_is_the_ground():
    entries = [path for path in (ROOT / "harness").iterdir() if path.name != "__pycache__"]
    assert {path.name for path in entries if path.is_dir()} == set(MAY_IMPORT)
    assert {path.stem for path in entries if path.is_file() and not path.name.startswith(".")} == {"__init__", *GROUND}


@pytest.mark.parametrize("name", sorted(MAY_IMPORT))
def test_a_room_imports_only_the_rooms_below_it(name):
    for path in room(name):
        assert rooms_imported(path) <= {name, *MAY_IMPORT[name], *GROUND}, path


def test_the_ground_imports_no_room_and_the_vocabulary_nothing_of_ours():
    assert not rooms_imported(ROOT / "harness" / "api.py")
    for name in GROUND:
        assert rooms_imported(ROOT / "harness" / f"{name}.py") <= {"api"}


def test_the_longest_chain_of_imports_between_rooms_is_short():
    below = imports_of_rooms()

    @functools.cache
    def floors(name: str) -> int:
        return 1 + max((floors(other) for other in below[name]), default=0)

    assert max(floors(name) for name in below) <= FLOORS_AT_MOST


def test_referee_and_trainer_never_import_each_other():
    race = ROOT / "harness" / "race"
    assert "harness.race.trainer" not in imported(race / "referee.py")
    assert not {"harness.race.referee", "harness.race.sandbox"} & imported(race / "trainer.py")
    assert "harness.trial" not in {".".join(name.split(".")[:2]) for name in imported(race / "referee.py")}


def test_a_predictor_imports_nothing_that_holds_a_target():
    found = imported(ROOT / "harness" / "race" / "prediction" / "predictor.py")
    holders = {"referee", "sandbox", "judge", "evaluation", "trainer", "prediction.judge"}
    assert not {f"harness.race.{name}" for name in holders} & found


def test_what_the_processes_of_a_trial_share_imports_none_of_them():
    for shared in ("processes", "channel", "clock", "protocol"):
        found = imported(ROOT / "harness" / "race" / f"{shared}.py")
        assert (
            not {f"harness.race.{name}" for name in ("forkserver", "trainer", "torchrun", "referee", "sandbox")} & found
        )


@pytest.mark.parametrize("folder", ["harness", "workloads"])
def test_no_folder_outgrows_one_glance(folder):
    for path in [ROOT / folder, *(each for each in (ROOT / folder).rglob("*") if each.is_dir())]:
        files = list(path.glob("*.py"))
        assert len(files) <= FILES_AT_MOST, f"{path} holds {len(files)} files: give some of them a room"


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_the_harness_names_no_workload_and_no_submission(path):
    assert not {name for name in imported(path) if name.split(".")[0] in ("workloads", "submissions")}
    code = ast.unparse(_without_docstrings(ast.parse(path.read_text(encoding="utf-8"))))
    assert not [name for name in WORKLOADS if name in code]


@pytest.mark.parametrize("path", modules("workloads"), ids=lambda path: str(path.relative_to(ROOT)))
def test_workloads_import_the_vocabulary_and_their_own_helpers(path):
    assert {name.split(".")[1] for name in imported(path) if name.startswith("harness.")} <= {"api"}


@pytest.mark.parametrize("room_of_workloads", ["data", "losses", "networks", "models"])
def test_what_workloads_share_knows_no_workload(room_of_workloads):
    leads = {f"workloads.{path.stem}" for path in (ROOT / "workloads").glob("*.py")}
    for path in (ROOT / "workloads" / room_of_workloads).glob("*.py"):
        assert not imported(path) & leads, path


@pytest.mark.parametrize("path", modules("workloads"), ids=lambda path: str(path.relative_to(ROOT)))
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
    code = f"import harness.race.trainer, sys; print([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_importing_a_module_has_no_effect(path):
    """Only definitions, constants and guarded entry points stand at the top of a file."""
    for node in ast.parse(path.read_text()).body:
        is_call = isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
        assert not is_call, f"{path}:{node.lineno}"
        assert not isinstance(node, ast.For | ast.While | ast.With), f"{path}:{node.lineno}"


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_what_is_said_goes_through_the_plain_console(path):
    """Rich's own reads markup in names and reasons; both it and `print` end at a closed pipe."""
    own = {"trainer": {"print"}, "reported": {"print"}, "loop": {"print"}}.get(
        path.stem, set()
    )  # into the log of its trial
    for call in calls(path):
        assert ast.unparse(call.func) not in {"print", "Console", "rich.console.Console"} - own, f"{path}:{call.lineno}"


OURS = [path for folder in ("harness", "hydra_plugins", "workloads", "benchmarks") for path in modules(folder)]


@pytest.mark.parametrize("path", OURS, ids=lambda path: str(path.relative_to(ROOT)))
def test_text_is_utf_8_whatever_the_locale(path):
    for call in calls(path):
        keywords = {keyword.arg for keyword in call.keywords}
        is_text = "text" in keywords
        owner, _, name = ast.unparse(call.func).rpartition(".")
        if name in ("read_text", "write_text"):
            is_text = owner != ""
        elif name == "open" and owner not in ("os", "tarfile", "gzip", "Image"):
            modes = [argument.value for argument in call.args if isinstance(argument, ast.Constant)]
            is_text = not any("b" in str(mode) for mode in modes)
        assert not is_text or "encoding" in keywords, f"{path}:{call.lineno}"


def calls(path: Path) -> list[ast.Call]:
    return [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
            value = body[0].value
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                body[0] = ast.Pass()
    return tree

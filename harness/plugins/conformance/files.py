"""What the files of a submission must keep to, told without running a line of them."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

import harness
from harness.api import ConfigError, one_line, visible
from harness.config import names_in, values_of
from harness.plugins.conformance.check import Check, Outcome, judged, line_of
from harness.plugins.submission import Submission, load_submission
from harness.plugins.submission_files import read_files
from harness.plugins.values import value_at

_LOOKED_AT = {
    "description": "submission.yaml, search space, requirements, train(trial, hp)",
    "paper": "a link to what describes the method",
    "readme": "README.md, headed by the title",
    "search_space": "dimensions or points, with the defaults among what they allow",
    "names_no_workload": "no name of a workload in its files",
    "public_names": "of the suite it imports the public names alone",
}
_PRIVATE = ("hydra_plugins", "submissions", "workloads")


def check_files(name_or_path: str) -> list[Check]:
    """One check of each kind, in the order of the report. Raises ConfigError where there is no such directory."""
    try:
        submission = load_submission(name_or_path)
    except ConfigError as error:
        rest = [Check(name, Outcome.NOT_RUN, said) for name, said in _LOOKED_AT.items() if name != "description"]
        return [judged("description", one_line(error), ""), *rest]
    faults = {
        "description": None,
        "paper": _fault_of_paper(submission),
        "readme": _fault_of_readme(submission),
        "search_space": _fault_of_space(submission),
        "names_no_workload": _workload_named(submission),
        "public_names": _private_name(submission.folder),
    }
    return [judged(name, faults[name], said) for name, said in _LOOKED_AT.items()]


def _fault_of_paper(submission: Submission) -> str | None:
    if submission.paper.startswith("https://"):
        return None
    where = line_of(submission.folder / "submission.yaml", "paper:")
    return f"{where}: paper is {submission.paper!r}. Give the link to what describes the method: https://..."


def _fault_of_readme(submission: Submission) -> str | None:
    path = submission.folder / "README.md"
    if not path.is_file():
        return f"there is no README.md. Begin one with '# {submission.title}', then say what the paper claims."
    first = path.read_text(encoding="utf-8", errors="replace").partition("\n")[0]
    if first.strip() == f"# {submission.title}":
        return None
    return f"README.md:1: begins with {first!r}. Begin it with '# {submission.title}', as the title has it."


def _fault_of_space(submission: Submission) -> str | None:
    space, path = submission.space, submission.folder / "submission.yaml"
    if submission.hyperparameters and not space.dimensions and not space.points:
        return f"{path.name}: there is no search_space, so that external tuning has nothing to try. Write one."
    for name, dimension in space.dimensions.items():
        default = value_at(submission.hyperparameters, name, path.name)
        if not dimension.contains(default):
            return (
                f"{line_of(path, f'{name}:')}: the default {default!r} of {name} is outside of its search space. "
                "Widen the space, or choose another default."
            )
    return None


def _workload_named(submission: Submission) -> str | None:
    """Where a file names a workload, or the class behind it; comments and docstrings may."""
    named = _pattern_of(tuple(names_in("workload")))
    for where, text in _said_by(submission):
        if found := named.search(text):
            return (
                f"{where}: names the workload {found[1]!r}. A submission is the same for all: take what trial offers."
            )
    return None


@functools.cache
def _pattern_of(workloads: tuple[str, ...]) -> re.Pattern[str]:
    """What finds one of these workloads or its class. To read all of their files takes a second or two."""
    classes = {str(values_of("workload", name)["entry"]).rpartition(".")[2] for name in workloads}
    # Also as other spellings have it: digits-mlp, DIGITS_MLP.
    patterns = [name.replace("_", "[_ -]?") for name in workloads] + sorted(classes)
    return re.compile(rf"(?<![a-z0-9])({'|'.join(patterns)})(?![a-z0-9])", re.IGNORECASE)


def _said_by(submission: Submission) -> Iterator[tuple[str, str]]:
    """Places and texts in the files of a submission that its code may act on."""
    for name, value in submission.hyperparameters.items():
        yield line_of(submission.folder / "submission.yaml", f"{name}:"), f"{name} {value}"
    for name, data in read_files(submission.folder).content.items():
        if name.endswith(".py"):
            tree = ast.parse(data, filename=name)
            yield from ((f"{name}:{line}", text) for line, text in _texts(tree))
        elif name not in ("submission.yaml", "README.md"):
            for number, line in enumerate(data.decode("utf-8", errors="replace").splitlines(), start=1):
                yield f"{name}:{number}", line


def _texts(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and text of each name and string in the code, docstrings aside."""
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str | bytes) and id(node) not in docstrings:
            yield node.lineno, str(node.value)
        for text in (getattr(node, field, None) for field in ("id", "attr", "name", "arg")):
            if isinstance(text, str):
                yield getattr(node, "lineno", 1), text


def _private_name(folder: Path) -> str | None:
    """Where a file imports of this suite what is not offered to submissions."""
    for path in visible(folder, "**/*.py"):
        for node in ast.walk(ast.parse(path.read_bytes(), filename=str(path))):
            for name in _imported(node):
                package, _, rest = name.partition(".")
                if package in _PRIVATE or (package == "harness" and rest and rest not in harness.__all__):
                    return (
                        f"{path.relative_to(folder)}:{getattr(node, 'lineno', 1)}: imports {name}, which is not for "
                        "submissions. Import from harness itself; its __init__.py lists the names."
                    )
    return None


def _imported(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.module and not node.level:
        return [f"{node.module}.{alias.name}" for alias in node.names]
    return []

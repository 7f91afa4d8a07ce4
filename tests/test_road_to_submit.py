"""The road of a submitter: what its pages and its workflow call is there, and the workflow finds what has changed."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from harness.plugins.conformance.files import check_files
from tests.conftest import ROOT

WORKFLOW = ROOT / ".github" / "workflows" / "submission.yml"
PAGES = [
    WORKFLOW,
    ROOT / ".github" / "pull_request_template.md",
    *(ROOT / name for name in ("AGENTS.md", "CONTRIBUTING.md", "README.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]
CALL = re.compile(r"(?:`|^|\s)make ((?:[a-z]+-?)+)((?: [A-Z]+=\S+)*)", re.MULTILINE)


def recipes() -> dict[str, str]:
    """What the Makefile runs, by target, with the variables that stand for others written out."""
    text = (ROOT / "Makefile").read_text(encoding="utf-8").replace("\\\n", " ")
    overrides = re.search(r"^OVERRIDES = (.*)$", text, re.MULTILINE)
    assert overrides is not None
    found = re.findall(r"^([a-z-]+):.*\n((?:\t.*\n?)+)", text, re.MULTILINE)
    return {target: recipe.replace("$(OVERRIDES)", overrides[1]) for target, recipe in found}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_make_that_a_page_calls_takes_what_it_is_given(page: Path):
    known = recipes()
    for target, variables in CALL.findall(page.read_text(encoding="utf-8")):
        if target in ("test", "check") or target not in known:
            # `make data check test`, and prose such as "make sure".
            assert target in known or not variables, f"make {target}"
            continue
        for variable in re.findall(r"([A-Z]+)=", variables):
            assert f",{variable}," in known[target] or f"$({variable})" in known[target], f"make {target} {variable}="


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "AGENTS.md"])
def test_the_pages_of_a_submitter_are_linked_where_one_begins(page: str):
    for start in ("README.md", "docs/submitting.md"):
        assert f"{page})" in (ROOT / start).read_text(encoding="utf-8"), start


def test_what_the_kit_checks_is_in_the_docs():
    text = (ROOT / "docs" / "submitting.md").read_text(encoding="utf-8")
    names = [check.name for check in check_files("adamw")]
    assert not [name for name in names if f"`{name}`" not in text]


def test_the_workflow_finds_the_submissions_that_changed_and_are_still_there(tmp_path: Path):
    steps = yaml.safe_load(WORKFLOW.read_text(encoding="utf-8"))["jobs"]["validate"]["steps"]
    (script,) = [step["run"] for step in steps if step.get("id") == "changed"]

    def git(*arguments: str) -> str:
        author = ["-c", "user.name=nobody", "-c", "user.email=nobody@example.org"]
        done = subprocess.run(["git", *author, *arguments], cwd=tmp_path, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    def write(name: str, text: str) -> None:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    git("init", "--quiet")
    for name in ("stays", "changes", "goes"):
        write(f"submissions/{name}/submission.yaml", "title: a test\n")
    git("add", "--all")
    git("commit", "--quiet", "--message", "before")
    base = git("rev-parse", "HEAD")
    write("submissions/changes/README.md", "# a test\n")
    write("submissions/comes/submission.yaml", "title: a test\n")
    write("submissions/no_submission/notes.txt", "")
    write("docs/page.md", "")
    (tmp_path / "submissions/goes/submission.yaml").unlink()
    git("add", "--all")
    git("commit", "--quiet", "--message", "after")
    environment = {**os.environ, "BASE": base, "GITHUB_OUTPUT": str(tmp_path / "output")}
    subprocess.run(["bash", "-e", "-c", script], cwd=tmp_path, env=environment, check=True, capture_output=True)
    assert (tmp_path / "output").read_text(encoding="utf-8") == "names=changes,comes\n"


def test_the_workflow_gives_strangers_code_no_right_to_write():
    workflow = yaml.safe_load(WORKFLOW.read_text(encoding="utf-8"))
    # YAML 1.1 reads the key `on` as true.
    assert list(workflow[True]) == ["pull_request"]
    assert workflow["permissions"] == {"contents": "read"}
    for step in workflow["jobs"]["validate"]["steps"]:
        assert "${{" not in step.get("run", ""), "names from a pull request go through the environment"

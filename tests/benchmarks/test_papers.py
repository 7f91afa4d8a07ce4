"""The page of papers names what is there, and is what its data file says."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from benchmarks.papers import NOT_YET, PAGE, WORKS, Paper, missing, page, read_papers
from harness.api import ConfigError
from harness.config import names_in
from tests.conftest import ROOT


def test_every_name_that_a_paper_rests_on_is_there():
    assert missing(read_papers()) == []


def test_a_name_that_is_not_there_is_found():
    papers = [
        Paper("A", submissions=("adamw", "adamm")),
        Paper("B", workloads=("planted_yor",)),
        Paper("C", not_yet="x"),
    ]
    assert missing([*papers, Paper("C", not_yet="x"), Paper("D", submissions=("muon",), shown_on="digits_mpl")]) == [
        "adamm", "planted_yor", "digits_mpl",
    ]  # fmt: skip


def test_a_diagnostic_is_shown_by_make_diagnose_and_a_name_that_is_none_is_found():
    paper = Paper("A", diagnostics=("sharpness", "rates"))
    assert paper.command == (
        "make diagnose WORKLOAD=fashion_mnist_cnn SUBMISSION=nesterov,adamw,muon ONLY=sharpness,rates"
    )
    assert (paper.state, missing([paper])) == (WORKS, [])
    other = Paper("B", diagnostics=("sharpnes",), shown_on="digits_mlp")
    assert other.command is not None
    assert "WORKLOAD=digits_mlp " in other.command
    assert missing([other]) == ["sharpnes"]


def test_what_is_not_there_yet_is_said_to_work_once_it_is():
    # "workload `x`" is a promise of that name; where it exists, the row has to say so.
    def promised(not_yet: str | None) -> list[str]:
        return re.findall(r"^workload `(\w+)`", not_yet or "")

    assert promised("workload `offline_maze` and a submission") == ["offline_maze"]
    known = set(names_in("workload"))
    waiting = [(each.paper, name) for each in read_papers() if each.state == NOT_YET for name in promised(each.not_yet)]
    assert [pair for pair in waiting if pair[1] in known] == []


def test_no_paper_comes_twice_and_each_that_works_has_a_command():
    papers = read_papers()
    assert [name for name, count in Counter(each.paper for each in papers).items() if count > 1] == []
    assert all((each.command is not None) == (each.state == WORKS) for each in papers)


@pytest.mark.parametrize(
    "row", [{}, {"submissions": ("adamw",), "not_yet": "x"}, {"not_yet": "x", "nothing_to_train": "y"}]
)
def test_a_paper_says_one_state(row: dict[str, object]):
    with pytest.raises(ConfigError, match=r"says [02] states\. Say submissions"):
        Paper("A", **row)


def test_a_misspelt_key_is_answered(tmp_path: Path):
    path = tmp_path / "papers.yaml"
    path.write_text("- {paper: A, submisions: [adamw]}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"unknown key 'submisions'. Did you mean 'submissions'"):
        read_papers(path)


def test_the_page_is_up_to_date():
    assert PAGE.read_text(encoding="utf-8") == page(read_papers()), "run make papers"
    assert str(PAGE.relative_to(ROOT)) == "docs/papers.md"

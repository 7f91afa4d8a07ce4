"""Optimizer classes that cannot run are told from those that can before any trial, with the YAML that would run."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from harness.api import ConfigError
from harness.plugins.optimizer_check import check, classes_of, in_one_line
from harness.plugins.optimizer_entry import Entry, read_entry
from harness.plugins.optimizer_mends import Finding

CASES: dict[str, tuple[dict, dict]] = {
    "runs": ({"entry": "torch.optim.AdamW"}, {"learning_rate": 0.01, "betas": [0.9, 0.95]}),
    "closure": ({"entry": "torch.optim.LBFGS"}, {}),
    "matrices": ({"entry": "torch.optim.Muon"}, {"learning_rate": 0.02}),
    "mended": ({"groups": {"matrices": "torch.optim.Muon", "rest": "torch.optim.AdamW"}}, {"lr": 0.01}),
    "sparse": ({"entry": "torch.optim.SparseAdam"}, {}),
    "unknown": ({"entry": "torch.optim.SGD"}, {"momentun": 0.9}),
    "abstract": ({"entry": "torch.optim.Optimizer"}, {}),
    "again": ({"entry": "tests.submissions.test_submissions.LooksAhead"}, {"lr": 0.1}),
    "silent": ({"entry": f"{__name__}.LooksAheadIfItCan", "step": "closure"}, {"lr": 0.1}),
    "graph": ({"entry": "tests.submissions.test_submissions.ByCurvature"}, {"lr": 0.01}),
    "around": ({"entry": f"{__name__}.Around"}, {}),
    "dies": ({"entry": f"{__name__}.Dies"}, {}),
}


class Around(torch.optim.SGD):
    """Takes another class and hands it the parameters."""

    def __init__(self, base_optimizer: type, **kwargs: object) -> None:
        super().__init__(base_optimizer(**kwargs).param_groups)


class LooksAheadIfItCan(torch.optim.SGD):
    """Goes up the gradient that it finds, if any, and takes the step with the one that it asks for there."""

    @torch.no_grad()
    def step(self, closure: Callable[[], float]) -> None:  # type: ignore[override]
        parameters = [p for group in self.param_groups for p in group["params"]]
        start = [p.clone() for p in parameters]
        for p in parameters:
            if p.grad is not None:
                p += 0.05 * p.grad
        closure()
        for p, before in zip(parameters, start, strict=True):
            p.copy_(before)
        super().step()


class Dies(torch.optim.SGD):
    """Ends its process without a word."""

    def __init__(self, params: object) -> None:  # noqa: ARG002
        sys.stdout.flush()
        os._exit(7)


def entry_of(written: dict) -> Entry:
    entry = read_entry(written, Path("nowhere"), "a submission.yaml")
    assert entry is not None
    return entry


@pytest.fixture(scope="module")
def findings() -> dict[str, Finding]:
    asked = [(entry_of(written), values) for written, values in CASES.values()]
    return dict(zip(CASES, check(asked), strict=True))


@pytest.mark.parametrize("name", ["runs", "closure", "mended"])
def test_what_runs_has_no_fault(findings: dict[str, Finding], name: str):
    assert findings[name] == Finding()


@pytest.mark.parametrize(
    ("name", "fault", "works"),
    [
        (
            "matrices",
            "Muon only supports 2D parameters",
            "groups: {matrices: torch.optim.Muon, rest: torch.optim.AdamW} "
            "and hyperparameters: {matrices: {learning_rate: 0.02}}",
        ),
        ("sparse", "takes sparse gradients alone", "entry: torch.optim.Adam"),
        ("again", "NoneType", "step: again"),
        ("silent", "uses gradients that are there before its step", "step: again"),
        ("graph", "does not require grad", "step: graph"),
        ("around", "missing a required argument: 'base_optimizer'", "arguments: {base_optimizer: torch.optim.AdamW}"),
    ],
)
def test_what_cannot_run_is_told_with_the_yaml_that_would(
    findings: dict[str, Finding], name: str, fault: str, works: str
):
    finding = findings[name]
    assert fault in (finding.fault or "")
    assert "\n" not in (finding.fault or "")
    assert in_one_line(finding.mend or {}) == works


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("unknown", "takes no argument 'momentun'. Did you mean 'momentum'"),
        ("abstract", "abstract class. Name one of its subclasses"),
        ("dies", "ended its process with exit code 7"),
    ],
)
def test_what_no_yaml_mends_is_told_alone(findings: dict[str, Finding], name: str, fault: str):
    assert fault in (findings[name].fault or "")
    assert findings[name].mend is None


def test_the_classes_of_a_library_are_its_own_by_one_name_each():
    names, left_out = classes_of("torch.optim")
    assert {"torch.optim.AdamW", "torch.optim.Muon", "torch.optim.LBFGS"} <= set(names)
    assert len(names) == len(set(names))
    assert not left_out


def test_a_library_that_is_not_there_is_told_with_what_installs_it():
    with pytest.raises(ConfigError, match=r"nowhere_at_all.*cannot be imported \(ModuleNotFoundError.*install"):
        classes_of("nowhere_at_all")

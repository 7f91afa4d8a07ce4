"""A workload computes what its version computed; what identifies it is that version, and no text."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import pytest
import torch
from torch import nn

from benchmarks.golden import GOLDEN, compare, compute, keep, kept
from harness.api import ConfigError
from harness.config import WorkloadConfig, base_workloads, load, pinned_workloads
from harness.plugins.data import data_folder, is_present
from harness.plugins.entries import create_workload
from harness.study.identity import workload_hash
from workloads.deep_linear import DeepLinear

BASES = base_workloads()
NAMES = [pytest.param(name, marks=[] if name in BASES else pytest.mark.slow) for name in pinned_workloads()]


class LargerInitialWeights(DeepLinear):
    """What an edit of the module could have made of it."""

    def build_model(self) -> nn.Module:
        model = super().build_model()
        for parameter in model.parameters():
            parameter.data *= 1.01
        return model


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """As a trainer has it. Two of them on cores that others use wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def settings_of(name: str, **changes) -> WorkloadConfig:
    return dataclasses.replace(load("workload", name, WorkloadConfig), **changes)


@pytest.mark.parametrize("name", NAMES)
def test_a_workload_computes_what_its_version_computed(name):
    settings = settings_of(name)
    if not is_present(create_workload(settings.entry, settings.options), data_folder()):
        pytest.skip(f"the data of {name} are not here: make data WORKLOAD={name}")
    found, before = compute(settings), kept(GOLDEN)[name]
    raise_it = f"Undo that, or raise the version in conf/workload/{name}.yaml and run make golden WORKLOAD={name}"
    assert compare(before, found) == [], raise_it


def test_what_is_kept_is_of_the_versions_that_the_yamls_say():
    assert {name: golden.version for name, golden in kept(GOLDEN).items()} == {
        name: settings_of(name).version for name in pinned_workloads()
    }, "run make golden"


def test_another_scale_of_the_initial_weights_under_the_same_version_is_seen_and_not_written_down(tmp_path):
    path = tmp_path / "golden.json"
    keep("deep_linear", compute(settings_of("deep_linear")), path)
    before = path.read_text()
    changed = settings_of("deep_linear", entry=f"{__name__}.LargerInitialWeights")
    with pytest.raises(ConfigError, match=r"deep_linear version 1 computes something else .*gradient norm .*: 2\."):
        keep("deep_linear", compute(changed), path)
    assert path.read_text() == before
    keep("deep_linear", compute(dataclasses.replace(changed, version=2)), path)
    assert kept(path)["deep_linear"].version == 2


def test_what_processors_differ_by_is_no_other_behaviour():
    golden = kept(GOLDEN)["mri_unet"]
    assert compare(golden, dataclasses.replace(golden, loss=golden.loss * (1 + 3e-5))) == []
    assert compare(golden, dataclasses.replace(golden, loss=golden.loss * (1 + 3e-4))) != []
    assert compare(golden, dataclasses.replace(golden, order=golden.order[::-1])) != []


def test_a_workload_is_known_by_its_version_and_its_settings_and_not_by_the_text_or_place_of_its_class():
    settings = settings_of("deep_linear")
    moved = dataclasses.replace(settings, entry=f"{__name__}.LargerInitialWeights")
    assert workload_hash(moved) == workload_hash(settings)
    others = [
        dataclasses.replace(settings, version=2),
        dataclasses.replace(settings, options={**settings.options, "initial_scale": 0.2}),
        dataclasses.replace(settings, target=dataclasses.replace(settings.target, validation=0.5)),
        dataclasses.replace(settings, budget=dataclasses.replace(settings.budget, steps=1)),
        dataclasses.replace(settings, data={**settings.data, "train": "0" * 64}),
    ]
    assert len({workload_hash(each) for each in [settings, *others]}) == 6


def test_a_version_counts_from_one():
    with pytest.raises(ConfigError, match="version is 0"):
        settings_of("deep_linear", version=0)

"""The networks that other workloads begin with are the ones that `make base-weights` would train."""

from __future__ import annotations

import pytest

from benchmarks.base_weights import BASES, main, trained
from harness.api import ConfigError
from harness.plugins.data import data_folder, is_present
from workloads.networks.stored_weights import read_weights


@pytest.mark.parametrize("name", BASES)
def test_a_file_holds_the_weights_of_the_network_that_is_trained(name: str):
    base = BASES[name]
    workload = base.make()
    if not is_present(workload, data_folder()):
        pytest.skip(f"the data that {name} is trained on are not here: make data")
    found = trained(workload, steps=1, batch_size=base.batch_size)
    assert {path: each.shape for path, each in found.named_parameters()} == {
        path: each.shape for path, each in read_weights(base.path).items()
    }
    assert base.path.stat().st_size < 400_000


def test_a_base_that_there_is_not_is_answered():
    with pytest.raises(ConfigError, match=r"there is no base 'adapter_enlish'\. Did you mean 'adapter_english'"):
        main(["base=adapter_enlish"])

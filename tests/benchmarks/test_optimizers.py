"""What `make optimizer-speed` compares: which classes, on which tensors, with what state. Never how fast they are."""

from __future__ import annotations

import pytest
import torch

from benchmarks import optimizers
from benchmarks.optimizers import (
    classes_of,
    compared,
    gpt2_small_shapes,
    large_shapes,
    small_shapes,
    started,
    tiny_shapes,
)
from harness.api import ConfigError
from harness.commands.authors.import_submission import import_submission
from tests.conftest import ROOT

CPU = torch.device("cpu")
SHAPES = [(8, 4), (8,), (4, 8)]
ROWS, COLUMNS = 128, 256
FACTORS = 4 * (ROWS**2 + COLUMNS**2) / (ROWS * COLUMNS)
"""Bytes for each entry of a matrix that a float32 matrix for each of its sides takes."""
SHEET = {
    "adadagrad_norm: AdaGradNorm": 0,
    "adafactor: Adafactor": 4 + 4 * (ROWS + COLUMNS) / (ROWS * COLUMNS),
    "adam_8bit: Adam8bit": 2 + 8 / 256,
    "adamp: AdamP": 8,
    "ademamix: AdEMAMix": 12,
    "amos: Amos": 0,
    "auon: AuON": 4,
    "caspr: Caspr": 8 + 2 * FACTORS,
    "cautious_nadamw: CautiousNAdamW": 8,
    "clipped_adam: ClippedAdam": 8,
    "dct_adamw: DctAdamW": 4 + 8 * (ROWS / 4) * COLUMNS / (ROWS * COLUMNS),
    "diffgrad: DiffGrad": 12,
    "distributed_shampoo: Shampoo": 8 + 2 * FACTORS,
    "drop_muon: DropMuon": 4,
    "hybrid_auon: HybridAuON": 4,
    "lamb: Lamb": 8,
    "lanton: Lanton": 8,
    "lion: Lion": 4,
    "momentum_8bit: Momentum8bit": 1 + 4 / 256,
    "muon: Muon": 4,
    "muon_h: MuonH": 4,
    "nadamw: NAdamW": 8,
    "normuon: NorMuon": 4 + 4 / COLUMNS,
    "prodigy: Prodigy": 16,
    "psgd_kron: PSGDKron": 4 + FACTORS,
    "sgdp: SGDP": 4,
    "soap: SOAP": 8 + 2 * FACTORS,
    "soap_muon: SoapMuon": 8 + 2 * FACTORS,
    "sophia: Sophia": 8,
    "split_sgd: SplitSGD": 4,
    "trion: Trion": 4,
}
"""Bytes of state for each parameter of a matrix, by what the papers keep: moments, factors, scales of blocks."""


def count(shapes: list[tuple[int, ...]]) -> int:
    return sum(torch.Size(shape).numel() for shape in shapes)


def test_the_tensors_are_those_of_the_models_that_they_are_named_after():
    assert count(gpt2_small_shapes()) == 124_439_808
    assert len(gpt2_small_shapes()) == 148
    assert 0.8e6 < count(small_shapes()) < 0.9e6
    assert 7_000 < count(tiny_shapes()) < 9_000
    assert 5.5e6 < count(large_shapes()) < 6.5e6


def test_every_optimizer_class_of_a_submission_is_compared_with_adamw():
    found = dict(classes_of([]))
    assert {"lion: Lion", "muon: Muon", "nadamw: NAdamW"} <= set(found)
    row = compared("lion: Lion", found["lion: Lion"], SHAPES, device=CPU, rounds=2, turn_seconds=0.0)
    assert row.tensors == "all"
    assert row.state_bytes == 4.0
    assert min(row.seconds, row.to_fused, row.to_foreach) > 0


def test_a_class_for_matrices_meets_its_public_peer_and_adamw_on_matrices():
    ((name, kind),) = classes_of(["muon"])
    row = compared(name, kind, SHAPES, device=CPU, rounds=1, turn_seconds=0.0)
    assert row.tensors == "matrices"
    states = {each.name: each.state_bytes for each in row.public}
    assert states["torch.optim.Muon"] == row.state_bytes == 4.0


def test_a_method_of_another_name_has_its_peer_too():
    ((name, kind),) = classes_of(["nadamw"])
    row = compared(name, kind, SHAPES, device=CPU, rounds=1, turn_seconds=0.0)
    assert {"torch.optim.NAdam", "torch.optim.NAdam, foreach"} <= {each.name for each in row.public}
    assert all("schedule" in each.differs for each in row.public)
    assert row.state_bytes == 8.0


def test_a_submission_in_algoperfs_api_is_left_alone(tmp_path, monkeypatch):
    import_submission(ROOT / "tests" / "algoperf" / "adamw_with_warmup", "theirs", tmp_path)
    monkeypatch.setattr(optimizers, "SUBMISSIONS", tmp_path)
    assert optimizers.classes_of([]) == []


def test_a_submission_without_a_class_of_its_own_is_named():
    with pytest.raises(ConfigError, match="submissions/adamw has no optimizer class of its own"):
        classes_of(["adamw"])


@pytest.mark.parametrize("name", SHEET)
def test_a_rule_keeps_what_its_paper_says_and_no_more(name):
    """A handful of single numbers and indices beside it do not count."""
    kind = dict(classes_of([name.partition(":")[0]]))[name]
    runner = started(name, kind, [(ROWS, COLUMNS)], CPU)
    assert runner.state_bytes == pytest.approx(SHEET[name], abs=0.01)


def test_a_class_that_takes_its_gradients_away_is_not_timed():
    class Takes(torch.optim.SGD):
        def step(self):
            super().step()
            self.zero_grad(set_to_none=True)

    with pytest.raises(ValueError, match="takes gradients away"):
        started("takes", Takes, SHAPES, CPU)

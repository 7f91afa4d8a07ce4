"""ogbg at full size: its tables, its batches, its metric, and a refereed trial from tiny files."""

from __future__ import annotations

import gzip
import hashlib
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from sklearn.metrics import average_precision_score
from torch import Tensor, nn

from harness.api import SPLITS, DataError, mean_loss
from harness.config import WorkloadConfig, load
from harness.plugins.entries import create_workload
from harness.trial.parameter_kinds import kinds_of
from tests.workloads.algoperf_weights import set_parity_weights
from tests.workloads.full.refereed import trial_and_evaluations
from workloads.full.data.archives import Archive
from workloads.full.data.molpcba import MolpcbaSplits, read_molecules, split_index
from workloads.full.ogbg import Ogbg, evaluated_by_algoperf

SPLIT_FILES = {"train": "train", "validation": "valid", "test": "test"}


def workload_of(name: str = "ogbg", **changed: Any) -> Ogbg:
    settings = load("workload", name, WorkloadConfig)
    made = create_workload(settings.entry, {**settings.options, **changed})
    assert isinstance(made, Ogbg)
    return made


SMALL: dict[str, Any] = {"latent": 8, "hidden": [8], "rounds": 2, "dropout": 0.0}


# --- tiny files of the true format ---


def write_table(path: Path, rows: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = (",".join("" if value is None else str(value) for value in row) for row in rows)
    path.write_bytes(gzip.compress("".join(f"{line}\n" for line in lines).encode()))


def write_archive(folder: Path, *, molecules: int = 30, **tables: Any) -> Path:
    """The unpacked archive with chains of one to five atoms; `tables`: what stands in files instead."""
    stream = numpy.random.RandomState(0)
    sizes = [1 + number % 5 for number in range(molecules)]
    bonds = [size - 1 for size in sizes]
    labels = stream.randint(0, 2, (molecules, 128)).tolist()
    is_known = stream.rand(molecules, 128) < 0.6
    raw = {
        "num_node_list": [[size] for size in sizes],
        "num_edge_list": [[bond] for bond in bonds],
        "node_feat": stream.randint(0, 10, (sum(sizes), 9)).tolist(),
        "edge": [(atom, atom + 1) for bond in bonds for atom in range(bond)],
        "edge_feat": stream.randint(0, 4, (sum(bonds), 3)).tolist(),
        "graph_label": [
            [label if known else None for label, known in zip(*row, strict=True)]
            for row in zip(labels, is_known.tolist(), strict=True)
        ],
        **tables,
    }
    pcba = folder / "ogbg" / "raw" / "pcba"
    for name, rows in raw.items():
        write_table(pcba / "raw" / f"{name.replace('_', '-')}.csv.gz", rows)
    order = stream.permutation(molecules)
    parts = numpy.split(order, [molecules // 3, 2 * molecules // 3])
    for split, part in zip(SPLITS, parts, strict=True):
        write_table(pcba / "split" / "scaffold" / f"{SPLIT_FILES[split]}.csv.gz", [[number] for number in part])
    write_table(pcba / "mapping" / "mol.csv.gz", [["smiles"], ["CCO"]])
    return pcba


def test_molecules_are_read_from_the_tables_one_behind_the_other(tmp_path: Path):
    pcba = write_archive(
        tmp_path, molecules=3,
        num_node_list=[[1], [2], [3]], num_edge_list=[[0], [1], [2]],
        node_feat=[[number] * 9 for number in range(6)],
        edge=[(0, 1), (0, 1), (1, 2)], edge_feat=[[7, 0, 1], [8, 0, 1], [9, 0, 1]],
        graph_label=[[1] * 128, ["", *[0] * 127], ["1.0", *["0.0"] * 126, ""]],
    )  # fmt: skip
    found = list(read_molecules(pcba / "raw").examples(numpy.array([2, 0, 1])))
    assert [each["nodes"][:, 0].tolist() for each in found] == [[3, 4, 5], [0], [1, 2]]
    assert [each["edges"].tolist() for each in found] == [[[0, 1, 8, 0, 1], [1, 2, 9, 0, 1]], [], [[0, 1, 7, 0, 1]]]
    assert [each["labels"][[0, 1, 127]].tolist() for each in found] == [[1, 0, -1], [1, 1, 1], [-1, 0, 0]]


def test_a_split_has_the_molecules_of_its_file_in_their_order(tmp_path: Path):
    pcba = write_archive(tmp_path)
    write_table(pcba / "split" / "scaffold" / "valid.csv.gz", [[17], [3], [29]])
    assert split_index(pcba / "split" / "scaffold", "validation", 30).tolist() == [17, 3, 29]


@pytest.mark.parametrize(
    ("tables", "complaint"),
    [
        ({"node_feat": [[0] * 9]}, r"node-feat\.csv\.gz has 1 rows, the lists count 90"),
        ({"edge_feat": [[0] * 3]}, r"edge-feat\.csv\.gz has 1 rows"),
        ({"node_feat": [[0] * 8] * 90}, r"node-feat\.csv\.gz has 8 columns, not 9"),
        ({"node_feat": [[300] * 9] * 90}, r"node-feat\.csv\.gz cannot be read"),
        ({"edge": [(0, 5)] * 60}, r"edge\.csv\.gz names an atom that its molecule does not have"),
        ({"edge": [(0, -1)] * 60}, r"edge\.csv\.gz names an atom"),
        ({"graph_label": [[2] * 128] * 30}, r"graph-label\.csv\.gz holds a label that is neither"),
        ({"graph_label": [["x"] * 128] * 30}, r"graph-label\.csv\.gz cannot be read"),
    ],
)
def test_tables_that_do_not_fit_give_one_error_that_names_the_file_and_the_way_out(
    tmp_path: Path, tables: dict[str, Any], complaint: str
):
    pcba = write_archive(tmp_path, **tables)
    with pytest.raises(DataError, match=rf"(?s){complaint}.*Remove the folder pcba, and run make data"):
        read_molecules(pcba / "raw")


@pytest.mark.parametrize("damage", ["cut", "missing", "twice", "too many"])
def test_damaged_files_give_the_same_error(tmp_path: Path, damage: str):
    pcba = write_archive(tmp_path)
    edges, split = pcba / "raw" / "edge.csv.gz", pcba / "split" / "scaffold" / "train.csv.gz"
    if damage == "cut":
        edges.write_bytes(edges.read_bytes()[:-20])
    if damage == "missing":
        edges.unlink()
    if damage in ("twice", "too many"):
        write_table(split, [[3], [3 if damage == "twice" else 30]])
    with pytest.raises(DataError, match=r"(edge|train)\.csv\.gz.*make data"):
        MolpcbaSplits(counts=None).fetch(tmp_path)


def test_the_archive_is_fetched_unpacked_and_prepared_once(tmp_path: Path):
    pcba = write_archive(tmp_path / "elsewhere")
    shutil.make_archive(str(tmp_path / "pcba"), "zip", pcba.parent, "pcba")
    sha256 = hashlib.sha256((tmp_path / "pcba.zip").read_bytes()).hexdigest()
    source = MolpcbaSplits(counts=None, archive=Archive("pcba.zip", [tmp_path.as_uri()], sha256, "pcba"))
    source.fetch(tmp_path / "data")
    assert len(workload_of().load("validation", tmp_path / "data")) == 10
    (tmp_path / "pcba.zip").unlink()
    source.fetch(tmp_path / "data")


def test_what_is_no_archive_is_answered(tmp_path: Path):
    (tmp_path / "pcba.zip").write_bytes(b"no archive")
    sha256 = hashlib.sha256(b"no archive").hexdigest()
    source = MolpcbaSplits(counts=None, archive=Archive("pcba.zip", [tmp_path.as_uri()], sha256, "pcba"))
    with pytest.raises(DataError, match=r"pcba\.zip cannot be unpacked"):
        source.fetch(tmp_path / "data")


def test_another_number_of_molecules_than_the_published_one_is_refused(tmp_path: Path):
    write_archive(tmp_path)
    with pytest.raises(DataError, match="10 examples were read, 350343 are expected"):
        workload_of().sources()[0].fetch(tmp_path)


# --- batches ---


def batch_of(folder: Path, index: list[int]) -> dict[str, Tensor]:
    if not MolpcbaSplits(counts=None).is_present(folder):
        write_archive(folder)
        MolpcbaSplits(counts=None).fetch(folder)
    return workload_of().load("train", folder).gather(torch.tensor(index))


def outputs_of(batch: dict[str, Tensor]) -> Tensor:
    torch.manual_seed(0)
    workload = workload_of(**SMALL)
    with torch.no_grad():
        return workload.outputs(workload.build_model().eval(), batch)


def test_prepared_molecules_are_those_of_the_tables(tmp_path: Path):
    batch = batch_of(tmp_path, list(range(10)))
    pcba = tmp_path / "ogbg" / "raw" / "pcba"
    index = split_index(pcba / "split" / "scaffold", "train", 30)
    for row, each in enumerate(read_molecules(pcba / "raw").examples(index)):
        atoms, bonds = batch["sizes"][row].tolist()
        assert (atoms, bonds) == (len(each["nodes"]), len(each["edges"]))
        assert numpy.array_equal(batch["nodes"][row, :atoms].numpy(), each["nodes"])
        assert numpy.array_equal(batch["edges"][row, :bonds].numpy(), each["edges"])
        assert batch["targets"][row].tolist() == [float(label == 1) for label in each["labels"]]
        assert batch["weights"][row].tolist() == [float(label >= 0) for label in each["labels"]]
    assert len(workload_of().load("test", tmp_path)) == 10
    assert MolpcbaSplits.split_folder(tmp_path, "test") == tmp_path / "ogbg" / "test"


def test_padding_changes_nothing_whatever_it_holds(tmp_path: Path):
    batch = batch_of(tmp_path, list(range(10)))
    wider = {
        **batch,
        "nodes": torch.cat([batch["nodes"], torch.full((10, 3, 9), 9, dtype=torch.uint8)], dim=1),
        "edges": torch.cat([batch["edges"], torch.full((10, 3, 5), 9, dtype=torch.int16)], dim=1),
    }
    assert torch.equal(outputs_of(wider), outputs_of(batch))


def test_a_molecule_has_the_same_scores_alone_and_in_any_company(tmp_path: Path):
    together = outputs_of(batch_of(tmp_path, [0, 1, 2, 3, 4]))
    alone = [outputs_of(batch_of(tmp_path, [number])) for number in range(5)]
    torch.testing.assert_close(torch.cat(alone), together)


def test_a_label_that_is_not_known_counts_neither_in_the_loss_nor_in_its_gradient(tmp_path: Path):
    batch = batch_of(tmp_path, [0, 1, 2, 3])
    assert 0 < batch["weights"].mean() < 1
    outputs = torch.randn(4, 128, generator=torch.Generator().manual_seed(0)).requires_grad_()
    loss = mean_loss(*workload_of().losses(outputs, batch, 0.0))
    loss.backward()
    assert outputs.grad is not None
    assert torch.equal(outputs.grad != 0, batch["weights"] > 0)
    known = batch["weights"] > 0
    expected = nn.functional.binary_cross_entropy_with_logits(outputs[known], batch["targets"][known])
    assert loss.item() == pytest.approx(expected.item())


def test_label_smoothing_moves_labels_towards_one_in_128():
    outputs = torch.zeros(1, 128)
    outputs[0, 0] = 3.0
    batch = {"targets": torch.ones(1, 128), "weights": torch.ones(1, 128)}
    losses, _ = workload_of().losses(outputs, batch, 0.2)
    target = 0.8 + 0.2 / 128
    assert losses[0, 0].item() == pytest.approx(numpy.log1p(numpy.exp(3.0)) - 3.0 * target, rel=1e-5)


def test_a_made_up_batch_has_the_form_of_a_true_one_and_needs_no_data(tmp_path: Path):
    workload, true = workload_of(**SMALL), batch_of(tmp_path, [0, 1, 2])
    batch, again, other = (
        workload.synthetic_batch(500, torch.Generator().manual_seed(seed), tmp_path / "nothing") for seed in (1, 1, 2)
    )
    assert {key: (each.ndim, each.dtype) for key, each in batch.items()} == {
        key: (each.ndim, each.dtype) for key, each in true.items()
    }
    assert all(torch.equal(batch[key], again[key]) for key in batch)
    assert not torch.equal(batch["edges"], other["edges"])
    atoms, bonds = batch["sizes"].double().mean(dim=0).tolist()
    assert (atoms, bonds) == (pytest.approx(26, abs=1), pytest.approx(28, abs=1))
    for sizes, nodes, edges in zip(batch["sizes"].tolist(), batch["nodes"], batch["edges"], strict=True):
        assert sizes[0] <= len(nodes)
        assert sizes[1] <= len(edges)
        assert 0 <= int(edges[: sizes[1], :2].min()) <= int(edges[: sizes[1], :2].max()) < sizes[0]
    assert torch.isfinite(mean_loss(*workload.losses(outputs_of(batch), batch, 0.0)))


# --- models ---

REFERENCES = {
    "ogbg": (3_554_176, 66, [0.025415, 0.658028, -0.32848, 0.16194, 0.23293, 0.89683, 0.1526]),
    "ogbg_gelu": (3_554_176, 66, [0.024521, 0.63009, -0.07634, 0.21986, 0.52335, 1.07789, 0.15378]),
    "ogbg_silu": (3_554_176, 66, [0.021144, 0.591955, -0.20828, 0.32654, 0.04462, 0.83744, 0.40187]),
    "ogbg_model_size": (2_571_648, 78, [-0.031924, 0.750756, -0.5895, 0.82719, -0.21886, 0.37092, 1.59427]),
}


@pytest.mark.parametrize("name", REFERENCES)
def test_each_yaml_gives_the_network_of_algoperf_and_computes_what_it_computes_on_a_padded_batch(name: str):
    parameters, tensors, expected = REFERENCES[name]
    workload = workload_of(name)
    model = workload.build_model().eval()
    sizes = [parameter.numel() for parameter in model.parameters()]
    assert (sum(sizes), len(sizes)) == (parameters, tensors)
    assert load("workload", name, WorkloadConfig).parameters == parameters
    dropout = [module.p for module in model.modules() if isinstance(module, nn.Dropout)]
    assert dropout == [0.1] * (5 * 3 if name != "ogbg_model_size" else 3 * 3 * 2)
    set_parity_weights(model)
    nodes = torch.zeros(2, 4, 9, dtype=torch.uint8)
    drawn = torch.from_numpy(numpy.random.RandomState(7).randint(0, 10, (7, 9))).byte()
    nodes[0, :3], nodes[1] = drawn[:3], drawn[3:]
    # In the batch of the references, the atoms of the second molecule are numbers 3 to 6.
    links = torch.tensor([[[0, 1], [1, 2], [2, 0]], [[0, 1], [1, 2], [2, 3]]])
    features = torch.from_numpy(numpy.random.RandomState(8).randint(0, 5, (6, 3))).reshape(2, 3, 3)
    edges = torch.cat([links, features], dim=2).short()
    with torch.no_grad():
        found = workload.outputs(model, {"nodes": nodes, "edges": edges, "sizes": torch.tensor([[3, 3], [4, 3]])})
    assert found.shape == (2, 128)
    flat = found.flatten()
    summary = torch.cat([flat.mean()[None], flat.std(correction=0)[None], flat[:4], flat[-1:]])
    assert summary.tolist() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("name", ["ogbg", "ogbg_model_size"])
def test_layers_take_as_many_inputs_as_those_of_algoperf(name: str):
    with torch.device("meta"):
        model = workload_of(name).build_model()
    widths = [
        [update.first.in_features for update in (part.edge, part.node, part.graph)] for part in list(model.rounds)
    ]
    first = [896, 896, 640] if name == "ogbg" else [512, 768, 640]
    assert widths == [first, *[[1024, 1024, 768]] * (4 if name == "ogbg" else 2)]


def test_parameters_have_as_many_of_each_kind_as_algoperf_counts():
    with torch.device("meta"):
        model = workload_of().build_model()
    # AlgoPerf calls two of the weights, which take numbers in, embeddings.
    assert Counter(kinds_of(model).values()) == {
        "weight": 17, "output": 1, "bias": 18, "norm_scale": 15, "norm_bias": 15,
    }  # fmt: skip


def test_schedules_run_out_where_those_of_algoperf_do():
    config = load("workload", "ogbg", WorkloadConfig)
    assert config.budget.step_hint == config.published["v0.6"].step_hint


@pytest.mark.parametrize("name", ["ogbg_gelu", "ogbg_silu", "ogbg_model_size"])
def test_a_variant_is_its_base_with_another_network_and_target(name: str):
    variant, base = (load("workload", each, WorkloadConfig) for each in (name, "ogbg"))
    assert (variant.data, variant.budget, variant.entry) == (base.data, base.budget, base.entry)
    assert variant.options != base.options
    assert variant.target != base.target


@pytest.mark.slow
def test_the_network_compiles_without_breaks():
    workload = workload_of(**SMALL)
    batch = workload.synthetic_batch(3, torch.Generator().manual_seed(0), Path())
    torch.manual_seed(0)
    model = workload.build_model().eval()
    torch._dynamo.reset()
    traced = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(workload.outputs(traced, batch), workload.outputs(model, batch))


# --- the metric ---


def test_the_metric_is_scikit_learns_over_known_labels_and_tasks_with_both_answers():
    stream = numpy.random.RandomState(1)
    scores = stream.standard_normal((40, 128))
    targets = (stream.rand(40, 128) < 0.1).astype(float)
    weights = (stream.rand(40, 128) < 0.5).astype(float)
    expected = []
    for task in range(128):
        known = weights[:, task] > 0
        if 0 < targets[known, task].sum() < known.sum():
            expected.append(average_precision_score(targets[known, task], scores[known, task]))
    assert 50 < len(expected) < 128
    statistics = {"scores": scores, "targets": targets * weights, "weights": weights, "sizes": numpy.ones((40, 2), int)}
    found = workload_of().metrics({name: torch.from_numpy(values) for name, values in statistics.items()})
    assert found["mean_average_precision"] == pytest.approx(numpy.mean(expected), abs=1e-12)
    assert found["mean_average_precision_algoperf"] == found["mean_average_precision"], "too few to fill eight batches"


@pytest.mark.parametrize(
    ("atoms", "bonds", "seen"),
    [
        (13, 14, 8 * 4096),  # 4,096 molecules are the most
        (26, 28, 8 * 4096),  # just as many atoms and bonds as are expected
        (52, 28, 8 * 2048),  # half as many for too many atoms
        (26, 42, 8 * 2730),  # and for too many bonds: 56 * 4096 // 84
    ],
)
def test_algoperf_looks_at_what_fills_eight_batches_of_molecules_atoms_or_bonds(atoms: int, bonds: int, seen: int):
    assert evaluated_by_algoperf(torch.tensor([[atoms, bonds]]).repeat(43_793, 1)) == seen


def test_algoperf_looks_at_three_quarters_of_validation_and_its_last_molecules_change_nothing_for_it():
    # Molecules as large as those of ogbg-molpcba in the mean: 26.0 atoms, 28.1 bonds.
    stream = numpy.random.RandomState(0)
    atoms = torch.from_numpy(stream.binomial(46, 26 / 46, 43_793))
    sizes = torch.stack([atoms, (1.08 * atoms).long()], dim=1)
    seen = evaluated_by_algoperf(sizes)
    assert seen / 43_793 == pytest.approx(0.745, abs=0.01)
    generator = torch.Generator().manual_seed(0)
    statistics = {
        "scores": torch.randn(43_793, 2, generator=generator),
        "targets": (torch.rand(43_793, 2, generator=generator) < 0.1).float(),
        "weights": torch.ones(43_793, 2),
        "sizes": sizes,
    }
    before = workload_of().metrics(statistics)
    statistics["scores"][seen:] = 0.0
    after = workload_of().metrics(statistics)
    assert after["mean_average_precision_algoperf"] == before["mean_average_precision_algoperf"]
    assert after["mean_average_precision"] != before["mean_average_precision"]
    statistics["scores"][seen - 1] = 99.0
    assert (
        workload_of().metrics(statistics)["mean_average_precision_algoperf"] != after["mean_average_precision_algoperf"]
    )


# --- a refereed trial ---


@pytest.mark.slow
def test_three_steps_and_an_evaluation_through_the_referee_from_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_archive(tmp_path / "data")
    MolpcbaSplits(counts=None).fetch(tmp_path / "data")
    monkeypatch.setenv("TIMETRIAL_DATA", str(tmp_path / "data"))
    trial, evaluations = trial_and_evaluations(tmp_path, "ogbg", options={}, batch_size=4, eval_batch_size=3)
    assert (trial["status"], trial["steps"]) == ("out_of_budget", 3)
    assert evaluations["validation"].between(0.0, 1.0).all()

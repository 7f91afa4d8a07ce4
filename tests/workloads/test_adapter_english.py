"""The base is what its file says, stays as it is, and has read no verse that anything is judged on."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from harness.api import DataError, ParameterKind, Workload
from harness.config import WorkloadConfig, load
from harness.plugins.data import check_weights, data_folder, is_present
from harness.plugins.entries import create_workload
from harness.race.evaluation import evaluate
from harness.trial.parameter_kinds import adapters_of, kinds_of
from workloads.adapter_english import ALPHABET, WEIGHTS, AdapterEnglish, KingJamesBase, new_base
from workloads.data.bibles import basic_english, king_james, read_basic_english, read_king_james
from workloads.networks.decoder_transformer import DecoderTransformer
from workloads.networks.stored_weights import read_weights, write_weights


def settings() -> WorkloadConfig:
    return load("workload", "adapter_english", WorkloadConfig)


def workload() -> Workload:
    return create_workload(settings().entry, settings().options)


def needs(*workloads: Workload) -> None:
    if not all(is_present(each, data_folder()) for each in workloads):
        pytest.skip("the texts are not here: make data WORKLOAD=adapter_english,kjv_char_lm")


def base() -> DecoderTransformer:
    network = new_base()
    network.load_state_dict(read_weights(WEIGHTS))
    return network


# --- weights in a file ---


def test_weights_come_back_within_half_a_level_of_their_row(tmp_path: Path):
    weights = {
        "matrix": torch.linspace(-3, 1, 21).view(3, 7) * torch.tensor([[1.0], [9.0], [0.0]]),
        "kernel": torch.linspace(-1, 1, 24).view(2, 3, 2, 2),
        "vector": torch.tensor([0.5, -2.0, 0.0]),
        "number": torch.tensor(12.0),
    }
    write_weights(tmp_path / "weights.npz", weights)
    found = read_weights(tmp_path / "weights.npz")
    assert {name: each.shape for name, each in found.items()} == {name: each.shape for name, each in weights.items()}
    for name, weight in weights.items():
        rows = weight.flatten(1) if weight.ndim > 1 else weight.reshape(1, -1)
        half_a_level = rows.abs().amax(dim=1, keepdim=True) / 127 / 2
        difference = (found[name].reshape(rows.shape) - rows).abs()
        assert bool((difference <= half_a_level * 1.001).all()), name
    assert not found["matrix"][2].any()


def test_the_same_weights_make_the_same_file_and_what_was_rounded_once_stays(tmp_path: Path):
    weights = {"matrix": torch.randn(5, 7, generator=torch.Generator().manual_seed(0))}
    first = write_weights(tmp_path / "first.npz", weights)
    assert write_weights(tmp_path / "again.npz", weights) == first
    rounded = read_weights(tmp_path / "first.npz")
    write_weights(tmp_path / "rounded.npz", rounded)
    torch.testing.assert_close(read_weights(tmp_path / "rounded.npz"), rounded)


@pytest.mark.parametrize("damage", ["cut short", "missing"])
def test_weights_that_cannot_be_read_are_an_error_that_names_the_file(tmp_path: Path, damage: str):
    path = tmp_path / "weights.npz"
    if damage == "cut short":
        path.write_bytes(WEIGHTS.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"weights\.npz cannot be read as weights .* install it anew"):
        read_weights(path)


class Elsewhere(AdapterEnglish):
    """With another file of weights."""

    def __init__(self, path: Path) -> None:
        super().__init__(rank=4)
        self._path = path

    def weights(self) -> Path:
        return self._path


def test_another_file_of_weights_than_the_one_of_the_yaml_is_noticed_before_anything_is_judged(tmp_path: Path):
    path = tmp_path / "weights.npz"
    shutil.copy(WEIGHTS, path)
    check_weights(Elsewhere(path), settings().data)
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(DataError, match=r"weights\.npz, which Elsewhere begins with, has the hash"):
        check_weights(Elsewhere(path), settings().data)
    with pytest.raises(DataError, match="its YAML says None"):
        check_weights(Elsewhere(path), {})


# --- the model ---


def test_before_training_it_is_the_base():
    model = workload().build_model()
    symbols = torch.randint(len(ALPHABET) + 1, (2, 64), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(model(symbols), base()(symbols))


def test_adapters_and_the_rows_of_the_new_symbol_are_all_that_is_trained_and_handed_over():
    model = workload().build_model()
    kinds = kinds_of(model)
    assert set(model.state_dict()) == set(kinds)
    layers = ["attention.qkv", "attention.out", "widen", "narrow"]
    assert list(adapters_of(model)) == [f"blocks.{block}.{layer}" for block in (0, 1) for layer in layers]
    others = {path: kind for path, kind in kinds.items() if not path.startswith("blocks.")}
    assert others == {"embedding.new": ParameterKind.EMBEDDING, "output.new": ParameterKind.OUTPUT}
    assert model.embedding.new.shape == model.output.new.shape == (1, 128)
    frozen = sum(each.numel() for path, each in model.named_buffers() if "rotations" not in path)
    assert frozen + 256 == sum(each.numel() for each in base().parameters())


def test_adapters_begin_with_variance_one_over_the_inputs_and_add_nothing():
    torch.manual_seed(0)
    for adapter in adapters_of(AdapterEnglish(rank=64).build_model()).values():
        assert adapter.down.var().item() == pytest.approx(1 / adapter.down.shape[1], rel=0.05)
        assert not adapter.up.any()


# --- the texts ---


def test_symbols_are_those_of_the_first_text_and_one_more_in_the_second():
    needs(workload(), KingJamesBase())
    first = read_king_james(king_james().path(data_folder()))
    second = read_basic_english(basic_english().path(data_folder()))
    assert "".join(sorted(set(first))) == ALPHABET
    assert set(second) - set(ALPHABET) == {"'"}


def test_both_texts_are_cut_where_romans_and_colossians_begin():
    needs(workload(), KingJamesBase())
    openings = {}
    for each in (workload(), KingJamesBase()):
        for split in ("validation", "test"):
            numbers = each.load(split, data_folder())[0]["inputs"].tolist()
            openings[type(each).__name__, split] = "".join((ALPHABET + "'")[number] for number in numbers)
    assert {key: text[:28] for key, text in openings.items()} == {
        ("AdapterEnglish", "validation"): "Paul, a servant of Jesus Chr",
        ("AdapterEnglish", "test"): "Paul, an Apostle of Jesus Ch",
        ("KingJamesBase", "validation"): "Paul, a servant of Jesus Chr",
        ("KingJamesBase", "test"): "Paul, an apostle of Jesus Ch",
    }


def test_the_base_knows_its_own_text_better_than_the_other_one():
    needs(workload(), KingJamesBase())
    first, second = (
        evaluate(each, base(), each.load("validation", data_folder()), 64)["nats_per_character"]
        for each in (KingJamesBase(), workload())
    )
    assert first == pytest.approx(1.5032, abs=1e-3)  # as kjv_char_lm after as many steps
    assert second == pytest.approx(1.5365, abs=1e-3)

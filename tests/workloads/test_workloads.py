"""The contract of every workload that has a file in conf/workload; the last part tests single families."""

from __future__ import annotations

import math
import os
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from harness.api import (
    SPLITS,
    ConfigError,
    Examples,
    LossKind,
    ParameterKind,
    SplitName,
    Workload,
    mean_loss,
    terms_of,
)
from harness.config import CONF, WorkloadConfig, base_workloads, load, pinned_workloads, values_of
from harness.plugins.data import check_weights, data_folder, is_present
from harness.plugins.entries import create_workload
from harness.race.confinement.training_split import cut
from harness.race.evaluation import evaluate
from harness.trial.parameter_kinds import kinds_of
from tests.blobs import Blobs
from tests.made_losses import Contrastive, SilentlyContrastive, TwoTerms, WithoutALoss
from workloads.digits_mlp import DigitsMlp
from workloads.networks.decoder_transformer import DecoderTransformer

each_workload = pytest.mark.parametrize("name", base_workloads())
# A variant shares data, loss and metric with its base: what is to be tested is its model.
each_model = pytest.mark.parametrize("name", pinned_workloads())


@cache
def config(name: str) -> WorkloadConfig:
    return load("workload", name, WorkloadConfig)


@cache
def made(name: str) -> Workload:
    return create_workload(config(name).entry, config(name).options)


def split_of(name: str, split: SplitName) -> Examples:
    return split_of_base(config(name).variant_of or name, split)


@cache
def split_of_base(name: str, split: SplitName) -> Examples:
    if not is_present(made(name), data_folder()):
        pytest.skip(f"the data of {name} are not here: make data WORKLOAD={name}")
    return made(name).load(split, data_folder())


def model_of(name: str, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return made(name).build_model()


def batch_of(name: str, count: int, split: SplitName = "train") -> dict[str, Tensor]:
    """The first examples, or all where a split has fewer."""
    return split_of(name, split).gather(torch.arange(min(count, len(split_of(name, split)))))


def loss_on(name: str, model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return mean_loss(*made(name).losses(made(name).outputs(model, batch), batch, 0.0))


@cache
def evaluated(name: str) -> dict[str, float]:
    """What the initial weights come to on the validation split: the same for all who ask, as it takes long."""
    return evaluate(made(name), model_of(name), split_of(name, "validation"), config(name).eval_batch_size)


def are_coupled(workload: Workload, model: nn.Module, batch: dict[str, Tensor]) -> bool:
    """Whether the losses of the first half of a batch, in any term, depend on the outputs or the data of the rest."""
    with torch.no_grad():
        outputs = workload.outputs(model.eval(), batch)
    half = len(outputs) // 2
    first = {field: values[:half] for field, values in batch.items()}
    whole, part = terms_of(workload, outputs, batch, 0.0), terms_of(workload, outputs[:half], first, 0.0)
    for before, alone in zip(whole, part, strict=True):
        for one, other in ((before.losses, alone.losses), (before.weights, alone.weights)):
            if one is not None and not torch.allclose(one[:half], other, rtol=1e-4, atol=1e-6):
                return True
    return False


PROMISES = {
    "one_output_layer",
    "loss_of_a_guess",
    "every_parameter_gets_a_gradient",
    "learns_one_batch_by_heart",
    "seeds_draw_other_weights",
    "splits_share_no_example",
}


def is_promised(name: str, promise: str) -> bool:
    """False where the workload says that it cannot keep the promise; then it must not keep it."""
    return promise not in made(name).not_promised


@each_model
def test_only_known_promises_are_not_given(name: str):
    assert made(name).not_promised <= PROMISES


@pytest.fixture(scope="module")
def opened() -> list[Path]:
    """Files that this process has opened since the list was last cleared. A hook cannot be taken away again."""
    found: list[Path] = []

    def note(event: str, given: tuple[Any, ...]) -> None:
        if event == "open" and isinstance(given[0], str | bytes):
            found.append(Path(os.fsdecode(given[0])))

    sys.addaudithook(note)
    return found


@pytest.mark.parametrize("name", [name for name in pinned_workloads() if made(name).packaged_data()])
def test_a_model_is_made_without_a_look_at_data_that_no_trainer_sees(name: str, opened: list[Path]):
    opened.clear()
    model_of(name)
    assert not {path.resolve() for path in made(name).packaged_data()} & {path.resolve() for path in opened}


@each_model
def test_the_same_seed_gives_the_same_weights_and_another_seed_others(name: str):
    first, again, other = (model_of(name, seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[key], again[key]) for key in first)
    differ = any(not torch.equal(first[key], other[key]) for key in first)
    assert differ == is_promised(name, "seeds_draw_other_weights")


@each_model
def test_the_model_has_as_many_parameters_as_its_yaml_says(name: str):
    assert sum(parameter.numel() for parameter in model_of(name).parameters()) == config(name).parameters


@each_model
def test_the_model_is_in_float32(name: str):
    assert {parameter.dtype for parameter in model_of(name).parameters()} == {torch.float32}


@each_model
def test_every_parameter_has_a_kind_and_one_weight_is_the_output_layer(name: str):
    model = model_of(name)
    kinds = kinds_of(model)
    assert set(kinds) == {path for path, _ in model.named_parameters()}
    # A matrix that is embedding and output layer has the role of its first use.
    is_tied = len(list(model.named_parameters(remove_duplicate=False))) > len(kinds)
    has_output_layer = not is_tied and is_promised(name, "one_output_layer")
    # A network with several heads has as many; one that is tied has none.
    count = list(kinds.values()).count(ParameterKind.OUTPUT)
    assert (count == 1) == has_output_layer
    assert not is_tied or count == 0
    assert not is_tied or ParameterKind.EMBEDDING in kinds.values()


@each_workload
def test_a_cut_of_the_training_split_trains_as_the_split_does(name: str):
    whole = split_of(name, "train")
    part = cut(whole, 7)
    at = torch.from_numpy(np.sort(np.random.RandomState(0).permutation(len(whole))[:7]))
    domains = made(name).domains(part)
    assert domains is None or torch.equal(domains, made(name).domains(whole)[at])
    model = model_of(name).eval()
    with torch.no_grad():
        losses = [loss_on(name, model, batch) for batch in (whole.gather(at), part.gather(torch.arange(len(part))))]
    assert torch.equal(*losses)


@each_workload
def test_where_there_is_an_open_division_inputs_alone_make_the_outputs(name: str):
    if not made(name).has_open_division:
        pytest.skip("a prediction needs more than its inputs, or they tell its targets")
    model = model_of(name).eval()
    batch = batch_of(name, 2, "validation")
    with torch.no_grad():
        alone = made(name).outputs(model, {"inputs": batch["inputs"]})
        assert torch.equal(alone, made(name).outputs(model, batch))
        assert made(name).decoded_metrics(model, split_of(name, "validation")) == {}
    assert batch["inputs"].shape[1:] == batch_of(name, 3, "test")["inputs"].shape[1:]


@each_workload
def test_each_split_is_the_one_that_its_yaml_names(name: str):
    hashes = {split: split_of(name, split).digest() for split in SPLITS}
    assert hashes == {split: each for split, each in config(name).content.items() if split != "weights"}


def made_up(name: str, seed: int) -> dict[str, Tensor]:
    return made(name).synthetic_batch(3, torch.Generator().manual_seed(seed), data_folder())


@each_workload
def test_a_made_up_batch_has_the_form_of_a_true_one(name: str):
    true, batch = batch_of(name, 3), made_up(name, 1)
    assert {field: (values.shape, values.dtype) for field, values in batch.items()} == {
        field: (values.shape, values.dtype) for field, values in true.items()
    }
    assert math.isfinite(loss_on(name, model_of(name), batch).item())


def test_a_made_up_batch_is_drawn_from_its_generator_alone():
    first, again, other = (made_up("digits_mlp", seed) for seed in (1, 1, 2))
    assert all(torch.equal(first[field], again[field]) for field in first)
    assert not torch.equal(first["inputs"], other["inputs"])


@each_model
def test_the_weights_that_a_model_begins_with_are_those_that_its_yaml_names(name: str):
    assert ("weights" in config(name).content) == (made(name).weights() is not None)
    check_weights(made(name), config(name).content)


@each_model
def test_all_that_is_handed_over_is_trained(name: str):
    # A frozen parameter is in the state: a trainer could hand over other values of it.
    model = model_of(name)
    handed_over = {path: values for path, values in model.state_dict().items() if values.is_floating_point()}
    trained = {path for path, each in model.named_parameters(remove_duplicate=False) if each.requires_grad}
    statistics = {path for path in handed_over if path.endswith(("running_mean", "running_var"))}
    assert set(handed_over) == trained | statistics


@each_model
def test_what_is_not_handed_over_does_not_depend_on_the_seed(name: str):
    # The referee makes it anew.
    def kept_back(model: nn.Module) -> dict[str, Tensor]:
        return {path: each for path, each in model.named_buffers() if path not in model.state_dict()}

    first, other = (kept_back(model_of(name, seed)) for seed in (1, 2))
    assert first.keys() == other.keys()
    assert all(torch.equal(first[path], other[path]) for path in first)


@each_workload
def test_the_same_index_gives_the_same_batch(name: str):
    index = torch.tensor([3, 1, 2])
    first, again = (split_of(name, "train").gather(index) for _ in range(2))
    assert first.keys() == again.keys()
    assert all(torch.equal(first[key], again[key]) for key in first)


@each_workload
def test_a_batch_is_its_examples_stacked(name: str):
    examples = split_of(name, "train")
    batch = examples.gather(torch.tensor([5, 2]))
    assert all(torch.equal(batch[key], torch.stack([examples[5][key], examples[2][key]])) for key in batch)


@each_workload
def test_the_splits_share_no_example(name: str):
    # Whole examples, labels too: a few published images and verses do occur twice with one input.
    def contents(split: SplitName) -> set[bytes]:
        batch = split_of(name, split).gather(torch.arange(len(split_of(name, split))))
        flat = torch.cat(
            [values.flatten(1).double() if values.ndim > 1 else values[:, None].double() for values in batch.values()],
            dim=1,
        )
        return {row.tobytes() for row in flat.numpy()}

    train, validation, test = (contents(split) for split in SPLITS)
    shared = train & validation | train & test | validation & test
    assert (not shared) == is_promised(name, "splits_share_no_example")


def is_a_guess(name: str) -> bool:
    """Whether the initial weights have the loss of a guess."""
    model = model_of(name)
    batch = batch_of(name, 256)
    kind = made(name).loss_kind
    classes = made(name).outputs(model, batch).shape[-1] if kind is LossKind.SOFTMAX_CROSS_ENTROPY else 2
    return loss_on(name, model, batch).item() == pytest.approx(math.log(classes), rel=0.05)


@each_workload
def test_the_loss_at_the_start_is_that_of_a_guess(name: str):
    kind = made(name).loss_kind
    if kind not in (LossKind.SOFTMAX_CROSS_ENTROPY, LossKind.SIGMOID_CROSS_ENTROPY):
        pytest.skip("only a cross-entropy has a loss at the start that theory knows")
    assert is_a_guess(name) == is_promised(name, "loss_of_a_guess")


@each_model
def test_every_parameter_gets_a_gradient(name: str):
    model = model_of(name)
    # A step away from the start, where some weights are zero so that others have no gradient yet.
    for parameter in model.parameters():
        parameter.data += 0.01 * torch.randn_like(parameter)
    loss_on(name, model, batch_of(name, 8)).backward()
    without = [path for path, parameter in model.named_parameters() if not parameter.grad.abs().sum() > 0]
    assert (without == []) == is_promised(name, "every_parameter_gets_a_gradient"), without


@each_workload
def test_it_learns_one_batch_by_heart(name: str):
    model = model_of(name)
    batch = batch_of(name, min(8, config(name).batch_size))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.0)
    # A model that adds to its input begins with less than the loss of outputs of zero.
    guess = mean_loss(*made(name).losses(torch.zeros_like(made(name).outputs(model, batch)), batch, 0.0)).item()
    for _ in range(150):
        optimizer.zero_grad()
        loss = loss_on(name, model, batch)
        loss.backward()
        optimizer.step()
        if loss.item() < 0.1 * guess:
            break
    assert (loss.item() < 0.1 * guess) == is_promised(name, "learns_one_batch_by_heart")


@each_workload
def test_each_unit_has_a_loss_and_what_is_masked_changes_nothing(name: str):
    model = model_of(name).eval()
    batch = batch_of(name, 4)
    outputs = made(name).outputs(model, batch)
    losses, weights = made(name).losses(outputs, batch, 0.0)
    assert losses.shape[0] == 4
    if weights is not None:
        assert weights.shape == losses.shape
        changed = torch.where(weights > 0, losses, losses + 1.0)
        torch.testing.assert_close(mean_loss(changed, weights), mean_loss(losses, weights))


@each_workload
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_the_terms_of_a_loss_are_those_that_the_workload_names_and_add_up_to_it(name: str, label_smoothing: float):
    batch = batch_of(name, 4)
    outputs = made(name).outputs(model_of(name), batch)
    terms = terms_of(made(name), outputs, batch, label_smoothing)
    assert [term.name for term in terms] == list(made(name).term_weights)
    assert all(len(term.losses) == 4 for term in terms)
    total = sum(term.factor * mean_loss(term.losses, term.weights) for term in terms)
    torch.testing.assert_close(total, mean_loss(*made(name).losses(outputs, batch, label_smoothing)))
    assert len(terms) == 1 or made(name).loss_kind is LossKind.OTHER


@each_workload
def test_examples_are_coupled_only_where_the_workload_says_so(name: str):
    assert are_coupled(made(name), model_of(name), batch_of(name, 8)) == made(name).couples_examples


@each_workload
def test_label_smoothing_changes_cross_entropies_alone(name: str):
    kind = made(name).loss_kind
    model = model_of(name)
    batch = batch_of(name, 4)
    # Away from the start, where all classes are as likely and smoothing changes nothing.
    outputs = made(name).outputs(model, batch) + torch.randn(1, generator=torch.Generator().manual_seed(0))
    outputs = outputs * torch.linspace(0.5, 2.0, outputs.shape[-1])
    plain, smoothed = (made(name).losses(outputs, batch, amount)[0] for amount in (0.0, 0.1))
    assert plain.shape == smoothed.shape
    if len(made(name).term_weights) > 1:
        pytest.skip("some of its terms may be cross-entropies")
    is_cross_entropy = kind in (LossKind.SOFTMAX_CROSS_ENTROPY, LossKind.SIGMOID_CROSS_ENTROPY)
    assert torch.allclose(plain, smoothed) != is_cross_entropy


@each_workload
def test_an_evaluation_gives_the_loss_and_the_metric_of_the_target(name: str):
    found = evaluated(name)
    assert {"loss", config(name).target.metric} <= set(found)
    assert all(math.isfinite(value) for value in found.values())


@each_workload
def test_an_evaluation_does_not_depend_on_the_batch_size(name: str):
    size = config(name).eval_batch_size // 3
    other = evaluate(made(name), model_of(name), split_of(name, "validation"), size)
    assert other == pytest.approx(evaluated(name), rel=1e-5)


@each_workload
def test_an_evaluation_is_repeatable_and_changes_no_weight_and_no_statistic(name: str):
    model = model_of(name)
    before: dict[str, Any] = {key: values.clone() for key, values in model.state_dict().items()}
    again = evaluate(made(name), model, split_of(name, "validation"), config(name).eval_batch_size)
    assert again == evaluated(name)
    assert all(torch.equal(values, before[key]) for key, values in model.state_dict().items())


@pytest.mark.parametrize("name", sorted(set(pinned_workloads()) - set(base_workloads())))
def test_a_variant_has_the_data_and_the_budget_of_its_base_and_a_model_and_a_target_of_its_own(name: str):
    base = config(str(config(name).variant_of))
    assert base.variant_of is None
    assert (config(name).data, config(name).budget, config(name).entry) == (base.data, base.budget, base.entry)
    assert config(name).options != base.options
    assert "target" in OmegaConf.load(CONF / "workload" / f"{name}.yaml"), "it would have the target of its base"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("defaults: [digits_mpl, _self_]", "there is no workload 'digits_mpl'"),
        ("defaults: [mine, _self_]", "defaults is \\['mine', '_self_'\\]. Write one other file"),
        ("defaults: [_self_, digits_mlp]", "Write one other file of the folder"),
        ("defaults: digits_mlp", "Write one other file of the folder"),
    ],
)
def test_a_variant_of_what_is_not_there_is_answered(tmp_path: Path, text: str, complaint: str):
    (tmp_path / "workload").mkdir()
    (tmp_path / "workload" / "mine.yaml").write_text(f"{text}\nname: mine\n")
    with pytest.raises(ConfigError, match=complaint):
        values_of("workload", "mine", folder=tmp_path)


# --- what the contract itself finds ---


@pytest.mark.parametrize(
    ("workload", "expected"),
    [(Blobs(masked=True), False), (TwoTerms(masked=True), False), (Contrastive(), True)],
    ids=["one term", "two terms with masks", "contrastive"],
)
def test_what_says_rightly_whether_it_couples_examples_keeps_the_contract(workload: Workload, expected: bool):
    batch = workload.load("train", Path()).gather(torch.arange(8))
    assert are_coupled(workload, workload.build_model(), batch) == workload.couples_examples == expected


@pytest.mark.parametrize("workload", [SilentlyContrastive(), WithoutALoss()], ids=["does not say so", "says so"])
def test_what_says_wrongly_whether_it_couples_examples_breaks_the_contract(workload: Workload):
    batch = workload.load("train", Path()).gather(torch.arange(8))
    assert are_coupled(workload, workload.build_model(), batch) != workload.couples_examples


# --- what only some families promise ---


def test_the_splits_of_the_digits_use_every_published_image():
    digits = DigitsMlp(hidden=[64, 64])
    sizes = [len(digits.load(split, data_folder())) for split in SPLITS]
    assert sizes == [997, 500, 300]


def test_the_transformer_reaches_algoperfs_language_model_by_its_sizes():
    with torch.device("meta"):
        transformer = DecoderTransformer(
            vocabulary=50_257, context=1024, width=1024, layers=12, heads=8, hidden=4096, rotary_base=500_000.0,
            tied=True,
        )  # fmt: skip
    assert sum(parameter.numel() for parameter in transformer.parameters()) == 252_815_372


def small_transformer(*, qk_norm: bool = True) -> DecoderTransformer:
    torch.manual_seed(0)
    return DecoderTransformer(
        vocabulary=11, context=16, width=32, layers=2, heads=2, hidden=32, rotary_base=10_000.0, tied=False,
        qk_norm=qk_norm,
    )  # fmt: skip


def test_the_transformer_does_not_look_ahead():
    transformer = small_transformer()
    symbols = torch.randint(11, (2, 16))
    changed = symbols.clone()
    changed[:, 10:] = (changed[:, 10:] + 1) % 11
    before, after = transformer(symbols), transformer(changed)
    torch.testing.assert_close(before[:, :10], after[:, :10])
    assert not torch.allclose(before[:, 10:], after[:, 10:])


def test_the_transformer_tells_positions_apart():
    transformer = small_transformer()
    one_way, other_way = torch.tensor([[1, 2, 3]]), torch.tensor([[2, 1, 3]])
    assert not torch.allclose(transformer(one_way)[:, -1], transformer(other_way)[:, -1], atol=1e-6)


def test_without_norm_scores_grow_with_queries_and_keys_and_with_norm_they_do_not():
    symbols = torch.randint(11, (2, 16), generator=torch.Generator().manual_seed(0))
    for qk_norm in (True, False):
        transformer = small_transformer(qk_norm=qk_norm)
        before = transformer(symbols)
        with torch.no_grad():
            for block in transformer.blocks:
                block.attention.qkv.weight[:64] *= 30.0
        assert torch.allclose(transformer(symbols), before, atol=1e-5) == qk_norm


def test_without_norm_a_score_is_the_product_over_the_square_root_of_the_heads_width():
    block = small_transformer(qk_norm=False).blocks[0]
    hidden = torch.randn(1, 3, 32, generator=torch.Generator().manual_seed(0))
    queries, keys, values = block.attention.qkv(hidden)[0].view(3, 3, 2, 16).unbind(dim=1)
    expected = torch.zeros(3, 2, 16)
    for place in range(3):
        for head in range(2):
            scores = torch.stack([queries[place, head] @ keys[other, head] for other in range(place + 1)]) / 4
            expected[place, head] = scores.softmax(dim=0) @ values[: place + 1, head]
    found = block.attention(hidden, None)[0]
    torch.testing.assert_close(found, block.attention.out(expected.flatten(1)))


def test_a_rotation_depends_on_the_distance_alone():
    # The first block's scores between equal symbols are the same wherever the pair stands.
    attention = small_transformer().blocks[0].attention
    rotations = small_transformer().get_buffer("rotations").squeeze()
    vector = torch.view_as_complex(attention.qkv.weight[0, :16].reshape(-1, 2))
    turned = vector * rotations
    scores = torch.view_as_real(turned).flatten(1) @ torch.view_as_real(turned).flatten(1).T
    torch.testing.assert_close(scores.diagonal(3), scores[0, 3].expand(13))

"""AlgoPerf's ResNets and their variants: counts, shapes, outputs, batch norm, initial weights, label smoothing."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from harness.config import values_of
from tests.workloads.algoperf_weights import set_parity_weights
from tests.workloads.full.parity import check_outputs, made, noise, shapes_of
from workloads.networks.residual_network import ResidualNetwork

NAMES = ["imagenet_resnet", "imagenet_resnet_silu", "imagenet_resnet_gelu", "imagenet_resnet_large_bn_init"]


def in_algoperfs_order(model: ResidualNetwork) -> list[nn.Parameter]:
    """Each norm behind its convolution, the shortcut behind those; a block of ours has all convolutions first."""
    layers: list[nn.Module] = [model.stem, model.stem_norm]
    for block in model.stages:
        for conv, norm in zip(block.convs, [*block.norms, block.last_norm], strict=True):
            layers += [conv, norm]
        layers.append(block.shortcut)
    found = [parameter for layer in [*layers, model.output] for parameter in layer.parameters()]
    assert {id(parameter) for parameter in found} == {id(parameter) for parameter in model.parameters()}
    return found


def network(name: str) -> ResidualNetwork:
    model = made(name).build_model()
    assert isinstance(model, ResidualNetwork)
    return model


def algoperfs_shapes(stem: int, stages: list[tuple[int, int]], expansion: int, classes: int) -> list[tuple[int, ...]]:
    """Written down from AlgoPerf's list of parameters: for each stage its width and its blocks."""
    before = stages[0][0]
    shapes: list[tuple[int, ...]] = [(before, 3, stem, stem), (before,), (before,)]
    for stage, (width, blocks) in enumerate(stages):
        out = width * expansion
        for block in range(blocks):
            convs = [(width, before, 3), (width, width, 3)]
            if expansion > 1:
                convs = [(width, before, 1), (width, width, 3), (out, width, 1)]
            if block == 0 and (stage > 0 or out != before):
                convs.append((out, before, 1))
            for wide, narrow, kernel in convs:
                shapes += [(wide, narrow, kernel, kernel), (wide,), (wide,)]
            before = out
    return [*shapes, (classes, before), (classes,)]


@pytest.mark.parametrize("name", NAMES)
def test_a_resnet_50_has_algoperfs_parameters_in_number_and_shape(name: str):
    assert values_of("workload", name)["parameters"] == 25_557_032
    with torch.device("meta"):
        model = network(name)
    shapes = [tuple(parameter.shape) for parameter in in_algoperfs_order(model)]
    assert shapes == algoperfs_shapes(7, [(64, 3), (128, 4), (256, 6), (512, 3)], 4, 1000)
    assert (len(shapes), sum(map(math.prod, shapes)), len(list(model.buffers()))) == (161, 25_557_032, 159)


def test_the_resnet_18_has_algoperfs_parameters_in_number_and_shape():
    assert values_of("workload", "cifar10_resnet")["parameters"] == 11_173_962
    with torch.device("meta"):
        model = network("cifar10_resnet")
    shapes = [tuple(parameter.shape) for parameter in in_algoperfs_order(model)]
    assert shapes == algoperfs_shapes(3, [(64, 2), (128, 2), (256, 2), (512, 2)], 1, 10)
    assert (len(shapes), sum(map(math.prod, shapes)), len(list(model.buffers()))) == (62, 11_173_962, 60)
    assert len(shapes_of("cifar10_resnet")) == 62


REFERENCES = [
    ("imagenet_resnet", False, -0.052811, 1.847934, [4.28368, -1.37646, 0.90119, 0.01782], -3.02237),
    ("imagenet_resnet", True, -0.008593, 1.082917, [2.45678, -1.83433, 0.80726, 0.21172], -3.19721),
    ("imagenet_resnet_silu", False, 0.004958, 0.114241, [0.03259, -0.07918, 0.03365, -0.06313], 0.02368),
    ("imagenet_resnet_silu", True, -0.007378, 0.607478, [1.22028, -1.33024, 0.45747, 0.19305], -1.70677),
    ("imagenet_resnet_gelu", False, -0.000313, 0.37915, [0.7326, -0.83747, -0.18863, -0.18966], -0.17808),
    ("imagenet_resnet_gelu", True, -0.007472, 0.848892, [1.76818, -1.53572, 0.51944, 0.14548], -2.39043),
    # All weights are overwritten, the scales of batch norms too.
    ("imagenet_resnet_large_bn_init", True, -0.008593, 1.082917, [2.45678, -1.83433, 0.80726, 0.21172], -3.19721),
    ("cifar10_resnet", False, 0.028846, 0.512755, [0.69848, -0.17706, 1.09743, 0.17118], -0.00147),
    ("cifar10_resnet", True, -0.088425, 0.804361, [0.09577, -0.56428, 1.58866, -0.52934], -0.01664),
]


QUICK = [("imagenet_resnet", True), ("cifar10_resnet", False), ("cifar10_resnet", True)]


@pytest.mark.parametrize(
    ("name", "trains", "mean", "deviation", "first", "last"),
    [pytest.param(*values, marks=[] if values[:2] in QUICK else pytest.mark.slow) for values in REFERENCES],
)
def test_it_computes_what_algoperf_computes(
    name: str, trains: bool, mean: float, deviation: float, first: list[float], last: float
):
    model = network(name).train(trains)
    set_parity_weights(model, in_algoperfs_order(model))
    inputs = noise(2, 3, 32, 32) if name == "cifar10_resnet" else noise(2, 3, 224, 224)
    check_outputs(model, inputs, mean, deviation, first, last)


def test_batch_norm_has_algoperfs_settings_and_learns_its_statistics_from_training_batches_alone():
    model = network("cifar10_resnet")
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert {(norm.eps, norm.momentum, norm.affine, norm.track_running_stats) for norm in norms} == {
        (1e-5, 0.1, True, True)
    }
    images = noise(4, 3, 32, 32)
    model.eval()(images)
    assert model.stem_norm.running_mean.abs().sum() == 0
    hidden = model.stem(images)
    model.train()(images)
    torch.testing.assert_close(model.stem_norm.running_mean, 0.1 * hidden.mean(dim=(0, 2, 3)))
    unbiased = hidden.transpose(0, 1).flatten(1).var(dim=1)
    torch.testing.assert_close(model.stem_norm.running_var, 0.9 + 0.1 * unbiased)


@pytest.mark.parametrize(("name", "scale"), [("imagenet_resnet", 0.0), ("imagenet_resnet_large_bn_init", 8.0)])
def test_initial_weights_are_algoperfs(name: str, scale: float):
    torch.manual_seed(0)
    model = network(name)
    last = {id(block.last_norm) for block in model.stages}
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.weight.numel() > 100_000:
            fan_in = module.weight[0].numel()
            assert module.weight.std().item() == pytest.approx(fan_in**-0.5, rel=0.02)
            assert module.weight.abs().max().item() == pytest.approx(2 * fan_in**-0.5 / 0.87962566, rel=0.01)
        if isinstance(module, nn.BatchNorm2d):
            assert {*module.weight.tolist()} == {scale if id(module) in last else 1.0}
            assert {*module.bias.tolist()} == {0.0}
    assert model.output.weight.std().item() == pytest.approx(0.01, rel=0.01)
    assert model.output.bias.abs().sum() == 0


@pytest.mark.slow
def test_the_first_evaluation_finds_what_algoperfs_logs_have():
    batch = {"inputs": noise(4, 3, 96, 96), "targets": torch.arange(4)}
    found = {}
    for name in ("imagenet_resnet", "imagenet_resnet_large_bn_init"):
        torch.manual_seed(0)
        workload, model = made(name), network(name)
        with torch.no_grad():
            model.train()(batch["inputs"])  # one update of the running statistics
            losses, weights = workload.losses(workload.outputs(model.eval(), batch), batch, 0.0)
        assert weights is None
        found[name] = losses.mean().item()
    # There, after one small step on ImageNet: 6.910 to 6.923, and 5,100 to 18,100.
    assert found["imagenet_resnet"] == pytest.approx(math.log(1000), abs=0.1)
    assert 1000 < found["imagenet_resnet_large_bn_init"] < 100_000


def test_label_smoothing_spreads_its_share_over_all_classes_also_of_rows_of_probabilities():
    outputs = noise(4, 1000)
    labels = torch.tensor([3, 1, 4, 1])
    logs = F.log_softmax(outputs, dim=1)
    rows = 0.7 * F.one_hot(labels, 1000).float() + 0.3 * F.one_hot(labels.roll(1), 1000).float()
    for targets, wanted in [(labels, F.one_hot(labels, 1000).float()), (rows, rows)]:
        found, _ = made("imagenet_resnet").losses(outputs, {"targets": targets}, 0.1)
        expected = -((0.9 * wanted + 0.1 / 1000) * logs).sum(dim=1)
        torch.testing.assert_close(found, expected)


def test_the_metric_is_one_minus_algoperfs_accuracy():
    workload = made("imagenet_resnet")
    outputs = F.one_hot(torch.tensor([1, 2, 3, 4, 5]), 1000).float()
    statistics = workload.statistics(outputs, {"targets": torch.tensor([1, 2, 0, 4, 0])})
    assert workload.metrics(statistics)["error"] == pytest.approx(1 - 3 / 5)

"""Attention scores, activations, geometry and tangent kernels, each where the answer is known."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.api import Batch
from harness.diagnostics.probe import NotHere, Probe
from harness.diagnostics.representations import (
    attention_scores,
    geometry,
    kernel_alignment,
    kernel_readouts,
    kernel_targets,
    logits,
    tangent_kernel,
)
from tests.blobs import Blobs
from tests.diagnostics.test_spectrum import Regression


def probe_of(workload) -> Probe:
    torch.manual_seed(0)
    return Probe(workload, workload.build_model(), workload.load("train", Path()))


# --- logit growth ---


def test_equal_tokens_have_the_entropy_of_looking_everywhere():
    token = torch.ones(2, 3, 7, 4)
    largest, entropy = attention_scores(token, token)
    assert largest.tolist() == pytest.approx([2.0] * 3)  # 4 / sqrt(4)
    assert entropy.tolist() == pytest.approx([1.0] * 3)
    assert attention_scores(token, token, is_causal=True)[1].tolist() == pytest.approx([1.0] * 3)


def test_one_score_of_fifty_among_zeros_has_no_entropy():
    query, key = torch.zeros(1, 1, 1, 2), torch.zeros(1, 1, 9, 2)
    query[..., 0], key[0, 0, 4, 0] = 50.0, 1.0
    largest, entropy = attention_scores(query, key, scale=1.0)
    assert (largest.item(), entropy.item()) == pytest.approx((50.0, 0.0), abs=1e-12)


def test_masked_places_count_neither_as_scores_nor_as_places_to_look_at():
    query, key = torch.ones(1, 1, 2, 1), torch.tensor([1.0, 1.0, 9.0]).view(1, 1, 3, 1)
    mask = torch.tensor([[True, True, False], [True, False, False]])
    for given in (mask, torch.zeros(2, 3).masked_fill(~mask, -math.inf)):
        largest, entropy = attention_scores(query, key, attn_mask=given)
        assert (largest.item(), entropy.item()) == pytest.approx((1.0, 1.0))


class AttendingBlobs(Blobs):
    """Blobs whose eight numbers are tokens, with attention of two heads that looks at all alike."""

    def build_model(self) -> nn.Module:
        return Attending()


class Attending(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.output = nn.Linear(8, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        values = inputs[:, None, :, None].expand(-1, 2, -1, 1)
        same = torch.full_like(values, 3.0)
        return self.output(F.scaled_dot_product_attention(same, same, values).mean(dim=1).squeeze(-1))


def test_scores_are_read_off_a_network_that_calls_the_fused_kernel():
    probe = probe_of(AttendingBlobs())
    found = logits(probe)
    assert {name: value for name, value in found.items() if name.startswith(("score", "entropy"))} == pytest.approx(
        {"score/0/0": 9.0, "score/0/1": 9.0, "entropy/0/0": 1.0, "entropy/0/1": 1.0}
    )


def test_outputs_activations_and_gradients_have_the_sizes_that_they_have():
    probe = probe_of(Blobs(hidden=6))
    found = logits(probe)
    batch = probe.train_set.gather(probe.index)
    outputs = probe.model(batch["inputs"]).detach().double()
    assert found["log_z_mean"] == pytest.approx(float(outputs.logsumexp(1).mean()), rel=1e-6)
    assert found["largest_logit"] == pytest.approx(float(outputs.max()), rel=1e-6)
    assert found["activation/1"] == pytest.approx(float(batch["inputs"].double().square().mean().sqrt()), rel=1e-6)
    assert found["gradient/3.bias"] == pytest.approx(float(probe.gradient()[-2:].square().mean().sqrt()))
    assert not any(name.startswith("score") for name in found)


# --- geometry ---


def test_features_that_were_turned_and_scaled_are_aligned_and_noise_is_not():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(300, 6, generator=generator)
    turn, _ = torch.linalg.qr(torch.randn(6, 6, generator=generator))
    assert kernel_alignment(features, 3.0 * features @ turn + 5.0) == pytest.approx(1.0)
    assert kernel_alignment(features, torch.randn(300, 6, generator=generator)) < 0.1


def test_the_first_layer_is_aligned_with_the_inputs_that_it_gets():
    found = geometry(probe_of(Blobs(hidden=6)))
    assert found["inputs/1"] == pytest.approx(1.0)
    assert 0 < found["inputs/3"] < 1
    assert set(found) == {"inputs/1", "targets/1", "inputs/3", "targets/3"}


# --- tangent kernel ---


def test_the_tangent_kernel_of_a_linear_model_is_that_of_its_inputs_and_does_not_drift():
    probe = probe_of(Blobs())
    before = tangent_kernel(probe)
    inputs = probe.train_set.gather(probe.index[:256])["inputs"].double()
    torch.testing.assert_close(before, 2 * (inputs @ inputs.T + 1.0), rtol=1e-5, atol=1e-5)  # two outputs, with biases
    probe.load(5.0 * probe.weights() + 1.0)
    found = kernel_readouts(tangent_kernel(probe), before, kernel_targets(probe))
    assert found["drift"] == pytest.approx(0.0, abs=1e-6)
    assert 0 < found["alignment"] < 1
    assert found["effective_rank"] < 10  # of rank nine


class Wide(Regression):
    """f = a . relu(W x) / sqrt(m), all weights N(0, 1)."""

    def build_model(self) -> nn.Module:
        return _Wide(self.width, 20_000)


class _Wide(nn.Module):
    def __init__(self, inputs: int, units: int) -> None:
        super().__init__()
        self.hidden, self.out = nn.Parameter(torch.randn(units, inputs)), nn.Parameter(torch.randn(units))

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.relu(inputs @ self.hidden.T) @ self.out / len(self.out) ** 0.5


def test_the_tangent_kernel_of_a_wide_relu_network_is_the_arc_cosine_one():
    probe = probe_of(Wide(rows=4, width=3))
    kernel = tangent_kernel(probe)
    inputs = probe.train_set.gather(probe.index)["inputs"].double()
    norms = inputs.norm(dim=1)
    angle = (inputs @ inputs.T / (norms[:, None] * norms[None])).clamp(-1, 1).arccos()
    of_outputs = norms[:, None] * norms[None] * (angle.sin() + (torch.pi - angle) * angle.cos()) / (2 * torch.pi)
    expected = of_outputs + inputs @ inputs.T * (torch.pi - angle) / (2 * torch.pi)
    torch.testing.assert_close(kernel, expected, rtol=0.05, atol=0.05 * float(expected.max()))


def test_the_kernel_of_a_network_with_batch_norm_is_that_of_gradients_one_by_one():
    probe = probe_of(Blobs(hidden=3, batch_norm=True))
    kernel = tangent_kernel(probe)
    rows = []
    for place in (0, 1):
        one: Batch = probe.train_set.gather(probe.index[[place]])
        each = probe.workload.outputs(probe.model, one)[0]
        rows.append(
            [torch.cat([g.flatten() for g in torch.autograd.grad(o, probe._list, retain_graph=True)]) for o in each]
        )
    assert float(kernel[0, 1]) == pytest.approx(sum(float(a @ b) for a, b in zip(*rows, strict=True)), rel=1e-4)


class Many(Regression):
    def build_model(self) -> nn.Module:
        return nn.Linear(self.width, 40)

    def losses(self, outputs: Tensor, batch: Batch, label_smoothing: float) -> tuple[Tensor, None]:
        return super().losses(outputs.mean(dim=1), batch, label_smoothing)


def test_many_outputs_have_no_kernel():
    workload = Many()
    probe = Probe(workload, workload.build_model(), workload.load("train", Path()), index=torch.arange(4))
    with pytest.raises(NotHere, match="an example has 40 outputs; the kernel takes a gradient of each"):
        tangent_kernel(probe)


class Scaled(Regression):
    def build_model(self) -> nn.Module:
        return _Scaled(self.width)


class _Scaled(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.layer, self.scale = nn.Linear(width, 1, bias=False), nn.Parameter(torch.tensor(2.0))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.scale * self.layer(inputs).squeeze(1)


def test_a_parameter_that_is_one_number_counts_too():
    probe = probe_of(Scaled(rows=6, width=3))
    inputs = probe.train_set.gather(probe.index)["inputs"].double()
    along = inputs @ probe.model.layer.weight.detach().double().flatten()
    torch.testing.assert_close(
        tangent_kernel(probe), 4 * inputs @ inputs.T + torch.outer(along, along), rtol=1e-5, atol=1e-5
    )

"""Second derivatives: where fused kernels have none, where the loss has none, and products that are exact."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.api import Batch, ConfigError, LossKind
from harness.trial.passes.twice import gradient_difference, gradient_of, hessian_product, twice_differentiable
from harness.trial.trial import Trial
from tests.blobs import Blobs
from tests.trial.passes.trials import trial_on_blobs

FRAMES, SYMBOLS = 4, 3


class SpokenBlobs(Blobs):
    """Blobs whose class is a word of one symbol, under CTC."""

    loss_kind = LossKind.CTC

    def build_model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, FRAMES * SYMBOLS))

    def losses(self, outputs: Tensor, batch: Batch, label_smoothing: float) -> tuple[Tensor, Tensor | None]:  # noqa: ARG002
        scores = outputs.reshape(len(outputs), FRAMES, SYMBOLS).log_softmax(dim=2).transpose(0, 1)
        words, count = batch["targets"][:, None] + 1, len(outputs)
        lengths = torch.full((count,), FRAMES), torch.ones(count, dtype=torch.long)
        return F.ctc_loss(scores, words, *lengths, reduction="none"), None


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(8, 24)

    def forward(self, inputs: Tensor) -> Tensor:
        q, k, v = self.project(inputs).chunk(3, dim=-1)
        return F.scaled_dot_product_attention(q, k, v).square().mean()


def parameters_of(trial: Trial) -> list[Tensor]:
    return list(trial.model.parameters())


def drawn_like(parameters: list[Tensor]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(p.shape, generator=generator) for p in parameters]


def dense_hessian(loss, parameters: list[Tensor]) -> Tensor:
    """Row by row, in the order of the parameters' numbers."""
    flat = torch.cat([g.flatten() for g in torch.autograd.grad(loss(), parameters, create_graph=True)])
    rows = [torch.autograd.grad(each, parameters, retain_graph=True, materialize_grads=True) for each in flat]
    return torch.stack([torch.cat([g.flatten() for g in row]) for row in rows])


def flat(tensors: list[Tensor]) -> Tensor:
    return torch.cat([each.detach().flatten() for each in tensors])


def test_a_trials_product_is_that_with_the_hessian_of_its_loss_on_the_batch():
    trial = trial_on_blobs()
    batch, parameters = trial.next_batch(), parameters_of(trial)
    vector = drawn_like(parameters)
    expected = dense_hessian(lambda: trial.loss(batch, label_smoothing=0.1), parameters) @ flat(vector)
    torch.testing.assert_close(flat(trial.hessian_product(batch, vector, label_smoothing=0.1)), expected)


def test_a_loss_without_a_second_derivative_has_a_product_from_differences_and_says_so_before_a_loop_begins():
    trial = trial_on_blobs(kind=SpokenBlobs)
    batch, parameters = trial.next_batch(), parameters_of(trial)
    vector = drawn_like(parameters)
    said = r"the loss is ctc, which torch differentiates once.*trial\.hessian_product"
    with pytest.raises(ConfigError, match=said), trial.twice_differentiable():
        pytest.fail("it was entered")
    before = flat(parameters)
    product = flat(trial.hessian_product(batch, vector))
    assert torch.equal(flat(parameters), before)
    # Far coarser than the difference itself: the change of the gradient along a whole step of the vector / 100.
    coarse = []
    for sign in (1.0, -1.0):
        with torch.no_grad():
            for p, v in zip(parameters, vector, strict=True):
                p.add_(sign * 0.01 * v)
        coarse.append(flat(gradient_of(lambda: trial.loss(batch), parameters)))
        with torch.no_grad():
            for p, v in zip(parameters, vector, strict=True):
                p.sub_(sign * 0.01 * v)
    torch.testing.assert_close(
        product, (coarse[0] - coarse[1]) / 0.02, rtol=0.02, atol=0.02 * float(product.abs().max())
    )


def test_differences_agree_with_the_exact_product_on_a_smooth_loss():
    trial = trial_on_blobs({"hidden": 0})
    batch, parameters = trial.next_batch(), parameters_of(trial)
    vector = drawn_like(parameters)
    exact = flat(hessian_product(lambda: trial.loss(batch), parameters, vector))
    differences = gradient_difference(lambda: gradient_of(lambda: trial.loss(batch), parameters), parameters, vector)
    torch.testing.assert_close(flat(differences), exact, rtol=5e-3, atol=5e-3 * float(exact.abs().max()))


def test_attention_can_be_differentiated_twice_inside_the_block_alone():
    model, inputs = Attention(), torch.randn(2, 1, 5, 8)  # fused kernels want heads, too
    parameters = list(model.parameters())
    vector = drawn_like(parameters)
    with pytest.raises(RuntimeError, match=r"derivative for aten::_scaled_dot_product.* is not implemented"):
        hessian_product(lambda: model(inputs), parameters, vector)
    with twice_differentiable(model, LossKind.MEAN_SQUARED_ERROR):
        product = flat(hessian_product(lambda: model(inputs), parameters, vector))
        expected = dense_hessian(lambda: model(inputs), parameters) @ flat(vector)
    torch.testing.assert_close(product, expected)


def test_an_lstm_can_be_differentiated_twice():
    model = nn.LSTM(3, 4, batch_first=True)
    inputs, parameters = torch.randn(2, 6, 3), list(model.parameters())
    with twice_differentiable(model, LossKind.MEAN_SQUARED_ERROR):
        product = hessian_product(lambda: model(inputs)[0].square().mean(), parameters, drawn_like(parameters))
    assert all(bool(each.any()) for each in product)


def test_a_loss_that_is_linear_in_the_weights_has_a_product_of_zero():
    weight = nn.Parameter(torch.ones(3))
    for product in (
        hessian_product(lambda: weight.sum(), [weight], [torch.ones(3)]),
        gradient_difference(lambda: gradient_of(lambda: weight.sum(), [weight]), [weight], [torch.zeros(3)]),
    ):
        assert product[0].tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("micro_batch", [None, 8])
def test_products_are_of_one_function_of_the_weights_also_with_dropout_and_in_parts(micro_batch):
    trial = trial_on_blobs({"dropout": 0.5}, micro_batch=micro_batch)
    batch, parameters = trial.next_batch(), parameters_of(trial)
    some, others = drawn_like(parameters), [torch.flip(each, [0]) for each in drawn_like(parameters)]
    torch.manual_seed(5)
    one = trial.hessian_product(batch, some)
    torch.manual_seed(5)
    other = trial.hessian_product(batch, others)
    # v . H w = w . H v holds for one mask alone.
    assert float(flat(one) @ flat(others)) == pytest.approx(float(flat(other) @ flat(some)), rel=1e-4)

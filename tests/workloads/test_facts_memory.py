"""An adapter that takes facts in by descent: what its steps are, and what the gradient of where it begins is."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from harness.api import SPLITS, ConfigError, mean_loss
from harness.race.evaluation import evaluate
from tests.workloads.short_runs import NOWHERE, whole
from workloads.frontier.facts.facts_memory import (
    STEPS,
    SYMBOLS,
    FactsMemory,
    Memory,
    facts_known,
    trained_base,
)

WORKLOAD = FactsMemory(rank=4, unrolled=2)


def memory(*, unrolled: int = 2) -> Memory:
    """Away from the start, where half of the matrices are zero; in float64, so that differences can be taken."""
    torch.manual_seed(0)
    model = FactsMemory(rank=4, unrolled=unrolled).build_model()
    assert isinstance(model, Memory)
    # Not the whole network: its rotations are complex.
    for module in model.modules():
        for name, values in [*module.named_buffers(recurse=False)]:
            if values.dtype is torch.float32:
                module.register_buffer(name, values.double(), persistent=False)
    for parameter in model.parameters():
        parameter.data = parameter.data.double() + 0.05 * torch.randn(parameter.shape, dtype=torch.float64)
    model.base.register_buffer("rotations", model.base.get_buffer("rotations").to(torch.complex128), persistent=False)
    return model


def some(count: int) -> dict[str, Tensor]:
    return WORKLOAD.load("train", NOWHERE).gather(torch.arange(count))


def loss_of(model: Memory, batch: dict[str, Tensor]) -> Tensor:
    return mean_loss(*WORKLOAD.losses(WORKLOAD.outputs(model, batch), batch, 0.0))


# --- the data ---


def test_an_episode_has_sixteen_pairs_of_symbols_that_all_differ():
    for split in SPLITS:
        batch = whole(WORKLOAD, split)
        symbols = torch.cat([batch["inputs"][:, :, 0], batch["targets"]], dim=1).sort(dim=1).values
        assert (symbols.diff(dim=1) > 0).all()
        assert (int(symbols.min()), int(symbols.max())) == (0, SYMBOLS - 1)
        assert set(batch["inputs"][:, :, 1].flatten().tolist()) == {SYMBOLS}


def test_the_frozen_network_knows_other_pairs():
    base, known = trained_base(), facts_known()
    assert evaluate(known, base, known.load("validation", NOWHERE), 16)["recall_error"] == 0.0
    batch = whole(WORKLOAD, "validation")
    scores = base(batch["inputs"].flatten(0, 1))[:, -1]
    assert (scores.argmax(dim=1) == batch["targets"].flatten()).float().mean().item() < 0.05


# --- the steps ---


def test_without_steps_scores_are_those_of_the_network_and_its_adapter():
    batch, model = some(3), WORKLOAD.build_model()
    assert isinstance(model, Memory)
    # An adapter begins with nothing to add.
    found = model.scores(model.read(batch["inputs"]), model.begun(3))
    expected = trained_base()(batch["inputs"].flatten(0, 1))[:, -1].unflatten(0, (3, 16))
    torch.testing.assert_close(found, expected)


def test_the_steps_of_an_episode_are_those_of_descent_on_its_facts_alone():
    batch, model = some(3), memory()
    found = model.written(model.read(batch["inputs"]), batch["targets"])
    for episode in range(3):
        questions, answers = batch["inputs"][episode : episode + 1], batch["targets"][episode]
        matrices = [each[0].detach().clone().requires_grad_() for each in model.begun(1)]
        for step in range(STEPS):
            scores = model.scores(model.read(questions), tuple(each[None] for each in matrices))[0]
            slopes = torch.autograd.grad(F.cross_entropy(scores, answers), matrices)
            rates = model.log_rates[step].exp().tolist()
            pairs = zip(matrices, rates, slopes, strict=True)
            matrices = [(each - rate * slope).detach().requires_grad_() for each, rate, slope in pairs]
        for matrix, expected in zip(found, matrices, strict=True):
            torch.testing.assert_close(matrix[episode], expected)


def test_unrolled_whole_the_gradient_is_that_of_differences():
    model, batch = memory(unrolled=STEPS), some(2)
    loss_of(model, batch).backward()
    for parameter in model.parameters():
        assert parameter.grad is not None
        way = torch.randn(parameter.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        start = parameter.data.clone()
        parameter.data = start + 1e-5 * way
        above = loss_of(model, batch).item()
        parameter.data = start - 1e-5 * way
        difference = (above - loss_of(model, batch).item()) / 2e-5
        parameter.data = start
        assert difference == pytest.approx((parameter.grad * way).sum().item(), rel=1e-4, abs=1e-8)


def test_fewer_unrolled_steps_have_the_same_loss_and_another_gradient():
    batch, gradients = some(2), []
    for unrolled in (STEPS, 2, 0):
        model = memory(unrolled=unrolled)
        loss = loss_of(model, batch)
        loss.backward()
        gradients.append((loss.item(), model.downs[0].grad))
    losses, slopes = zip(*gradients, strict=True)
    assert losses[0] == pytest.approx(losses[1]) == pytest.approx(losses[2])
    assert not any(torch.allclose(slopes[0], each, rtol=1e-2) for each in slopes[1:])


def test_without_unrolling_the_gradient_is_that_at_the_last_adapters():
    model, batch = memory(unrolled=0), some(2)
    loss_of(model, batch).backward()
    read = model.read(batch["inputs"])
    last = tuple(each.detach().requires_grad_() for each in model.written(read, batch["targets"]))
    loss = mean_loss(*WORKLOAD.losses(model.scores(read, last), batch, 0.0))
    slopes = torch.autograd.grad(loss, last)
    for parameter, slope in zip([model.downs[0], model.ups[0], model.downs[1], model.ups[1]], slopes, strict=True):
        torch.testing.assert_close(parameter.grad, slope.sum(dim=0))


def test_evaluations_in_inference_mode_take_the_same_steps():
    batch, model = some(4), WORKLOAD.build_model().eval()
    expected = WORKLOAD.outputs(model, batch).detach()
    with torch.inference_mode():
        copied = {name: values.clone() for name, values in batch.items()}
        torch.testing.assert_close(WORKLOAD.outputs(model, copied), expected)


def test_more_unrolled_steps_than_there_are_are_answered():
    with pytest.raises(ConfigError, match="unrolled is 5"):
        FactsMemory(rank=4, unrolled=5)

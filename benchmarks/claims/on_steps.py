"""Claims about single steps: what state a rule keeps, what a step looks like, and what it takes in memory and time."""

from __future__ import annotations

import functools
import math
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.optim import Optimizer
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.claims.claim import Average, Claim, Reading, Rule
from benchmarks.claims.on_language_model import language_model
from benchmarks.claims.training import course
from benchmarks.optimizers import small_shapes
from harness import HIDDEN_MATRICES, cosine_basis, low_rank, strongest_columns
from harness.api import Batch, mean_loss
from harness.trial.domains import DomainSampler, tempered
from harness.trial.parameter_kinds import kinds_of
from submissions.adafactor.submission import Adafactor
from submissions.adam_8bit.submission import Adam8bit
from submissions.amos.submission import Amos
from submissions.clipped_sgd.submission import clip_largest
from submissions.dct_adamw.submission import DctAdamW
from submissions.lion.submission import Lion
from submissions.mezo.submission import spsa_step
from submissions.momentum_8bit.submission import Momentum8bit
from submissions.muon.submission import Muon

Kind = Callable[..., Optimizer]

# --- state ---


def state_bytes(kind: Kind, shapes: Sequence[tuple[int, ...]]) -> int:
    """Bytes in tensors of the state after a step."""
    parameters = [nn.Parameter(torch.zeros(shape)) for shape in shapes]
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    optimizer = kind(parameters, lr=1e-3)
    optimizer.step()
    tensors = [each for state in optimizer.state.values() for each in state.values() if isinstance(each, Tensor)]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _state_claim(name: str, says: str, kind: Kind, other: Kind, other_name: str, holds: Rule) -> Claim:
    def measure(_: int) -> Reading:
        mine, others = (state_bytes(each, small_shapes()) for each in (kind, other))
        return Reading(mine / others, {"bytes": mine, f"of {other_name}": others})

    return Claim(
        name=f"{name}_state",
        submission=name,
        says=says,
        experiment=f"A step on the tensors of a small transformer (860,000 numbers): state over that of {other_name}.",
        quantity=f"bytes over those of {other_name}",
        holds=holds,
        measure=measure,
        repetitions=1,
    )


# --- batches and gradients of models that have trained a little ---


def _mean_loss(model: nn.Module, batch: Batch) -> Tensor:
    workload = language_model().workload
    return mean_loss(*workload.losses(workload.outputs(model, batch), batch, 0.0))


def _batches(seed: int, size: int) -> Iterator[Batch]:
    """Endless random batches of the language model's training text."""
    examples = language_model().splits["train"]
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield examples.gather(torch.randint(len(examples), (size,), generator=generator))


def _trained(seed: int, steps: int) -> nn.Module:
    """The small language model after so many steps of momentum."""
    model, batches = language_model().model(seed), _batches(seed, language_model().batch_size)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9, dampening=0.9)
    for _ in range(steps):
        optimizer.zero_grad()
        _mean_loss(model, next(batches)).backward()
        optimizer.step()
    return model


def singular_values_of_update(seed: int) -> Reading:
    """Share of an update's singular values that lie in 0.7 to 1.2, over all hidden matrices of the language model."""
    model, batches = language_model().model(seed), _batches(seed, language_model().batch_size)
    names = [name for name, kind in kinds_of(model).items() if kind in HIDDEN_MATRICES]
    matrices = [model.get_parameter(name) for name in names]
    optimizer = Muon(matrices, lr=0.03)
    for _ in range(50):
        model.zero_grad()
        _mean_loss(model, next(batches)).backward()
        before = [matrix.detach().clone() for matrix in matrices]
        optimizer.step()
    values = []
    for matrix, start in zip(matrices, before, strict=True):
        step = 0.03 * math.sqrt(max(1.0, matrix.shape[0] / matrix.shape[1]))
        values.append(torch.linalg.svdvals((matrix.detach() - start) / step))
    found = torch.cat(values)
    share = float(((found >= 0.7) & (found <= 1.2)).double().mean())
    return Reading(share, {"largest": float(found.max()), "smallest": float(found.min())})


def kept_energy(seed: int) -> Reading:
    """Share of a gradient's square that a quarter of the directions keep: chosen cosines over the best, by an SVD."""
    model = _trained(seed, 50)
    model.zero_grad()
    _mean_loss(model, next(_batches(-seed, language_model().batch_size))).backward()
    kept = {"cosines": 0.0, "SVD": 0.0, "random directions": 0.0}
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.ndim != 2 or parameter.grad is None:
            continue
        tall = parameter.grad if parameter.shape[0] >= parameter.shape[1] else parameter.grad.T
        columns, rank = tall.shape[1], low_rank(tall.shape, 0.25)
        random, _ = torch.linalg.qr(torch.randn(columns, columns, generator=generator))
        whole = float(tall.square().sum())
        for name, basis in (
            ("cosines", cosine_basis(columns, tall.dtype, tall.device)),
            ("random directions", random),
        ):
            _, low = strongest_columns((tall @ basis).unsqueeze(0), rank)
            kept[name] += float(low.square().sum()) / whole
        kept["SVD"] += float(torch.linalg.svdvals(tall)[:rank].square().sum()) / whole
    return Reading(kept["cosines"] / kept["SVD"], {"random directions": kept["random directions"] / kept["SVD"]})


def sharpness_ratio(seed: int) -> Reading:
    """v^T H v / |v|^2 along SGD's direction over that along the clipped one, at points of SGD's way."""
    model = _trained(seed, 100)
    parameters = list(model.parameters())
    seen, judged = next(_batches(-seed, language_model().batch_size)), next(_batches(10**6 + seed, 64))
    model.zero_grad()
    _mean_loss(model, seen).backward()
    plain = [parameter.grad.clone() for parameter in parameters if parameter.grad is not None]
    clip_largest(list(parameters), 0.1)
    clipped = [parameter.grad.clone() for parameter in parameters if parameter.grad is not None]

    def sharpness(direction: list[Tensor]) -> float:
        with sdpa_kernel(SDPBackend.MATH):
            slopes = torch.autograd.grad(_mean_loss(model, judged), parameters, create_graph=True)
            along = sum((slope * each).sum() for slope, each in zip(slopes, direction, strict=True))
            assert isinstance(along, Tensor)
            products = torch.autograd.grad(along, parameters)
        curved = sum(float((product * each).sum()) for product, each in zip(products, direction, strict=True))
        return curved / sum(float(each.square().sum()) for each in direction)

    one, other = sharpness(plain), sharpness(clipped)
    return Reading(one / other, {"along SGD's": one, "along the clipped": other})


# --- estimators ---


def spsa_length(seed: int) -> Reading:
    """Mean square of MeZO's estimate over that of the gradient, over what the theory says: (d + n + 1) / n, n = 4."""
    here = course("digits_mlp")
    model, batch = here.model(seed).double(), here.splits["train"].gather(torch.arange(64))
    batch["inputs"] = batch["inputs"].double()
    parameters: list[Tensor] = list(model.parameters())

    def loss() -> Tensor:
        return mean_loss(*here.workload.losses(here.workload.outputs(model, batch), batch, 0.0))

    gradient = torch.autograd.grad(loss(), parameters)
    squared = sum(float(each.square().sum()) for each in gradient)
    start = [parameter.detach().clone() for parameter in parameters]
    size, directions, draws = sum(each.numel() for each in start), 4, 100
    total = 0.0
    with torch.no_grad():
        for draw in range(draws):
            seeds = [10**6 * seed + directions * draw + each for each in range(directions)]
            spsa_step(parameters, loss, seeds=seeds, eps=1e-4, rate=1.0)
            total += sum(float((p - before).square().sum()) for p, before in zip(parameters, start, strict=True))
            torch._foreach_copy_(parameters, start)
    return Reading(total / draws / squared / ((size + directions + 1) / directions), {"d": size})


def moment_of_upweighting(seed: int) -> Reading:
    """Second moment of the gradient when rare domains are weighted up, over that when they are drawn more often."""
    here = course("flights_delay")
    domains = here.workload.domains(here.splits["train"])
    assert domains is not None
    temperature, count = 5.0, 64
    sampler, generator = DomainSampler(domains), torch.Generator().manual_seed(seed)
    cold, hot = tempered(sampler.sizes, 1.0), tempered(sampler.sizes, temperature)
    # Drawn evenly, and weighted as they would be drawn: a few of a small domain would else decide.
    model, index = here.model(seed), sampler.draw(count, math.inf, generator)
    drawn, weighted = 0.0, 0.0
    for example, domain in zip(index.split(1), domains[index].tolist(), strict=True):
        batch = here.splits["train"].gather(example)
        model.zero_grad()
        mean_loss(*here.workload.losses(here.workload.outputs(model, batch), batch, 0.0)).backward()
        norms = torch._foreach_norm([p.grad for p in model.parameters() if p.grad is not None])
        square = float(torch.stack(norms).square().sum())
        drawn += float(hot[domain]) * square
        weighted += float(cold[domain] * (hot[domain] / cold[domain]) ** 2) * square
    return Reading(weighted / drawn)


# --- memory and time ---


class PeakBytes(TorchDispatchMode):
    """Counts the bytes of tensors that are made inside and are alive."""

    peak: int = 0
    """The most at any moment."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._alive = 0
        self._seen: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, list | tuple) else [made]:
            if isinstance(tensor, Tensor):
                self._count(tensor.untyped_storage())
        return made

    def _count(self, storage: torch.UntypedStorage) -> None:
        place = storage._cdata
        if place in self._seen:
            return
        self._seen.add(place)
        self._alive += storage.nbytes()
        self.peak = max(self.peak, self._alive)
        weakref.finalize(storage, self._forget, place, storage.nbytes())

    def _forget(self, place: int, size: int) -> None:
        self._seen.discard(place)
        self._alive -= size


def peak_bytes(function: Callable[[], object]) -> int:
    """The most bytes at any moment in the tensors that a call makes."""
    counted = PeakBytes()
    with counted:
        function()
    return counted.peak


def memory_of_a_step(_: int) -> Reading:
    """Peak of what a MeZO step makes over that of a forward pass, for the workload's own language model."""
    here = course("kjv_char_lm")
    model = here.model(0)
    parameters, batch = list(model.parameters()), here.splits["train"].gather(torch.arange(here.batch_size))

    def loss() -> Tensor:
        return mean_loss(*here.workload.losses(here.workload.outputs(model, batch), batch, 0.0))

    with torch.no_grad():
        forward = peak_bytes(loss)
        mezo = peak_bytes(lambda: spsa_step(parameters, loss, seeds=[1], eps=1e-3, rate=0.0))
    adam = torch.optim.AdamW(parameters, foreach=False)

    def trained() -> None:
        loss().backward()
        adam.step()

    return Reading(mezo / forward, {"a step of AdamW": peak_bytes(trained) / forward})


def time_of_a_step(kinds: dict[str, tuple[str, dict[str, Any]]], seed: int) -> dict[str, float]:
    """Processor seconds of a step of whole submissions on kjv_char_lm in small, in turns."""
    here, found = language_model(), dict.fromkeys(kinds, 0.0)
    for turn in range(3):
        for name, (submission, hp) in kinds.items():
            began = time.process_time()
            here.train(submission, hp, seed=seed, steps=60)
            if turn:  # the first of a process is slow
                found[name] += time.process_time() - began
    return found


def auon_time(seed: int) -> Reading:
    """A step with AuON over one with AdamW; Muon's beside it."""
    found = time_of_a_step({name: (name, {}) for name in ("auon", "adamw", "muon")}, seed)
    return Reading(found["auon"] / found["adamw"], {"Muon": found["muon"] / found["adamw"]})


ADAMW: Kind = torch.optim.AdamW
MOMENTUM: Kind = functools.partial(torch.optim.SGD, momentum=0.9)

CLAIMS = [
    _state_claim(
        "adam_8bit",
        "75 % less state than 32-bit Adam.",
        Adam8bit,
        ADAMW,
        "AdamW",
        # A quarter, a scale for each block, and the small tensors that keep 32 bits.
        Rule(high=0.26),
    ),
    _state_claim(
        "momentum_8bit", "75 % less state than 32-bit momentum.", Momentum8bit, MOMENTUM, "momentum", Rule(high=0.26)
    ),
    _state_claim("lion", "One buffer instead of Adam's two.", Lion, ADAMW, "AdamW", Rule(high=0.5)),
    _state_claim(
        "adafactor",
        "Memory that grows with rows and columns, not with their product (without the momentum that AlgoPerf adds).",
        Adafactor,
        ADAMW,
        "AdamW",
        Rule(high=0.1),
    ),
    _state_claim("amos", "At most 51 % of AdamW's state.", Amos, ADAMW, "AdamW", Rule(high=0.51)),
    _state_claim(
        "dct_adamw",
        "57.8 GiB where AdamW takes 73.7, for an 800M Llama: 0.784 of all memory.",
        DctAdamW,
        ADAMW,
        "AdamW",
        Rule(high=0.784),
    ),
    Claim(
        name="muon_singular_values",
        submission="muon",
        says="Five iterations take the singular values of an update to between 0.7 and 1.2.",
        experiment="Small `kjv_char_lm`: share of the singular values of hidden matrices' 50th update that lie there.",
        quantity="share of singular values",
        holds=Rule(low=0.95),
        measure=singular_values_of_update,
    ),
    Claim(
        name="dct_adamw_energy",
        submission="dct_adamw",
        says="Directions chosen from a fixed basis of cosines are as good as those of an SVD.",
        experiment=(
            "Gradients of small `kjv_char_lm` after 50 steps: share of their square in the chosen quarter of the "
            "directions, "
            "over that in the best quarter."
        ),
        quantity="ratio of what is kept",
        holds=Rule(low=0.9),
        measure=kept_energy,
    ),
    Claim(
        name="clipped_sgd_sharpness",
        submission="clipped_sgd",
        says="Clipping a tenth of the coordinates lowers the sharpness along SGD's direction, on transformers.",
        experiment=(
            "Small `kjv_char_lm` after 100 steps of momentum: v'Hv / |v|^2 of the gradient over that of the clipped "
            "one."
        ),
        quantity="times less sharp",
        holds=Rule(low=1.0),
        measure=sharpness_ratio,
        average=Average.GEOMETRIC_MEAN,
    ),
    Claim(
        name="mezo_length",
        submission="mezo",
        says="The estimate's mean square is (d + n + 1) / n times that of the gradient: it grows with the dimension.",
        experiment=(
            "`digits_mlp` at the start, 100 estimates of four directions: mean square over what the formula says."
        ),
        quantity="ratio to the formula",
        holds=Rule(0.9, 1.1),
        measure=spsa_length,
    ),
    Claim(
        name="mezo_memory",
        submission="mezo",
        says="Training takes the memory of inference.",
        experiment=(
            "`kjv_char_lm`: peak of the tensors that a step makes over that of a forward pass without gradients."
        ),
        quantity="ratio of peaks",
        holds=Rule(high=1.1),
        measure=memory_of_a_step,
        repetitions=1,
    ),
    Claim(
        name="cooldown_moment",
        submission="cooldown",
        says="Drawing small domains more often gives gradients of less variance than weighting them up.",
        experiment=(
            "`flights_delay` at the start, carriers as domains, temperature 5: second moment of an example's gradient "
            "weighted up over that drawn more often."
        ),
        quantity="ratio of second moments",
        holds=Rule(low=1.0),
        measure=moment_of_upweighting,
        average=Average.GEOMETRIC_MEAN,
    ),
    Claim(
        name="auon_time",
        submission="auon",
        says="A step takes AdamW's time to a thousandth, and Muon's a fifth more.",
        experiment="Small `kjv_char_lm`: processor seconds of 120 steps of the whole submission, over AdamW's.",
        quantity="times AdamW's seconds",
        holds=Rule(high=1.02),
        measure=auon_time,
        repetitions=5,
        average=Average.GEOMETRIC_MEAN,
        is_timed=True,
    ),
]

"""Which diagnostics there are, and what one set of weights comes to in each. Reads and writes no file."""

from __future__ import annotations

import contextlib
import functools
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from harness.api import Examples, Workload
from harness.diagnostics import bias, gradients, outputs, representations, spectrum, weights
from harness.diagnostics.attribution.fidelity import fidelity
from harness.diagnostics.attribution.levels import level_sets
from harness.diagnostics.attribution.maps import panel
from harness.diagnostics.attribution.pictures import Pictures, Scorer, pictures_of, scorer_of
from harness.diagnostics.attribution.retrained import difference_retrained
from harness.diagnostics.conflicts import conflicts
from harness.diagnostics.course import course_readouts
from harness.diagnostics.probe import Features, NotHere, Probe, features_of, restore, state_of
from harness.diagnostics.sampling import sampling
from harness.trial.order import stream_seed
from harness.trial.parameter_kinds import kinds_of

Numbers = dict[str, float]
_SEED = 0
_LARGEST = 20_000_000


class Subject:
    """One set of weights: the network that holds them, and what several readouts need, computed once.

    `seed`: of the trial; `state`: None: what trials with this seed begin with.
    """

    def __init__(
        self,
        workload: Workload,
        train_set: Examples,
        state: Mapping[str, Tensor] | None,
        *,
        seed: int,
        batch_size: int,
    ) -> None:
        model = initial_model(workload, seed)
        self.initial = state_of(model)
        self.kinds = kinds_of(model)
        self.batch_size = batch_size
        if state is not None:
            model.load_state_dict(dict(state))
        self.probe = Probe(workload, model, train_set)
        self.new_model = functools.partial(initial_model, workload, seed)
        """A network as the trial began with."""
        self.known: dict[str, Numbers] = {}
        """What diagnostics came to that look at the weights alone."""

    @functools.cached_property
    def gradient(self) -> Tensor:
        """Of the probe loss."""
        return self.probe.gradient()

    @functools.cached_property
    def lanczos(self) -> spectrum.Lanczos:
        """One run on the Hessian of the probe loss. Raises NotHere for a network that is too large."""
        self._check_size()
        return spectrum.lanczos(self.probe.product, self.probe.size, _generator("lanczos"))

    @functools.cached_property
    def preconditioned(self) -> spectrum.Lanczos:
        """The same between roots of what Adam would divide by, from the mean squares of small batches."""
        self._check_size()
        product = spectrum.preconditioned(self.probe.product, gradients.adam_divisor(self.draws.second_moment))
        return spectrum.lanczos(product, self.probe.size, _generator("lanczos"))

    @functools.cached_property
    def trace(self) -> spectrum.Trace:
        """Of the Hessian of the probe loss."""
        return spectrum.hutchinson(self.probe.product, self.probe.size, _generator("trace"))

    @functools.cached_property
    def draws(self) -> gradients.Draws:
        """Gradients of training batches."""
        examples = len(self.probe.train_set)
        return gradients.draw_gradients(
            self.probe.gradient, examples, batch_size=self.batch_size, generator=_generator("batches")
        )

    @functools.cached_property
    def scorer(self) -> Scorer:
        """The network as a function of pictures. Raises NotHere where the workload does not know their signal."""
        return scorer_of(self.probe)

    @functools.cached_property
    def pictures(self) -> Pictures:
        """Those of the probe set that attributions are of."""
        return pictures_of(self.probe, self.scorer)

    @functools.cached_property
    def features(self) -> Features:
        """What goes into the output layer."""
        return features_of(self.probe)

    def _check_size(self) -> None:
        if self.probe.size > _LARGEST:
            raise NotHere(f"{self.probe.size:,} weights are too many: one run keeps {spectrum.STEPS} vectors of them")


@dataclass(frozen=True)
class Diagnostic:
    """One kind of readout. `read` raises NotHere where the workload has no such thing.

    `is_of_rate`: it depends on the trial's hyperparameters, too.
    """

    title: str
    read: Callable[[Subject, Mapping[str, Any]], Numbers]
    is_of_rate: bool = False


@dataclass(frozen=True)
class Reading:
    """What a diagnostic came to: numbers by name, how many training examples they are from, how long it took."""

    diagnostic: str
    numbers: Numbers
    examples: int
    seconds: float
    not_here: str | None = None
    """Why there are no numbers; None: there are."""


def initial_model(workload: Workload, seed: int) -> torch.nn.Module:
    """The network as a trial with this seed begins; torch's global generator stays where it is."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_seed(seed, "model"))  # as the trainer does
        return workload.build_model()


def readings(subject: Subject, names: list[str], hyperparameters: Mapping[str, Any]) -> Iterator[Reading]:
    """What these diagnostics come to, each as soon as it is known. `hyperparameters`: of the trial."""
    for name in names:
        began, diagnostic = time.perf_counter(), DIAGNOSTICS[name]
        not_here = None
        try:
            if diagnostic.is_of_rate or name not in subject.known:
                subject.known[name] = diagnostic.read(subject, hyperparameters)
            numbers = subject.known[name]
        except NotHere as reason:
            numbers, not_here = {}, str(reason)
        seconds = time.perf_counter() - began
        yield Reading(name, numbers, len(subject.probe), seconds, not_here)


def _probe(subject: Subject, _: Mapping[str, Any]) -> Numbers:
    norm = float(subject.gradient.norm())
    return {"loss": subject.probe.loss(), "gradient_norm": norm}


def _sharpness(subject: Subject, _: Mapping[str, Any]) -> Numbers:
    return spectrum.sharpness(subject.lanczos)


def _trace(subject: Subject, _: Mapping[str, Any]) -> Numbers:
    trace = subject.trace
    found = {"trace": trace.mean, "trace_error": trace.error, **spectrum.density(subject.lanczos)}
    with contextlib.suppress(NotHere):
        found["classes_less_one"] = float(len(subject.features.labels.unique()) - 1)
    return found


def _stability(subject: Subject, hyperparameters: Mapping[str, Any]) -> Numbers:
    return spectrum.stability(
        float(subject.lanczos.values[0]),
        subject.trace,
        rate=_number(hyperparameters, "learning_rate"),
        momentum=_share(hyperparameters, "momentum"),
    )


def _adaptive(subject: Subject, hyperparameters: Mapping[str, Any]) -> Numbers:
    return spectrum.adaptive_stability(
        float(subject.preconditioned.values[0]),
        rate=_number(hyperparameters, "learning_rate"),
        beta1=_share(hyperparameters, "beta1"),
    )


def _number(hyperparameters: Mapping[str, Any], name: str) -> float | None:
    found = hyperparameters.get(name)
    return float(found) if isinstance(found, int | float) else None


def _share(hyperparameters: Mapping[str, Any], name: str) -> float | None:
    """The hyperparameter `name`, or what is left of one by `one_minus_name`."""
    rest = _number(hyperparameters, f"one_minus_{name}")
    return _number(hyperparameters, name) if rest is None else 1.0 - rest


def _directions(subject: Subject, _: Mapping[str, Any]) -> Numbers:
    found = gradients.directions_of(subject.probe, subject.gradient, subject.draws.second_moment, subject.kinds)
    return gradients.directional_sharpness(subject.probe.product, found)


def _opposing(subject: Subject, _: Mapping[str, Any]) -> Numbers:
    top = float(subject.lanczos.values[0])
    if top <= 0:
        raise NotHere("no direction curves upwards: there is no largest stable step")
    return gradients.opposing(subject.probe, subject.gradient, top=top)


def _conflicts(subject: Subject, _: Mapping[str, Any]) -> Numbers:
    return conflicts(subject.probe, batch_size=subject.batch_size, generator=_generator("conflicts"))


def _weights(subject: Subject, _: Mapping[str, Any]) -> Numbers:
    names = list(subject.probe.parameters)
    now = {name: subject.probe.parameters[name].detach() for name in names}
    return weights.weight_readouts(now, {name: subject.initial[name] for name in names}, subject.kinds)


def _collapse(subject: Subject, _: Mapping[str, Any]) -> Numbers:
    return outputs.collapse(subject.features)


def _kernel(subject: Subject, _: Mapping[str, Any]) -> Numbers:
    probe = subject.probe
    now = state_of(probe.model)
    kernel = representations.tangent_kernel(probe)
    restore(probe.model, subject.initial)
    try:
        initial = representations.tangent_kernel(probe)
    finally:
        restore(probe.model, now)
    return representations.kernel_readouts(kernel, initial, representations.kernel_targets(probe))


def _bias(subject: Subject, _: Mapping[str, Any]) -> Numbers:
    known = subject.probe.workload.known_solution(subject.probe.model)
    try:
        return known | bias.margin_readouts(subject.probe)
    except NotHere:
        if not known:
            raise
        return known


def _samples(subject: Subject, _: Mapping[str, Any]) -> Numbers:
    probe = subject.probe
    with torch.no_grad():
        found = probe.workload.sample_readouts(probe.model, probe.train_set)
    if not found:
        raise NotHere("the network makes nothing by itself that can be looked at")
    return found


def _diffroar(subject: Subject, _: Mapping[str, Any]) -> Numbers:
    return difference_retrained(subject.probe, subject.scorer, subject.new_model, batch_size=subject.batch_size)


DIAGNOSTICS = {
    "probe": Diagnostic("loss of the probe set", _probe),
    "weights": Diagnostic("size and rank of weights and of their change", _weights),
    "sharpness": Diagnostic("largest eigenvalues of the Hessian", _sharpness),
    "trace": Diagnostic("trace, bulk and outliers of the Hessian", _trace),
    "stability": Diagnostic("nearness to the largest stable rate", _stability, is_of_rate=True),
    "adaptive": Diagnostic("nearness to the largest stable rate of Adam", _adaptive, is_of_rate=True),
    "noise": Diagnostic("gradient noise scale", lambda subject, _: gradients.noise_scale(subject.draws)),
    "directions": Diagnostic("sharpness along steps of several methods", _directions),
    "opposing": Diagnostic("examples that a step helps and hurts most", _opposing),
    "conflicts": Diagnostic("terms of the loss whose gradients point against each other", _conflicts),
    "collapse": Diagnostic("neural collapse", _collapse),
    "calibration": Diagnostic(
        "calibration", lambda subject, _: outputs.calibration(subject.features, _generator("bootstrap"))
    ),
    "bias": Diagnostic("nearness to solutions that are known", _bias),
    "logits": Diagnostic(
        "scores, normalisers, sizes of activations", lambda subject, _: representations.logits(subject.probe)
    ),
    "geometry": Diagnostic("alignment of layers", lambda subject, _: representations.geometry(subject.probe)),
    "kernel": Diagnostic("tangent kernel", _kernel),
    "course": Diagnostic(
        "distance from gradient flow", lambda subject, _: course_readouts(subject.probe, subject.new_model())
    ),
    "sampling": Diagnostic("levels that a sampler needs", lambda subject, _: sampling(subject.probe)),
    "samples": Diagnostic("what the network makes by itself", _samples),
    "attribution": Diagnostic(
        "attributions on the pixels that matter", lambda subject, _: panel(subject.scorer, subject.pictures)
    ),
    "fidelity": Diagnostic(
        "attributions as linear models", lambda subject, _: fidelity(subject.scorer, subject.pictures)
    ),
    "diffroar": Diagnostic("what is learned from the pixels with the largest gradients", _diffroar),
    "level_sets": Diagnostic(
        "how far pictures go without another answer", lambda subject, _: level_sets(subject.scorer, subject.pictures)
    ),
}
"""Of one set of weights. What several trials have to do with each other is in `rates` and `connectivity`."""


def finite(value: float) -> float | None:
    """`value`; None where it is no finite number."""
    return value if math.isfinite(value) else None


def _generator(stream: str) -> torch.Generator:
    return torch.Generator().manual_seed(stream_seed(_SEED, stream))

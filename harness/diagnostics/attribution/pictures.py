"""Pictures whose pixels with a signal are known, and the scores of a network as a function of pictures alone."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from harness.diagnostics.probe import NotHere, Probe

EXAMPLES = 256
AT_ONCE = 64
# Of SmoothGrad, over the range of the pixels: its paper wants 0.1 to 0.2.
_NOISE = 0.15


@dataclass(frozen=True)
class Pictures:
    """Pictures, where each has its signal, and the class that the network takes it for.

    Shapes: inputs float32 [n, channels, height, width]; signal bool, alike; labels and chosen int64 [n].
    """

    inputs: Tensor
    signal: Tensor
    labels: Tensor
    chosen: Tensor

    def __len__(self) -> int:
        return len(self.inputs)

    @property
    def noise(self) -> float:
        """The deviation of the noise that attributions are averaged over."""
        return _NOISE * float(self.inputs.max() - self.inputs.min())

    def parts(self) -> list[Pictures]:
        """So many at once as are passed through the network."""
        parts = (each.split(AT_ONCE) for each in (self.inputs, self.signal, self.labels, self.chosen))
        return [Pictures(*each) for each in zip(*parts, strict=True)]


class Scorer(nn.Module):
    """Scores of the classes of pictures, without gradients by weights: [n, channels, height, width] -> [n, classes].

    It holds a copy of the probe's network, whose activations write to new memory: hooks and gradients by what comes out
    of a layer need it.
    """

    def __init__(self, probe: Probe) -> None:
        super().__init__()
        self.model = copy.deepcopy(probe.model).requires_grad_(False)
        for module in self.model.modules():
            if hasattr(module, "inplace"):
                setattr(module, "inplace", False)  # noqa: B010 - to mypy a module's attributes are tensors or modules
        self._outputs = probe.workload.outputs

    def forward(self, inputs: Tensor) -> Tensor:
        """The scores."""
        return self._outputs(self.model, {"inputs": inputs})


def scorer_of(probe: Probe) -> Scorer:
    """The probe's network as a function of pictures.

    Raises NotHere where the workload does not know its signal, or inputs are no pictures.
    """
    batch = probe.train_set.gather(probe.index[:1].to(probe.train_set.device))
    if probe.workload.known_signal(batch) is None:
        raise NotHere("which numbers of the inputs say anything of the target is not known")
    if batch["inputs"].ndim != 4:
        raise NotHere("inputs are no pictures")
    return Scorer(probe)


def pictures_of(probe: Probe, scorer: Scorer, index: Tensor | None = None) -> Pictures:
    """These training examples, of a workload that knows its signal; None: the first of the probe set."""
    index = probe.index[:EXAMPLES] if index is None else index
    batch = probe.train_set.gather(index.to(probe.train_set.device))
    signal = probe.workload.known_signal(batch)
    assert signal is not None
    with torch.no_grad():
        chosen = torch.cat([scorer(part).argmax(dim=1) for part in batch["inputs"].split(AT_ONCE)])
    return Pictures(batch["inputs"], signal, batch["targets"], chosen)


def input_gradient(scorer: Scorer, inputs: Tensor, classes: Tensor) -> Tensor:
    """The gradient of each picture's score of its class. Shapes: [n, channels, height, width], [n] -> the first."""
    inputs = inputs.detach().requires_grad_()
    with torch.enable_grad():
        picked = scorer(inputs).gather(1, classes[:, None]).sum()
    (gradient,) = torch.autograd.grad(picked, [inputs])
    return gradient

"""How well a linear model with a method's attributions as weights does what the network does, in some neighbourhood."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.diagnostics.attribution.maps import METHODS, WINDOW, attribute
from harness.diagnostics.attribution.pictures import AT_ONCE, Pictures, Scorer

DRAWS = 32
_NEAR = 0.01
_SEED = 0


@dataclass(frozen=True)
class Neighbourhood:
    """What pictures are changed to. `step` draws a change of what the linear model has a weight for.

    `of_shares`: that is how much of each pixel there is, 1 being all, otherwise the pixel itself. Shapes of `step`:
    inputs [n, channels, height, width] -> what broadcasts to the same.
    """

    step: Callable[[Tensor, float, torch.Generator], Tensor]
    of_shares: bool

    def draw(self, inputs: Tensor, noise: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """The pictures changed, and the change of what has weights. `noise`: SmoothGrad's deviation."""
        step = self.step(inputs, noise, generator).to(inputs.device)
        return inputs + (step * inputs if self.of_shares else step), step


def _noise(inputs: Tensor, noise: float, generator: torch.Generator) -> Tensor:
    return noise * torch.randn(inputs.shape, generator=generator)


def _faded(inputs: Tensor, _noise: float, generator: torch.Generator) -> Tensor:
    return -torch.rand(len(inputs), 1, 1, 1, generator=generator)


def _window(inputs: Tensor, _noise: float, generator: torch.Generator) -> Tensor:
    row, column = (_windows_along(size) for size in inputs.shape[2:])
    number = row[:, None] * (int(column[-1]) + 1) + column[None, :]
    removed = torch.randint(int(number[-1, -1]) + 1, (len(inputs), 1, 1, 1), generator=generator)
    return -(number == removed).float()


NEIGHBOURHOODS = {
    "near": Neighbourhood(lambda *given: _NEAR * _noise(*given), of_shares=False),
    "noise": Neighbourhood(_noise, of_shares=False),
    "nearly_whole": Neighbourhood(lambda *given: _NEAR * _faded(*given), of_shares=True),
    "faded": Neighbourhood(_faded, of_shares=True),
    "window": Neighbourhood(_window, of_shares=True),
}
OWN = {
    "gradient": "near",
    "smooth_gradient": "noise",
    "gradient_x_input": "nearly_whole",
    "integrated_gradients": "faded",
    "occlusion": "window",
}
"""The neighbourhood that each method fits its linear model in; the others of its kind are not its own."""


def fidelity(scorer: Scorer, pictures: Pictures) -> dict[str, float]:
    """D15: `METHOD/NEIGHBOURHOOD`, the R^2 of the linear model that a method's attributions are; medians over pictures.

    Noise near zero and SmoothGrad's; all pixels faded by up to a hundredth, or by a uniform share; one window of
    occlusion removed, whose weight is spread over its pixels. Each method has its own of these, and is measured in
    those of its kind, too: none fits best in all. Raises NotHere where captum is not installed. Source: Han, Srinivas,
    Lakkaraju, "Which explanation should I choose?" (2022), table 1.
    """
    weights = {name: attribute(METHODS[name], scorer, pictures) for name in OWN}
    weights["occlusion"] = weights["occlusion"] / _window_sizes(pictures.inputs)
    found = {}
    for where, neighbourhood in NEIGHBOURHOODS.items():
        of_kind = {
            name: values
            for name, values in weights.items()
            if NEIGHBOURHOODS[OWN[name]].of_shares == neighbourhood.of_shares
        }
        for name, values in _explained_by(of_kind, neighbourhood, scorer, pictures).items():
            found[f"{name}/{where}"] = float(values.nanmedian())
    return found


def explained(changes: Tensor, linear: Tensor) -> Tensor:
    """R^2 of a linear model with a free constant: 1 - var(changes - linear) / var(changes); NaN where nothing changes.

    Shapes: float [draws, n] twice -> float64 [n].
    """
    changes, linear = changes.double(), linear.double()
    share: Tensor = 1.0 - (changes - linear).var(dim=0, correction=0) / changes.var(dim=0, correction=0)
    return torch.where(share.isfinite(), share, torch.nan)


def _explained_by(
    weights: dict[str, Tensor], neighbourhood: Neighbourhood, scorer: Scorer, pictures: Pictures
) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(_SEED)
    scores: list[Tensor] = []
    linear: dict[str, list[Tensor]] = {name: [] for name in weights}
    for _ in range(DRAWS):
        near, step = neighbourhood.draw(pictures.inputs, pictures.noise, generator)
        with torch.no_grad():
            drawn = torch.cat(
                [
                    scorer(some).gather(1, part.chosen[:, None]).squeeze(1)
                    for some, part in zip(near.split(AT_ONCE), pictures.parts(), strict=True)
                ]
            )
        scores.append(drawn)
        for name, values in weights.items():
            linear[name].append((step * values).double().sum(dim=(1, 2, 3)))
    return {name: explained(torch.stack(scores), torch.stack(each)) for name, each in linear.items()}


def _windows_along(size: int) -> Tensor:
    return torch.arange(size) // WINDOW


def _window_sizes(inputs: Tensor) -> Tensor:
    """How many pixels the window has that each pixel is in. Shape: [height, width]."""
    rows, columns = (each.bincount()[each] for each in map(_windows_along, inputs.shape[2:]))
    return (inputs.shape[1] * rows[:, None] * columns[None, :]).to(inputs.device)

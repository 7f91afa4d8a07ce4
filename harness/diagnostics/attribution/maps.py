"""Attribution methods: how much each pixel has to do with a score. Those of captum, and those that it lacks."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.diagnostics.attribution.pictures import Pictures, Scorer
from harness.diagnostics.probe import NotHere

NOISY = 25
_STEPS = 32
WINDOW = 4
_SEED = 0

Method = Callable[[Scorer, Pictures], Tensor]
"""Shapes: pictures [n, channels, height, width] -> [n, any channels, any height, any width]."""


def captum() -> Any:
    """captum's attribution methods. Raises NotHere where it is not installed."""
    try:
        from captum import attr
    except ImportError:
        raise NotHere("captum is not installed: .venv/bin/pip install -c constraints.txt '.[diagnostics]'") from None
    return attr


def gradient(scorer: Scorer, pictures: Pictures) -> Tensor:
    """The plain gradient of the score."""
    return _of_captum(captum().Saliency(scorer), pictures, abs=False)


def gradient_x_input(scorer: Scorer, pictures: Pictures) -> Tensor:
    """The gradient times the pixels."""
    return _of_captum(captum().InputXGradient(scorer), pictures)


def smooth_gradient(scorer: Scorer, pictures: Pictures) -> Tensor:
    """Mean gradient under noise. Source: Smilkov et al., "SmoothGrad" (2017)."""
    attr = captum()
    options = {"nt_type": "smoothgrad", "nt_samples": NOISY, "nt_samples_batch_size": 1, "stdevs": pictures.noise}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)  # captum draws from torch's own stream
        return _of_captum(attr.NoiseTunnel(attr.Saliency(scorer)), pictures, abs=False, **options)


def integrated_gradients(scorer: Scorer, pictures: Pictures) -> Tensor:
    """Mean gradient on the way from zeros, times the pixels. Source: Sundararajan, Taly, Yan (2017)."""
    method = captum().IntegratedGradients(scorer)
    return _of_captum(method, pictures, n_steps=_STEPS, internal_batch_size=4 * len(pictures))


def occlusion(scorer: Scorer, pictures: Pictures) -> Tensor:
    """How far the score falls without a window; each of its pixels has all of it. Source: Zeiler, Fergus (2014)."""
    window = (pictures.inputs.shape[1], WINDOW, WINDOW)
    return _of_captum(captum().Occlusion(scorer), pictures, sliding_window_shapes=window, strides=window)


def guided_backpropagation(scorer: Scorer, pictures: Pictures) -> Tensor:
    """The gradient without what is negative behind each ReLU. Source: Springenberg et al. (2015)."""
    return _of_captum(captum().GuidedBackprop(scorer), pictures)


def deep_lift(scorer: Scorer, pictures: Pictures) -> Tensor:
    """Differences to zeros, handed back through each activation. Source: Shrikumar, Greenside, Kundaje (2017)."""
    return _of_captum(captum().DeepLift(scorer), pictures)


def grad_cam(scorer: Scorer, pictures: Pictures) -> Tensor:
    """Maps of the last layer, weighted by their mean gradients. Source: Selvaraju et al. (2017)."""
    layer = last_maps(scorer, pictures.inputs)
    return _of_captum(captum().LayerGradCam(scorer, layer), pictures, relu_attributions=True)


def smooth_grad_cam(scorer: Scorer, pictures: Pictures) -> Tensor:
    """Grad-CAM++ with powers of the gradient that are means under noise. Source: Omeiza et al. (2019)."""
    layer = last_maps(scorer, pictures.inputs)
    maps, _ = at_layer(scorer, layer, pictures.inputs, pictures.chosen)
    generator = torch.Generator().manual_seed(_SEED)
    noisy = []
    for _ in range(NOISY):
        noise = pictures.noise * torch.randn(pictures.inputs.shape, generator=generator)
        noisy.append(at_layer(scorer, layer, pictures.inputs + noise.to(maps.device), pictures.chosen)[1])
    weights = cam_weights(maps, torch.stack(noisy))
    return F.relu((weights[:, :, None, None] * maps).sum(dim=1, keepdim=True))


def norm_grad(scorer: Scorer, pictures: Pictures) -> Tensor:
    """What each place adds to the gradient of a 1x1 convolution behind the last maps. Source: Rebuffi et al. (2020)."""
    layer = last_maps(scorer, pictures.inputs)
    return spatial_contribution(*at_layer(scorer, layer, pictures.inputs, pictures.chosen))


def _of_captum(method: Any, pictures: Pictures, **options: Any) -> Tensor:
    found: Tensor = method.attribute(pictures.inputs, target=pictures.chosen, **options)
    return found


def cam_weights(maps: Tensor, gradients: Tensor) -> Tensor:
    """Weights of Grad-CAM++: sum over places of a relu(g), with a = g^2 / (2 g^2 + (sum of the map) g^3).

    g, g^2 and g^3 are means over the samples: under exp(score), whose derivatives these are up to a common factor, the
    network being linear in pieces. Where the paper's numerator has g, this one has g^2, as Grad-CAM++ has. Shapes: maps
    [n, k, height, width], gradients [samples, n, k, height, width] -> [n, k].
    """
    first, second, third = (gradients.pow(power).mean(dim=0) for power in (1, 2, 3))
    below = 2 * second + maps.sum(dim=(2, 3), keepdim=True) * third
    shares = torch.where(below != 0, second / below, 0.0)
    return (shares * F.relu(first)).sum(dim=(2, 3))


def spatial_contribution(maps: Tensor, gradients: Tensor) -> Tensor:
    """|x_u| |g_u| at each place u: the norm of the outer product that it adds to the gradient of a 1x1 convolution.

    Shapes: [n, k, height, width] twice -> [n, 1, height, width].
    """
    product: Tensor = maps.norm(dim=1, keepdim=True) * gradients.norm(dim=1, keepdim=True)
    return product


def at_layer(scorer: Scorer, layer: nn.Module, inputs: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
    """What comes out of a layer, and the gradient of the classes' scores by it."""
    kept: list[Tensor] = []
    handle = layer.register_forward_hook(lambda _module, _given, output: kept.append(output))
    try:
        with torch.enable_grad():
            picked = scorer(inputs.detach().requires_grad_()).gather(1, classes[:, None]).sum()
    finally:
        handle.remove()
    (slope,) = torch.autograd.grad(picked, kept)
    return kept[0].detach(), slope


def last_maps(scorer: Scorer, inputs: Tensor) -> nn.Module:
    """The last module within which there is no other and that gives maps, [n, k, height, width], of several places.

    Raises NotHere where none does.
    """
    found: list[nn.Module] = []

    def keep(module: nn.Module, _given: object, output: object) -> None:
        if isinstance(output, Tensor) and output.ndim == 4 and output[0, 0].numel() > 1:
            found.append(module)

    handles = [each.register_forward_hook(keep) for each in scorer.modules() if not list(each.children())]
    try:
        with torch.no_grad():
            scorer(inputs[:1])
    finally:
        for handle in handles:
            handle.remove()
    if not found:
        raise NotHere("no layer gives maps")
    return found[-1]


METHODS: dict[str, Method] = {
    "gradient": gradient,
    "gradient_x_input": gradient_x_input,
    "smooth_gradient": smooth_gradient,
    "integrated_gradients": integrated_gradients,
    "occlusion": occlusion,
    "guided_backpropagation": guided_backpropagation,
    "deep_lift": deep_lift,
    "grad_cam": grad_cam,
    "smooth_grad_cam": smooth_grad_cam,
    "norm_grad": norm_grad,
}


def attribute(method: Method, scorer: Scorer, pictures: Pictures) -> Tensor:
    """What a method makes of all pictures, a part at a time."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # captum says of each of its hooks that it sets it
        return torch.cat([method(scorer, part).detach() for part in pictures.parts()])


def share_in_signal(values: Tensor, signal: Tensor) -> Tensor:
    """Of the sum of sizes, what lies on the signal; a share of the pixels where all are zero.

    Coarse maps are drawn out to the size of the pictures. Shapes: [n, any, any, any], bool [n, channels, height, width]
    -> float64 [n].
    """
    sizes = values.double().abs().sum(dim=1, keepdim=True)
    if sizes.shape[2:] != signal.shape[2:]:
        sizes = F.interpolate(sizes, size=signal.shape[2:], mode="bilinear", align_corners=False)
    place = signal.any(dim=1, keepdim=True)
    whole = sizes.sum(dim=(1, 2, 3))
    share: Tensor = torch.where(
        whole > 0, (sizes * place).sum(dim=(1, 2, 3)) / whole, place.double().mean(dim=(1, 2, 3))
    )
    return share


def panel(scorer: Scorer, pictures: Pictures) -> dict[str, float]:
    """D15: mean share of each method's mass on the pixels with the signal.

    Beside them that of all pixels, `chance`, and of the sizes of the pixels themselves, `inputs`, which is what methods
    that multiply by them have for nothing. Raises NotHere where captum is not installed.
    """
    found = {name: attribute(method, scorer, pictures) for name, method in METHODS.items()}
    found |= {"chance": torch.ones_like(pictures.inputs), "inputs": pictures.inputs}
    return {name: float(share_in_signal(values, pictures.signal).mean()) for name, values in found.items()}

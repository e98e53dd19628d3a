"""Apply photometric steps to a batch on a device: the second half of the crops-only pipeline.

Shapes: B images of H x W px; `steps` (B, STEPS, 2) holds (operation, amount) rows of view_parameters.py in order,
padded with NONE. Levels are floats in 0…255, truncated or rounded after each step as in PIL. On CUDA the function is
compiled into a few fused kernels; on a CPU pretrain/input/photometrics.py is faster.
"""

from collections.abc import Callable, Sequence
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from pretrain.input.view_parameters import BLUR, BRIGHTNESS, CONTRAST, HUE, SATURATION

STEPS = 6
"""Maximum number of steps of a view: four of the jitter, greyscale, blur."""
NONE = -1
GREY_WEIGHTS = (0.299, 0.587, 0.114)
"""ITU-R 601, as PIL's convert("L")."""
BLUR_RADIUS_PX = 6
"""Three sigmas of the widest blur."""


def pack_steps(views: Sequence[Sequence[tuple[int, float]]]) -> Tensor:
    """Return the (B, STEPS, 2) float32 table of the steps of B views."""
    filler = (float(NONE), 0.0)
    return torch.tensor([[*steps, *[filler] * (STEPS - len(steps))] for steps in views], dtype=torch.float32)


def apply_steps(images: Tensor, steps: Tensor) -> Tensor:
    """Return the uint8-valued float32 images (B, 3, H, W) in 0…255 after their steps; compiled on CUDA.

    Args:
        images: (B, 3, H, W) uint8.
        steps: (B, STEPS, 2) float32 on the same device. A blur is always applied last; blur and greyscale are linear,
            so their order does not matter.

    """
    return _choose_form(images.is_cuda)(images, steps)


@cache
def _choose_form(compiled: bool) -> Callable[[Tensor, Tensor], Tensor]:
    return torch.compile(_apply, dynamic=False) if compiled else _apply


def _apply(images: Tensor, steps: Tensor) -> Tensor:
    levels = images.float()
    for number in range(STEPS):
        levels = _apply_pixel_step(levels, steps[:, number, 0], steps[:, number, 1])
    is_blur = steps[:, :, 0] == BLUR
    return _blur(levels, (steps[:, :, 1] * is_blur).sum(1))


def _apply_pixel_step(levels: Tensor, operations: Tensor, amounts: Tensor) -> Tensor:
    operation, amount = operations.view(-1, 1, 1, 1), amounts.view(-1, 1, 1, 1)
    grey = _grey(levels)  # (B, 1, H, W)
    mean = (grey.mean(dim=(2, 3), keepdim=True) + 0.5).floor()
    base = torch.where(operation == SATURATION, grey, torch.where(operation == CONTRAST, mean, torch.zeros_like(mean)))
    blended = (base + amount * (levels - base)).clamp(0, 255).floor()
    is_blend = (operation == BRIGHTNESS) | (operation == CONTRAST) | (operation == SATURATION)
    return torch.where(is_blend, blended, torch.where(operation == HUE, _turn_hue(levels, amount), levels))


def _grey(levels: Tensor) -> Tensor:
    red, green, blue = levels.unbind(1)
    weights = GREY_WEIGHTS
    return (weights[0] * red + weights[1] * green + weights[2] * blue).round().unsqueeze(1)


def _turn_hue(levels: Tensor, shift: Tensor) -> Tensor:
    """Shift the hue in steps of 1/255 of the circle, through PIL's uint8 HSV."""
    red, green, blue = levels.unbind(1)
    value, lowest = levels.amax(1), levels.amin(1)
    chroma = value - lowest
    safe = chroma.clamp(min=1)
    hue = torch.where(
        value == red,
        (green - blue) / safe,
        torch.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    hue = (hue / 6).remainder(1) * (chroma > 0)
    saturation = (chroma / value.clamp(min=1) * 255).floor() / 255  # (B, H, W)
    byte = ((hue * 255).floor() + (shift[:, 0] * 255).trunc()).remainder(256)
    sector = byte / 255 * 6
    channels = []
    for offset in (5, 3, 1):  # red, green, blue of the HSV cone
        k = (offset + sector).remainder(6)
        channels.append(value - value * saturation * torch.minimum(k, 4 - k).clamp(0, 1))
    return torch.stack(channels, 1).round()


def _blur(levels: Tensor, sigmas_px: Tensor) -> Tensor:
    """Blur each image with its own Gaussian (sigma 0: none), replicating the border, in two passes of 13 taps."""
    offsets = torch.arange(-BLUR_RADIUS_PX, BLUR_RADIUS_PX + 1, device=levels.device, dtype=levels.dtype)
    taps = torch.exp(-0.5 * (offsets / sigmas_px.clamp(min=1e-3)[:, None]) ** 2)  # (B, 13)
    taps = taps / taps.sum(1, keepdim=True)
    height, width = levels.shape[-2:]
    radius = BLUR_RADIUS_PX
    padded = F.pad(levels, (radius, radius, 0, 0), mode="replicate")
    rows = sum(taps[:, k, None, None, None] * padded[..., k : k + width] for k in range(2 * radius + 1))
    padded = F.pad(torch.as_tensor(rows), (0, 0, radius, radius), mode="replicate")
    columns = sum(taps[:, k, None, None, None] * padded[..., k : k + height, :] for k in range(2 * radius + 1))
    return torch.as_tensor(columns).round()

"""Change the colours of uint8 images with OpenCV, with PIL's arithmetic where it is cheap.

Images are (H, W, 3) uint8 RGB. For the same amounts the results stay within about one level of PIL's on average:
blends truncate as PIL does, hue goes through OpenCV's fixed-point HSV, and the blur is a true Gaussian (PIL's is three
box filters). The batched form for a device is in pretrain/device_photometrics.py.
"""

from collections.abc import Callable, Sequence

import cv2
import numpy as np

from pretrain.images import Pixels
from pretrain.view_parameters import BLUR, BRIGHTNESS, CONTRAST, HUE, SATURATION

LEVELS = np.arange(256, dtype=np.float32)
TRUNCATE = -0.5
"""Added before OpenCV rounds, so that it truncates as PIL's blend does."""
SMALLEST_SIGMA_PX = 0.15
"""Below this a Gaussian's neighbours weigh under 1e-9: the identity in uint8."""


def apply_steps(image: Pixels, steps: Sequence[tuple[int, float]]) -> Pixels:
    """Apply photometric steps (operation, amount) in order; `image` itself may be overwritten."""
    for operation, amount in steps:
        image = OPERATIONS[operation](image, amount)
    return image


def adjust_brightness(image: Pixels, factor: float) -> Pixels:
    """Blend with black: PIL's ImageEnhance.Brightness."""
    out: Pixels = cv2.convertScaleAbs(image, dst=image, alpha=factor, beta=TRUNCATE)
    return out


def adjust_contrast(image: Pixels, factor: float) -> Pixels:
    """Blend with the mean grey level: PIL's ImageEnhance.Contrast."""
    mean = int(cv2.mean(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))[0] + 0.5)
    table = np.clip(mean + factor * (LEVELS - mean), 0, 255).astype(np.uint8)
    out: Pixels = cv2.LUT(image, table, dst=image)
    return out


def adjust_saturation(image: Pixels, factor: float) -> Pixels:
    """Blend with the grey image: PIL's ImageEnhance.Color; factor 0 is its Grayscale."""
    grey: Pixels = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    return cv2.addWeighted(image, factor, grey, 1.0 - factor, TRUNCATE, dst=image) if factor else grey


def adjust_hue(image: Pixels, shift: float) -> Pixels:
    """Turn the hue by `shift` of the circle, in steps of 1/256 as torchvision does on PIL images."""
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL, dst=image)
    hsv[..., 0] += np.uint8(int(shift * 255) % 256)
    out: Pixels = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL, dst=hsv)
    return out


def blur(image: Pixels, sigma_px: float) -> Pixels:
    """Blur with a Gaussian; the border is repeated, which is nearest to PIL."""
    if sigma_px < SMALLEST_SIGMA_PX:
        return image
    out: Pixels = cv2.GaussianBlur(image, (0, 0), sigma_px, borderType=cv2.BORDER_REPLICATE)
    return out


OPERATIONS: dict[int, Callable[[Pixels, float], Pixels]] = {
    BRIGHTNESS: adjust_brightness,
    CONTRAST: adjust_contrast,
    SATURATION: adjust_saturation,
    HUE: adjust_hue,
    BLUR: blur,
}

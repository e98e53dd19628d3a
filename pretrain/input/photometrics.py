"""Apply photometric steps to uint8 images with OpenCV, using PIL's arithmetic where it is cheap.

Images are (H, W, 3) uint8 RGB. For the same amounts the results differ from PIL's by about one level on average:
blends truncate as in PIL, hue uses OpenCV's fixed-point HSV, and the blur is a true Gaussian (PIL's is three box
filters). The batched form for a device is in pretrain/input/device_photometrics.py.
"""

import math
from collections.abc import Callable, Sequence

import cv2
import numpy as np

from pretrain.input.images import Pixels
from pretrain.input.view_parameters import BLUR, BRIGHTNESS, CONTRAST, GREY, HUE, SATURATION

GREY_WEIGHTS = np.array([0.299, 0.587, 0.114])
"""ITU-R 601, as PIL's convert("L")."""
COLOUR_MATRIX = np.eye(3, 4)
GREY_MATRIX = np.tile(np.append(GREY_WEIGHTS, 0.0), (3, 1))
TRUNCATE = -0.4999
"""Added before OpenCV rounds, so that it truncates like PIL's blend and integers are unchanged."""
SMALLEST_SIGMA_PX = 0.15
"""Below this sigma a neighbour's weight is under 1e-9, so the blur is the identity in uint8."""
RADIUS_SIGMAS = 2.5
"""Radius of the kernel in sigmas. PIL's three boxes end at 2.3 sigmas for sigma 2."""


def apply_steps(image: Pixels, steps: Sequence[tuple[int, float]]) -> Pixels:
    """Apply photometric steps (operation, amount) in order, in place, and return `image` (C-contiguous)."""
    for place, (operation, amount) in enumerate(steps):
        later = steps[place + 1 :]
        if (operation, amount) == GREY and all(name == BLUR for name, _ in later):
            grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)  # blur one channel instead of three
            for _, sigma_px in later:
                grey = blur(grey, sigma_px)
            rgb: Pixels = cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB, dst=image)
            return rgb
        image = OPERATIONS[operation](image, amount)
    return image


def adjust_brightness(image: Pixels, factor: float) -> Pixels:
    """Blend with black: PIL's ImageEnhance.Brightness."""
    out: Pixels = cv2.convertScaleAbs(image, dst=image, alpha=factor, beta=TRUNCATE)
    return out


def adjust_contrast(image: Pixels, factor: float) -> Pixels:
    """Blend with the mean grey level: PIL's ImageEnhance.Contrast."""
    mean = int(float(np.dot(GREY_WEIGHTS, cv2.mean(image)[:3])) + 0.5)
    out: Pixels = cv2.addWeighted(image, factor, image, 0.0, (1.0 - factor) * mean + TRUNCATE, dst=image)
    return out


def adjust_saturation(image: Pixels, factor: float) -> Pixels:
    """Blend with the grey image: PIL's ImageEnhance.Color; factor 0 is its Grayscale, which rounds."""
    blend = factor * COLOUR_MATRIX + (1.0 - factor) * GREY_MATRIX
    blend[:, 3] = TRUNCATE if factor else 0.0
    out: Pixels = cv2.transform(image, blend, dst=image)
    return out


def adjust_hue(image: Pixels, shift: float) -> Pixels:
    """Shift the hue by `shift` of the circle, in steps of 1/256 as torchvision does for PIL images."""
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL, dst=image)
    height, width = hsv.shape[:2]
    row = np.zeros((width, 3), np.uint8)
    row[:, 0] = int(shift * 255) % 256
    flat = hsv.reshape(height, width * 3)  # adding complete rows takes a sixth of the time of a strided channel
    np.add(flat, row.reshape(-1), out=flat)
    out: Pixels = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL, dst=hsv)
    return out


def blur(image: Pixels, sigma_px: float) -> Pixels:
    """Blur with a Gaussian; the border is replicated, which is closest to PIL."""
    if sigma_px < SMALLEST_SIGMA_PX:
        return image
    side = 2 * math.ceil(RADIUS_SIGMAS * sigma_px) + 1
    kernel = cv2.getGaussianKernel(side, sigma_px, cv2.CV_32F)
    # Takes half the time of cv2.GaussianBlur, whose 8-bit form does not exploit that both passes are symmetric.
    out: Pixels = cv2.sepFilter2D(image, -1, kernel, kernel, dst=image, borderType=cv2.BORDER_REPLICATE)
    return out


OPERATIONS: dict[int, Callable[[Pixels, float], Pixels]] = {
    BRIGHTNESS: adjust_brightness,
    CONTRAST: adjust_contrast,
    SATURATION: adjust_saturation,
    HUE: adjust_hue,
    BLUR: blur,
}

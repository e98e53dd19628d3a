"""Draw the parameters of a view: crop, flip, photometric steps and their order.

All random numbers are drawn here, as a pure function of (seed, epoch, sample index), before any pixel is processed; the
distributions are those of torchvision's v1 transforms in facebookresearch/moco (main_moco.py) and, for infomin,
HobbitLong/PyContrast (augmentation D).
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

BRIGHTNESS, CONTRAST, SATURATION, HUE, BLUR = range(5)
"""Photometric steps. Amounts: blend factor (0: black, mean grey, grey), fraction of the hue circle, sigma in px."""
GREY = (SATURATION, 0.0)
"""Grayscale is saturation with factor 0."""
ORDERS = tuple(itertools.permutations((BRIGHTNESS, CONTRAST, SATURATION, HUE)))
CROP_TRIES = 10
"""As torchvision's RandomResizedCrop.get_params."""
MIN_RATIO, MAX_RATIO = 3 / 4, 4 / 3
"""Range of a crop's width / height, drawn log-uniformly."""
BLUR_SIGMA_PX = (0.1, 2.0)
DRAWS = 3 * CROP_TRIES + 20
"""Random numbers reserved per view, so that the number consumed by one view never shifts the other's stream."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Strengths and probabilities of an augmentation."""

    jitter: tuple[float, float, float, float]
    """Brightness, contrast and saturation factors in 1 ± strength; hue shift in ± strength of the circle."""
    jitter_chance: float
    blur_chance: float
    grey_chance: float = 0.2
    flip_chance: float = 0.5
    grey_first: bool = False
    """Whether greyscale comes before the jitter."""


RECIPES = {
    "moco_v1": Recipe(jitter=(0.4, 0.4, 0.4, 0.4), jitter_chance=1.0, blur_chance=0.0, grey_first=True),
    "moco_v2": Recipe(jitter=(0.4, 0.4, 0.4, 0.1), jitter_chance=0.8, blur_chance=0.5),
    "moco_v2_no_blur": Recipe(jitter=(0.4, 0.4, 0.4, 0.1), jitter_chance=0.8, blur_chance=0.0),
    "infomin": Recipe(jitter=(0.8, 0.8, 0.8, 0.2), jitter_chance=0.8, blur_chance=0.5),
    "crop_flip": Recipe(jitter=(0.0, 0.0, 0.0, 0.0), jitter_chance=0.0, blur_chance=0.0, grey_chance=0.0),
}
"""Augmentations by name. crop_flip: supervised training in pytorch/vision, linear one in facebookresearch/moco."""


@dataclass(frozen=True, slots=True)
class ViewParameters:
    """One view: crop in px of the image, flip, then photometric steps (operation, amount) in order."""

    top: int
    left: int
    height: int
    width: int
    flip: bool
    steps: tuple[tuple[int, float], ...]


def find_recipe(name: str) -> Recipe:
    """Return the augmentation called `name`; ValueError lists the valid names."""
    if name not in RECIPES:
        raise ValueError(f"data.augmentation: got {name!r}; expected one of {', '.join(RECIPES)}")
    return RECIPES[name]


def draw_uniforms(seed: int, epoch: int, index: int) -> list[list[float]]:
    """Return the numbers in [0, 1) that determine the two views of sample `index` in `epoch`: 2 lists of DRAWS."""
    stream = np.random.Philox(key=[seed, index], counter=[0, 0, 0, epoch])
    uniforms: list[list[float]] = np.random.Generator(stream).random((2, DRAWS)).tolist()
    return uniforms


def choose_view(uniforms: Sequence[float], size: tuple[int, int], recipe: Recipe, min_scale: float) -> ViewParameters:
    """Return the view of an image of `size` (height, width) px that the numbers in `uniforms` determine."""
    height, width = size
    top, left, crop_height, crop_width = _choose_crop(uniforms, height, width, min_scale)
    rest = uniforms[2 * CROP_TRIES + 2 :]
    steps = _choose_steps(rest[1:], recipe)
    return ViewParameters(top, left, crop_height, crop_width, rest[0] < recipe.flip_chance, steps)


def _choose_crop(uniforms: Sequence[float], height: int, width: int, min_scale: float) -> tuple[int, int, int, int]:
    # torchvision.transforms.RandomResizedCrop.get_params, with its ten tries and its central fallback.
    place_top, place_left = uniforms[2 * CROP_TRIES : 2 * CROP_TRIES + 2]
    log_min, log_max = math.log(MIN_RATIO), math.log(MAX_RATIO)
    for attempt in range(CROP_TRIES):
        area = height * width * (min_scale + (1.0 - min_scale) * uniforms[2 * attempt])
        ratio = math.exp(log_min + (log_max - log_min) * uniforms[2 * attempt + 1])
        crop_width, crop_height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < crop_width <= width and 0 < crop_height <= height:
            top, left = int(place_top * (height - crop_height + 1)), int(place_left * (width - crop_width + 1))
            return top, left, crop_height, crop_width
    crop_height, crop_width = height, width
    if width < MIN_RATIO * height:
        crop_height = round(width / MIN_RATIO)
    elif width > MAX_RATIO * height:
        crop_width = round(height * MAX_RATIO)
    return (height - crop_height) // 2, (width - crop_width) // 2, crop_height, crop_width


def _choose_steps(uniforms: Sequence[float], recipe: Recipe) -> tuple[tuple[int, float], ...]:
    jitter_coin, grey_coin, blur_coin, blur_place, order_place, *places = uniforms[:9]
    steps: list[tuple[int, float]] = []
    if jitter_coin < recipe.jitter_chance:
        for operation in ORDERS[int(order_place * len(ORDERS))]:
            strength = recipe.jitter[operation]
            low, high = (-strength, strength) if operation == HUE else (max(0.0, 1.0 - strength), 1.0 + strength)
            steps.append((operation, low + (high - low) * places[operation]))
    if grey_coin < recipe.grey_chance:
        steps.insert(0 if recipe.grey_first else len(steps), GREY)
    if blur_coin < recipe.blur_chance:
        low, high = BLUR_SIGMA_PX
        steps.append((BLUR, low + (high - low) * blur_place))
    return tuple(steps)

"""The picklable parts of the reference's input pipeline, restated from facebookresearch/moco (moco/loader.py)."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from PIL import ImageFilter
from PIL.Image import Image


@dataclass(frozen=True)
class TwoCrops:
    """Return two random views of an image."""

    transform: Callable[[Image], Any]

    def __call__(self, image: Image) -> list[Any]:
        """Return the query's and the key's view."""
        return [self.transform(image), self.transform(image)]


def blur_randomly(image: Image) -> Image:
    """Blur with PIL's Gaussian, sigma U(0.1, 2) px."""
    return image.filter(ImageFilter.GaussianBlur(radius=random.uniform(0.1, 2.0)))  # noqa: S311 (no secret)

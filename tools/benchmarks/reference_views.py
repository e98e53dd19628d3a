"""The reference's input pipeline, rewritten after facebookresearch/moco (main_moco.py, moco/loader.py)."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import ImageFilter
from PIL.Image import Image
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder


@dataclass(frozen=True)
class TwoCrops:
    """Return two random views of an image."""

    transform: Callable[[Image], Any]

    def __call__(self, image: Image) -> list[Any]:
        """Return the query's and the key's view."""
        return [self.transform(image), self.transform(image)]


def blur_randomly(image: Image) -> Image:
    """Apply PIL's Gaussian blur with sigma ~ U(0.1, 2) px."""
    return image.filter(ImageFilter.GaussianBlur(radius=random.uniform(0.1, 2.0)))  # noqa: S311 (no secret)


def build_reference_loader(root: Path, *, crop_px: int, batch_size: int, workers: int) -> "DataLoader[Any]":
    """Return a loader of two MoCo-v2 views (B, 3, crop_px, crop_px), normalised float32, of ROOT/train/<class>/."""
    transform = transforms.Compose(
        [
            transforms.RandomResizedCrop(crop_px, scale=(0.2, 1.0)),
            transforms.RandomApply([transforms.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
            transforms.RandomGrayscale(p=0.2),
            transforms.RandomApply([blur_randomly], p=0.5),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225]),
        ]
    )
    return DataLoader(
        ImageFolder(str(root / "train"), TwoCrops(transform)),
        batch_size=batch_size,
        shuffle=True,
        num_workers=workers,
        drop_last=True,
        persistent_workers=workers > 0,
    )

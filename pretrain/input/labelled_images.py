"""Batches of labelled images: random crops to train a classifier, centre crops to evaluate it.

Batch: {"image": uint8 (B, 3, H, W) in channels_last memory, "label": int64 (B,), "index": int64 (B,)}.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from pretrain.input.decoding import MAX_MEGAPIXELS
from pretrain.input.images import ImageFolder, Pixels, check_same_classes, list_images
from pretrain.input.sampler import Request
from pretrain.input.view_parameters import RECIPES, choose_view, draw_uniforms
from pretrain.input.views import MEAN, STD, Scratch, resize_crop

CROP_AND_FLIP = RECIPES["crop_flip"]
"""Random crop and flip without colours: the training transform of facebookresearch/moco, main_lincls.py."""
MIN_SCALE = 0.08
"""Smallest fraction of the area that a training crop covers: torchvision's RandomResizedCrop."""

Batch = dict[str, Tensor]


class LabelledImages(Dataset[Batch]):
    """Batches of the images of a split; one item is a batch, requested by a list of (epoch, index)."""

    def __init__(self, source: ImageFolder, *, crop_px: int, resize_px: int, random_seed: int | None = None) -> None:
        """Use centre crops (shorter side to `resize_px`, then `crop_px`), or random ones if `random_seed` is set."""
        self.source, self.crop_px, self.resize_px, self.random_seed = source, crop_px, resize_px, random_seed
        self.scratch = Scratch()

    def __len__(self) -> int:
        """Return how many images there are."""
        return len(self.source)

    def __getitems__(self, requests: Sequence[Request]) -> Batch:
        """Return the batch of `requests`."""
        pixels = np.stack([self._make_view(epoch, index) for epoch, index in requests])
        indices = np.array([index for _, index in requests], dtype=np.int64)
        return {
            "image": torch.from_numpy(pixels).permute(0, 3, 1, 2),
            "label": torch.from_numpy(self.source.labels[indices]),
            "index": torch.from_numpy(indices),
        }

    def _make_view(self, epoch: int, index: int) -> Pixels:
        image = self.source.read(index)
        if self.random_seed is None:
            return centre_crop(image, self.resize_px, self.crop_px)
        uniforms = draw_uniforms(self.random_seed, epoch, index)[0]
        view = choose_view(uniforms, image.shape[:2], CROP_AND_FLIP, MIN_SCALE)
        pixels = np.empty((self.crop_px, self.crop_px, 3), np.uint8)
        resize_crop(image, view, pixels, self.scratch)
        return np.ascontiguousarray(pixels[:, ::-1]) if view.flip else pixels


def find_images(
    root: str | Path, split: str, class_list: str = "", limit: int = 0, *, max_megapixels: float = MAX_MEGAPIXELS
) -> ImageFolder:
    """Return the images of ROOT/<split>/<class>/ (or ROOT/imagenet/<split>), at most `limit`, evenly over classes.

    A split whose class folders differ from those of ROOT/train is refused, so that labels agree between splits.

    Raises:
        ValueError: missing folder, no images, classes that differ from ROOT/train, or a limit below their number.

    """
    root = Path(root)
    if not (root / split).is_dir() and (root / "imagenet" / split).is_dir():
        root = root / "imagenet"
    if not class_list and split != "train" and (root / split).is_dir() and (root / "train").is_dir():
        check_same_classes(root / "train", root / split)
    folder = list_images(root / split, class_list, max_megapixels=max_megapixels)
    return take_evenly(folder, limit) if 0 < limit < len(folder) else folder


def take_evenly(folder: ImageFolder, limit: int) -> ImageFolder:
    """Return the first images of every class, `limit` in total.

    If `limit` is not a multiple of the class count, the first classes get one image more.

    Raises:
        ValueError: `limit` is below the number of classes.

    """
    if limit < len(folder.classes):
        raise ValueError(
            f"{folder.root}: {limit} images cannot show each of {len(folder.classes)} classes; raise the limit"
        )
    first = np.concatenate([[0], np.cumsum(np.bincount(folder.labels))])
    place = np.arange(len(folder)) - first[folder.labels]  # within its class
    return folder.select(np.sort(np.lexsort((folder.labels, place))[:limit]))


def take_listed(folder: ImageFolder, path: str | Path) -> ImageFolder:
    """Return the images whose file names are listed in the text file `path`, one per line, in the folder's order.

    Raises:
        ValueError: missing file, empty list, or a listed name that is not in `folder`.

    """
    if not Path(path).is_file():
        raise ValueError(f"{path}: no such list of images; expected a text file with one file name per line")
    wanted = {line.strip().rpartition("/")[2] for line in Path(path).read_text().splitlines() if line.strip()}
    names = [folder.name(index).rpartition("/")[2] for index in range(len(folder))]
    if not wanted or (missing := sorted(wanted.difference(names))):
        raise ValueError(
            f"{path}: {len(missing) if wanted else 'all'} of {len(wanted)} images are not in {folder.root}, e.g. "
            f"{missing[0] if wanted else 'none is listed'}; use the list that belongs to this data set"
        )
    return folder.select(np.array([index for index, name in enumerate(names) if name in wanted]))


def centre_crop(image: Pixels, resize_px: int, crop_px: int) -> Pixels:
    """Resize the shorter side to `resize_px`, antialiased, and return the central square of `crop_px`.

    Sizes and offsets equal those of torchvision's Resize(resize_px) and CenterCrop(crop_px).
    """
    height, width = image.shape[:2]
    short = min(height, width)
    size = (int(resize_px * height / short), int(resize_px * width / short))
    planes = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None]
    resized = torch.nn.functional.interpolate(planes, size, mode="bilinear", antialias=True)[0]
    top, left = round((size[0] - crop_px) / 2), round((size[1] - crop_px) / 2)
    pixels: npt.NDArray[np.uint8] = resized[:, top : top + crop_px, left : left + crop_px].permute(1, 2, 0).numpy()
    return np.ascontiguousarray(pixels)


def normalise_images(images: Tensor, device: torch.device) -> Tensor:
    """Return uint8 images as float32 (B, 3, H, W) on `device`, normalised with ImageNet's MEAN and STD."""
    mean, std = (torch.tensor(values, device=device).view(1, 3, 1, 1) * 255 for values in (MEAN, STD))
    values = images.to(device, non_blocking=True).to(torch.float32).sub_(mean).div_(std)
    return values.contiguous(memory_format=torch.channels_last)

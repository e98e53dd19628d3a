"""Make two views of each image: decode once, crop and resize twice, apply photometrics, write into one batch.

Batch: {"query": uint8 (B, 3, H, W), "key": the same, "index": int64 (B,), "label": int64 (B,), "broken": int64 ()};
views lie in memory as (B, H, W, 3), torch's channels_last. The crops-only pipeline adds "query_steps" and "key_steps",
(B, STEPS, 2) float32, which `finish_on_device` applies.
"""

import math
from collections.abc import Sequence
from typing import Any, Protocol

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from pretrain.input import device_photometrics
from pretrain.input.images import BrokenImageError, Pixels
from pretrain.input.photometrics import apply_steps
from pretrain.input.sampler import Request
from pretrain.input.view_parameters import Recipe, ViewParameters, choose_view, draw_uniforms

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
"""ImageNet's mean and standard deviation per RGB channel, of levels in 0…1 [MoCo]."""
VIEWS = ("query", "key")
Batch = dict[str, Tensor]


class ImageSource(Protocol):
    """A source of images: a folder of files or a packed cache."""

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        """Return the class of each image."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Return the names of the classes, in the order of their labels."""

    def __len__(self) -> int:
        """Return how many images there are."""

    def read(self, index: int) -> Pixels:
        """Return the (H, W, 3) pixels of image `index`; BrokenImageError names an unreadable one."""


class TwoViews(Dataset[Batch]):
    """Batches of two views; one item is a batch, requested by a list of (epoch, index)."""

    def __init__(
        self,
        source: ImageSource,
        recipe: Recipe,
        *,
        seed: int,
        crop_px: int,
        min_scale: float,
        crops_only: bool,
        skip_broken: bool,
    ) -> None:
        self.source, self.recipe, self.seed = source, recipe, seed
        self.crop_px, self.min_scale = crop_px, min_scale
        self.crops_only, self.skip_broken = crops_only, skip_broken
        self.scratch = Scratch()

    def __len__(self) -> int:
        """Return how many images there are."""
        return len(self.source)

    def __getitems__(self, requests: Sequence[Request]) -> Batch:
        """Return the batch of `requests`, written view by view into one tensor per view."""
        views = {name: _allocate_views(len(requests), self.crop_px) for name in VIEWS}
        steps: dict[str, list[Any]] = {name: [] for name in VIEWS}
        indices = np.empty(len(requests), np.int64)
        for row, (epoch, wanted) in enumerate(requests):
            image, indices[row] = self._read(wanted)
            uniforms = draw_uniforms(self.seed, epoch, wanted)
            for name, numbers in zip(VIEWS, uniforms, strict=True):
                parameters = choose_view(numbers, image.shape[:2], self.recipe, self.min_scale)
                self._write_view(image, parameters, views[name][row])
                steps[name].append(parameters.steps)
        broken = int((indices != [index for _, index in requests]).sum())
        batch = {name: torch.from_numpy(part).permute(0, 3, 1, 2) for name, part in views.items()}
        batch |= {"index": torch.from_numpy(indices), "label": torch.from_numpy(self.source.labels[indices])}
        batch["broken"] = torch.tensor(broken)
        if self.crops_only:
            batch |= {f"{name}_steps": device_photometrics.pack_steps(steps[name]) for name in VIEWS}
        return batch

    def _read(self, index: int) -> tuple[Pixels, int]:
        for offset in range(len(self.source)):
            chosen = (index + offset) % len(self.source)
            try:
                return self.source.read(chosen), chosen
            except BrokenImageError as error:
                if not self.skip_broken:
                    raise BrokenImageError(
                        f"{error}; or start again with data.skip_broken=true run.resume=false to use the next image"
                    ) from error
        raise BrokenImageError(f"none of the {len(self.source)} images can be read; check data.root")

    def _write_view(self, image: Pixels, view: ViewParameters, out: Pixels) -> None:
        resize_crop(image, view, out, self.scratch)
        if not self.crops_only:
            apply_steps(out, view.steps)
        if view.flip:
            cv2.flip(out, 1, dst=out)


class Scratch:
    """A reusable buffer, since newly allocated pages cost as much time as one photometric step."""

    def __init__(self) -> None:
        self._bytes = np.empty(0, np.uint8)

    def take(self, shape: tuple[int, ...]) -> Pixels:
        """Return an array of `shape`, valid until the next call."""
        size = math.prod(shape)
        if size > self._bytes.size:
            self._bytes = np.empty(size, np.uint8)
        return self._bytes[:size].reshape(shape)


def resize_crop(image: Pixels, view: ViewParameters, out: Pixels, scratch: Scratch) -> None:
    """Write the view's crop of `image` into `out` (H, W, 3), antialiased, within 2 levels of PIL's BILINEAR."""
    crop = scratch.take((view.height, view.width, 3))
    np.copyto(crop, image[view.top : view.top + view.height, view.left : view.left + view.width])
    planes, resized = (torch.from_numpy(pixels).permute(2, 0, 1)[None] for pixels in (crop, out))  # channels_last
    torch.ops.aten._upsample_bilinear2d_aa.out(planes, list(out.shape[:2]), False, None, None, out=resized)


def finish_on_device(
    batch: Batch, device: torch.device | str = "cpu", *, channels_last: bool = True
) -> tuple[Tensor, Tensor]:
    """Return (query, key) on `device`, float32 (B, 3, H, W), after photometric steps, normalised with MEAN and STD.

    The workers drew the steps, so the result does not depend on the device's random generator.
    """
    query, key = (_finish_views(batch, name, torch.device(device), channels_last) for name in VIEWS)
    return query, key


def _finish_views(batch: Batch, name: str, device: torch.device, channels_last: bool) -> Tensor:
    views = batch[name].to(device, non_blocking=True)
    steps = batch.get(f"{name}_steps")
    if steps is not None:
        views = device_photometrics.apply_steps(views, steps.to(device, non_blocking=True))
    mean, std = (torch.tensor(values, device=device).view(1, 3, 1, 1) * 255 for values in (MEAN, STD))
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return views.to(torch.float32).sub_(mean).div_(std).contiguous(memory_format=layout)


def _allocate_views(count: int, side_px: int) -> Pixels:
    """Return (B, H, W, 3) uint8; in a DataLoader worker in shared memory, which avoids a copy to the main process."""
    size = count * side_px * side_px * 3
    # The same call as in torch's default_collate; no public function allocates shared memory.
    flat = torch.empty(size if get_worker_info() is None else 0, dtype=torch.uint8)
    if get_worker_info():
        flat = flat.set_(torch.UntypedStorage._new_shared(size))  # type: ignore[no-untyped-call]
    pixels: Pixels = flat.view(count, side_px, side_px, 3).numpy()
    return pixels

"""A packed cache: decoded images as raw uint8 in memory-mapped shards, so that no epoch decodes images.

Layout of the folder: shard-00000.bin (pixels, one image after another) with shard-00000.index.npy beside it (one ENTRY
per image, written when the shard is complete), packing.json (source and config of the cache, written first) and
cache.json (written last: classes, and per shard its size and the digest of its index). Every image has a CRC-32.
"""

import mmap
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, BinaryIO

import cv2
import numpy as np
import numpy.typing as npt

from pretrain.input.images import BrokenImageError, ImageFolder, Pixels, choose_classes
from pretrain.runtime.storage import digest_file, open_whole, read_json, sweep_temporary_files, write_json, write_whole

FORMAT = 1
ENTRY = np.dtype([("offset", "<i8"), ("height", "<i4"), ("width", "<i4"), ("label", "<i4"), ("crc32", "<u4")])
"""One image of a shard: the offset of its (height, width, 3) bytes, its class, and the checksum of the bytes."""
Entries = npt.NDArray[np.void]


@dataclass(frozen=True, kw_only=True)
class Packing:
    """Config of a cache."""

    images_per_shard: int = 4096
    """4096 images take 2 GB at ImageNet's sizes."""
    short_side_px: int = 0
    """Shrink images to this short side to save disk space (views then differ slightly); 0: keep all pixels."""
    skip_broken: bool = False
    """Omit unreadable images and count them; false: stop at the first one with an error that names it."""


class PackedImages:
    """The images of a cache, opened by `open_cache`; pixels are read-only views of the mapped files."""

    def __init__(self, folder: Path, classes: tuple[str, ...], shards: list[tuple[str, Entries]]) -> None:
        self.folder, self.classes = folder, classes
        self._files = [name for name, _ in shards]
        self._entries = np.concatenate([entries for _, entries in shards])
        self._shard_of = np.repeat(np.arange(len(shards)), [len(entries) for _, entries in shards])
        self._maps: dict[int, mmap.mmap] = {}

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        """Return the class of each image."""
        return self._entries["label"].astype(np.int64)

    def __len__(self) -> int:
        """Return how many images there are."""
        return len(self._entries)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_maps": {}}  # a mapping cannot be pickled; each process opens its own

    def read(self, index: int) -> Pixels:
        """Return image `index` as a read-only (H, W, 3) array over the mapped file."""
        shard = int(self._shard_of[index])
        if shard not in self._maps:
            with (self.folder / self._files[shard]).open("rb") as stream:
                self._maps[shard] = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        offset, height, width, _, _ = self._entries[index].item()
        flat = np.frombuffer(self._maps[shard], np.uint8, height * width * 3, offset)
        return flat.reshape(height, width, 3)

    def is_intact(self, index: int) -> bool:
        """Return whether the pixels of image `index` match the checksum of its entry."""
        return zlib.crc32(self.read(index).data) == int(self._entries["crc32"][index])

    def select(self, class_list: str | Path) -> "PackedImages":
        """Return the images of the listed classes only, with labels renumbered over them."""
        classes = choose_classes(self.classes, Path(class_list), self.folder)
        new_label = np.array([classes.index(name) if name in classes else -1 for name in self.classes])
        chosen = copy(self)
        entries = self._entries.copy()
        entries["label"] = new_label[entries["label"]]
        keep = entries["label"] >= 0
        chosen.classes, chosen._entries, chosen._shard_of = tuple(classes), entries[keep], self._shard_of[keep]
        return chosen


def pack_images(images: ImageFolder, folder: str | Path, packing: Packing, workers: int = 1) -> Iterator[int]:
    """Write the cache of `images` into `folder`; yield the number of completed images after each shard.

    Shards that an earlier call completed are kept, so a call that was killed can be resumed.

    Raises:
        ValueError: the folder contains a different cache, or an image cannot be read.

    """
    folder = Path(folder)
    plan = {"format": FORMAT, "source_sha256": images.digest(), "images": len(images), **vars(packing)}
    _agree_on_plan(folder, plan)
    sweep_temporary_files(folder)
    begins = range(0, len(images), packing.images_per_shard)
    missing = [begin for begin in begins if not _index_path(folder, begin // packing.images_per_shard).exists()]
    done = len(images) - sum(min(packing.images_per_shard, len(images) - begin) for begin in missing)
    pack_shard = partial(_pack_shard, images, folder, packing)
    with _open_pool(workers) as run_all:
        for begin, _ in zip(missing, run_all(pack_shard, missing), strict=True):
            done += min(packing.images_per_shard, len(images) - begin)
            yield done
    shards = [_describe_shard(folder, number) for number in range(len(begins))]
    write_json(folder / "cache.json", {**plan, "classes": list(images.classes), "shards": shards})


def open_cache(folder: str | Path, class_list: str = "", *, every_image: bool = False) -> PackedImages:
    """Open a cache after checking sizes, index digests and the checksum of one image per shard.

    Args:
        folder: a folder written by tools.pack_images.
        class_list: keep only these classes; see `pretrain.input.images.list_images`.
        every_image: check every image's checksum (reads the whole cache).

    Raises:
        ValueError: the cache is incomplete or damaged; the message names the file.

    """
    folder = Path(folder)
    if not (folder / "cache.json").exists():
        raise ValueError(f"{folder}: no complete cache (no cache.json); run `python -m tools.pack_images SRC {folder}`")
    description = read_json(folder / "cache.json")
    if description["format"] != FORMAT:
        raise ValueError(
            f"{folder}: cache format {description['format']}, expected {FORMAT}; run tools.pack_images for a new folder"
        )
    shards = []
    for number, shard in enumerate(description["shards"]):
        if _describe_shard(folder, number) != shard:
            raise ValueError(
                f"{folder / shard['file']}: its size or index differs from cache.json, so it is damaged; delete this "
                "shard, its index and cache.json, and run tools.pack_images again"
            )
        shards.append((shard["file"], np.load(_index_path(folder, number), allow_pickle=False)))
    cache = PackedImages(folder, tuple(description["classes"]), shards)
    firsts = np.unique(cache._shard_of, return_index=True)[1]
    for index in range(len(cache)) if every_image else firsts:
        if not cache.is_intact(index):
            raise ValueError(
                f"{folder / cache._files[cache._shard_of[index]]}: the checksum of image {index} of the cache differs "
                "from its index; delete this shard, its index and cache.json, and run tools.pack_images again"
            )
    return cache.select(class_list) if class_list else cache


@contextmanager
def _open_pool(workers: int) -> Iterator[Callable[..., Iterable[None]]]:
    """Yield a `map` over `workers` processes; with one worker, over this process."""
    if workers <= 1:
        yield map
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        try:
            yield pool.map
        finally:
            pool.shutdown(cancel_futures=True)


def _pack_shard(images: ImageFolder, folder: Path, packing: Packing, begin: int) -> None:
    number = begin // packing.images_per_shard
    with open_whole(_pixels_path(folder, number)) as stream:
        entries = _write_pixels(
            images, range(begin, min(begin + packing.images_per_shard, len(images))), packing, stream
        )
    write_whole(_index_path(folder, number), lambda index: np.save(index, entries))


def _write_pixels(images: ImageFolder, chosen: range, packing: Packing, stream: BinaryIO) -> Entries:
    entries: list[tuple[int, ...]] = []
    offset = 0
    for index in chosen:
        try:
            pixels = shrink(images.read(index), packing.short_side_px)
        except BrokenImageError as error:
            if not packing.skip_broken:
                raise BrokenImageError(f"{error}, or set skip_broken=true to omit such files") from error
            continue
        stream.write(pixels.data)
        entries.append((offset, *pixels.shape[:2], int(images.labels[index]), zlib.crc32(pixels.data)))
        offset += pixels.size
    return np.array(entries, ENTRY)


def shrink(pixels: Pixels, short_side_px: int) -> Pixels:
    """Return `pixels` with a short side of at most `short_side_px` (0: no limit), resized by area averaging."""
    height, width = pixels.shape[:2]
    if not short_side_px or min(height, width) <= short_side_px:
        return np.ascontiguousarray(pixels)
    scale = short_side_px / min(height, width)
    size = (max(short_side_px, round(width * scale)), max(short_side_px, round(height * scale)))
    smaller: Pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    return smaller


def _agree_on_plan(folder: Path, plan: dict[str, Any]) -> None:
    path = folder / "packing.json"
    if path.exists() and read_json(path) != plan:
        raise ValueError(
            f"{folder}: contains a cache of other images or with another config ({path}); choose another folder"
        )
    write_json(path, plan)


def _describe_shard(folder: Path, number: int) -> dict[str, Any]:
    pixels, index = _pixels_path(folder, number), _index_path(folder, number)
    if not pixels.exists() or not index.exists():
        raise ValueError(f"{pixels}: this shard or its index is missing; run tools.pack_images again")
    return {"file": pixels.name, "bytes": pixels.stat().st_size, "index_sha256": digest_file(index)}


def _pixels_path(folder: Path, number: int) -> Path:
    return folder / f"shard-{number:05d}.bin"


def _index_path(folder: Path, number: int) -> Path:
    return folder / f"shard-{number:05d}.index.npy"

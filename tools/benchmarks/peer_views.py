"""Alternative input pipelines, and lower bounds for all pipelines: decoding only, copying only.

Every peer makes MoCo-v2's two views of each image under ROOT/train/<class>/: normalised float32 (B, 3, H, W) for the
queries and for the keys, with the same probabilities and strengths (facebookresearch/moco, main_moco.py). Peers whose
packages are not installed are skipped.
"""

import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
import torch
from torch.utils.data import DataLoader, Dataset

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
AREA = (0.2, 1.0)
"""Range of the fraction of the image's area that a crop covers (main_moco.py)."""
PEERS = ("torchvision_v2", "albumentations", "dali", "dali_crops")
"""Names of the peers; dali_crops omits the photometrics, as our pipeline `crops` does on the CPU."""
PACKAGES = {"albumentations": "albumentations", "dali": "nvidia.dali", "dali_crops": "nvidia.dali"}


class Views(Dataset[Any]):
    """A data set of image files, transformed by `make`."""

    def __init__(self, root: Path, make: Callable[[bytes], Any]) -> None:
        self.paths = sorted((root / "train").rglob("*.JPEG"))
        self.make = make

    def __len__(self) -> int:
        """Return the number of files."""
        return len(self.paths)

    def __getitem__(self, index: int) -> Any:
        """Return `make` of the file's bytes."""
        return self.make(self.paths[index].read_bytes())


class Copies(Dataset[Any]):
    """A data set that copies the images of a packed cache."""

    def __init__(self, cache: Path) -> None:
        from pretrain.input.packed import open_cache

        self.images = open_cache(cache)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.images)

    def __getitem__(self, index: int) -> int:
        """Copy an image; return its height."""
        return int(np.array(self.images.read(index)).shape[0])


class Epochs:
    """An iterable that calls `start` for each epoch."""

    def __init__(self, start: Callable[[], Iterator[Any]]) -> None:
        self.start = start

    def __iter__(self) -> Iterator[Any]:
        """Start an epoch."""
        return self.start()


def list_peers() -> list[str]:
    """Return the peers whose packages are installed."""
    return [name for name in PEERS if name not in PACKAGES or _is_installed(PACKAGES[name])]


def build_peer(name: str, root: Path, *, crop_px: int, batch_size: int, workers: int) -> Any:
    """Return a peer's pipeline as an iterable of one epoch's batches.

    Raises:
        ValueError: no peer has this name.

    """
    if name == "torchvision_v2":
        return _load(Views(root, _TorchvisionV2(crop_px)), batch_size, workers)
    if name == "albumentations":
        return _load(Views(root, _Albumentations(crop_px)), batch_size, workers)
    if name in ("dali", "dali_crops"):
        return _build_dali(root, crop_px, batch_size, max(1, workers), colours=name == "dali")
    raise ValueError(f"unknown peer {name!r}; expected one of {', '.join(PEERS)}")


def build_decode_floor(root: Path, *, batch_size: int, workers: int) -> Any:
    """Return a loader that decodes each file once at full size and discards the pixels."""
    return _load(Views(root, _decode_only), batch_size, workers)


def build_copy_floor(cache: Path, *, batch_size: int, workers: int) -> Any:
    """Return a loader that copies each image of a packed cache once and discards the pixels."""
    return _load(Copies(cache), batch_size, workers)


def _decode_only(content: bytes) -> int:
    return int(simplejpeg.decode_jpeg(content, fastdct=True, fastupsample=True).shape[0])


def _load(images: Dataset[Any], batch_size: int, workers: int) -> Any:
    return DataLoader(
        images,
        batch_size=batch_size,
        shuffle=True,
        num_workers=workers,
        drop_last=True,
        persistent_workers=workers > 0,
        worker_init_fn=_use_one_thread,
    )


def _use_one_thread(_worker: int) -> None:
    import cv2

    torch.set_num_threads(1)
    cv2.setNumThreads(0)


class _TorchvisionV2:
    """torchvision's JPEG decoder and its v2 transforms on uint8 tensors."""

    def __init__(self, crop_px: int) -> None:
        from torchvision.transforms import v2

        jitter = v2.ColorJitter(0.4, 0.4, 0.4, 0.1)
        self.transform = v2.Compose(
            [
                v2.RandomResizedCrop(crop_px, scale=AREA, antialias=True),
                v2.RandomApply([jitter], p=0.8),
                v2.RandomGrayscale(p=0.2),
                v2.RandomApply([v2.GaussianBlur(int(0.1 * crop_px) // 2 * 2 + 1, (0.1, 2.0))], p=0.5),
                v2.RandomHorizontalFlip(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(MEAN, STD),
            ]
        )

    def __call__(self, content: bytes) -> list[Any]:
        """Return two views of one decoded image."""
        from torchvision.io import ImageReadMode, decode_jpeg

        pixels = decode_jpeg(torch.frombuffer(bytearray(content), dtype=torch.uint8), ImageReadMode.RGB)
        return [self.transform(pixels), self.transform(pixels)]


class _Albumentations:
    """OpenCV's decoder and albumentations' transforms."""

    def __init__(self, crop_px: int) -> None:
        import albumentations as album

        self.transform = album.Compose(
            [
                album.RandomResizedCrop((crop_px, crop_px), scale=AREA),
                album.ColorJitter(0.4, 0.4, 0.4, 0.1, p=0.8),
                album.ToGray(p=0.2),
                album.GaussianBlur(blur_limit=0, sigma_limit=(0.1, 2.0), p=0.5),
                album.HorizontalFlip(),
                album.Normalize(MEAN, STD),
            ]
        )

    def __call__(self, content: bytes) -> list[Any]:
        """Return two views of one decoded image."""
        import cv2

        pixels = cv2.cvtColor(cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
        views = (self.transform(image=pixels)["image"] for _ in range(2))
        return [torch.from_numpy(view).permute(2, 0, 1).contiguous() for view in views]


def _build_dali(root: Path, crop_px: int, batch_size: int, threads: int, *, colours: bool) -> Epochs:
    """Return DALI's CPU pipeline; each view decodes and crops in one fused operation."""
    from nvidia.dali import fn, pipeline_def

    @pipeline_def(enable_conditionals=True)  # type: ignore[untyped-decorator]
    def two_views() -> tuple[Any, Any]:
        content, _ = fn.readers.file(file_root=str(root / "train"), random_shuffle=True, name="reader")
        return _make_view(content, crop_px, colours), _make_view(content, crop_px, colours)

    # No prefetching: work between two measurements would slow the other loaders.
    options = {"exec_async": False, "exec_pipelined": False, "prefetch_queue_depth": 1}
    pipe = two_views(batch_size=batch_size, num_threads=threads, device_id=None, **options)
    pipe.build()
    batches = pipe.epoch_size("reader") // batch_size
    return Epochs(lambda: (pipe.run() for _ in range(batches)))


def _make_view(content: Any, crop_px: int, colours: bool) -> Any:
    """Return one view of the images in `content`, as part of a DALI pipeline."""
    from nvidia.dali import fn

    view = fn.decoders.image_random_crop(content, device="cpu", random_area=AREA)
    view = fn.resize(view, size=(crop_px, crop_px))
    if colours:
        view = _change_colours(view)
    return fn.crop_mirror_normalize(
        view,
        mirror=fn.random.coin_flip(),
        mean=[255 * value for value in MEAN],
        std=[255 * value for value in STD],
        output_layout="CHW",
    )


def _change_colours(view: Any) -> Any:
    """Return the view after MoCo-v2's jitter, greys and blur; DALI turns each `if` into a choice per sample."""
    from nvidia.dali import fn, types

    def chance(p: float) -> Any:
        return fn.random.coin_flip(probability=p, dtype=types.BOOL)

    if chance(0.8):
        strengths = {name: fn.random.uniform(range=(0.6, 1.4)) for name in ("brightness", "contrast", "saturation")}
        view = fn.color_twist(view, hue=fn.random.uniform(range=(-36.0, 36.0)), **strengths)
    if chance(0.2):
        view = fn.saturation(view, saturation=0.0)
    if chance(0.5):
        view = fn.gaussian_blur(view, sigma=fn.random.uniform(range=(0.1, 2.0)))
    return view


def _is_installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:
        return False

"""Extract the features of labelled images with a frozen backbone and cache them for linear heads and kNN.

Shapes: n images, D features (2048 of a ResNet-50, 512 of a ResNet-18).
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from pretrain.input.images import ImageFolder
from pretrain.input.labelled_images import LabelledImages, find_images, take_listed
from pretrain.runtime import distributed
from pretrain.runtime.settings import as_dict
from pretrain.runtime.stopping import StopFlag
from pretrain.runtime.storage import digest_file, sweep_temporary_files
from transfer.probes.feature_table import FeatureTable, finish_table, open_rows, read_table
from transfer.results.run_result import RESULT_NAME, RunResult, read_finished, read_result
from transfer.weights.frozen_backbone import FrozenBackbone, build_batches, choose_device

PRECISIONS = ("auto", "fp32", "bf16")


@dataclass(frozen=True, kw_only=True)
class FeatureConfig:
    """Config of feature extraction: images, crops and device; shared by linear classification and kNN."""

    protocol: str = ""
    """Name of the protocol; fields that differ from it are recorded in the result."""
    backbone: str = ""
    """Name of the backbone in the result; empty: the weights' file name without its suffix."""
    seed: int = 0
    """Seed of head initialisation, data order and random crops."""
    out: str = ""
    """Folder of the run, for progress.json, metrics.json, …"""
    data: str = ""
    """Root in ImageNet's layout, ROOT/{train,val}/<class>/* or ROOT/imagenet/{train,val}/<class>/*."""
    class_list: str = ""
    """Text file with one class folder per line (ImageNet-100); empty: all classes."""
    train_images: int = 0
    """Number of training images to use, spread evenly over the classes; 0: all."""
    train_list: str = ""
    """Text file with one training image name per line; empty: all images, or train_images."""
    val_images: int = 0
    """Number of validation images to use, spread evenly over the classes; 0: all."""
    resize_px: int = 256
    """Shorter side before the centre crop, in pixels."""
    crop_px: int = 224
    """Side of the backbone's input, in pixels."""
    max_megapixels: float = 179.0
    """Largest accepted image size, checked before decoding; a megapixel takes 3 MB."""
    workers: int = 8
    """DataLoader processes per rank; 0: the main process decodes."""
    feature_batch: int = 256
    """Images per forward pass when features are cached; affects speed only."""
    device: str = "auto"
    """auto (cuda if available), cuda or cpu."""
    precision: str = "auto"
    """Precision of the frozen backbone: fp32, bf16 or auto (bf16 on a CUDA device that supports it, else fp32)."""
    threads: int = 0
    """Intra-op CPU threads; 0: torch's default."""


@dataclass(frozen=True)
class Features:
    """Features of a split, stored on disk."""

    values: FeatureTable  # (n, D) float32
    labels: Tensor  # (n,) int64
    classes: tuple[str, ...]
    source: ImageFolder


Config = TypeVar("Config", bound=FeatureConfig)
FEATURE_KEYS = ("class_list", "train_list", "train_images", "val_images", "resize_px", "crop_px")
"""Fields that determine the features, besides the data and the weights."""
UNRELATED = ("out", "workers", "feature_batch", "device", "precision", "threads", "chunk", "max_megapixels")
"""Fields that may change when a run resumes."""


def find_finished(config: FeatureConfig, weights: Path) -> RunResult | None:
    """Return the result stored in `config.out`; None if there is none.

    Raises:
        ValueError: the stored result has another config or other weights.

    """
    if not (Path(config.out) / RESULT_NAME).exists():
        return None
    wanted = {
        "backbone": config.backbone or weights.stem,
        "protocol": config.protocol,
        "seed": config.seed,
        "weights_sha256": digest_file(weights),
    }
    stored, defaults = read_result(config.out).details.get("config", {}), as_dict(type(config)())
    fields = {
        key: value
        for key, value in as_dict(config).items()
        # A result written before a field existed was computed with its default.
        if key not in (*UNRELATED, "data") and (key in stored or value != defaults[key])
    }
    return read_finished(config.out, wanted, fields)


def list_deviations(protocols: Mapping[str, Mapping[str, object]], config: FeatureConfig) -> list[dict[str, object]]:
    """Return {"key", "expected", "got"} for every field that differs from the protocol's table.

    Raises:
        ValueError: unknown protocol; the message lists the known ones.

    """
    if config.protocol not in protocols:
        raise ValueError(f"protocol: got {config.protocol!r}; expected one of {', '.join(protocols)}")
    return [
        {"key": key, "expected": expected, "got": getattr(config, key)}
        for key, expected in protocols[config.protocol].items()
        if getattr(config, key) != expected
    ]


def check_feature_config(config: FeatureConfig) -> list[str]:
    """Return one sentence per mistake in the config."""
    mistakes = []
    if not config.out:
        mistakes.append("out: no output folder; add out=FOLDER")
    if not config.data:
        mistakes.append("data: no image folder; add data=ROOT, where ROOT/train and ROOT/val hold one folder per class")
    if config.precision not in PRECISIONS:
        mistakes.append(f"precision: got {config.precision!r}; expected one of {', '.join(PRECISIONS)}")
    if not 0 < config.crop_px <= config.resize_px:
        mistakes.append(f"crop_px={config.crop_px} must be in 1 … resize_px={config.resize_px}")
    return mistakes


def run_probe(config: Config, weights: Path, run: Callable[[Config, Path, StopFlag], RunResult]) -> RunResult:
    """Return the result stored in `config.out`, or call `run` in a process group of all ranks.

    Raises:
        ValueError: `config.out` holds the result of another run.
        YieldRequested: a stop was requested; `run` has saved its work.

    """
    if config.threads:
        torch.set_num_threads(config.threads)
    stop = StopFlag().install()
    with distributed.process_group(choose_device(config.device)):
        return distributed.on_main(lambda: find_finished(config, weights)) or run(config, weights, stop)


def find_split(config: FeatureConfig, split: str) -> ImageFolder:
    """Return the images of `split` that the config selects."""
    listed = config.train_list if split == "train" else ""
    limit = config.val_images if split != "train" else 0 if listed else config.train_images
    images = find_images(config.data, split, config.class_list, limit, max_megapixels=config.max_megapixels)
    return take_listed(images, listed) if listed else images


def extract_features(
    model: FrozenBackbone,
    config: FeatureConfig,
    split: str,
    folder: Path,
    *,
    after_batch: Callable[[int], None] = lambda _done: None,
) -> Features:
    """Return the features of a split's centre crops, computed by all ranks and stored below `folder` in file order.

    Stored features of the same weights, data and config are reused. `after_batch(images done)` is called the same
    number of times on every rank, to write a heartbeat or to raise YieldRequested on all ranks.
    """
    source, place = find_split(config, split), folder / split
    of = _describe_features(model, config, source)
    table = distributed.on_main(lambda: read_table(place, of))
    if table is None:
        distributed.on_main(lambda: sweep_temporary_files(place))
        rank, ranks = distributed.rank(), distributed.world_size()
        shares = share_rows(len(source), ranks)
        with open_rows(place, rank, ranks) as stream:
            for values in _embed(model, config, source, shares, after_batch):
                stream.write(values.numpy().data)
        distributed.barrier()
        rows = [len(share) for share in shares]
        distributed.on_main(lambda: finish_table(place, of, model.width, rows))
        table = distributed.on_main(lambda: read_table(place, of))
        assert table is not None, f"{place}: the table just written cannot be read"
    return Features(table, torch.from_numpy(source.labels), source.classes, source)


def share_rows(rows: int, ranks: int, unit: int = 1) -> list[range]:
    """Split `rows` into one contiguous range per rank, in multiples of `unit`; the last ranks get fewer or none."""
    share = -(-rows // (ranks * unit)) * unit
    return [range(min(rank * share, rows), min((rank + 1) * share, rows)) for rank in range(ranks)]


def _embed(
    model: FrozenBackbone,
    config: FeatureConfig,
    source: ImageFolder,
    shares: list[range],
    after_batch: Callable[[int], None],
) -> Iterator[Tensor]:
    """Yield the features (B, D) of this rank's images, batch by batch, on the CPU."""
    mine, size, ranks = shares[distributed.rank()], config.feature_batch, len(shares)
    requests = [[(0, index) for index in mine[at : at + size]] for at in range(0, len(mine), size)]
    images = LabelledImages(source, crop_px=config.crop_px, resize_px=config.resize_px)
    batches = iter(build_batches(images, requests, config.workers))
    done = 0
    for _ in range(0, len(shares[0]), size):  # rank 0 has the most batches; all ranks iterate as often
        if (batch := next(batches, None)) is not None:
            yield model(batch["image"]).cpu()
            done += len(batch["label"])
        after_batch(min(done * ranks, len(source)))


def _describe_features(model: FrozenBackbone, config: FeatureConfig, source: ImageFolder) -> dict[str, Any]:
    """Return the values that identify cached features: weights, images and the config fields they depend on."""
    kept = {key: getattr(config, key) for key in FEATURE_KEYS}
    return {
        **kept,
        "weights_sha256": model.digest,
        "bf16": model.bf16,
        "data": str(source.root.absolute()),
        "images_sha256": source.digest(),
    }

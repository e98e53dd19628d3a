"""Compare our two-view loaders with the reference, the fastest alternatives and a lower bound, in one run.

  python -m tools.benchmark_views json=views.json
  python -m tools.benchmark_views rounds=9 images=256 workers=2
  uv pip install --group benchmark                     installs the alternatives: DALI and albumentations

The reference is that of facebookresearch/moco: PIL decoding, torchvision's v1 transforms on PIL images, float tensors
from a DataLoader. The peers (peer_views.py) are other fast pipelines, if installed. Rows: cpu_jpeg (all on the CPU),
crops_jpeg (photometrics left to the device), cpu_cache and crops_cache (the same from a packed cache). The floor of a
row is the time to decode its files only, or to copy its cache only, with as many workers. Measurements are interleaved
in rounds; a ratio is the median over the rounds. The images are generated: 500 x 375 px, about 100 KB each.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pretrain.runtime.command_line import run_command, split_arguments
from pretrain.runtime.settings import read_settings
from tools.benchmarks.rounds import divide, find_versions, summarise_ratios, take_turns

TARGETS = {"cpu_jpeg": 3.2, "crops_jpeg": 4.5, "cpu_cache": 5.5, "crops_cache": 9.0}
"""Minimum speed-up over the reference that each row should reach."""
CLASSES = 2
RIVALS = {"cpu": ("torchvision_v2", "albumentations", "dali", "reference"), "crops": ("dali_crops",)}
"""Our pipeline → the peers that do the same work; also for rows from the packed cache."""
FLOORS = {"jpeg": "decode_floor", "cache": "copy_floor"}


@dataclass(frozen=True, kw_only=True)
class BenchmarkSettings:
    """Rounds, sizes and output of the benchmark."""

    json: str = ""
    """JSON file to write; empty: print only."""
    rounds: int = 10
    """Counted rounds; one warm-up round precedes them."""
    images: int = 192
    """Images that each loader reads per round."""
    batch_size: int = 32
    """Images per batch."""
    workers: int = 2
    """DataLoader processes of each loader."""


def main(arguments: Sequence[str]) -> None:
    """Measure, print one line per row, write JSON."""
    _, overrides = split_arguments(arguments, [])
    settings = read_settings(BenchmarkSettings, overrides=overrides)
    # heavy
    from pretrain.runtime.machine import describe_machine, name_machine, read_commit
    from pretrain.runtime.storage import write_json

    with tempfile.TemporaryDirectory() as folder:
        image_bytes = write_photos(Path(folder) / "images", settings.images)
        loaders = build_loaders(Path(folder), settings)
        rates = measure(loaders, settings)
    rows = summarise(rates)
    for name, row in rows.items():
        print(describe_row(name, row))
    result = {
        "rows": {name: row | {"machine": name_machine()} for name, row in rows.items()},
        "machine": describe_machine(),
        "versions": find_versions("torchvision", "albumentations", "nvidia-dali-cuda130", "simplejpeg"),
        "commit": read_commit(),
        "workers": settings.workers,
        "batch_size": settings.batch_size,
        "image_bytes_mean": round(image_bytes),
        "reference_images_per_s": round(statistics.median(rates["reference"]), 1),
        "images_per_s": {name: round(statistics.median(values), 1) for name, values in rates.items()},
    }
    if settings.json:
        write_json(settings.json, result)


def describe_row(name: str, row: dict[str, Any]) -> str:
    """Return a row as one line of text."""
    rival = f"{row['vs_best_peer']:.2f}x {row['peer']}" if "peer" in row else "no peer is installed"
    return (
        f"{name:12} {row['speedup']:5.2f}x ({row['low']:.2f}…{row['high']:.2f}) the reference, "
        f"target {row['target']}x; "
        f"{rival}; {row['share_of_floor']:.0%} of the floor"
    )


def write_photos(root: Path, count: int) -> float:
    """Write `count` photo-like JPEGs of 500 x 375 px under ROOT/train/<class>/; return their mean size in bytes.

    Each is a sum of noise at seven scales: natural images have about equal energy in every octave.
    """
    # Heavy, see main.
    import cv2
    import numpy as np

    sizes = []
    for index in range(count):
        rng = np.random.default_rng(index)
        photo = np.full((375, 500, 3), 128.0, np.float32)
        for octave in range(7):
            shape = (max(2, 375 >> octave), max(2, 500 >> octave), 3)
            noise = rng.normal(0, 13, shape).astype(np.float32) + rng.normal(0, 13, (*shape[:2], 1)).astype(np.float32)
            photo += cv2.resize(noise, (500, 375), interpolation=cv2.INTER_CUBIC)
        pixels = np.clip(photo, 0, 255).astype(np.uint8)
        path = root / "train" / f"class{index % CLASSES}" / f"{index:05d}.JPEG"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), pixels, [cv2.IMWRITE_JPEG_QUALITY, PHOTO_QUALITY])
        sizes.append(path.stat().st_size)
    return statistics.mean(sizes)


PHOTO_QUALITY = 85
"""JPEG quality at which these images take about 100 KB."""


def build_loaders(folder: Path, settings: BenchmarkSettings) -> dict[str, Any]:
    """Return every loader by name, as iterables of one epoch; their workers persist between rounds."""
    # Heavy, see main.
    from pretrain.config import DataConfig
    from pretrain.input.images import list_images
    from pretrain.input.loader import build_loader
    from pretrain.input.packed import Packing, pack_images
    from tools.benchmarks.peer_views import build_copy_floor, build_decode_floor, build_peer, list_peers
    from tools.benchmarks.reference_views import build_reference_loader

    images = folder / "images"
    for _ in pack_images(list_images(images / "train"), folder / "cache", Packing()):
        pass
    reference = build_reference_loader(images, crop_px=224, batch_size=settings.batch_size, workers=settings.workers)
    loaders: dict[str, Any] = {"reference": reference}
    for name in TARGETS:
        pipeline, source = name.split("_")
        data = DataConfig(
            root=str(images),
            pipeline=pipeline,
            cache=str(folder / "cache") if source == "cache" else "",
            workers=settings.workers,
        )
        loaders[name] = build_loader(data, global_batch=settings.batch_size, seed=0)
    size = {"batch_size": settings.batch_size, "workers": settings.workers}
    for name in list_peers():
        loaders[name] = build_peer(name, images, crop_px=224, **size)
    loaders["decode_floor"] = build_decode_floor(images, **size)
    loaders["copy_floor"] = build_copy_floor(folder / "cache", **size)
    return loaders


def measure(loaders: dict[str, Any], settings: BenchmarkSettings) -> dict[str, list[float]]:
    """Return images/s of every loader in every counted round."""
    turns = dict.fromkeys(loaders, 0)

    def read_epoch(name: str) -> float:
        if name in TARGETS:
            loaders[name].sampler.set_position(turns[name])
            turns[name] += 1
        began = time.perf_counter()
        batches = sum(1 for _ in loaders[name])
        return batches * settings.batch_size / (time.perf_counter() - began)

    return take_turns({name: partial(read_epoch, name) for name in loaders}, settings.rounds)


def summarise(rates: dict[str, list[float]]) -> dict[str, dict[str, Any]]:
    """Return each row's speed relative to the reference, the fastest peer and the floor: medians over the rounds."""
    rows = {}
    for name, target in TARGETS.items():
        pipeline, source = name.split("_")
        rivals = [rival for rival in RIVALS[pipeline] if rival in rates]
        rows[name] = {
            **summarise_ratios(divide(rates[name], rates["reference"]), "speedup"),
            "images_per_s": round(statistics.median(rates[name]), 1),
            "share_of_floor": round(statistics.median(divide(rates[name], rates[FLOORS[source]])), 4),
            "target": target,
        }
        if rivals:
            best = max(rivals, key=lambda rival: statistics.median(rates[rival]))
            rows[name] |= {"peer": best, "vs_best_peer": round(statistics.median(divide(rates[name], rates[best])), 4)}
    return rows


if __name__ == "__main__":
    sys.exit(run_command(main, __doc__))

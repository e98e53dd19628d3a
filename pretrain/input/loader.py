"""Build a rank's training loader from image source, views and sampler."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import torch
from torch.utils.data import DataLoader

from pretrain.config import DataConfig, PretrainConfig
from pretrain.input.images import UNLABELLED, is_flat, list_either
from pretrain.input.packed import open_cache
from pretrain.input.sampler import ShardedSampler
from pretrain.input.view_parameters import find_recipe
from pretrain.input.views import Batch, ImageSource, TwoViews
from pretrain.runtime.stopping import end_workers_at_exit, ignore_stop_signals

PIPELINES = ("auto", "cpu", "crops")
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ViewLoader:
    """Batches of one rank, starting at the position set by `sampler.set_position(epoch, start_step)`."""

    batches: "DataLoader[Batch]"
    sampler: ShardedSampler
    source: ImageSource
    pipeline: str
    """The selected pipeline, cpu or crops."""

    def __iter__(self) -> Iterator[Batch]:
        end_workers_at_exit()
        return iter(self.batches)

    def __len__(self) -> int:
        """Return the steps left in the epoch."""
        return len(self.sampler)


def build_loader(
    data: DataConfig,
    *,
    global_batch: int,
    seed: int,
    rank: int = 0,
    world_size: int = 1,
    device: torch.device | str = "cpu",
) -> ViewLoader:
    """Return the loader of `rank`; its views depend on (seed, epoch, sample) only, not on workers or ranks.

    Pass every batch through `pretrain.input.views.finish_on_device`. Workers run until the loader is deleted.
    """
    device = torch.device(device)
    recipe, pipeline = find_recipe(data.augmentation), choose_pipeline(data.pipeline, device)
    source = open_source(data)
    views = TwoViews(
        source,
        recipe,
        seed=seed,
        crop_px=data.crop_px,
        min_scale=data.min_scale,
        crops_only=pipeline == "crops",
        skip_broken=data.skip_broken,
    )
    sampler = ShardedSampler(len(source), global_batch, seed, rank, world_size)
    batches: DataLoader[Batch] = DataLoader(
        views,
        batch_sampler=sampler,
        num_workers=data.workers,
        collate_fn=_take_batch,
        pin_memory=device.type == "cuda",
        worker_init_fn=_prepare_worker,
        persistent_workers=data.workers > 0,
    )
    if rank == 0:
        where = "crops in the workers, photometrics on the device" if pipeline == "crops" else "all on the CPU"
        files = f"packed cache {data.cache}" if data.cache else "image files"
        logger.info("input pipeline: %s, %s, %d images, %d workers per rank", where, files, len(source), data.workers)
    return ViewLoader(batches, sampler, source, pipeline)


def choose_pipeline(name: str, device: torch.device) -> str:
    """Return cpu or crops; `auto` means crops (photometrics on the device) on CUDA and cpu otherwise."""
    if name not in PIPELINES:
        raise ValueError(f"data.pipeline: got {name!r}; expected one of {', '.join(PIPELINES)}")
    if name == "auto":
        return "crops" if device.type == "cuda" else "cpu"
    return name


def open_source(data: DataConfig) -> ImageSource:
    """Return the configured training images: those of `data.cache` if set, else of ROOT/train.

    A flat folder of images, ROOT/train or ROOT itself, is read without classes.
    """
    if data.cache:
        return open_cache(data.cache, data.class_list)
    root = Path(data.root)
    folder = root if not (root / "train").is_dir() and is_flat(root) else root / "train"
    return list_either(folder, data.class_list, max_megapixels=data.max_megapixels)


def refuse_unlabelled(config: PretrainConfig, source: ImageSource) -> None:
    """Raise ValueError if the images have no classes and the config requires them."""
    needs = {
        "mixing.oracle": config.mixing.oracle,
        "run.knn_every_epochs": config.run.knn_every_epochs,
        "run.analyse_every_epochs": config.run.analyse_every_epochs,
        "model.method=supervised": config.model.method == "supervised",
    }
    asked = [key for key, value in needs.items() if value]
    if asked and len(source) and int(source.labels[0]) == UNLABELLED:
        raise ValueError(
            f"{config.data.cache or config.data.root}: these images have no classes, which {', '.join(asked)} "
            f"need{'s' if len(asked) == 1 else ''}; turn it off, or sort the images into ROOT/train/<class>/"
        )


def _take_batch(batch: Any) -> Any:
    return batch


def _prepare_worker(worker_id: int) -> None:
    # Replaces the handlers that torch has installed by now, so that the worker ignores a scheduler's signal.
    ignore_stop_signals(worker_id)
    cv2.setNumThreads(0)
    torch.set_num_threads(1)

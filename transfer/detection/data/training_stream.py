"""Training data order as a pure function of (seed, rank, completed batches), so that a killed run resumes exactly.

Uses Detectron2's loader and mapper. In addition, each example carries its position in the infinite stream, its
augmentation is seeded with (seed, position), and a stream can start after any number of batches.
"""

import random
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch
from detectron2.data import DatasetCatalog, DatasetMapper, build_detection_train_loader
from detectron2.utils import comm
from torch.utils.data import ConcatDataset, IterableDataset, Sampler, get_worker_info

from pretrain.runtime.stopping import end_workers_at_exit, ignore_stop_signals
from transfer.detection.data.low_label import ALL_PERCENT, read_training_entries
from transfer.detection.data.packed_entries import PackedEntries, pack_entries

PRECISE_BN_STREAM = 1
"""Stream number of PreciseBN's batches; that of training is 0."""


class PositionSampler(Sampler[int]):
    """Yield this rank's codes, position x size + image index, without end, starting after `batches_done` batches.

    Each epoch is a permutation of all images seeded with (seed, stream, epoch); rank r takes positions r, r + world, ….
    """

    def __init__(
        self, wide: Sequence[bool], *, seed: tuple[int, int], batch: int, batches_done: int, grouped: bool
    ) -> None:
        """Take, per image, whether it is wider than high; `batch` images per rank; aspect ratio grouping on or off."""
        self.wide, self.seed, self.batch = list(wide), seed, batch
        self.batches_done, self.grouped = batches_done, grouped
        self.rank, self.world = comm.get_rank(), comm.get_world_size()

    def __iter__(self) -> Iterator[int]:
        """Start with the images left in the aspect ratio groups after the last completed batch."""
        stream = self._stream()
        waiting: tuple[list[int], list[int]] = ([], [])
        done = 0
        while done < self.batches_done:
            code = next(stream)
            group = waiting[0] if not self.grouped or self.wide[code % len(self.wide)] else waiting[1]
            group.append(code)
            if len(group) == self.batch:
                group.clear()
                done += 1
        yield from sorted([*waiting[0], *waiting[1]])
        yield from stream

    def _stream(self) -> Iterator[int]:
        size, position, epoch = len(self.wide), self.rank, 0
        while True:
            order = np.random.default_rng([*self.seed, epoch]).permutation(size)
            while position < (epoch + 1) * size:
                yield position * size + int(order[position - epoch * size])
                position += self.world
            epoch += 1


class PositionedExamples(IterableDataset[Any]):
    """Training examples in the sampler's order, with augmentation seeded with (seed, stream, position) only.

    Worker w of W produces every W-th example from the w-th on, and the loader reads from the workers in turn, so the
    order is the sampler's. Detectron2 would split the indices itself, since 2022 in chunks, which changes the order.
    """

    def __init__(
        self, codes: Iterable[int], entries: Sequence[dict[str, Any]], mapper: Any, seed: tuple[int, int]
    ) -> None:
        self.codes, self.entries, self.mapper, self.seed = codes, entries, mapper, seed

    def __iter__(self) -> Iterator[Any]:
        """Yield this worker's share of the examples."""
        worker = get_worker_info()
        if worker is None:
            yield from map(self.make_example, self.codes)
        else:
            ignore_stop_signals()  # the main process ends its workers
            yield from map(self.make_example, islice(self.codes, worker.id, None, worker.num_workers))

    def make_example(self, code: int) -> Any:
        """Return the mapped example for a `code` of `PositionSampler`."""
        position, index = divmod(int(code), len(self.entries))
        chance = int(np.random.SeedSequence([*self.seed, position]).generate_state(1)[0])
        np.random.seed(chance)  # noqa: NPY002  Detectron2's augmentations draw from NumPy's global generator
        random.seed(chance)
        return self.mapper(self.entries[index])


class SeededBatches:
    """Yield a loader's batches and seed torch with (seed, stream, rank, batch number) after fetching each.

    Anchor and region sampling is thus the same after a resume. Seeding must follow the fetch, because a starting loader
    draws from torch's generator.
    """

    def __init__(self, loader: Any, seed: tuple[int, int], first: int) -> None:
        self.loader, self.seed, self.first = loader, seed, first

    def __iter__(self) -> Iterator[Any]:
        for number, batch in enumerate(self.loader, self.first):
            chance = np.random.SeedSequence([*self.seed, comm.get_rank(), number]).generate_state(1)
            torch.manual_seed(int(chance[0]))
            yield batch


def load_training_entries(cfg: Any) -> tuple[Any, list[bool]]:
    """Return the packed entries of DATASETS.TRAIN or its labelled share, and whether each image is wider than high.

    Entries and order equal those of Detectron2's get_detection_dataset_dicts; FILTER_EMPTY_ANNOTATIONS omits images
    without annotations or with crowd annotations only.

    Raises:
        ValueError: no image remains.

    """
    names, filter_empty = list(cfg.DATASETS.TRAIN), cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS
    if cfg.DATASETS.LABELLED_PERCENT != ALL_PERCENT:
        labelled = read_training_entries(cfg)
        return pack_entries(labelled), [entry["width"] > entry["height"] for entry in labelled]
    parts: list[Any] = []
    wide: list[bool] = []
    for name in names:
        whole = DatasetCatalog.get(name)
        kept = []
        for index, entry in enumerate(whole):
            if not filter_empty or any(annotation.get("iscrowd", 0) == 0 for annotation in entry["annotations"]):
                kept.append(index)
                wide.append(entry["width"] > entry["height"])
        packed = whole if isinstance(whole, PackedEntries) else pack_entries(whole)
        parts.append(packed.select(kept))
    if not wide:
        raise ValueError(f"{', '.join(names)}: no image has an annotation to train on")
    return (parts[0] if len(parts) == 1 else ConcatDataset(parts)), wide


def build_train_loader(cfg: Any, *, seed: int, batches_done: int = 0, stream: int = 0) -> Any:
    """Return Detectron2's training loader over cfg.DATASETS.TRAIN, starting after `batches_done` batches of this rank.

    Raises:
        ValueError: the batch size is not divisible by ranks x accumulation, or the loader config cannot keep the order.

    """
    end_workers_at_exit()
    parts = comm.get_world_size() * cfg.SOLVER.ACCUMULATE
    if cfg.SOLVER.IMS_PER_BATCH % parts:
        raise ValueError(
            f"SOLVER.IMS_PER_BATCH={cfg.SOLVER.IMS_PER_BATCH} is not divisible by {comm.get_world_size()} processes x "
            f"{cfg.SOLVER.ACCUMULATE} accumulated parts; use another number of processes"
        )
    grouped = cfg.DATALOADER.ASPECT_RATIO_GROUPING
    if not grouped and cfg.DATALOADER.NUM_WORKERS > 1:
        raise ValueError(
            "DATALOADER.ASPECT_RATIO_GROUPING=False resumes in the same data order only with DATALOADER.NUM_WORKERS of "
            "0 or 1; enable the grouping, as in every protocol"
        )
    entries, wide = load_training_entries(cfg)
    batch = cfg.SOLVER.IMS_PER_BATCH // parts
    sampler = PositionSampler(wide, seed=(seed, stream), batch=batch, batches_done=batches_done, grouped=grouped)
    loader = build_detection_train_loader(
        PositionedExamples(sampler, entries, DatasetMapper(cfg, True), (seed, stream)),
        mapper=None,
        total_batch_size=batch * comm.get_world_size(),
        aspect_ratio_grouping=grouped,
        num_workers=cfg.DATALOADER.NUM_WORKERS,
    )
    return SeededBatches(loader, (seed, stream), batches_done)

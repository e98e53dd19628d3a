"""The order of a detector's training data as a function of (seed, rank, batches so far), so that a killed run goes on.

Detectron2's loader and mapper do the work; what differs is that each element knows its position in the endless stream,
draws its augmentation from (seed, position), and that a stream can begin after any number of batches.
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
"""Name of the stream of PreciseBN's batches; training's is 0."""


class PositionSampler(Sampler[int]):
    """Yield position x size + image index for ever, this rank's share, as if `batches_done` batches had been taken.

    Each epoch is a permutation of all images drawn from (seed, stream, epoch); rank r takes positions r, r + world, ….
    """

    def __init__(
        self, wide: Sequence[bool], *, seed: tuple[int, int], batch: int, batches_done: int, grouped: bool
    ) -> None:
        """Take `wide`, whether each image is wider than high; `batch` images a rank; Detectron2's grouping or not."""
        self.wide, self.seed, self.batch = list(wide), seed, batch
        self.batches_done, self.grouped = batches_done, grouped
        self.rank, self.world = comm.get_rank(), comm.get_world_size()

    def __iter__(self) -> Iterator[int]:
        """Begin with what lay in the groups of the last batch taken: images that wait for others of their shape."""
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
    """Training examples in the sampler's order; augmentation's chances come from (seed, stream, position) alone.

    Worker w of W makes every W-th example from the w-th on, and the loader takes from the workers in turn: the order is
    the sampler's. Detectron2 would share out a sampler's indices itself, since 2022 in chunks, which changes the order.
    """

    def __init__(
        self, codes: Iterable[int], entries: Sequence[dict[str, Any]], mapper: Any, seed: tuple[int, int]
    ) -> None:
        self.codes, self.entries, self.mapper, self.seed = codes, entries, mapper, seed

    def __iter__(self) -> Iterator[Any]:
        """Yield this worker's share."""
        worker = get_worker_info()
        if worker is None:
            yield from map(self.make_example, self.codes)
        else:
            ignore_stop_signals()  # the main process ends its workers
            yield from map(self.make_example, islice(self.codes, worker.id, None, worker.num_workers))

    def make_example(self, code: int) -> Any:
        """Return the mapped example of `code`, as `PositionSampler` yields it."""
        position, index = divmod(int(code), len(self.entries))
        chance = int(np.random.SeedSequence([*self.seed, position]).generate_state(1)[0])
        np.random.seed(chance)  # noqa: NPY002  Detectron2's augmentations draw from NumPy's global generator
        random.seed(chance)
        return self.mapper(self.entries[index])


class SeededBatches:
    """Give a loader's batches, and seed torch with (seed, stream, rank, number of the batch) after each is fetched.

    Anchors and regions are then sampled the same after a resume. Not before the fetch: a loader that starts draws from
    torch's generator itself.
    """

    def __init__(self, loader: Any, seed: tuple[int, int], first: int) -> None:
        self.loader, self.seed, self.first = loader, seed, first

    def __iter__(self) -> Iterator[Any]:
        for number, batch in enumerate(self.loader, self.first):
            chance = np.random.SeedSequence([*self.seed, comm.get_rank(), number]).generate_state(1)
            torch.manual_seed(int(chance[0]))
            yield batch


def load_training_entries(cfg: Any) -> tuple[Any, list[bool]]:
    """Return the packed entries of DATASETS.TRAIN, or of its labelled share, and whether each image is wider than high.

    The entries and their order are those of Detectron2's get_detection_dataset_dicts; FILTER_EMPTY_ANNOTATIONS leaves
    out images without annotations, or with crowds alone.

    Raises:
        ValueError: no image is left.

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
        raise ValueError(f"{', '.join(names)}: no image has an annotation to learn from")
    return (parts[0] if len(parts) == 1 else ConcatDataset(parts)), wide


def build_train_loader(cfg: Any, *, seed: int, batches_done: int = 0, stream: int = 0) -> Any:
    """Return Detectron2's training loader over cfg.DATASETS.TRAIN, to go on after `batches_done` batches of this rank.

    Raises:
        ValueError: the batch does not divide by ranks and accumulation, or the order could not be kept.

    """
    end_workers_at_exit()
    parts = comm.get_world_size() * cfg.SOLVER.ACCUMULATE
    if cfg.SOLVER.IMS_PER_BATCH % parts:
        raise ValueError(
            f"SOLVER.IMS_PER_BATCH={cfg.SOLVER.IMS_PER_BATCH} does not divide by {comm.get_world_size()} processes x "
            f"{cfg.SOLVER.ACCUMULATE} accumulated parts; take another number of processes"
        )
    grouped = cfg.DATALOADER.ASPECT_RATIO_GROUPING
    if not grouped and cfg.DATALOADER.NUM_WORKERS > 1:
        raise ValueError(
            "DATALOADER.ASPECT_RATIO_GROUPING=False keeps the order of the data over a resume only with "
            "DATALOADER.NUM_WORKERS of 0 or 1; leave the grouping on, as every protocol has it"
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

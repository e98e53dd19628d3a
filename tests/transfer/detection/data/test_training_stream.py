from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.making.detector_runs import make_small_digits
from transfer.detection.data.datasets import register_datasets
from transfer.detection.data.training_stream import PositionSampler, build_train_loader
from transfer.detection.protocols import read_protocol

WIDE = [True, False, True, True, False, True, False]


def make_batches(start: int, count: int, grouped: bool, batch: int = 3) -> list[list[int]]:
    """Group what the sampler yields as Detectron2's AspectRatioGroupedDataset does."""
    sampler = PositionSampler(WIDE, seed=(1, 0), batch=batch, batches_done=start, grouped=grouped)
    waiting: dict[bool, list[int]] = {True: [], False: []}
    batches = []
    for code in sampler:
        group = waiting[WIDE[code % len(WIDE)] if grouped else True]
        group.append(code)
        if len(group) == batch:
            batches.append(group[:])
            group.clear()
        if len(batches) == count:
            break
    return batches


@pytest.mark.parametrize("grouped", [True, False])
def test_stream_begun_after_any_batch_goes_on_as_the_whole_one(grouped: bool) -> None:
    whole = make_batches(0, 20, grouped)
    for start in range(1, 15):
        assert make_batches(start, 20 - start, grouped) == whole[start:]


def test_each_epoch_shows_each_image_once_in_another_order() -> None:
    sampler = PositionSampler(WIDE, seed=(1, 0), batch=1, batches_done=0, grouped=False)
    indices = [code % len(WIDE) for code in islice(sampler, 3 * len(WIDE))]
    epochs = [indices[start : start + len(WIDE)] for start in range(0, len(indices), len(WIDE))]
    assert all(sorted(epoch) == list(range(len(WIDE))) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_another_seed_or_stream_is_another_order() -> None:
    def order(seed: tuple[int, int]) -> list[int]:
        return list(islice(PositionSampler(WIDE, seed=seed, batch=1, batches_done=0, grouped=False), 14))

    assert len({tuple(order(seed)) for seed in ((1, 0), (1, 1), (2, 0))}) == 3


def test_ranks_share_the_positions(monkeypatch: pytest.MonkeyPatch) -> None:
    positions = []
    for rank in range(2):
        monkeypatch.setattr("transfer.detection.data.training_stream.comm.get_rank", lambda rank=rank: rank)
        monkeypatch.setattr("transfer.detection.data.training_stream.comm.get_world_size", lambda: 2)
        sampler = PositionSampler(WIDE, seed=(1, 0), batch=1, batches_done=0, grouped=False)
        positions += [code // len(WIDE) for code in islice(sampler, 10)]
    assert sorted(positions) == list(range(20))


def describe(cfg: Any, start: int, count: int) -> list[list[tuple[str, float]]]:
    """Return (file, mean of the augmented image) of each example of each batch."""
    loader = build_train_loader(cfg, seed=1, batches_done=start)
    return [
        [(example["file_name"], float(example["image"].float().mean())) for example in batch]
        for batch in islice(iter(loader), count)
    ]


@pytest.mark.slow
def test_loader_gives_the_same_batches_with_any_number_of_workers_and_after_a_resume(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    cfg = read_protocol("coco-fpn-digits@moco")
    cfg.DATASETS.ROOT = str(make_small_digits(tmp_path))
    register_datasets(cfg)
    whole = describe(cfg, 0, 7)
    assert len({name for batch in whole for name, _ in batch}) == 8
    for workers in (1, 2):
        cfg.DATALOADER.NUM_WORKERS = workers
        assert describe(cfg, 0, 7) == whole
        assert describe(cfg, 3, 4) == whole[3:]

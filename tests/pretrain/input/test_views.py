"""Two views of each image: the reference's distribution and pixels, independent of workers."""

import itertools
import math
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms

from pretrain.config import DataConfig
from pretrain.input.images import list_images
from pretrain.input.loader import build_loader, choose_pipeline
from pretrain.input.packed import Packing, pack_images
from pretrain.input.view_parameters import (
    BLUR,
    GREY,
    HUE,
    RECIPES,
    SATURATION,
    ViewParameters,
    choose_view,
    draw_uniforms,
    find_recipe,
)
from pretrain.input.views import MEAN, STD, Scratch, finish_on_device, resize_crop
from tests.making.imagenet_like import CLASSES, make_photo, write_images

Batches = list[dict[str, torch.Tensor]]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("views"))


def load(root: Path, *, ranks: int = 1, rank: int = 0, begin: int = 0, epoch: int = 0, **options: Any) -> Batches:
    data = DataConfig(**({"root": str(root), "crop_px": 32, "workers": 0} | options))
    loader = build_loader(data, global_batch=6, seed=5, rank=rank, world_size=ranks)
    loader.sampler.set_position(epoch, begin)
    return list(loader)


def views_of(count: int, size: tuple[int, int] = (375, 500), recipe: str = "moco_v2") -> list[ViewParameters]:
    drawn = (draw_uniforms(11, 2, index) for index in range(count // 2))
    return [choose_view(uniforms, size, RECIPES[recipe], 0.2) for pair in drawn for uniforms in pair]


def distance(ours: list[float], theirs: list[float]) -> float:
    """Two-sample Kolmogorov-Smirnov statistic over its critical value at p = 0.001 (1.95)."""
    a, b = np.sort(ours), np.sort(theirs)
    points = np.concatenate([a, b])
    gap = np.abs(np.searchsorted(a, points, "right") / len(a) - np.searchsorted(b, points, "right") / len(b)).max()
    return float(gap / (1.95 * math.sqrt((len(a) + len(b)) / (len(a) * len(b)))))


@pytest.mark.parametrize("size", [(375, 500), (60, 400), (500, 100), (1, 1), (40, 40)])
def test_crops_have_the_distribution_of_torchvision(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    image, count = Image.new("L", size[::-1]), 3000
    theirs = [transforms.RandomResizedCrop.get_params(image, (0.2, 1.0), (3 / 4, 4 / 3)) for _ in range(count)]
    ours = [(view.top, view.left, view.height, view.width) for view in views_of(count, size)]
    for column in range(4):
        assert distance([crop[column] for crop in ours], [crop[column] for crop in theirs]) < 1
    areas = [[crop[2] * crop[3] for crop in crops] for crops in (ours, theirs)]
    assert distance(*areas) < 1
    assert all(t >= 0 and le >= 0 and t + h <= size[0] and le + w <= size[1] for t, le, h, w in ours)


def test_probabilities_orders_and_strengths_equal_the_reference() -> None:
    views = views_of(24000)
    jittered = [view.steps for view in views if any(step[0] == HUE for step in view.steps)]

    def share(count: int) -> float:
        return count / len(views)

    assert abs(share(len(jittered)) - 0.8) < 0.01
    assert abs(share(sum(view.flip for view in views)) - 0.5) < 0.012
    assert abs(share(sum(GREY in view.steps for view in views)) - 0.2) < 0.01
    assert abs(share(sum(view.steps[-1:] != () and view.steps[-1][0] == BLUR for view in views)) - 0.5) < 0.012
    orders = Counter(tuple(step[0] for step in steps[:4]) for steps in jittered)
    assert set(orders) == set(itertools.permutations(range(4)))
    expected = len(jittered) / 24
    assert sum((count - expected) ** 2 / expected for count in orders.values()) < 49.7  # 23 degrees, p = 0.001
    rng = np.random.default_rng(0)
    for operation, (low, high) in {0: (0.6, 1.4), 1: (0.6, 1.4), SATURATION: (0.6, 1.4), HUE: (-0.1, 0.1)}.items():
        amounts = [amount for steps in jittered for kind, amount in steps[:4] if kind == operation]
        assert distance(amounts, rng.uniform(low, high, 20000).tolist()) < 1
    sigmas = [view.steps[-1][1] for view in views if view.steps and view.steps[-1][0] == BLUR]
    assert distance(sigmas, rng.uniform(0.1, 2.0, 20000).tolist()) < 1


def test_query_and_key_draw_independently() -> None:
    views = views_of(8000)
    flips = np.array([view.flip for view in views]).reshape(-1, 2)
    tops = np.array([view.top for view in views]).reshape(-1, 2)
    assert abs(np.corrcoef(flips.T)[0, 1]) < 0.055 and abs(np.corrcoef(tops.T)[0, 1]) < 0.055


def test_recipes_differ_as_their_papers_do() -> None:
    v1 = views_of(2000, recipe="moco_v1")
    assert all(len(view.steps) == 4 + (GREY in view.steps) for view in v1)
    assert all(view.steps[0] == GREY for view in v1 if GREY in view.steps)
    assert max(abs(step[1]) for view in v1 for step in view.steps if step[0] == HUE) > 0.39
    infomin = views_of(2000, recipe="infomin")
    assert max(step[1] for view in infomin for step in view.steps if step[0] == SATURATION) > 1.79
    assert RECIPES["moco_v2_no_blur"] == replace(RECIPES["moco_v2"], blur_chance=0)
    with pytest.raises(ValueError, match="expected one of moco_v1, moco_v2, moco_v2_no_blur, infomin"):
        find_recipe("mocov2")


def test_resized_crop_stays_within_two_levels_of_pil() -> None:
    scratch, out = Scratch(), np.empty((224, 224, 3), np.uint8)
    for seed, view in enumerate(views_of(12, (375, 500))):
        photo = make_photo(seed, 375, 500)
        box = (view.left, view.top, view.left + view.width, view.top + view.height)
        expected = np.asarray(photo.crop(box).resize((224, 224), Image.Resampling.BILINEAR)).astype(int)
        resize_crop(np.array(photo), view, out, scratch)
        assert np.abs(out - expected).max() <= 2


@pytest.mark.parametrize("pipeline", ["cpu", "crops"])
def test_views_do_not_depend_on_ranks_or_start(root: Path, pipeline: str) -> None:
    whole = load(root, pipeline=pipeline)
    parts = [load(root, ranks=3, rank=rank, begin=1, pipeline=pipeline) for rank in range(3)]
    for step, batch in enumerate(whole[1:]):
        for key in set(batch) - {"broken"}:
            assert torch.equal(batch[key], torch.cat([part[step][key] for part in parts])), key


@pytest.mark.slow
def test_views_do_not_depend_on_workers(root: Path) -> None:
    for ours, theirs in zip(load(root), load(root, workers=2), strict=True):
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_batch_has_the_documented_form(root: Path) -> None:
    batch = load(root)[0]
    assert batch["query"].shape == batch["key"].shape == (6, 3, 32, 32)
    assert batch["query"].dtype == torch.uint8 and batch["query"].is_contiguous(memory_format=torch.channels_last)
    assert batch["index"].dtype == batch["label"].dtype == torch.int64
    assert batch["label"].tolist() == (batch["index"] // 8).tolist()
    assert not torch.equal(batch["query"], batch["key"])
    assert not torch.equal(batch["query"], load(root, epoch=1)[0]["query"])


def test_finishing_normalises_as_torchvision(root: Path) -> None:
    batch = load(root)[0]
    query, _ = finish_on_device(batch)
    expected = transforms.functional.normalize(batch["query"].float() / 255, MEAN, STD)
    torch.testing.assert_close(query, expected, atol=1e-5, rtol=0)
    assert query.is_contiguous(memory_format=torch.channels_last)


def test_photometrics_on_the_device_equal_those_on_the_cpu(root: Path) -> None:
    for cpu, crops in zip(load(root, pipeline="cpu"), load(root, pipeline="crops"), strict=True):
        assert crops["query_steps"].shape == (6, 6, 2)
        for ours, theirs in zip(finish_on_device(cpu), finish_on_device(crops), strict=True):
            assert (ours - theirs).abs().mean() * 255 * 0.226 < 0.8  # levels; 0.226: the mean of STD


def test_cache_gives_the_views_of_the_files(root: Path, tmp_path: Path) -> None:
    list(pack_images(list_images(root / "train"), tmp_path / "cache", Packing(images_per_shard=7)))
    for files, cache in zip(load(root), load(root, cache=str(tmp_path / "cache")), strict=True):
        assert all(torch.equal(files[key], cache[key]) for key in files)


def test_broken_image_is_named_or_replaced_and_counted(tmp_path: Path) -> None:
    root = write_images(tmp_path)
    (root / "train" / CLASSES[1] / f"{CLASSES[1]}_3.JPEG").write_bytes(b"\xff\xd8 broken")
    with pytest.raises(ValueError, match=f"{CLASSES[1]}_3.JPEG: cannot be read"):
        load(root)
    batches = load(root, skip_broken=True)
    assert sum(int(batch["broken"]) for batch in batches) == 1
    assert Counter(torch.cat([batch["index"] for batch in batches]).tolist())[12] == 2  # 12 replaced 11


def test_pipeline_is_chosen_by_device_and_logged(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert choose_pipeline("auto", torch.device("cuda")) == "crops"
    assert choose_pipeline("auto", torch.device("cpu")) == choose_pipeline("cpu", torch.device("cuda")) == "cpu"
    with pytest.raises(ValueError, match="expected one of auto, cpu, crops"):
        choose_pipeline("gpu", torch.device("cpu"))
    with caplog.at_level("INFO"):
        load(root)
    assert "input pipeline: all on the CPU, image files, 24 images" in caplog.text


WORKER_SCRIPT = """
import os, signal, sys, multiprocessing
from pretrain.config import DataConfig
from pretrain.input.loader import build_loader
loader = build_loader(DataConfig(root=sys.argv[1], crop_px=32, workers=2), global_batch=6, seed=0)
batches = iter(loader)
next(batches)
workers = multiprocessing.active_children()
for worker in workers:
    os.kill(worker.pid, signal.SIGTERM)
    os.kill(worker.pid, signal.SIGUSR2)
print(1 + sum(1 for _ in batches), len(workers), all(worker.is_alive() for worker in workers))
"""


@pytest.mark.slow
def test_workers_outlive_stop_signals_and_end_with_the_process(root: Path) -> None:
    command = [sys.executable, "-c", WORKER_SCRIPT, str(root)]
    out = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert out.stdout.split() == ["4", "2", "True"]
    assert out.stderr == ""

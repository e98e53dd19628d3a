"""The labelled images are those of the public lists, in file order, on every rank and after every resume."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.making.own_sets import write_coco_set, write_voc_set
from transfer.detection.config import read_detector_config
from transfer.detection.data.datasets import register_datasets
from transfer.detection.data.low_label import draw_labelled, read_training_entries
from transfer.detection.data.own_sets import settle_own_data

SETS = """
PROTOCOL: mine
BASED_ON: coco-fpn-digits@moco
MODEL: {MASK_ON: False}
data_sets:
  shapes:
    format: coco
    train: {annotations: annotations/train.json, images: images/train}
    test: {annotations: annotations/train.json, images: images/train}
"""


@pytest.mark.parametrize(("percent", "count"), [(1, 1174), (5, 5764), (10, 11285)])
def test_draw_is_the_one_of_the_public_script(percent: float, count: int) -> None:
    # open-mmlab/mmdetection, tools/misc/split_coco.py: np.random.seed(fold); choice(range(n), size=int(percent/100*n))
    generator = np.random.RandomState(1)
    public = set(generator.choice(range(118_287), size=int(percent / 100.0 * 118_287)).tolist())
    chosen = draw_labelled(118_287, percent, 1)
    assert set(chosen.tolist()) == public
    assert len(chosen) == count
    assert not np.array_equal(draw_labelled(118_287, percent, 2), chosen)


@pytest.mark.parametrize(("percent", "fold"), [(0, 1), (101, 1), (-1, 1), (10, -1), (0.5, 1)])
def test_share_out_of_range_or_without_an_image_is_a_sentence(percent: float, fold: int) -> None:
    with pytest.raises(ValueError, match=r"DATASETS\.LABELLED_PERCENT="):
        draw_labelled(100, percent, fold)


def test_images_of_a_coco_file_are_drawn_in_its_own_order(tmp_path: Path) -> None:
    write_coco_set(tmp_path, "train", 20)
    path = tmp_path / "annotations" / "train.json"
    content = json.loads(path.read_text())
    content["images"] = content["images"][::-1]
    bare = content["images"][int(draw_labelled(20, 30, 4)[0])]["id"]
    content["annotations"] = [entry for entry in content["annotations"] if entry["image_id"] != bare]
    path.write_text(json.dumps(content))
    (tmp_path / "mine.yaml").write_text(SETS)
    overrides = ["DATASETS.LABELLED_PERCENT=30.0", "DATASETS.LABELLED_FOLD=4"]
    cfg = settle_own_data(read_detector_config(tmp_path / "mine.yaml", overrides))
    register_datasets(cfg)
    expected = [content["images"][position]["id"] for position in draw_labelled(20, 30, 4)]
    cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = False
    assert [entry["image_id"] for entry in read_training_entries(cfg)] == expected
    cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = True
    assert [entry["image_id"] for entry in read_training_entries(cfg)] == expected[1:], "drawn first, filtered then"
    cfg.DATASETS.LABELLED_PERCENT = 100.0
    assert len(read_training_entries(cfg)) == 19


def test_images_of_several_voc_lists_are_drawn_as_one(tmp_path: Path) -> None:
    names = ("cell", "crack")
    for part in ("first", "second"):
        write_voc_set(tmp_path / "VOCparts", part, 10, names)
    text = (
        SETS.split("data_sets", maxsplit=1)[0]
        + "data_sets:\n"
        + "".join(
            f"  {part}: {{format: voc, folder: VOCparts, train: {part}, test: {part}}}\n"
            for part in ("first", "second")
        )
    )
    (tmp_path / "mine.yaml").write_text(text)
    cfg = settle_own_data(read_detector_config(tmp_path / "mine.yaml", ["DATASETS.LABELLED_PERCENT=40.0"]))
    register_datasets(cfg)
    order = [f"{part}{number:03d}" for part in ("first", "second") for number in range(10)]
    expected = [order[position] for position in draw_labelled(20, 40, 1)]
    assert [entry["image_id"] for entry in read_training_entries(cfg)] == expected

"""Select the labelled images for training on a share of the labels, determined by percentage and fold.

The selection is that of open-mmlab/mmdetection, tools/misc/split_coco.py, whose folds 1 to 5 are the benchmark of
semi-supervised detection: int(percent / 100 x images) numbers drawn from NumPy's legacy generator seeded with the fold,
with replacement, so that a list is slightly shorter than its name says. Of COCO's 118,287 images fold 1 has 1,174,
5,764 and 11,285 for 1, 5 and 10 %. VOC has no such lists; its images are drawn the same way, in the order of the lists
in DATASETS.TRAIN: 1,574 of 16,551 for 10 %, fold 1.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from detectron2.data import MetadataCatalog, get_detection_dataset_dicts
from detectron2.data.build import filter_images_with_only_crowd_annotations

from pretrain.runtime.storage import read_json

ALL_PERCENT = 100.0


def draw_labelled(images: int, percent: float, fold: int) -> npt.NDArray[np.int64]:
    """Return the sorted positions of the labelled images among `images`.

    Raises:
        ValueError: a percentage outside (0, 100], a negative fold, or no labelled image.

    """
    if not 0 < percent <= ALL_PERCENT or fold < 0:
        raise ValueError(
            f"DATASETS.LABELLED_PERCENT={percent:g} and LABELLED_FOLD={fold}: expected a share in (0, 100] and a fold "
            "of 0 or more"
        )
    count = int(percent / ALL_PERCENT * images)
    if not count:
        raise ValueError(f"DATASETS.LABELLED_PERCENT={percent:g}: selects none of {images} images; raise it")
    drawn = np.random.RandomState(fold).choice(images, size=count)
    return np.unique(drawn).astype(np.int64)


def read_training_entries(cfg: Any) -> list[dict[str, Any]]:
    """Return the entries of DATASETS.TRAIN: the labelled share, then filtered as Detectron2 does."""
    names, keep_all = list(cfg.DATASETS.TRAIN), cfg.DATASETS.LABELLED_PERCENT == ALL_PERCENT
    filtered = bool(cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS)
    if keep_all:
        return list(get_detection_dataset_dicts(names, filter_empty=filtered))
    entries = [entry for name in names for entry in _in_file_order(name)]
    chosen = draw_labelled(len(entries), cfg.DATASETS.LABELLED_PERCENT, cfg.DATASETS.LABELLED_FOLD)
    labelled = [entries[position] for position in chosen]
    return list(filter_images_with_only_crowd_annotations(labelled)) if filtered else labelled


def _in_file_order(name: str) -> Sequence[dict[str, Any]]:
    """Return the entries of a data set in file order; Detectron2 sorts those of a COCO file by id."""
    entries: list[dict[str, Any]] = list(get_detection_dataset_dicts([name], filter_empty=False))
    path = MetadataCatalog.get(name).get("json_file")
    if not path:
        return entries
    by_id = {entry["image_id"]: entry for entry in entries}
    return [by_id[image["id"]] for image in read_json(Path(path))["images"] if image["id"] in by_id]

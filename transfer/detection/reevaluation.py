"""Compare detections recomputed from the saved file on a sample of test images with those that the run evaluated.

On a CPU equal weights give bit-identical detections, so a sample verifies the saved file in a fraction of the time of a
full evaluation.
"""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

from detectron2.data import DatasetMapper, build_detection_test_loader, get_detection_dataset_dicts

from pretrain.runtime.storage import make_file_name
from transfer.detection.evaluators import COCO_RESULTS_NAME, VOC_DET_FOLDER


def choose_test_images(name: str, count: int) -> list[dict[str, Any]]:
    """Return `count` evenly spaced entries of a registered test set, or all if it has fewer."""
    entries = get_detection_dataset_dicts([name], filter_empty=False)
    count = min(count, len(entries))
    return [entries[index * len(entries) // count] for index in range(count)]


def build_test_loader(cfg: Any, name: str, count: int = 0) -> Any:
    """Return Detectron2's test loader over a test set, or over `count` of its images if `count` > 0."""
    if not count:
        return build_detection_test_loader(cfg, name)
    mapper = DatasetMapper(cfg, False)
    return build_detection_test_loader(
        choose_test_images(name, count), mapper=mapper, num_workers=cfg.DATALOADER.NUM_WORKERS
    )


def compare_detections(cfg: Any, first: Path, again: Path, count: int) -> None:
    """Raise ValueError if the detections saved below `first` and `again` differ on `count` images of a test set."""
    for name in cfg.DATASETS.TEST:
        before, after = (read_detections(folder / make_file_name(name)) for folder in (first, again))
        images = [str(entry["image_id"]) for entry in choose_test_images(name, count)]
        if off := [image for image in images if before.get(image) != after.get(image)]:
            raise ValueError(
                f"{name}: the detections of the reloaded model differ from those that the run evaluated on "
                f"{len(off)} of {len(images)} images, e.g. {off[0]}; no result is written, because it "
                "cannot be reproduced"
            )


def read_detections(folder: Path) -> dict[str, list[Any]]:
    """Return {image id: detections} as saved by the evaluators below `folder`."""
    found: dict[str, list[Any]] = defaultdict(list)
    results = folder / COCO_RESULTS_NAME
    if results.is_file():
        for result in json.loads(results.read_bytes()):
            found[str(result["image_id"])].append(result)
    for path in sorted((folder / VOC_DET_FOLDER).glob("*.txt")):
        for line in path.read_text().splitlines():
            image, _, rest = line.partition(" ")
            found[image].append((path.stem, rest))
    return dict(found)

"""The rows of the evaluation benchmark: functions that run the reference, run ours, and compare the results."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from detectron2.data import MetadataCatalog
from detectron2.data.datasets.pascal_voc import CLASS_NAMES
from detectron2.evaluation import PascalVOCDetectionEvaluator
from detectron2.evaluation.pascal_voc_evaluation import parse_rec
from detectron2.layers import paste_masks_in_image
from detectron2.structures import Boxes, Instances
from pycocotools import mask as rle_codec

from tools.benchmarks.synthetic_detections import make_boxes, make_coco, make_masks, write_voc
from transfer.detection.evaluators import VocEvaluator
from transfer.metrics.coco_ap import Task, load_evaluation, run_evaluation
from transfer.metrics.mask_encoding import encode_pasted_masks

Row = tuple[Callable[[], Any], Callable[[], Any], Callable[[Any, Any], bool]]


class Sizes(Protocol):
    """The benchmark's options that the rows use."""

    @property
    def seed(self) -> int: ...  # noqa: D102
    @property
    def voc_images(self) -> int: ...  # noqa: D102
    @property
    def coco_images(self) -> int: ...  # noqa: D102
    @property
    def segm_images(self) -> int: ...  # noqa: D102
    @property
    def mask_images(self) -> int: ...  # noqa: D102


def prepare_voc(sizes: Sizes, folder: Path) -> Row:
    """Return both VOC evaluators on the same model outputs; the annotations are parsed in advance."""
    random = np.random.default_rng(sizes.seed)
    classes = list(CLASS_NAMES)
    batches = []
    for name, boxes, scores, labels in write_voc(folder / "VOC2007", random, sizes.voc_images, classes):
        instances = Instances((375, 500))
        instances.pred_boxes = Boxes(torch.from_numpy(boxes))
        instances.scores = torch.from_numpy(scores)
        instances.pred_classes = torch.from_numpy(labels)
        batches.append(([{"image_id": name}], [{"instances": instances}]))
        parse_rec(str(folder / "VOC2007" / "Annotations" / f"{name}.xml"))
    data_set = f"benchmark_{folder.name}"
    MetadataCatalog.get(data_set).set(
        thing_classes=classes, dirname=str(folder / "VOC2007"), year=2007, split="test", evaluator_type="pascal_voc"
    )
    reference, ours = PascalVOCDetectionEvaluator(data_set), VocEvaluator(data_set, folder / "out")

    def run(evaluator: Any) -> Any:
        evaluator.reset()
        for inputs, outputs in batches:
            evaluator.process(inputs, outputs)
        return evaluator.evaluate()

    def equal(expected: Any, got: Any) -> bool:
        return bool(dict(expected["bbox"]) == got)

    return lambda: run(reference), lambda: run(ours), equal


def prepare_coco(sizes: Sizes, images: int, task: Task) -> Row:
    """Return pycocotools' and the default engine's evaluation of the same data, loaded in advance."""
    random = np.random.default_rng(sizes.seed + 1)
    truth, results = make_coco(random, images)
    if task == "segm":
        add_masks(truth["annotations"], random)
        add_masks(results, random)
    reference = load_evaluation(truth, results, task, "pycocotools")
    ours = load_evaluation(truth, results, task, "hotcoco")

    def equal(expected: Any, got: Any) -> bool:
        same = [np.array_equal(expected.eval[key], got.eval[key]) for key in ("precision", "recall")]
        return all(same) and np.array_equal(expected.stats, got.stats)

    return lambda: run_evaluation(reference), lambda: run_evaluation(ours), equal


def prepare_mask_encode(sizes: Sizes) -> Row:
    """Return Detectron2's pasting plus pycocotools' encoding, and ours, on images of 100 masks."""
    random = np.random.default_rng(sizes.seed + 2)
    images = [
        (torch.from_numpy(make_masks(random, 100)), torch.from_numpy(make_boxes(random, 100, 640, 480)).float())
        for _ in range(sizes.mask_images)
    ]

    def paste_and_encode() -> list[Any]:
        rles = []
        for masks, boxes in images:
            for bitmap in paste_masks_in_image(masks, boxes, (480, 640)):
                # as in detectron2/evaluation/coco_evaluation.py, instances_to_coco_json
                rle = rle_codec.encode(np.array(bitmap[:, :, None], order="F", dtype="uint8"))[0]
                rles.append({"size": rle["size"], "counts": rle["counts"].decode()})
        return rles

    def encode() -> list[Any]:
        return [rle for masks, boxes in images for rle in encode_pasted_masks(masks, boxes, 480, 640)]

    return paste_and_encode, encode, lambda expected, got: expected == got


def add_masks(records: list[dict[str, Any]], random: np.random.Generator) -> None:
    """Add a wavy ellipse as RLE segmentation, and its area, to each record with a bbox."""
    boxes = torch.tensor([record["bbox"] for record in records])
    boxes[:, 2:] += boxes[:, :2]
    rles = encode_pasted_masks(torch.from_numpy(make_masks(random, len(records), side=14)), boxes, 480, 640)
    for record, rle in zip(records, rles, strict=True):
        record["segmentation"] = rle
        record["area"] = float(rle_codec.area(rle))


ROWS: dict[str, Callable[[Any, Path], Row]] = {
    "voc": prepare_voc,
    "coco_bbox": lambda sizes, _: prepare_coco(sizes, sizes.coco_images, "bbox"),
    "coco_segm": lambda sizes, _: prepare_coco(sizes, sizes.segm_images, "segm"),
    "mask_encode": lambda sizes, _: prepare_mask_encode(sizes),
}
"""name → function of (sizes, empty folder) that prepares the row."""

"""VOC and COCO evaluation with the interface of Detectron2's DatasetEvaluator: reset, process, evaluate.

All ranks call `evaluate`; detections are gathered on the main rank, which saves them and returns the
metrics (percent, flat names: AP, AP50, AP75 for VOC; box/AP, …, mask/AP, … for COCO). Other ranks return {}.
"""

import json
import logging
import math
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm

from pretrain.runtime.storage import write_text
from transfer.metrics.coco_ap import Engine, Task, evaluate_records, read_coco_json
from transfer.metrics.coco_records import normalise_results, normalise_truth
from transfer.metrics.detection_findings import Findings, examine_coco, examine_voc
from transfer.metrics.mask_encoding import encode_bitmaps
from transfer.metrics.voc_ap import Ties, VocDetections, average_voc_ap, match_voc, round_as_written
from transfer.metrics.voc_files import read_voc_truth, tabulate_voc_ap, write_det_files

logger = logging.getLogger(__name__)

COCO_RESULTS_NAME = "coco_instances_results.json"
"""Detectron2's file name for results in COCO's format."""
VOC_DET_FOLDER = "voc_det"
"""Folder with one detection file per class, in the format of VOC's devkit."""
METRIC_PREFIX: dict[str, str] = {"bbox": "box", "segm": "mask"}


def build_evaluator(cfg: Any, dataset_name: str, out: str | Path) -> DatasetEvaluator:
    """Return the evaluator of a registered data set, by its metadata's evaluator_type; results are saved under `out`.

    Raises:
        ValueError: the data set's evaluator_type is neither pascal_voc nor coco, or its ground truth is missing.

    """
    kind = MetadataCatalog.get(dataset_name).get("evaluator_type")
    if kind == "pascal_voc":
        return VocEvaluator(dataset_name, out)
    if kind == "coco":
        return CocoEvaluator(dataset_name, out, masks=bool(cfg.MODEL.MASK_ON), engine=cfg.RUN.COCO_ENGINE)
    raise ValueError(
        f"the data set {dataset_name} has the evaluator_type {kind!r}; expected pascal_voc or coco; set it where the "
        "data set is registered"
    )


class VocEvaluator(DatasetEvaluator):
    """VOC AP at ten thresholds, 11-point for a 2007 set and all-point for 2012; det files in OUT/voc_det."""

    def __init__(self, dataset_name: str, out: str | Path, *, ties: Ties = "detectron2") -> None:
        metadata = MetadataCatalog.get(dataset_name)
        self.dataset_name = dataset_name
        self.out = Path(out)
        self.ties = ties
        self.year = int(metadata.year)
        self.class_names: list[str] = list(metadata.thing_classes)
        self.details: dict[str, Any] = {}
        """Set by `evaluate` on the main rank: {"per_class": {name: {AP, AP50, AP75}}, …}."""
        if comm.is_main_process():
            self.truth = read_voc_truth(metadata.dirname, metadata.split, self.class_names)
        self.reset()

    def reset(self) -> None:
        """Discard all detections."""
        self._batches: list[tuple[str, Any, Any, Any]] = []

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Store each image's detections: boxes (n, 4), scores (n,), classes (n,)."""
        for image, output in zip(inputs, outputs, strict=True):
            instances = output["instances"]
            boxes = instances.pred_boxes.tensor.cpu().numpy()
            scores = instances.scores.cpu().numpy()
            self._batches.append((image["image_id"], boxes, scores, instances.pred_classes.cpu().numpy()))

    def evaluate(self) -> dict[str, float]:
        """Return {"AP", "AP50", "AP75"} in percent on the main rank, {} on others."""
        gathered = comm.gather(self._batches, dst=0)
        if not comm.is_main_process():
            return {}
        detections = self._stack(list(chain(*gathered)))
        write_det_files(self.out / VOC_DET_FOLDER, detections, self.truth.images, self.class_names)
        matches = match_voc(self.truth, detections, len(self.class_names), ties=self.ties)
        table = tabulate_voc_ap(average_voc_ap(matches, year=self.year), self.class_names)
        self._evaluated = detections, matches
        wanted = np.bincount(self.truth.category[~self.truth.difficult], minlength=len(self.class_names))
        empty = [name for name, count in zip(self.class_names, wanted, strict=True) if count == 0]
        if empty:
            logger.warning(
                "%s: no ground-truth box for %d of %d classes (%s); as in Detectron2, their AP enters the mean as 0 "
                "under the 2007 metric and as NaN under the 2012 metric",
                self.dataset_name,
                len(empty),
                len(self.class_names),
                ", ".join(empty),
            )
        self.details = {
            "per_class": table["per_class"],
            "classes_without_truth": empty,
            "metric": f"VOC {self.year}",
            "detections": len(detections.scores),
        }
        metrics: dict[str, float] = table["metrics"]
        return metrics

    def examine(self) -> Findings:
        """Return bootstrap draws, AP by size and error types; call after `evaluate`; empty except on the main rank."""
        if not comm.is_main_process():
            return Findings()
        detections, matches = self._evaluated
        return examine_voc(self.truth, detections, self.class_names, matches, year=self.year)

    def _stack(self, batches: list[tuple[str, Any, Any, Any]]) -> VocDetections:
        index = {name: number for number, name in enumerate(self.truth.images)}
        strays = [name for name, *_ in batches if name not in index]
        if strays:
            raise ValueError(
                f"{self.dataset_name}: {len(strays)} evaluated images are not in its image set, e.g. {strays[0]}"
            )
        counts = [len(scores) for _, _, scores, _ in batches]
        image = np.repeat(np.array([index[name] for name, *_ in batches], dtype=np.int64), counts)
        boxes = np.concatenate([np.empty((0, 4), np.float32), *(entry[1] for entry in batches)])
        scores = np.concatenate([np.empty(0), *(entry[2].astype(np.float64) for entry in batches)])
        category = np.concatenate([np.empty(0, np.int64), *(entry[3] for entry in batches)])
        boxes, scores = round_as_written(boxes, scores)
        return VocDetections(image=image, category=category, scores=scores, boxes=boxes)


class CocoEvaluator(DatasetEvaluator):
    """COCO box AP, and mask AP with `masks`; results in OUT/coco_instances_results.json."""

    def __init__(self, dataset_name: str, out: str | Path, *, masks: bool, engine: Engine = "hotcoco") -> None:
        metadata = MetadataCatalog.get(dataset_name)
        if not metadata.get("json_file"):
            raise ValueError(
                f"the metadata of data set {dataset_name} has no json_file; register it as a COCO-format data set"
            )
        self.dataset_name = dataset_name
        self.out = Path(out)
        self.engine = engine
        self.tasks: tuple[Task, ...] = ("bbox", "segm") if masks else ("bbox",)
        self.details: dict[str, Any] = {}
        """Set by `evaluate` on the main rank: {"per_class": {"box" or "mask": {name: AP}}, …}."""
        contiguous = metadata.get("thing_dataset_id_to_contiguous_id") or {}
        self._category_ids = {number: original for original, number in contiguous.items()}
        if comm.is_main_process():
            annotations = read_coco_json(metadata.json_file)
            self.truths = {task: normalise_truth(annotations, masks=task == "segm") for task in self.tasks}
        self.reset()

    def reset(self) -> None:
        """Discard all detections."""
        self._results: list[dict[str, Any]] = []

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Store each image's detections in COCO's results format; masks are `pred_rles` or bitmaps in `pred_masks`."""
        for image, output in zip(inputs, outputs, strict=True):
            self._results.extend(self._describe(output["instances"], image["image_id"]))

    def evaluate(self) -> dict[str, float]:
        """Return {"box/AP", "box/AP50", …, "mask/AP", …} in percent on the main rank, {} on others.

        APs, APm and APl are omitted if the annotations contain no object of that size.
        """
        gathered = comm.gather(self._results, dst=0)
        if not comm.is_main_process():
            return {}
        results = list(chain(*gathered))
        write_text(self.out / COCO_RESULTS_NAME, json.dumps(results))
        metrics: dict[str, float] = {}
        self._records: dict[Task, list[dict[str, Any]]] = {}
        self.details = {"per_class": {}, "engine": self.engine, "detections": len(results)}
        for task in self.tasks:
            truth = self.truths[task]
            records = self._records[task] = normalise_results(results, truth, masks=task == "segm")
            result = evaluate_records(truth, records, task, engine=self.engine)
            prefix = METRIC_PREFIX[task]
            measured = result.metrics()
            sizes = {"APs", "APm", "APl"}
            metrics.update(
                {
                    f"{prefix}/{name}": value
                    for name, value in measured.items()
                    if name not in sizes or not math.isnan(value)
                }
            )
            self.details["per_class"][prefix] = result.per_class()
        return metrics

    def examine(self) -> Findings:
        """Return bootstrap draws, AP by size and error types; call after `evaluate`; empty except on the main rank."""
        findings = Findings()
        for task in self.tasks if comm.is_main_process() else ():
            findings = findings.join(examine_coco(self.truths[task], self._records[task], task, self.engine))
        return findings

    def _describe(self, instances: Any, image_id: int) -> list[dict[str, Any]]:
        boxes = instances.pred_boxes.tensor.cpu().numpy().copy()
        boxes[:, 2:] -= boxes[:, :2]
        columns = [boxes.tolist(), instances.scores.tolist(), instances.pred_classes.tolist()]
        records = [
            {
                "image_id": image_id,
                "category_id": self._category_ids.get(category, category),
                "bbox": box,
                "score": score,
            }
            for box, score, category in zip(*columns, strict=True)
        ]
        if "segm" in self.tasks:
            for record, rle in zip(records, _read_masks(instances), strict=True):
                record["segmentation"] = rle
        return records


def _read_masks(instances: Any) -> list[dict[str, Any]]:
    if instances.has("pred_rles"):
        return list(instances.pred_rles)
    return encode_bitmaps(instances.pred_masks)

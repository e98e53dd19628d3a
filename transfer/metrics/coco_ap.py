"""Compute COCO box and mask AP with hotcoco, the fastest evaluator that equals pycocotools bit by bit.

Shapes of a precision array: T IoU thresholds, R recall points, K categories, A area ranges, L detection limits.
"""

import contextlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import hotcoco
import numpy as np
import numpy.typing as npt
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from transfer.metrics.coco_records import CocoTruth, normalise_results, normalise_truth

Engine = Literal["hotcoco", "pycocotools"]
ENGINES: tuple[Engine, ...] = ("hotcoco", "pycocotools")
Task = Literal["bbox", "segm"]
Annotations = str | Path | Mapping[str, Any]
Detections = str | Path | Sequence[Mapping[str, Any]]

DETECTION_LIMITS = (1, 10, 100)
"""Detections per image counted for recall; AP uses the last. Source: pycocotools, Params.setDetParams."""
STATS = ("AP", "AP50", "AP75", "APs", "APm", "APl")
"""The first six of COCO's twelve summary numbers."""


@dataclass(frozen=True, kw_only=True)
class CocoResult:
    """Result of COCO's evaluation of one task."""

    stats: npt.NDArray[np.float64]  # (12,) in [0, 1]; -1 if the annotations hold no such object
    precision: npt.NDArray[np.float64]  # (T, R, K, A, L)
    recall: npt.NDArray[np.float64]  # (T, K, A, L)
    categories: tuple[str, ...]
    """Names along the axis K (ascending ids)."""

    def metrics(self) -> dict[str, float]:
        """Return AP, AP50, AP75, APs, APm, APl in percent; NaN if the annotations hold no such object."""
        return summarise_stats(self.stats)

    def per_class(self) -> dict[str, float]:
        """Return AP in percent per category; NaN for a category without annotations."""
        table = {}
        for index, name in enumerate(self.categories):
            values = self.precision[:, :, index, 0, -1]
            values = values[values > -1]
            table[name] = float(np.mean(values)) * 100 if values.size else float("nan")
        return table


def summarise_stats(stats: Any) -> dict[str, float]:
    """Return AP, AP50, AP75, APs, APm, APl in percent from COCO's twelve numbers; NaN for undefined (negative) ones."""
    return {
        name: float(value) * 100 if value >= 0 else float("nan")
        for name, value in zip(STATS, stats[: len(STATS)], strict=True)
    }


def evaluate_coco(
    gt_json: Annotations, results_json: Detections, task: Task = "bbox", *, engine: Engine = "hotcoco"
) -> CocoResult:
    """Return COCO's evaluation of `results_json` (boxes xywh, category ids of the annotations) against `gt_json`.

    Equals Detectron2's COCOEvaluator: mask AP by size uses the masks' areas, not those of the boxes.

    Args:
        gt_json: an annotation file, or its content.
        results_json: a file in COCO's results format, or its list; may be empty.
        task: "bbox", or "segm" if the results hold RLE masks.
        engine: "hotcoco", or "pycocotools", the reference: the same numbers at a hundredth of the speed.

    Returns:
        The evaluation; its `metrics()` are AP, AP50, AP75 and AP by size, its `per_class()` AP by category name, in
        percent.

    Raises:
        ValueError: a file is missing, the task or engine is unknown, or the results do not fit the annotations.

    """
    if task not in ("bbox", "segm") or engine not in ("hotcoco", "pycocotools"):
        raise ValueError(f"expected the task bbox or segm and the engine hotcoco or pycocotools, got {task}, {engine}")
    annotations = read_coco_json(gt_json) if isinstance(gt_json, str | Path) else gt_json
    results = read_coco_json(results_json) if isinstance(results_json, str | Path) else results_json
    truth = normalise_truth(annotations, masks=task == "segm")
    return evaluate_records(truth, normalise_results(results, truth, masks=task == "segm"), task, engine=engine)


def evaluate_records(
    truth: CocoTruth, results: Sequence[Mapping[str, Any]], task: Task, *, engine: Engine = "hotcoco"
) -> CocoResult:
    """Return COCO's evaluation of results in the normalised form of transfer/metrics/coco_records.py."""
    evaluation = run_evaluation(load_evaluation(truth.content, results, task, engine))
    return CocoResult(
        stats=np.asarray(evaluation.stats, dtype=np.float64),
        precision=evaluation.eval["precision"],
        recall=evaluation.eval["recall"],
        categories=truth.class_names,
    )


def load_evaluation(truth: Any, results: Any, task: Task, engine: Engine) -> Any:
    """Return a COCOeval of the engine over annotations and results in memory, not yet evaluated."""
    with contextlib.redirect_stdout(io.StringIO()):  # both engines print while loading
        if engine == "hotcoco":
            annotations = hotcoco.COCO(truth)
            return hotcoco.COCOeval(annotations, annotations.load_res(list(results)), task)
        annotations = load_pycocotools(truth)
        if results:
            detections = annotations.loadRes([dict(result) for result in results])  # loadRes modifies the results
        else:  # loadRes needs a first result
            detections = load_pycocotools({**truth, "annotations": []})
        return COCOeval(annotations, detections, task)


def run_evaluation(evaluation: Any) -> Any:
    """Evaluate, accumulate and summarise a COCOeval of either engine, silently; return it."""
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def load_pycocotools(truth: Mapping[str, Any]) -> Any:
    """Return pycocotools' COCO over annotations in memory; the records are copied, because the evaluation adds keys."""
    annotations = COCO()
    annotations.dataset = {**truth, "annotations": [dict(record) for record in truth["annotations"]]}
    annotations.createIndex()
    return annotations


def read_coco_json(path: str | Path) -> Any:
    """Return the content of an annotation or results file; ValueError if it is missing or not JSON."""
    if not Path(path).is_file():
        raise ValueError(f"{path}: no such file; expected COCO annotations, or results (coco_instances_results.json)")
    try:
        return json.loads(Path(path).read_bytes())
    except ValueError as error:
        raise ValueError(f"{path}: not valid JSON ({error})") from error

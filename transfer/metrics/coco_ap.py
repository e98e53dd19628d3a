"""COCO box and mask AP from annotations and results, by the fastest evaluator that equals pycocotools bit by bit.

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
"""Detections per image that count, for recall; AP takes the last. Source: pycocotools, Params.setDetParams."""
STATS = ("AP", "AP50", "AP75", "APs", "APm", "APl")
"""The first six of the twelve numbers that COCO summarises."""


@dataclass(frozen=True, kw_only=True)
class CocoResult:
    """What COCO's evaluation of one task gives."""

    stats: npt.NDArray[np.float64]  # (12,) in [0, 1]; -1 where the annotations hold nothing to find
    precision: npt.NDArray[np.float64]  # (T, R, K, A, L)
    recall: npt.NDArray[np.float64]  # (T, K, A, L)
    categories: tuple[str, ...]
    """Names in the order of the axis K (ascending ids)."""

    def metrics(self) -> dict[str, float]:
        """Return AP, AP50, AP75, APs, APm, APl in percent; NaN where the annotations hold nothing to find."""
        return summarise_stats(self.stats)

    def per_class(self) -> dict[str, float]:
        """Return AP in percent per category; NaN for one without annotations."""
        table = {}
        for index, name in enumerate(self.categories):
            values = self.precision[:, :, index, 0, -1]
            values = values[values > -1]
            table[name] = float(np.mean(values)) * 100 if values.size else float("nan")
        return table


def summarise_stats(stats: Any) -> dict[str, float]:
    """Return AP, AP50, AP75, APs, APm, APl in percent from COCO's twelve numbers; NaN where nothing is to be found."""
    return {
        name: float(value) * 100 if value >= 0 else float("nan")
        for name, value in zip(STATS, stats[: len(STATS)], strict=True)
    }


def evaluate_coco(
    gt_json: Annotations, results_json: Detections, task: Task = "bbox", *, engine: Engine = "hotcoco"
) -> CocoResult:
    """Return COCO's evaluation of `results_json` (boxes xywh, category ids of the annotations) against `gt_json`.

    Equal to Detectron2's COCOEvaluator: mask AP by size goes by the masks' sizes, not by those of the boxes.

    Args:
        gt_json: an annotations file, or its content.
        results_json: a file in COCO's results form, or its list; it may be empty: then everything is missed.
        task: "bbox" or "segm" (the results then hold RLE masks).
        engine: "hotcoco", or "pycocotools": the same numbers at a hundredth of the speed.

    Returns:
        Its `metrics()` are AP, AP50, AP75 and AP by size, its `per_class()` AP by category name, in percent.

    Raises:
        ValueError: a file is missing, the task or engine is unknown, or results do not fit the annotations.

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
    """Return COCO's evaluation of results in the strict form of transfer/metrics/coco_records.py."""
    evaluation = run_evaluation(load_evaluation(truth.content, results, task, engine))
    return CocoResult(
        stats=np.asarray(evaluation.stats, dtype=np.float64),
        precision=evaluation.eval["precision"],
        recall=evaluation.eval["recall"],
        categories=truth.class_names,
    )


def load_evaluation(truth: Any, results: Any, task: Task, engine: Engine) -> Any:
    """Return a COCOeval of the engine over annotations and results in memory, not yet run."""
    with contextlib.redirect_stdout(io.StringIO()):  # both engines tell of their loading
        if engine == "hotcoco":
            annotations = hotcoco.COCO(truth)
            return hotcoco.COCOeval(annotations, annotations.load_res(list(results)), task)
        annotations = load_pycocotools(truth)
        if results:
            detections = annotations.loadRes([dict(result) for result in results])  # it writes into them
        else:  # loadRes looks at the first result
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
    """Return pycocotools' COCO over annotations in memory; their records are copied, as the evaluation marks them."""
    annotations = COCO()
    annotations.dataset = {**truth, "annotations": [dict(record) for record in truth["annotations"]]}
    annotations.createIndex()
    return annotations


def read_coco_json(path: str | Path) -> Any:
    """Return the content of an annotations or results file; ValueError with a sentence when there is none."""
    if not Path(path).is_file():
        raise ValueError(f"{path}: no such file; expected COCO annotations, or results (coco_instances_results.json)")
    try:
        return json.loads(Path(path).read_bytes())
    except ValueError as error:
        raise ValueError(f"{path}: not valid JSON ({error})") from error

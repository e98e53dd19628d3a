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
        return {
            name: float(value) * 100 if value >= 0 else float("nan")
            for name, value in zip(STATS, self.stats[:6], strict=True)
        }

    def per_class(self) -> dict[str, float]:
        """Return AP in percent per category; NaN for one without annotations."""
        table = {}
        for index, name in enumerate(self.categories):
            values = self.precision[:, :, index, 0, -1]
            values = values[values > -1]
            table[name] = float(np.mean(values)) * 100 if values.size else float("nan")
        return table


def evaluate_coco(
    gt_json: Annotations, results_json: Detections, task: Task = "bbox", *, engine: Engine = "hotcoco"
) -> CocoResult:
    """Return COCO's evaluation of `results_json` (boxes xywh, category ids of the annotations) against `gt_json`.

    Args:
        gt_json: an annotations file, or its content.
        results_json: a file in COCO's results form, or its list; it may be empty: then everything is missed.
        task: "bbox" or "segm" (the results then hold RLE masks).
        engine: "hotcoco", or "pycocotools", the judge: the same numbers at a hundredth of the speed.

    Raises:
        ValueError: a file is missing, the task or engine is unknown, or results do not fit the annotations.

    """
    if task not in ("bbox", "segm") or engine not in ("hotcoco", "pycocotools"):
        raise ValueError(f"expected the task bbox or segm and the engine hotcoco or pycocotools, got {task}, {engine}")
    truth = read_coco_json(gt_json) if isinstance(gt_json, str | Path) else gt_json
    results = read_coco_json(results_json) if isinstance(results_json, str | Path) else results_json
    check_annotations(truth, task)
    _check_results(truth, results, task)
    evaluation = run_evaluation(load_evaluation(truth, results, task, engine))
    names = {category["id"]: category["name"] for category in truth["categories"]}
    return CocoResult(
        stats=np.asarray(evaluation.stats, dtype=np.float64),
        precision=evaluation.eval["precision"],
        recall=evaluation.eval["recall"],
        categories=tuple(str(names[key]) for key in sorted(names)),
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


def check_annotations(truth: Mapping[str, Any], task: Task) -> None:
    """Refuse annotations that `task` cannot be evaluated on: a needed list or the masks are missing (ValueError)."""
    missing = {"images", "annotations", "categories"} - set(truth)
    if missing:
        raise ValueError(f"the COCO annotations lack {', '.join(sorted(missing))}: without them nothing can be counted")
    if task == "segm":
        bare = sum(1 for record in truth["annotations"] if not record.get("segmentation"))
        if bare:
            raise ValueError(
                f"mask AP needs a segmentation in every annotation, {bare} of {len(truth['annotations'])} have none: "
                "evaluate boxes only (MODEL.MASK_ON False), or use annotations with masks"
            )


def _check_results(truth: Any, results: Any, task: Task) -> None:
    images = {image["id"] for image in truth["images"]}
    categories = {category["id"] for category in truth["categories"]}
    strays = {result["image_id"] for result in results} - images
    if strays:
        raise ValueError(
            f"{len(strays)} image ids of the results are not in the annotations, e.g. {min(strays)}; "
            "the results belong to another split"
        )
    unknown = {result["category_id"] for result in results} - categories
    if unknown:
        raise ValueError(
            f"the results hold category ids {sorted(unknown)[:5]} that the annotations lack "
            f"(they have {sorted(categories)[:5]} …); use the annotations' own ids, not contiguous ones"
        )
    bare = sum(1 for result in results if "segmentation" not in result) if task == "segm" else 0
    if bare:
        raise ValueError(f"mask AP needs masks, {bare} of {len(results)} results have none: was MODEL.MASK_ON False?")

"""Evaluate saved detections; the metrics and details equal those of a fine-tuning run's own evaluation.

VOC: a folder with Annotations and ImageSets, and one det file per class. COCO: an annotation file and results in COCO's
format. Neither Detectron2 nor a GPU is needed.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pretrain.runtime.storage import make_file_name
from transfer.metrics.bootstrap import DRAWS
from transfer.metrics.coco_ap import CocoResult, Engine, Task, evaluate_records, read_coco_json
from transfer.metrics.coco_records import CocoTruth, normalise_results, normalise_truth
from transfer.metrics.detection_findings import Findings, examine_coco, examine_voc
from transfer.metrics.voc_annotations import read_annotation, read_image_set
from transfer.metrics.voc_ap import average_voc_ap, match_voc
from transfer.metrics.voc_files import read_det_files, read_voc_truth, tabulate_voc_ap

COCO_RESULTS = "coco_instances_results.json"
VOC_FOLDER = "voc_det"
LIMIT = 100
"""Detections per class and image that COCO counts."""
FEW = 10
"""Minimum number of boxes for recognising their form."""
SHARE = 0.99
"""Minimum share of boxes that fit another form before it is tried."""


@dataclass(frozen=True, kw_only=True)
class DetectionReport:
    """Evaluation of one file or folder of detections."""

    metrics: dict[str, float]
    """Percent, named as in a result."""
    per_class: dict[str, dict[str, Any]]
    """COCO: {"box" or "mask": {class: AP}}; VOC: {class: {AP, AP50, AP75}}."""
    findings: Findings
    images: int
    detections: int
    notes: tuple[str, ...] = ()
    """Oddities that do not prevent the evaluation."""


def find_detections(path: Path) -> Path:
    """Return `path` if it is a results file or det folder, else the one in the evaluation of the run at `path`.

    Raises:
        ValueError: there is none, or more than one.

    """
    if path.is_file() or (path.is_dir() and list(path.glob("*.txt"))):
        return path
    root = path / "evaluation" if (path / "evaluation").is_dir() else path
    found = sorted([*root.rglob(COCO_RESULTS), *root.rglob(VOC_FOLDER)]) if root.is_dir() else []
    if len(found) != 1:
        listed = f", found {', '.join(map(str, found[:5]))}" if found else ""
        raise ValueError(
            f"{path}: expected detections: a results file ({COCO_RESULTS}), a folder with one det file per class, or a "
            f"run's folder with one of them in evaluation/{listed}"
        )
    return found[0]


def evaluate_saved_voc(
    root: Path, split: str, folder: Path, *, year: int = 2007, draws: int = DRAWS
) -> DetectionReport:
    """Return the evaluation of the det files in `folder`; the file names give the classes.

    Args:
        root: VOC's folder, with Annotations and ImageSets.
        split: image set, such as "test".
        folder: det files, one per class.
        year: of the metric, 2007 or 2012.
        draws: number of bootstrap draws.

    Raises:
        ValueError: a file is missing or damaged, or the annotations hold a class without a det file.

    """
    files = {path.stem for path in folder.glob("*.txt")}
    annotated = {
        entry.name
        for image in read_image_set(root, split)
        for entry in read_annotation(root / "Annotations" / f"{image}.xml").objects
    }
    if lacking := sorted(name for name in annotated if make_file_name(name) not in files):
        raise ValueError(
            f"{folder}: no det file for {', '.join(lacking)}; expected one per class, empty if nothing was detected"
        )
    names = sorted(annotated | (files - {make_file_name(name) for name in annotated}))
    truth = read_voc_truth(root, split, names)
    detections = read_det_files(folder, truth.images, names)
    matches = match_voc(truth, detections, len(names))
    table = tabulate_voc_ap(average_voc_ap(matches, year=year), names)
    return DetectionReport(
        metrics=table["metrics"],
        per_class=table["per_class"],
        findings=examine_voc(truth, detections, names, matches, year=year, draws=draws),
        images=len(truth.images),
        detections=len(detections.scores),
        notes=tuple(_describe_scores(detections.scores)),
    )


def evaluate_saved_coco(
    annotations: Path,
    results: Path,
    *,
    tasks: Sequence[Task] = (),
    box_form: str = "xywh",
    engine: Engine = "hotcoco",
    draws: int = DRAWS,
) -> DetectionReport:
    """Return the evaluation of a results file.

    Args:
        annotations: annotation file in COCO's format.
        results: file with a list of {"image_id", "category_id", "bbox", "score"}, and "segmentation" for mask AP.
        tasks: "bbox", "segm" or both; (): boxes, and masks if the results hold them.
        box_form: "xywh" (COCO's) or "xyxy" (corners, which are converted).
        engine: evaluator; both give the same numbers.
        draws: number of bootstrap draws over images.

    Raises:
        ValueError: the files do not fit together, or the boxes appear to have another form than `box_form`.

    """
    content, found = read_coco_json(annotations), read_coco_json(results)
    if box_form not in ("xywh", "xyxy"):
        raise ValueError(f"expected boxes as xywh or xyxy, got {box_form!r}")
    chosen = tasks or _find_tasks(found)
    findings = Findings()
    metrics: dict[str, float] = {}
    per_class: dict[str, dict[str, Any]] = {}
    for task in chosen:
        truth = normalise_truth(content, masks=task == "segm")
        records = normalise_results(found, truth, masks=task == "segm")
        if task == "bbox":
            records = _to_xywh(records) if box_form == "xyxy" else records
            _refuse_other_forms(truth, records)
        measured = evaluate_records(truth, records, task, engine=engine)
        prefix = "mask" if task == "segm" else "box"
        metrics |= {f"{prefix}/{name}": value for name, value in measured.metrics().items()}
        per_class[prefix] = measured.per_class()
        findings = findings.join(examine_coco(truth, records, task, engine, draws=draws))
    return DetectionReport(
        metrics=metrics,
        per_class=per_class,
        findings=findings,
        images=len(content["images"]),
        detections=len(found),
        notes=tuple(_describe_results(content, found)),
    )


def _find_tasks(results: Any) -> tuple[Task, ...]:
    first = results[0] if isinstance(results, list) and results and isinstance(results[0], dict) else {"bbox": []}
    tasks: list[Task] = ["bbox"] if "bbox" in first else []
    return tuple([*tasks, "segm"] if first.get("segmentation") else tasks)


def _refuse_other_forms(truth: CocoTruth, records: list[dict[str, Any]]) -> None:
    """Raise ValueError if the boxes appear to be fractions, or corners (nearly all fit and AP50 is higher)."""
    boxes = np.array([record["bbox"] for record in records], dtype=np.float64).reshape(-1, 4)
    if len(boxes) < FEW:
        return
    if boxes.max() <= 1.0:
        raise ValueError(
            "the boxes look like fractions of the image (no number exceeds 1); expected [x, y, width, height] in pixels"
        )
    ordered = (boxes[:, 2:] >= boxes[:, :2]).all(axis=1).mean()
    if ordered >= SHARE and _ap50(truth, _to_xywh(records)) > _ap50(truth, records):
        raise ValueError(
            f"the boxes look like corners [x1, y1, x2, y2]: {100 * ordered:.0f} % of them fit this form, and AP50 is "
            f"{_ap50(truth, _to_xywh(records)):.1f} with it, {_ap50(truth, records):.1f} with COCO's "
            "[x, y, width, height]; add boxes=xyxy, or write them in COCO's format"
        )


def _ap50(truth: CocoTruth, records: list[dict[str, Any]]) -> float:
    measured: CocoResult = evaluate_records(truth, records, "bbox")
    return measured.metrics()["AP50"]


def _to_xywh(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    converted = []
    for record in records:
        x1, y1, x2, y2 = record["bbox"]
        converted.append({**record, "bbox": [x1, y1, max(x2 - x1, 0), max(y2 - y1, 0)]})
    return converted


def _describe_scores(scores: Any) -> list[str]:
    values = np.asarray(scores, dtype=np.float64)
    notes = []
    if len(values) and (values.min() < 0 or values.max() > 1):
        notes.append(f"scores lie in {values.min():g} … {values.max():g}, not in 0 … 1: only their order counts")
    if len(values) > FEW and len(np.unique(values)) == 1:
        notes.append("all scores are equal, so AP depends on the order of the detections")
    return notes


def _describe_results(content: Any, results: list[Any]) -> list[str]:
    notes = _describe_scores([result["score"] for result in results])
    counts = Counter((result["image_id"], result["category_id"]) for result in results)
    bare = len(content["images"]) - len({image for image, _ in counts})
    if bare:
        notes.append(f"{bare} of {len(content['images'])} images have no detection")
    if crowded := sum(count > LIMIT for count in counts.values()):
        notes.append(f"{crowded} images have more than {LIMIT} detections of a class; COCO counts the first {LIMIT}")
    unseen = {category["id"] for category in content["categories"]} - {category for _, category in counts}
    if unseen:
        notes.append(f"{len(unseen)} of {len(content['categories'])} categories are never detected")
    return notes

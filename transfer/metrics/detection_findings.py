"""Analyse a test set's detections beyond the metrics: bootstrap draws, AP by object size, kinds of errors.

The kinds of errors are TIDE's (Bolya et al., ECCV 2020), with an IoU of 0.5 for a hit and 0.1 for background: Cls
(right place, wrong class), Loc (right class, poor box), Both, Dupe (duplicate), Bkg (no object), Miss (not detected).
Each value is the AP50 in percent points gained by correcting all errors of that kind alone; FP and FN remove all false
positives and all missed objects. VOC is analysed in COCO's format, with difficult objects as ignored regions.
"""

import contextlib
import io
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from transfer.metrics.bootstrap import DRAWS, MetricDraws, draw_images
from transfer.metrics.coco_ap import Engine, Task, load_evaluation, run_evaluation, summarise_stats
from transfer.metrics.coco_bootstrap import match_coco, weigh_coco
from transfer.metrics.coco_records import CocoTruth
from transfer.metrics.voc_ap import VocDetections, VocTruth, weigh_voc_ap
from transfer.metrics.voc_files import tabulate_voc_ap
from transfer.metrics.weighted_ap import ClassMatches

SIZES = ("APs", "APm", "APl")
"""Objects of less than 32² pixels, of 32² to 96², and larger ones (COCO's definition)."""


@dataclass(frozen=True, kw_only=True)
class Findings:
    """Analyses of the detections on one test set."""

    draws: dict[str, MetricDraws] = field(default_factory=dict)
    """Metric, named as in the result → its draws."""
    errors: dict[str, Any] = field(default_factory=dict)
    """{"box" or "mask": {"ap50_lost": {kind: percent points}, "counts": {kind: number}}}."""
    by_size: dict[str, dict[str, float]] = field(default_factory=dict)
    """{"box" or "mask": {"APs", "APm", "APl"}} in percent, by COCO's definition; NaN if no object has this size."""

    def join(self, other: "Findings") -> "Findings":
        """Return the union of both; `other` wins for names that both have."""
        return Findings(
            draws=self.draws | other.draws, errors=self.errors | other.errors, by_size=self.by_size | other.by_size
        )

    def details(self) -> dict[str, Any]:
        """Return the entries for a result's details."""
        return {"errors": self.errors, "by_size": self.by_size}


def examine_coco(
    truth: CocoTruth, records: list[dict[str, Any]], task: Task, engine: Engine = "hotcoco", *, draws: int = DRAWS
) -> Findings:
    """Return the findings of one task from normalised records; metrics are named box/AP, mask/AP and so on."""
    prefix = "mask" if task == "segm" else "box"
    evaluation = run_evaluation(load_evaluation(truth.content, records, task, "hotcoco"))
    metrics, errors = summarise_stats(evaluation.stats), _read_errors(evaluation)
    if engine != "hotcoco":
        evaluation = load_evaluation(truth.content, records, task, engine)
    sample = draw_images(truth.image_ids, draws)
    with contextlib.redirect_stdout(io.StringIO()):
        weighed = weigh_coco(match_coco(evaluation, truth), sample.counts)
    return Findings(
        draws={
            f"{prefix}/{name}": MetricDraws(
                identity=sample.identity, images=len(truth.image_ids), value=metrics[name], values=values
            )
            for name, values in weighed.items()
        },
        errors={prefix: errors},
        by_size={prefix: {name: metrics[name] for name in SIZES}},
    )


def examine_voc(
    truth: VocTruth,
    detections: VocDetections,
    class_names: list[str],
    matches: list[ClassMatches],
    *,
    year: int,
    draws: int = DRAWS,
) -> Findings:
    """Return the findings of a VOC test set; `matches` come from `match_voc`."""
    found = bootstrap_voc(truth, class_names, matches, year=year, draws=draws)
    coco = convert_voc_truth(truth, class_names)
    evaluation = run_evaluation(load_evaluation(coco.content, _convert_detections(detections), "bbox", "hotcoco"))
    metrics = summarise_stats(evaluation.stats)
    by_size = {"box": {name: metrics[name] for name in SIZES}}
    return Findings(draws=found, errors={"box": _read_errors(evaluation)}, by_size=by_size)


def bootstrap_voc(
    truth: VocTruth, class_names: list[str], matches: list[ClassMatches], *, year: int, draws: int = DRAWS
) -> dict[str, MetricDraws]:
    """Return AP, AP50 and AP75 on the draws of the image set."""
    sample = draw_images(truth.images, draws)
    once = np.ones((1, len(truth.images)), dtype=np.uint16)
    tables = [
        tabulate_voc_ap(ap, class_names)["metrics"]
        for counts in (once, sample.counts)
        for ap in weigh_voc_ap(matches, counts, year=year)
    ]
    return {
        name: MetricDraws(
            identity=sample.identity,
            images=len(truth.images),
            value=value,
            values=np.array([table[name] for table in tables[1:]]),
        )
        for name, value in tables[0].items()
    }


def convert_voc_truth(truth: VocTruth, class_names: list[str]) -> CocoTruth:
    """Return VOC's annotations in the normalised COCO form: x, y from 0, difficult objects as crowds."""
    rows = zip(
        truth.image.tolist(),
        truth.category.tolist(),
        _as_xywh(truth.boxes).tolist(),
        truth.difficult.tolist(),
        strict=True,
    )
    annotations = [
        {
            "id": number,
            "image_id": image + 1,
            "category_id": category + 1,
            "bbox": box,
            "area": box[2] * box[3],
            "iscrowd": int(difficult),
        }
        for number, (image, category, box, difficult) in enumerate(rows, 1)
    ]
    content = {
        "images": [{"id": number} for number in range(1, len(truth.images) + 1)],
        "categories": [{"id": number, "name": name} for number, name in enumerate(class_names, 1)],
        "annotations": annotations,
    }
    return CocoTruth(
        content=content,
        image_numbers={name: number for number, name in enumerate(truth.images, 1)},
        category_numbers={number: number for number in range(1, len(class_names) + 1)},
    )


def _convert_detections(detections: VocDetections) -> list[dict[str, Any]]:
    columns = (detections.image, detections.category, _as_xywh(detections.boxes), detections.scores)
    return [
        {"image_id": image + 1, "category_id": category + 1, "bbox": box, "score": score}
        for image, category, box, score in zip(*(column.tolist() for column in columns), strict=True)
    ]


def _as_xywh(boxes: Any) -> Any:
    """Return 0-based x, y, width, height of VOC's 1-based boxes, which include both corners."""
    return np.concatenate([boxes[:, :2] - 1, boxes[:, 2:] - boxes[:, :2] + 1], axis=1)


def _read_errors(evaluation: Any) -> dict[str, Any]:
    table = evaluation.tide_errors()
    return {
        "ap50_lost": {kind: round(100 * float(loss), 4) for kind, loss in table["delta_ap"].items()},
        "counts": {kind: int(count) for kind, count in table["counts"].items()},
    }

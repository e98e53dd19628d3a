"""Compute COCO's AP on many draws of the test images from a single matching of detections to annotations.

Shapes: T IoU thresholds, R recall points, K categories, N images, B draws, M detections of a category.
"""

from collections import defaultdict
from typing import Any

import numpy as np
import numpy.typing as npt

from transfer.metrics.coco_records import CocoTruth
from transfer.metrics.weighted_ap import BLOCK_ITEMS, ClassMatches, WeightedCurve, precision_at, weigh_class

FloatArray = npt.NDArray[np.float64]
CountArray = npt.NDArray[np.integer[Any]]
RECALLS = np.linspace(0.0, 1.0, 101)
"""Source: pycocotools, Params.setDetParams."""
THRESHOLDS = 10
AREA_ALL = [0, 1e5**2]
"""Area range "all" in square pixels. Source: pycocotools, Params.setDetParams."""
EPSILON = np.spacing(1)
"""Added to the denominator of precision, as in pycocotools."""
NAMES = {"AP": slice(None), "AP50": slice(0, 1), "AP75": slice(5, 6)}
"""Metric → indices of its thresholds."""


def match_coco(evaluation: Any, truth: CocoTruth) -> list[ClassMatches]:
    """Return, per category, the detections in order of score and their matches, at all sizes, at most 100 per image.

    Args:
        evaluation: a COCOeval of either engine over normalised records; it is evaluated again for the area range "all"
            only, which discards its summary.
        truth: the annotations that it was created with.

    """
    parameters = evaluation.params
    parameters.areaRng, parameters.areaRngLbl = [AREA_ALL], ["all"]
    evaluation.evaluate()
    entries: dict[int, list[Any]] = defaultdict(list)
    for entry in evaluation.evalImgs:
        if entry is not None:
            entries[entry["category_id"]].append(entry)
    return [_match_category(entries[number]) for number in truth.category_numbers.values()]


def weigh_coco(matches: list[ClassMatches], counts: CountArray) -> dict[str, FloatArray]:
    """Return AP, AP50, AP75 in percent, (B,) each, with image i counted `counts[b, i]` times, (B, N).

    NaN for a draw without objects.
    """
    values = {name: np.full(len(counts), np.nan) for name in NAMES}
    largest = max([len(entry.image) for entry in matches] + [THRESHOLDS * len(RECALLS) * len(matches)], default=1)
    step = max(1, BLOCK_ITEMS // largest)
    for first in range(0, len(counts), step):
        precision = _weigh_block(matches, counts[first : first + step].astype(np.int32))
        for row, table in enumerate(precision):
            for name, thresholds in NAMES.items():
                part = table[thresholds]
                part = part[part > -1]
                if part.size:
                    values[name][first + row] = np.mean(part) * 100
    return values


def _weigh_block(matches: list[ClassMatches], counts: npt.NDArray[np.int32]) -> FloatArray:
    """Return pycocotools' precision (B, T, R, K) for the area range "all"; -1 for a category without objects."""
    precision = np.full((len(counts), THRESHOLDS, len(RECALLS), len(matches)), -1.0)
    for column, entry in enumerate(matches):
        for row, curve in enumerate(weigh_class(entry, counts, RECALLS)):
            some = curve.wanted > 0
            precision[some, row, :, column] = _sample_curve(curve)[some]
    return precision


def _sample_curve(curve: WeightedCurve) -> FloatArray:
    return precision_at(curve, curve.true / (curve.rank + EPSILON))


def _match_category(entries: list[Any]) -> ClassMatches:
    entries = sorted(entries, key=lambda entry: entry["image_id"])
    image = np.repeat([entry["image_id"] - 1 for entry in entries], [len(entry["dtScores"]) for entry in entries])
    scores = np.concatenate([np.empty(0), *(np.asarray(entry["dtScores"], dtype=np.float64) for entry in entries)])
    order = np.argsort(-scores, kind="stable")
    matched, ignored = (
        np.concatenate(
            [np.empty((THRESHOLDS, 0)), *(np.asarray(entry[key]).reshape(THRESHOLDS, -1) for entry in entries)], axis=1
        )[:, order]
        for key in ("dtMatches", "dtIgnore")
    )
    wanted = [
        entry["image_id"] - 1 for entry in entries for ignore in np.asarray(entry["gtIgnore"]).reshape(-1) if not ignore
    ]
    return ClassMatches(
        image=image.astype(np.int64)[order],
        found=tuple(np.flatnonzero((hits != 0) & (left == 0)) for hits, left in zip(matched, ignored, strict=True)),
        ignored=tuple(np.flatnonzero(left != 0) for left in ignored),
        wanted_image=np.array(wanted, dtype=np.int64),
    )

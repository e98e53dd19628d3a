"""Average precision as PASCAL VOC defines it, for all classes and IoU thresholds in one pass; pure NumPy.

Bit-equal to detectron2/evaluation/pascal_voc_evaluation.py (voc_eval, voc_ap), which iterates over detections in
Python: the same float64 operations in the same order, but each overlap is computed once for all ten thresholds.

Shapes: M detections, G ground-truth boxes, T thresholds, C classes, P pairs (detection, box of its class and image).
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from transfer.metrics.weighted_ap import ClassMatches, WeightedCurve, envelope, precision_at, split_draws, weigh_class

IOU_THRESHOLDS = tuple(percent / 100.0 for percent in range(50, 100, 5))
"""The ten thresholds .50:.05:.95 whose mean AP is called AP."""
RECALLS = np.arange(0.0, 1.1, 0.1)
"""The eleven points of the 2007 metric, computed as in Detectron2's voc_ap."""

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
Ties = Literal["detectron2", "stable"]


@dataclass(frozen=True, kw_only=True)
class VocTruth:
    """The ground truth of one image set; boxes in VOC's 1-based inclusive pixels."""

    images: tuple[str, ...]
    """Names in the order of the image set; `image` indexes it."""
    image: IntArray  # (G,)
    category: IntArray  # (G,) index into the class names
    boxes: FloatArray  # (G, 4) xmin, ymin, xmax, ymax
    difficult: npt.NDArray[np.bool_]  # (G,) difficult boxes count neither as found nor as missed


@dataclass(frozen=True, kw_only=True)
class VocDetections:
    """Detections as in VOC's det files: scores with 3 decimals, 1-based boxes with 1."""

    image: IntArray  # (M,) index into VocTruth.images
    category: IntArray  # (M,)
    scores: FloatArray  # (M,)
    boxes: FloatArray  # (M, 4)


def round_as_written(boxes: npt.NDArray[np.float32], scores: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return boxes (M, 4) and scores (M,) as they would be read back from a det file.

    xmin and ymin are shifted by +1 pixel, the inverse of Detectron2's VOC loader (xmax and ymax are unchanged).

    For float32 input this equals printing with %.1f and %.3f and reading back: the product with 10 or 1000 is exact in
    float64, so rounding half to even and dividing gives the double closest to the decimal.
    """
    shifted = (boxes + np.array([1, 1, 0, 0], dtype=np.float32)).astype(np.float64)
    return np.rint(shifted * 10.0) / 10.0, np.rint(scores * 1000.0) / 1000.0


def compute_voc_ap(
    truth: VocTruth,
    detections: VocDetections,
    class_count: int,
    *,
    year: int = 2007,
    thresholds: tuple[float, ...] = IOU_THRESHOLDS,
    ties: Ties = "detectron2",
) -> FloatArray:
    """Return AP in [0, 1], (T, C): the 11-point AP for 2007, the area under the envelope for 2012.

    A class without (non-difficult) ground truth has AP 0 in 2007 and, as in Detectron2, NaN in 2012.

    Args:
        truth: boxes to find.
        detections: detections in their original order.
        class_count: C; classes are 0 … C-1.
        year: 2007 or 2012.
        thresholds: a detection matches a box if their IoU exceeds this.
        ties: order of equal scores. "detectron2": that of NumPy's default sort, which depends on the CPU's instruction
            set; "stable": the order of `detections`, the same on every machine.

    Raises:
        ValueError: another year.

    """
    matches = match_voc(truth, detections, class_count, thresholds=thresholds, ties=ties)
    return average_voc_ap(matches, year=year)


def match_voc(
    truth: VocTruth,
    detections: VocDetections,
    class_count: int,
    *,
    thresholds: tuple[float, ...] = IOU_THRESHOLDS,
    ties: Ties = "detectron2",
) -> list[ClassMatches]:
    """Return the detections of each class in order of score, with their matches; arguments as for `compute_voc_ap`."""
    order, starts = _order_by_class_and_score(detections, class_count, ties)
    overlap, best = _match(truth, detections, order, class_count)
    difficult = np.append(truth.difficult, False)[best]  # best is -1 where the image has no box of the class
    hits = [overlap > threshold for threshold in thresholds]
    found = [_first_hits(np.flatnonzero(row & ~difficult), best) for row in hits]
    ignored = [np.flatnonzero(row & difficult) for row in hits]
    image, wanted = detections.image[order], ~truth.difficult
    return [
        ClassMatches(
            image=image[starts[column] : starts[column + 1]],
            found=tuple(_part_of(row, starts, column) for row in found),
            ignored=tuple(_part_of(row, starts, column) for row in ignored),
            wanted_image=truth.image[wanted & (truth.category == column)],
        )
        for column in range(class_count)
    ]


def average_voc_ap(matches: list[ClassMatches], *, year: int) -> FloatArray:
    """Return AP in [0, 1], (T, C), with every image counted once."""
    if year not in (2007, 2012):
        raise ValueError(f"year must be 2007 (11-point AP) or 2012 (all-point AP), got {year}")
    thresholds = len(matches[0].found) if matches else 0
    ap = np.empty((thresholds, len(matches)))
    for column, entry in enumerate(matches):
        for row, (found, ignored) in enumerate(zip(entry.found, entry.ignored, strict=True)):
            # Rank among the detections that count (found or false): what tp + fp is in the reference.
            ranks = (found + 1 - np.searchsorted(ignored, found)).astype(np.float64)
            ap[row, column] = _average_precision(ranks, float(len(entry.wanted_image)), year, len(entry.image) > 0)
    return ap


def weigh_voc_ap(matches: list[ClassMatches], counts: npt.NDArray[np.integer[Any]], *, year: int) -> FloatArray:
    """Return AP in [0, 1], (B, T, C), with image i counted `counts[b, i]` times, (B, N)."""
    thresholds = len(matches[0].found) if matches else 0
    ap = np.empty((len(counts), thresholds, len(matches)))
    for block in split_draws(matches, len(counts)):
        weights = counts[block].astype(np.int32)
        for column, entry in enumerate(matches):
            for row, curve in enumerate(weigh_class(entry, weights, RECALLS)):
                ap[block, row, column] = _weigh_curve(curve, year)
    return ap


def _weigh_curve(curve: WeightedCurve, year: int) -> FloatArray:
    """Return the AP of each draw, (B,), by the operations of `_average_precision` for all draws at once."""
    nothing = np.where(curve.any_detection & (year != 2007), np.nan, 0.0)  # for draws without a box to find
    precision = curve.true / np.maximum(curve.rank, 1)  # (B, F)
    if year == 2007:
        points = precision_at(curve, precision)
        ap = np.cumsum(points / 11.0, axis=1)[:, -1]
    else:
        recall = curve.true / np.maximum(curve.wanted, 1)[:, None]
        steps = np.ascontiguousarray(np.diff(recall, prepend=0.0, axis=1) * envelope(precision))
        complete = recall[:, -1] == 1.0 if recall.shape[1] else np.zeros(len(recall), dtype=np.bool_)
        longer = np.concatenate([steps, np.zeros((len(steps), 1))], axis=1)
        ap = np.where(complete, steps.sum(axis=1), longer.sum(axis=1))
    return np.where(curve.wanted == 0, nothing, ap)


def _part_of(indices: IntArray, starts: IntArray, column: int) -> IntArray:
    """Return those of the ascending `indices` that lie in a class's range, relative to its start."""
    first, last = np.searchsorted(indices, starts[column : column + 2])
    return np.asarray(indices[first:last] - starts[column])


def group_by_class(category: IntArray, class_count: int) -> tuple[IntArray, IntArray]:
    """Return indices (M,) that sort stably by class, and the bounds (C+1,) of the classes in them."""
    order = np.argsort(category.astype(np.int16), kind="stable")  # NumPy uses radix sort for 16 bits
    return order, np.concatenate([[0], np.cumsum(np.bincount(category, minlength=class_count))])


def _order_by_class_and_score(detections: VocDetections, class_count: int, ties: Ties) -> tuple[IntArray, IntArray]:
    """Return indices (M,) that sort by class and descending score, and the bounds (C+1,) of the classes in them."""
    grouped, bounds = group_by_class(detections.category, class_count)
    for first, last in pairwise(bounds):
        members = grouped[first:last]
        # For "detectron2" the same call as the reference: the order among equal scores affects the AP.
        order = np.argsort(-detections.scores[members], kind="stable" if ties == "stable" else None)
        grouped[first:last] = members[order]
    return grouped, bounds


def _match(
    truth: VocTruth, detections: VocDetections, order: IntArray, class_count: int
) -> tuple[FloatArray, IntArray]:
    """Return the largest IoU of each sorted detection with a box of its class and image, and that box's index.

    -inf and -1 if there is no such box; ties go to the first box in the file's order.
    """
    truth_key = truth.image * class_count + truth.category
    truth_order = np.argsort(truth_key, kind="stable")
    boxes_of_key = np.bincount(truth_key, minlength=len(truth.images) * class_count)
    key = detections.image[order] * class_count + detections.category[order]
    count = boxes_of_key[key]
    first = (np.cumsum(boxes_of_key) - boxes_of_key)[key]
    overlap = np.full(len(order), -np.inf)
    best = np.full(len(order), -1, dtype=np.int64)
    matched = np.flatnonzero(count)
    if len(matched) == 0:
        return overlap, best
    count = count[matched]
    pair_start = np.concatenate(([0], np.cumsum(count)[:-1]))
    within = np.arange(count.sum()) - np.repeat(pair_start, count)  # (P,)
    box = truth_order[np.repeat(first[matched], count) + within]  # (P,)
    ious = _pairwise_overlap(detections.boxes[np.repeat(order[matched], count)], truth.boxes[box])
    highest = np.maximum.reduceat(ious, pair_start)
    at_highest = np.flatnonzero(ious == np.repeat(highest, count))
    owner = np.repeat(np.arange(len(matched)), count)[at_highest]
    owners, position = np.unique(owner, return_index=True)
    overlap[matched] = highest
    best[matched[owners]] = box[at_highest[position]]
    return overlap, best


def _pairwise_overlap(found: FloatArray, true: FloatArray) -> FloatArray:
    """Return the IoU of the rows of two (P, 4) arrays, with VOC's inclusive pixels, as (P,)."""
    fx1, fy1, fx2, fy2 = found.T
    tx1, ty1, tx2, ty2 = true.T
    width = np.maximum(np.minimum(tx2, fx2) - np.maximum(tx1, fx1) + 1.0, 0.0)
    height = np.maximum(np.minimum(ty2, fy2) - np.maximum(ty1, fy1) + 1.0, 0.0)
    common = width * height
    union = (fx2 - fx1 + 1.0) * (fy2 - fy1 + 1.0) + (tx2 - tx1 + 1.0) * (ty2 - ty1 + 1.0) - common
    with np.errstate(divide="ignore", invalid="ignore"):  # two empty boxes give NaN, which exceeds no threshold
        return np.asarray(common / union)


def _first_hits(candidates: IntArray, best: IntArray) -> IntArray:
    """Return, of the ascending `candidates`, those that are the first to hit their box."""
    _, position = np.unique(best[candidates], return_index=True)
    return np.asarray(candidates[np.sort(position)])


def _average_precision(ranks: FloatArray, wanted: float, year: int, any_detection: bool) -> float:
    """Return one AP from the ranks (1-based) of the true positives, in descending order of score.

    Only true positives matter: at every other detection, recall is unchanged and precision does not rise.
    """
    true_positives = np.arange(1, len(ranks) + 1, dtype=np.float64)
    if wanted == 0:  # recall is 0/0 in the reference: no recall point is reached, and the area is NaN
        return 0.0 if year == 2007 or not any_detection else float("nan")
    recall = true_positives / wanted
    envelope = np.maximum.accumulate((true_positives / ranks)[::-1])[::-1]
    if year == 2007:
        points = np.searchsorted(recall, RECALLS)
        return float(np.cumsum(np.append(envelope, 0.0)[points] / 11.0)[-1])
    steps = np.diff(recall, prepend=0.0) * envelope
    if len(recall) == 0 or recall[-1] != 1.0:  # the reference's zero sentinel at recall 1 affects np.sum's rounding
        steps = np.append(steps, 0.0)
    return float(np.sum(steps))

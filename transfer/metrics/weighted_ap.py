"""Average precision with a weight per image: what evaluating each image as often as a bootstrap draw holds it gives.

The matching of detections to boxes does not depend on the weights, so it is done once. A detection of an image that is
drawn w times stands for w equal detections in a row: w times true or false. Precision only rises along a row of true
ones, so the end of each row is all that the curve needs. All weights 1 give the evaluators' own numbers bit by bit.

Where detections of one image and class have the same score, the copies of the first come before those of the second.

Shapes: N images, B draws, M detections of a class, F of them true at a threshold, R points of recall, T thresholds.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
WeightArray = npt.NDArray[np.int32]
BLOCK_ITEMS = 4_000_000
"""Detections times draws that are looked at together: 16 MB."""


@dataclass(frozen=True, kw_only=True)
class ClassMatches:
    """One class's detections in descending order of score, and what they found."""

    image: IntArray  # (M,) index of the image of each detection
    found: tuple[IntArray, ...]
    """Per threshold, indices (F,) of the true detections, ascending."""
    ignored: tuple[IntArray, ...]
    """Per threshold, indices of those that count neither as true nor as false, ascending."""
    wanted_image: IntArray  # (G,) index of the image of each box that is to be found


@dataclass(frozen=True, kw_only=True)
class WeightedCurve:
    """The precision-recall curve of one class at one threshold on B draws, at its true detections."""

    true: IntArray  # (B, F) true detections up to and with this one
    rank: IntArray  # (B, F) true and false ones up to and with this one
    wanted: IntArray  # (B,) boxes to find
    any_detection: npt.NDArray[np.bool_]  # (B,)
    needed: IntArray  # (B, R) the least number of true detections that reaches each point of recall


def split_draws(matches: list[ClassMatches], draws: int) -> Iterator[slice]:
    """Yield slices of the draws that are looked at together."""
    largest = max((len(entry.image) for entry in matches), default=0)
    step = max(1, min(draws, BLOCK_ITEMS // max(1, largest)))
    for first in range(0, draws, step):
        yield slice(first, min(first + step, draws))


def weigh_class(matches: ClassMatches, counts: WeightArray, recalls: FloatArray) -> Iterator[WeightedCurve]:
    """Yield the curve of each threshold where image i counts `counts[b, i]` times (B, N); `recalls` are R points."""
    weights = counts[:, matches.image]  # (B, M)
    up_to = np.cumsum(weights, axis=1, dtype=np.int32)
    wanted = counts[:, matches.wanted_image].sum(axis=1, dtype=np.int64)
    needed = _count_needed(wanted, recalls)
    any_detection = up_to[:, -1] > 0 if up_to.shape[1] else np.zeros(len(counts), dtype=np.bool_)
    for found, ignored in zip(matches.found, matches.ignored, strict=True):
        rank = up_to[:, found].astype(np.int64)
        if len(ignored):
            left_out = np.cumsum(weights[:, ignored], axis=1, dtype=np.int64)
            left_out = np.concatenate([np.zeros((len(counts), 1), dtype=np.int64), left_out], axis=1)
            rank -= left_out[:, np.searchsorted(ignored, found)]
        true = np.cumsum(weights[:, found], axis=1, dtype=np.int64)
        yield WeightedCurve(true=true, rank=rank, wanted=wanted, any_detection=any_detection, needed=needed)


def envelope(precision: FloatArray) -> FloatArray:
    """Return the highest precision at each true detection or after it, (B, F)."""
    return np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]


def precision_at(curve: WeightedCurve, precision: FloatArray) -> FloatArray:
    """Return the envelope (B, R) where recall first reaches each point; 0 where it never does."""
    rows, count = precision.shape
    padded = np.zeros((rows, count + 1))
    padded[:, :count] = envelope(precision)
    row = np.arange(rows)[:, None]
    stride = int(curve.wanted.max(initial=0)) + 2  # one ascending key over all rows: a single search
    keys = (np.minimum(curve.true, stride - 1) + row * stride).reshape(-1)
    position = np.searchsorted(keys, curve.needed + row * stride) + row  # a padded row is one longer
    return np.asarray(padded.reshape(-1)[position])


def _count_needed(wanted: IntArray, recalls: FloatArray) -> IntArray:
    """Return (B, R) the least number of true detections whose recall, in float64, is at least each of `recalls`."""
    total = np.maximum(wanted, 1).astype(np.float64)[:, None]
    needed = np.ceil(recalls * total)
    needed -= (needed - 1) / total >= recalls
    needed += needed / total < recalls
    return np.maximum(needed, 0).astype(np.int64)

"""Test-set uncertainty by a paired bootstrap over test images: shared draws, their file, intervals.

A draw samples as many images as the test set has, with replacement; a metric's value on a draw counts each image as
often as it was drawn. The draws depend only on the test set's image ids, so all runs on one test set share the same
draws, and two runs are compared draw by draw from their files, without their detections.

The file bootstrap.json lies beside metrics.json:

    {"version": 1,
     "metrics": {"box/AP": {"identity": "3f0a…", "images": 5000, "value": 38.21, "values": [38.05, 38.4, …]}, …}}

`identity` is a digest of the image ids and of all draws; only metrics with the same identity may be subtracted. `value`
is the metric on the test set itself and `values` holds one number per draw, both in percent; a number is null if the
draw holds no object. The result's details hold the intervals: {"bootstrap": {"box/AP": {"low", "high", "draws",
"images", "level"}}}.

To compare runs, in percent points:

    first, second = read_draws("runs/mochi/seed0"), read_draws("runs/moco/seed0")
    interval = paired_interval(first["AP"], second["AP"])                     # one run a side
    interval = paired_interval(mean_draws(firsts), mean_draws(seconds))       # the mean of several runs a side

Shapes: N images, B draws.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pretrain.runtime.storage import read_json, write_text

BOOTSTRAP_NAME = "bootstrap.json"
"""The file of a run's draws, beside its result."""
VERSION = 1
DRAWS = 1000
"""Draws per run; 25 draws then lie beyond each end of a 95 % interval."""
LEVEL = 0.95
"""Coverage of an interval."""
DECIMALS = 4
"""Decimals kept of a percentage: far finer than any difference of interest, at half the file size."""

FloatArray = npt.NDArray[np.float64]
CountArray = npt.NDArray[np.int32]


@dataclass(frozen=True, kw_only=True)
class MetricDraws:
    """Values of one metric of one run (or the mean of several runs) on every draw of the test set."""

    identity: str
    """Digest of the test set's image ids and of the draws."""
    images: int
    """N."""
    value: float
    """Percent, on the test set itself."""
    values: FloatArray  # (B,) percent; NaN for a draw without objects


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A percentile interval over the draws."""

    value: float
    """Percent (points), on the test set itself."""
    low: float
    high: float
    draws: int
    """Number of draws with a finite value."""
    images: int
    level: float = LEVEL


@dataclass(frozen=True, kw_only=True)
class ImageDraws:
    """Number of times that each draw holds each image."""

    counts: npt.NDArray[np.uint16]  # (B, N), images in the caller's order; every row sums to N
    identity: str


def draw_images(image_ids: Sequence[Any], draws: int = DRAWS) -> ImageDraws:
    """Return the draws of a test set with these image ids, which must be distinct.

    The seed is a digest of the sorted ids (as text), so the draws depend neither on the order of the images nor on the
    run.

    Raises:
        ValueError: no image, or a repeated id.

    """
    names = [str(image) for image in image_ids]
    if not names or len(set(names)) != len(names):
        raise ValueError(f"a bootstrap needs distinct images, got {len(names)} with {len(set(names))} different ids")
    order = sorted(range(len(names)), key=names.__getitem__)
    digest = hashlib.sha256("\n".join(names[index] for index in order).encode(errors="surrogateescape"))
    random = np.random.default_rng(int.from_bytes(digest.digest()[:16], "little"))
    counts = np.empty((draws, len(names)), dtype=np.uint16)
    for row in counts:
        drawn = np.bincount(random.integers(0, len(names), len(names)), minlength=len(names)).astype(np.uint16)
        digest.update(drawn.tobytes())
        row[order] = drawn
    return ImageDraws(counts=counts, identity=digest.hexdigest())


def bootstrap_accuracy(image_ids: Sequence[Any], right: npt.NDArray[np.bool_], draws: int = DRAWS) -> MetricDraws:
    """Return the accuracy in percent on each draw; `right` (N,) says whether each image is classified correctly."""
    sample = draw_images(image_ids, draws)
    total = len(right)
    hits = [int(counts[right].sum(dtype=np.int64)) for counts in sample.counts]
    return MetricDraws(
        identity=sample.identity,
        images=total,
        value=100 * int(right.sum()) / total,
        values=np.array([100 * count / total for count in hits]),
    )


def percentile_interval(draws: MetricDraws, level: float = LEVEL) -> Interval:
    """Return the interval that holds the fraction `level` of the draws; its ends are NaN if no draw has a value."""
    sound = draws.values[np.isfinite(draws.values)]
    tail = 100 * (1 - level) / 2
    low, high = np.percentile(sound, [tail, 100 - tail]).tolist() if len(sound) else (math.nan, math.nan)
    return Interval(value=draws.value, low=low, high=high, draws=len(sound), images=draws.images, level=level)


def paired_interval(first: MetricDraws, second: MetricDraws, level: float = LEVEL) -> Interval:
    """Return the interval of first - second over the shared draws, in percent points.

    Raises:
        ValueError: the two were not measured on the same draws of one test set.

    """
    return percentile_interval(_combine([first, second], [1.0, -1.0]), level)


def mean_draws(runs: Sequence[MetricDraws]) -> MetricDraws:
    """Return the draw-by-draw mean of several runs of one metric; ValueError if there is none or their draws differ."""
    if not runs:
        raise ValueError("expected the draws of at least one run, got none")
    return _combine(runs, [1 / len(runs)] * len(runs))


def _combine(runs: Sequence[MetricDraws], factors: Sequence[float]) -> MetricDraws:
    if len({(run.identity, len(run.values)) for run in runs}) > 1:
        found = ", ".join(sorted({f"{run.images} images ({run.identity[:8]})" for run in runs}))
        raise ValueError(
            f"expected runs measured on the same draws of one test set, got {found}: a paired difference needs the "
            "same test images; evaluate the runs on one test set"
        )
    return MetricDraws(
        identity=runs[0].identity,
        images=runs[0].images,
        value=sum(factor * run.value for factor, run in zip(factors, runs, strict=True)),
        values=np.sum([factor * run.values for factor, run in zip(factors, runs, strict=True)], axis=0),
    )


def write_draws(folder: str | Path, metrics: Mapping[str, MetricDraws]) -> None:
    """Write FOLDER/bootstrap.json."""
    table = {
        name: {
            "identity": draws.identity,
            "images": draws.images,
            "value": _round(draws.value),
            "values": [_round(value) for value in draws.values.tolist()],
        }
        for name, draws in metrics.items()
    }
    text = json.dumps({"version": VERSION, "metrics": table}, ensure_ascii=False, allow_nan=False)
    write_text(Path(folder) / BOOTSTRAP_NAME, text + "\n")


def read_draws(folder: str | Path) -> dict[str, MetricDraws]:
    """Return metric → draws from a run's folder or its bootstrap.json; {} if the file does not exist.

    Raises:
        ValueError: the file is damaged or of another version.

    """
    path = Path(folder)
    path = path / BOOTSTRAP_NAME if path.suffix != ".json" else path
    if not path.is_file():
        return {}
    content = read_json(path)
    try:
        if content["version"] != VERSION:
            raise ValueError(f"version {content['version']}, expected {VERSION}")
        return {str(name): _parse_entry(entry) for name, entry in content["metrics"].items()}
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(
            f"{path}: no draws of a test set ({type(error).__name__}: {error}); evaluate the run's detections again, "
            "or delete the file (the report then shows no interval for this run)"
        ) from error


def _parse_entry(entry: Mapping[str, Any]) -> MetricDraws:
    values = np.array([math.nan if value is None else float(value) for value in entry["values"]], dtype=np.float64)
    value = math.nan if entry["value"] is None else float(entry["value"])
    return MetricDraws(identity=str(entry["identity"]), images=int(entry["images"]), value=value, values=values)


def _round(value: float) -> float | None:
    return round(value, DECIMALS) if math.isfinite(value) else None


def summarise_draws(metrics: Mapping[str, MetricDraws]) -> dict[str, dict[str, float | int]]:
    """Return {metric: {"low", "high", "draws", "images", "level"}} for a result's details."""
    intervals = {name: percentile_interval(draws) for name, draws in metrics.items()}
    return {
        name: {
            "low": interval.low,
            "high": interval.high,
            "draws": interval.draws,
            "images": interval.images,
            "level": interval.level,
        }
        for name, interval in intervals.items()
    }

"""Read and write metrics.json of every run, and bring runs to mean, spread and a verdict about noise.

A run is (backbone, protocol, seed). Runs are pooled only when backbone, protocol and deviations from it agree: two
recipes are never mixed.
"""

import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from pretrain.runtime.machine import describe_machine, read_commit
from pretrain.runtime.storage import read_json, write_json

RESULT_NAME = "metrics.json"
"""The file that a finished run leaves in its folder."""

VOC_NOISE = {"AP50": 0.2, "AP": 0.2, "AP75": 0.4}
"""Standard deviation over 5 trials in percent points; source: facebookresearch/moco, detection/README.md."""
COCO_NOISE = 0.3
"""Run-to-run noise of COCO AP in percent points; source: facebookresearch/detectron2, MODEL_ZOO.md."""


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """What one run of one protocol measured; the content of its metrics.json."""

    backbone: str
    """The name given on the command line, e.g. "mochi"."""
    protocol: str
    """A protocol's full name, e.g. "voc-c4-24k@moco"."""
    seed: int
    metrics: Mapping[str, float | None]
    """Percent. VOC: AP, AP50, AP75; COCO: box/AP, …, mask/AP, …; linear: top1, top1_best; kNN: top1."""
    deviations: Sequence[Mapping[str, Any]] = ()
    """Settings that differ from the protocol: {"key", "expected", "got"} each."""
    weights_sha256: str = ""
    commit: str = field(default_factory=read_commit)
    machine: Mapping[str, Any] = field(default_factory=describe_machine)
    seconds: float = 0.0
    details: Mapping[str, Any] = field(default_factory=dict)
    """Free: per-class tables, curves, the resolved config."""


@dataclass(frozen=True, kw_only=True)
class Summary:
    """One metric of one backbone under one protocol, over seeds."""

    backbone: str
    protocol: str
    metric: str
    mean: float
    """Percent."""
    std: float | None
    """Sample standard deviation (n - 1 in the denominator), percent points; None for a single run."""
    n: int
    values: tuple[float, ...]
    """One per seed, in the order of `seeds`."""
    seeds: tuple[int, ...]
    deviations: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The difference of two summaries of one metric under one protocol, and whether it could be noise."""

    protocol: str
    metric: str
    first: str
    second: str
    difference: float
    """first - second, percent points."""
    noise: float | None
    """Half-width of the noise band, percent points; None when neither measured nor published."""
    noise_source: str
    within: bool | None
    """True: |difference| lies within the band; None: the band is unknown."""


def write_result(folder: str | Path, result: RunResult) -> Path:
    """Write `result` as metrics.json in `folder` (whole or not at all); NaN and infinity become null."""
    path = Path(folder) / RESULT_NAME
    write_json(path, _finite(asdict(result)))
    return path


def read_result(path: str | Path) -> RunResult:
    """Return the result in a metrics.json, or in the folder that holds one.

    Raises:
        ValueError: the file is no result of this project; the text names what is missing or unknown.

    """
    path = Path(path)
    path = path / RESULT_NAME if path.is_dir() else path
    if not path.is_file():
        raise ValueError(f"{path}: no such result; a run writes {RESULT_NAME} as its last act, so it may not be done")
    values = read_json(path)
    known = {entry.name for entry in fields(RunResult)}
    needed = known - {"deviations", "details", "seconds"}
    sound = isinstance(values, dict) and needed <= values.keys() <= known and isinstance(values["metrics"], dict)
    if not sound:
        got = sorted(values) if isinstance(values, dict) else type(values).__name__
        raise ValueError(
            f"{path}: expected a run's result with the keys {sorted(needed)}, metrics a mapping; got {got}"
        )
    return RunResult(**values)


def read_finished(
    folder: str | Path, wanted: Mapping[str, Any], settings: Mapping[str, Any] | None = None
) -> RunResult | None:
    """Return the result of a run that is finished already; None when there is none yet.

    Args:
        folder: of the run.
        wanted: what the result must say of itself: backbone, protocol, seed, weights_sha256.
        settings: what its details must hold as "config", as far as named here.

    Raises:
        ValueError: it is another run's result; the text names every difference.

    """
    folder = Path(folder)
    if not (folder / RESULT_NAME).exists():
        return None
    result = read_result(folder)
    config = result.details.get("config", {})
    asked = json.loads(json.dumps(_finite(settings or {})))  # as JSON brings them back: lists for tuples
    pairs = [(key, getattr(result, key), value) for key, value in wanted.items()]
    pairs += [(key, config.get(key), value) for key, value in asked.items() if key not in wanted]
    if changed := [f"{key} was {before!r}, is {now!r}" for key, before, now in pairs if before != now]:
        raise ValueError(f"{folder}: holds the result of another run; name another out=. {'; '.join(changed)}")
    return result


def read_results(paths: str | Path | Iterable[str | Path]) -> list[RunResult]:
    """Return the results in `paths`: files, or folders searched to any depth for metrics.json; sorted by path."""
    roots = [paths] if isinstance(paths, str | Path) else list(paths)
    files = []
    for root in map(Path, roots):
        if not root.exists():
            raise ValueError(f"{root}: no such file or folder of results")
        files.extend(sorted(root.rglob(RESULT_NAME)) if root.is_dir() else [root])
    return [read_result(path) for path in dict.fromkeys(files)]


def summarise(results: Iterable[RunResult]) -> list[Summary]:
    """Return mean, std (n - 1; None for one run) and n per backbone, protocol, deviations and metric.

    Order: as the runs and their metrics come. Metrics that are null in a run do not count for that run.

    Raises:
        ValueError: the same backbone, protocol and seed come twice with the same weights (a copy, not a trial).

    """
    groups: dict[tuple[str, str, str], list[RunResult]] = {}
    for result in results:
        groups.setdefault((result.backbone, result.protocol, _recipe(result)), []).append(result)
    summaries = []
    for group in groups.values():
        _refuse_copies(group)
        for metric in dict.fromkeys(name for result in group for name in result.metrics):
            trials = [result for result in group if result.metrics.get(metric) is not None]
            values = tuple(float(result.metrics[metric] or 0.0) for result in trials)
            if values:
                summaries.append(_summarise_metric(metric, trials, values))
    return summaries


def compare(first: Summary, second: Summary) -> Comparison:
    """Return first - second and whether it lies within the noise band.

    The band is the larger of the published one (VOC .2/.2/.4 for AP50/AP/AP75, COCO .3) and the measured stds.

    Raises:
        ValueError: the two come from different protocols, deviations or metrics: such a difference means nothing.

    """
    if (first.protocol, first.metric, first.deviations) != (second.protocol, second.metric, second.deviations):
        raise ValueError(
            f"cannot compare {first.backbone} ({first.protocol}, {first.metric}, {len(first.deviations)} deviations) "
            f"with {second.backbone} ({second.protocol}, {second.metric}, {len(second.deviations)} deviations): the "
            "protocol, its deviations and the metric must be the same; run one of them again under the other's protocol"
        )
    bands = [(std, "measured std") for std in (first.std, second.std) if std is not None]
    published = published_noise(first.protocol, first.metric)
    if published is not None:
        bands.append((published, "published"))
    noise, source = max(bands, default=(None, "unknown: one run each, and none published"))
    difference = first.mean - second.mean
    return Comparison(
        protocol=first.protocol,
        metric=first.metric,
        first=first.backbone,
        second=second.backbone,
        difference=difference,
        noise=noise,
        noise_source=source,
        within=None if noise is None else abs(round(difference, 6)) <= noise,
    )


def published_noise(protocol: str, metric: str) -> float | None:
    """Return the published run-to-run noise of a metric in percent points; None when there is none.

    The bands were measured on the full data sets and schedules: digits-sized and low-label protocols have none.
    """
    if "digits" in protocol or "pct" in protocol:
        return None
    if protocol.startswith("voc"):
        return VOC_NOISE.get(metric)
    return COCO_NOISE if protocol.startswith("coco") and metric.startswith(("box/", "mask/")) else None


def _summarise_metric(metric: str, trials: Sequence[RunResult], values: tuple[float, ...]) -> Summary:
    return Summary(
        backbone=trials[0].backbone,
        protocol=trials[0].protocol,
        metric=metric,
        mean=statistics.fmean(values),
        std=statistics.stdev(values) if len(values) > 1 else None,
        n=len(values),
        values=values,
        seeds=tuple(result.seed for result in trials),
        deviations=tuple(trials[0].deviations),
    )


def _refuse_copies(group: Sequence[RunResult]) -> None:
    seen: set[tuple[int, str]] = set()
    for result in group:
        trial = (result.seed, result.weights_sha256)
        if trial in seen:
            raise ValueError(
                f"backbone {result.backbone}, protocol {result.protocol}, seed {result.seed}: two results from the "
                "same weights; a copy is no second trial, so remove one of the two metrics.json or use another seed"
            )
        seen.add(trial)


def _recipe(result: RunResult) -> str:
    return json.dumps([dict(deviation) for deviation in result.deviations], sort_keys=True, default=str)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value

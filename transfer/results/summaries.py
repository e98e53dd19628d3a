"""Summarise the runs of each method under each protocol, with pretrainings as replications.

A run is (backbone, protocol, seed). Backbones named NAME@SEED are pretrainings of the method NAME. Runs are pooled only
if method, protocol and deviations agree.
"""

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from transfer.results.evidence import Sample, find_interval, make_sample
from transfer.results.run_details import average_runs, find_classes, find_error_kinds, find_sizes
from transfer.results.run_result import RunResult
from transfer.results.seeds import method_of

HEADLINE = ("AP", "box/AP", "mask/AP", "top1")
"""Metrics used for verdicts; tables hold all metrics."""
VOC_NOISE = {"AP50": 0.2, "AP": 0.2, "AP75": 0.4}
"""Standard deviation over 5 trials in percent points; source: facebookresearch/moco, detection/README.md."""
COCO_NOISE = 0.3
"""Run-to-run noise of COCO AP in percent points; source: facebookresearch/detectron2, MODEL_ZOO.md."""
NOISE_VOC = frozenset({"voc-c4-24k@moco"})
NOISE_COCO = frozenset(f"coco-{body}@moco" for body in ("c4-1x", "c4-2x", "fpn-1x", "fpn-2x")) | frozenset(
    f"coco-fpn-{length}@infomin" for length in ("1x", "2x")
)
"""Protocols at full size, to which the published noise applies."""

RunKey = tuple[str, str, str, int]
"""(backbone with its seed, protocol, deviations as text, fine-tuning seed) of a run."""


@dataclass(frozen=True, kw_only=True)
class Summary:
    """One metric of one method under one protocol, over pretrainings and fine-tunings."""

    backbone: str
    """The method: NAME of NAME@SEED."""
    protocol: str
    metric: str
    sample: Sample
    seeds: tuple[int, ...]
    """The fine-tuning seed of each of the sample's values, in its order."""
    pretrainings: tuple[str, ...]
    """The backbone of each of the sample's values, in its order."""
    deviations: tuple[Mapping[str, Any], ...] = ()
    recipe: str = "[]"
    """The deviations as text; only summaries with equal recipes are compared."""
    per_class: Mapping[str, float] = field(default_factory=dict)
    """Class → mean over the runs in percent, for classes that all runs measured; headline metrics only."""
    by_size: Mapping[str, float] = field(default_factory=dict)
    """The same for AP by object size."""
    error_kinds: Mapping[str, float] = field(default_factory=dict)
    """The same for the AP50 points gained by correcting a kind of error."""

    @property
    def mean(self) -> float:
        """Percent: the mean over pretrainings of the means over their fine-tunings."""
        return self.sample.mean

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % interval of the mean over the units of replication; None for a single unit."""
        return find_interval(self.sample)

    @property
    def std(self) -> float | None:
        """Sample standard deviation of the units of replication in percent points; None for a single unit."""
        return statistics.stdev(self.sample.units) if len(self.sample.units) > 1 else None

    @property
    def values(self) -> tuple[float, ...]:
        """Percent, one per run."""
        return self.sample.values

    @property
    def n(self) -> int:
        """Number of runs."""
        return len(self.sample.values)

    @property
    def runs(self) -> list[RunKey]:
        """The key of each run."""
        pairs = zip(self.pretrainings, self.seeds, strict=True)
        return [(backbone, self.protocol, self.recipe, seed) for backbone, seed in pairs]


def summarise(results: Iterable[RunResult]) -> list[Summary]:
    """Return a summary per method, protocol, deviations and metric, in the order of the results.

    A run counts only for the metrics that it measured. Backbones of one method with the same weights count as one
    pretraining.

    Raises:
        ValueError: two results have the same backbone, protocol, seed and weights.

    """
    groups: dict[tuple[str, str, str], list[RunResult]] = {}
    for result in results:
        groups.setdefault((method_of(result.backbone), result.protocol, recipe_of(result)), []).append(result)
    summaries: list[Summary | None] = []
    for (method, _, recipe), group in groups.items():
        _refuse_copies(group)
        metrics = dict.fromkeys(name for result in group for name in result.metrics)
        summaries += [_summarise_metric(method, recipe, metric, group) for metric in metrics]
    return [summary for summary in summaries if summary is not None]


def key_of(result: RunResult) -> RunKey:
    """Return the key of a run, the same as in `Summary.runs`."""
    return result.backbone, result.protocol, recipe_of(result), result.seed


def recipe_of(result: RunResult) -> str:
    """Return the deviations from the protocol as text; "[]" for none."""
    return json.dumps([dict(deviation) for deviation in result.deviations], sort_keys=True, default=str)


def published_noise(protocol: str, metric: str) -> float | None:
    """Return the published run-to-run noise (standard deviation) of a metric in percent points; None if unpublished.

    It was measured at full size, so it applies only to these protocols and to runs without deviations.
    """
    if protocol in NOISE_VOC:
        return VOC_NOISE.get(metric)
    return COCO_NOISE if protocol in NOISE_COCO and metric.startswith(("box/", "mask/")) else None


def _summarise_metric(method: str, recipe: str, metric: str, group: Sequence[RunResult]) -> Summary | None:
    """Return the summary of one metric; None if no run has a finite value."""
    by_weights: dict[str, str] = {}
    names = [by_weights.setdefault(run.weights_sha256 or run.backbone, run.backbone) for run in group]
    try:
        sample = make_sample(method, [(name, run.metrics.get(metric)) for name, run in zip(names, group, strict=True)])
    except ValueError:
        return None
    measured = [(name, run) for name, run in zip(names, group, strict=True) if _is_finite(run.metrics.get(metric))]
    measured = [pair for pretraining in sample.runs for pair in measured if pair[0] == pretraining]
    details = [run.details for _, run in measured] if metric in HEADLINE else []
    return Summary(
        backbone=method,
        protocol=group[0].protocol,
        metric=metric,
        sample=sample,
        seeds=tuple(run.seed for _, run in measured),
        pretrainings=tuple(run.backbone for _, run in measured),
        deviations=tuple(group[0].deviations),
        recipe=recipe,
        per_class=average_runs(find_classes, details, metric),
        by_size=average_runs(find_sizes, details, metric),
        error_kinds=average_runs(find_error_kinds, details, metric),
    )


def _is_finite(value: float | None) -> bool:
    return value is not None and abs(value) < float("inf")


def _refuse_copies(group: Sequence[RunResult]) -> None:
    seen: set[tuple[str, int, str]] = set()
    for result in group:
        trial = (result.backbone, result.seed, result.weights_sha256)
        if trial in seen:
            raise ValueError(
                f"backbone {result.backbone}, protocol {result.protocol}, seed {result.seed}: two results from the "
                "same weights; a copy is no second trial: remove one of the two metrics.json or use another seed"
            )
        seen.add(trial)

"""Forecast a comparison before its runs exist: the difference that it can show, and the cheapest split of its runs.

The spread comes from finished runs of the same protocol and metric; without them, from the published run-to-run noise,
which covers fine-tuning only. Otherwise the spread, and hence the forecast, is unknown.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from scipy import stats

from transfer.results.evidence import LEVEL, Claim
from transfer.results.planning import (
    POWER,
    Split,
    Spread,
    find_best_ratio,
    find_cheapest_split,
    find_smallest_difference,
    measure_spread,
)
from transfer.results.summaries import Summary, published_noise

Source = Literal["measured", "published", "unknown"]
Design = tuple[int, int]
"""(pretrainings, fine-tunings of each) of one side."""


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """Expected resolution of a planned comparison."""

    claim: Claim
    """Subject of the claim; "none": nothing is replicated on one side."""
    smallest: float | None
    """Percent points: the smallest true difference shown with 80 % power; None if unknown."""
    source: Source
    """Origin of the spread."""
    spread: Spread
    best_ratio: float | None
    """F*: number of fine-tunings per pretraining at the lowest cost; None if a spread or a cost is unknown."""
    split: Split | None
    """The cheapest numbers of runs that show a difference of `delta` between methods; None if unknown."""


def find_spread(summaries: Sequence[Summary], protocol: str, metric: str) -> tuple[Spread, Source]:
    """Return the spread of a metric over all methods of a protocol without deviations, and its origin."""
    samples = [
        row.sample for row in summaries if (row.protocol, row.metric) == (protocol, metric) and not row.deviations
    ]
    spread = measure_spread(samples)
    if spread != Spread():
        return spread, "measured"
    noise = published_noise(protocol, metric)
    return (spread, "unknown") if noise is None else (Spread(finetuning=noise), "published")


def forecast(
    found: tuple[Spread, Source],
    first: Design,
    second: Design,
    *,
    delta: float,
    costs: tuple[float | None, float | None] = (None, None),
    family: int = 1,
) -> Forecast:
    """Return the forecast for a comparison of two planned designs.

    Args:
        found: result of `find_spread`.
        first: planned runs of one side.
        second: planned runs of the other side.
        delta: true difference in percent points that the cheapest split must show.
        costs: cost of a pretraining and of a fine-tuning, in the same unit; None: unknown.
        family: number of tests that share the 5 % level: headline metrics times comparisons.

    """
    (spread, source), level = found, LEVEL / max(1, family)
    claim = foresee_claim(first, second)
    smallest = None
    if claim == "methods":
        deviations = [spread.of_unit(finetunings) for _, finetunings in (first, second)]
        known = [value for value in deviations if value is not None]
        if len(known) == len(deviations):
            smallest = find_smallest_difference(max(known), first[0], second[0], level=level)
    elif claim == "checkpoints" and spread.finetuning is not None:
        smallest = find_smallest_difference(spread.finetuning, first[1], second[1], level=level)
    elif source == "published" and first == second == (1, 1) and spread.finetuning is not None:
        claim = "two_runs"
        smallest = float(stats.norm.ppf(1 - level / 2) + stats.norm.ppf(POWER)) * math.sqrt(2) * spread.finetuning
    pretraining, finetuning = costs
    split = ratio = None
    if pretraining and finetuning:
        ratio = find_best_ratio(spread, pretraining, finetuning)
        split = find_cheapest_split(delta, spread, pretraining, finetuning, level=level)
    return Forecast(claim=claim, smallest=smallest, source=source, spread=spread, best_ratio=ratio, split=split)


def foresee_claim(first: Design, second: Design) -> Claim:
    """Return the claim that a comparison of two designs allows, by the rules of `transfer.results.evidence`."""
    if min(first[0], second[0]) > 1:
        return "methods"
    units = [pretrainings if pretrainings > 1 else finetunings for pretrainings, finetunings in (first, second)]
    if min(units) < 2:
        return "none"
    return "checkpoints" if first[0] == second[0] else "checkpoint_and_method"

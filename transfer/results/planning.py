"""Plan a comparison: power, the smallest difference that it can show, and the cheapest split of its runs.

Two-sided t tests on n units a side by the noncentral t distribution. A unit is the mean of F fine-tunings of one
pretraining, with the variance sigma_P² + sigma_F²/F; for a claim about two checkpoints it is one fine-tuning, with
sigma_F². Standard deviations and differences are percent points; costs are in any one unit, such as GPU-hours. Source
of the split: Cochran, Sampling Techniques, section 10.6 (two-stage sampling).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import optimize, stats

from transfer.results.evidence import LEVEL, ROUNDING, Sample, welch_error

POWER = 0.8
"""Probability with which a comparison is to show a difference that exists."""
MOST_UNITS = 1000
"""Plans with more units a side are not worth stating."""
FAR_SHIFT = 5.0
"""Beyond this noncentrality the wrong-signed tail holds less than 1e-8, and scipy 1.17 gives NaN for some of it."""


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Standard deviations of the model, as far as they are known."""

    pretraining: float | None = None
    """sigma_P; None where no method has two pretrainings, or none of them two fine-tunings."""
    finetuning: float | None = None
    """sigma_F; None where no pretraining has two fine-tunings."""
    single: float | None = None
    """√(sigma_P² + sigma_F²): of pretrainings that are fine-tuned once each; known even where the two are not."""

    def of_unit(self, finetunings: int) -> float | None:
        """Return the standard deviation of the mean over a pretraining's fine-tunings; None where unknown."""
        if self.pretraining is None or self.finetuning is None:
            return self.single if finetunings == 1 else None
        return math.sqrt(self.pretraining**2 + self.finetuning**2 / finetunings)


@dataclass(frozen=True, kw_only=True)
class Split:
    """A number of pretrainings on each side, and of fine-tunings of each."""

    pretrainings: int
    finetunings: int
    cost: float
    """Of both sides together."""
    power: float


def measure_spread(samples: Sequence[Sample]) -> Spread:
    """Return the spread pooled over methods: analysis of variance of fine-tunings within pretrainings.

    sigma_P² is the pretrainings' variance less what their fine-tunings explain; 0 where that is negative.
    """
    runs = [values for sample in samples for values in sample.runs.values()]
    within = _pool_variance(runs)
    repeated = [sample for sample in samples if sample.pretrainings > 1]
    between = _pool_variance([sample.means for sample in repeated])
    inverse = [1 / count for sample in repeated for count in sample.finetunings]
    pretraining = single = None
    if between is not None and within is not None:
        pretraining = math.sqrt(max(0.0, between - within * float(np.mean(inverse))))
        single = math.sqrt(pretraining**2 + within)
    elif between is not None:  # one fine-tuning each: the two cannot be told apart
        single = math.sqrt(between)
    return Spread(pretraining=pretraining, finetuning=None if within is None else math.sqrt(within), single=single)


def find_power(
    difference: float, unit_std: float, first: int, second: int | None = None, *, level: float = LEVEL
) -> float:
    """Return the probability that a two-sided test at `level` shows a true difference.

    Args:
        difference: the true one.
        unit_std: standard deviation of one unit, the same on both sides.
        first: units of one side; a side with fewer than two units shows nothing.
        second: units of the other side; None: as many.
        level: a family of m comparisons passes 0.05 / m, Holm's first and strictest step.

    """
    second = first if second is None else second
    if min(first, second) < 2:
        return 0.0
    error, freedom = (float(value) for value in welch_error(unit_std**2, first, unit_std**2, second))
    if unit_std < ROUNDING:
        return 1.0 if difference else level
    shift, critical = abs(difference) / error, float(stats.t.ppf(1 - level / 2, freedom))
    wrong_sign = 0.0 if shift > FAR_SHIFT else float(stats.nct.cdf(-critical, freedom, shift))
    return float(stats.nct.sf(critical, freedom, shift)) + wrong_sign


def find_smallest_difference(
    unit_std: float, first: int, second: int | None = None, *, power: float = POWER, level: float = LEVEL
) -> float | None:
    """Return the smallest true difference that is shown with `power`; None where a side has fewer than two units.

    Args:
        unit_std: standard deviation of one unit in percent points, the same on both sides.
        first: units of one side.
        second: units of the other side; None: as many.
        power: probability with which the difference is to be shown.
        level: of the test; a family of m comparisons passes 0.05 / m.

    Returns:
        Percent points.

    """
    if min(first, first if second is None else second) < 2:
        return None
    if unit_std < ROUNDING:
        return 0.0

    def lack(ratio: float) -> float:
        return find_power(ratio, 1.0, first, second, level=level) - power

    highest = 1.0
    while lack(highest) < 0:
        highest *= 2
    return unit_std * float(optimize.brentq(lack, 0.0, highest, xtol=1e-6))


def count_units(difference: float, unit_std: float, *, power: float = POWER, level: float = LEVEL) -> int | None:
    """Return the fewest units a side that show a true difference with `power`; None beyond MOST_UNITS."""
    low, high = 2, MOST_UNITS
    if find_power(difference, unit_std, high, level=level) < power:
        return None
    while low < high:
        middle = (low + high) // 2
        low, high = (
            (low, middle) if find_power(difference, unit_std, middle, level=level) >= power else (middle + 1, high)
        )
    return low


def find_best_ratio(spread: Spread, pretraining_cost: float, finetuning_cost: float) -> float | None:
    """Return F*, the fine-tunings of each pretraining that make a given variance cheapest; None where unknown.

    F* = √(cost of a pretraining / cost of a fine-tuning · sigma_F² / sigma_P²); infinite where sigma_P is 0.
    """
    if spread.pretraining is None or spread.finetuning is None:
        return None
    if spread.pretraining < ROUNDING or finetuning_cost <= 0:
        return math.inf
    return math.sqrt(pretraining_cost / finetuning_cost) * spread.finetuning / spread.pretraining


def find_cheapest_split(
    difference: float,
    spread: Spread,
    pretraining_cost: float,
    finetuning_cost: float,
    *,
    power: float = POWER,
    level: float = LEVEL,
) -> Split | None:
    """Return the cheapest numbers of pretrainings and fine-tunings that show a true difference with `power`.

    Whole numbers around F* are tried, since the number of pretrainings is whole too. Where sigma_P and sigma_F cannot
    be told apart, one fine-tuning each is planned. None where the spread is unknown or no plan suffices.

    Args:
        difference: the true one in percent points.
        spread: as far as it is known; see `measure_spread`.
        pretraining_cost: of one pretraining, in any unit.
        finetuning_cost: of one fine-tuning, in the same unit.
        power: probability with which the difference is to be shown.
        level: of the test; a family of m comparisons passes 0.05 / m.

    Returns:
        Pretrainings a side, fine-tunings of each, the cost of both sides together, and the power reached.

    """
    best = find_best_ratio(spread, pretraining_cost, finetuning_cost)
    most = 1 if best is None else 2 * math.ceil(min(best, 16)) + 2
    plans = []
    for finetunings in range(1, most + 1):
        unit_std = spread.of_unit(finetunings)
        units = None if unit_std is None else count_units(difference, unit_std, power=power, level=level)
        if unit_std is not None and units is not None:
            cost = 2 * units * (pretraining_cost + finetunings * finetuning_cost)
            reached = find_power(difference, unit_std, units, level=level)
            plans.append(Split(pretrainings=units, finetunings=finetunings, cost=cost, power=reached))
    return min(plans, key=lambda plan: (plan.cost, plan.finetunings), default=None)


def _pool_variance(groups: Sequence[Sequence[float]]) -> float | None:
    """Return the variance within groups, pooled by degrees of freedom; None where no group has two values."""
    repeated = [np.array(values) for values in groups if len(values) > 1]
    freedom = sum(len(values) - 1 for values in repeated)
    return float(sum(((values - values.mean()) ** 2).sum() for values in repeated)) / freedom if repeated else None

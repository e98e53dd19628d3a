"""Ten thousand simulated chains: with no true difference a page finds one in at most 5 %, and intervals cover."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from transfer.results.evidence import LEVEL, bound_difference, judge, make_sample, weigh, welch_error

CHAINS = 10_000
METRICS = 4
"""Headline metrics of a chain."""
ERROR = stats.norm.ppf(0.999) * math.sqrt(LEVEL * (1 - LEVEL) / CHAINS)
"""Simulation error of a 5 % rate, exceeded once in a thousand: 0.67 points."""
COVERAGE = 0.94 - stats.norm.ppf(0.999) * math.sqrt(0.06 * 0.94 / (CHAINS * METRICS))
Array = NDArray[np.float64]


def draw_units(rng: np.random.Generator, count: int, finetunings: int, ratio: float, metrics: int = METRICS) -> Array:
    """Return (CHAINS, metrics, count) means of pretrainings by the model, sigma_F = 1 and sigma_P = ratio."""
    pretraining = rng.normal(0.0, 1.0, (CHAINS, metrics, count)) * ratio
    return pretraining + rng.normal(0.0, 1.0, (CHAINS, metrics, count, finetunings)).mean(-1)


def run_welch(first: Array, second: Array, *, unlike: bool = False) -> tuple[Array, Array]:
    """Return p and whether the interval covers 0, each (CHAINS, metrics)."""
    error, freedom = welch_error(
        first.var(-1, ddof=1), first.shape[-1], second.var(-1, ddof=1), second.shape[-1], unlike=unlike
    )
    difference = first.mean(-1) - second.mean(-1)
    half, p = bound_difference(difference, error, freedom)
    return p, np.abs(difference) <= half


def find_family_errors(p: Array) -> float:
    """Return the share of chains with a finding: Holm's first step decides, p of the smallest times the family."""
    return float((p.min(-1) * p.shape[-1] <= LEVEL).mean())


@pytest.mark.parametrize("ratio", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("finetunings", [1, 2, 3])
def test_claims_about_methods_are_false_in_five_percent_of_chains(finetunings: int, ratio: float) -> None:
    rng = np.random.default_rng([finetunings, int(2 * ratio)])
    for first, second in ((2, 2), (2, 3), (2, 5), (3, 3), (3, 5), (5, 5)):
        p, covered = run_welch(draw_units(rng, first, finetunings, ratio), draw_units(rng, second, finetunings, ratio))
        assert find_family_errors(p) <= LEVEL + ERROR, (first, second)
        assert covered.mean() >= COVERAGE, (first, second)


@pytest.mark.parametrize("first", [2, 3, 5])
@pytest.mark.parametrize("second", [2, 3, 5])
def test_claims_about_equal_checkpoints_are_false_in_five_percent_of_chains(first: int, second: int) -> None:
    rng = np.random.default_rng([first, second])
    p, covered = run_welch(draw_units(rng, first, 1, 0.0), draw_units(rng, second, 1, 0.0))
    assert find_family_errors(p) <= LEVEL + ERROR
    assert covered.mean() >= COVERAGE


@pytest.mark.parametrize("ratio", [0.0, 0.5, 1.0, 2.0])
def test_claims_about_a_checkpoint_and_a_method_are_false_in_five_percent_of_chains(ratio: float) -> None:
    """The method's units are pretrainings and spread more than the checkpoint's fine-tunings; its mean is the truth."""
    rng = np.random.default_rng(int(2 * ratio) + 100)
    for pretrainings in (2, 3, 5):
        for finetunings in (2, 3, 5):
            checkpoint = draw_units(rng, finetunings, 1, 0.0)
            p, covered = run_welch(draw_units(rng, pretrainings, 1, ratio), checkpoint, unlike=True)
            assert find_family_errors(p) <= LEVEL + ERROR, (pretrainings, finetunings)
            assert covered.mean() >= COVERAGE, (pretrainings, finetunings)


def test_several_comparisons_with_one_baseline_stay_one_family() -> None:
    """Three methods against one baseline in four metrics: twelve tests that share runs."""
    rng = np.random.default_rng(7)
    base = draw_units(rng, 3, 2, 1.0)
    p = np.concatenate([run_welch(draw_units(rng, 3, 2, 1.0), base)[0] for _ in range(3)], axis=-1)
    assert p.shape == (CHAINS, 12)
    assert find_family_errors(p) <= LEVEL + ERROR


@pytest.mark.parametrize("count", [2, 3, 5])
def test_level_holds_where_one_method_spreads_twice_as_much(count: int) -> None:
    """With equal counts; with three units of the wider spread against five the rate is 8 to 10 % (docs/summary.md)."""
    rng = np.random.default_rng(count)
    p, covered = run_welch(2 * draw_units(rng, count, 1, 0.0), draw_units(rng, count, 1, 0.0))
    assert find_family_errors(p) <= LEVEL + ERROR
    assert covered.mean() >= COVERAGE


@pytest.mark.parametrize(("count", "rate"), [(2, 0.33), (3, 0.21), (5, 0.10)])
def test_one_standard_deviation_is_no_test(count: int, rate: float) -> None:
    """What a difference beyond the larger standard deviation amounts to: a finding in up to a third of comparisons."""
    rng = np.random.default_rng(count)
    first, second = draw_units(rng, count, 1, 0.0), draw_units(rng, count, 1, 0.0)
    beyond = np.abs(first.mean(-1) - second.mean(-1)) > np.maximum(first.std(-1, ddof=1), second.std(-1, ddof=1))
    assert beyond.mean() == pytest.approx(rate, abs=0.015)
    if count == 2:
        assert beyond.any(-1).mean() == pytest.approx(0.80, abs=0.02)  # of the chains, with four metrics


@pytest.mark.parametrize(
    ("first", "second", "rates"), [(2, 2, (0.023, 0.036)), (3, 3, (0.035, 0.052)), (5, 5, (0.044, 0.053))]
)
def test_single_comparison_keeps_its_level_without_a_family(
    first: int, second: int, rates: tuple[float, float]
) -> None:
    rng = np.random.default_rng([first, second, 1])
    p, _ = run_welch(draw_units(rng, first, 1, 1.0), draw_units(rng, second, 1, 1.0))
    assert rates[0] - 0.003 <= (p <= LEVEL).mean() <= rates[1] + 0.003


def test_welch_alone_is_too_sure_where_two_units_stand_against_five() -> None:
    """Up to 6.4 % of comparisons, and more of the families: why the smaller side's degrees of freedom are taken."""
    rng = np.random.default_rng(11)
    first, second = draw_units(rng, 2, 1, 1.0), draw_units(rng, 5, 1, 1.0)
    plain = stats.ttest_ind(first, second, axis=-1, equal_var=False).pvalue
    assert find_family_errors(plain) > LEVEL + ERROR
    assert find_family_errors(run_welch(first, second)[0]) <= LEVEL


def test_vectorised_simulation_concludes_what_the_product_concludes() -> None:
    """The simulated rates are those of weigh and judge: the same findings, chain by chain."""
    rng = np.random.default_rng(10)
    first, second = draw_units(rng, 3, 1, 1.0)[:300], draw_units(rng, 2, 1, 1.0)[:300]
    p, covered = run_welch(first, second)
    for chain in range(len(first)):
        family = judge(
            [
                weigh(*(make_sample("x", enumerate(side[chain, metric].tolist())) for side in (first, second)))
                for metric in range(METRICS)
            ]
        )
        found = any(entry.outcome in ("better", "worse") for entry in family)
        assert found == (p[chain].min() * METRICS <= LEVEL)
        for entry, covers in zip(family, covered[chain], strict=True):
            assert entry.low is not None
            assert entry.high is not None
            assert (entry.low <= 0 <= entry.high) == covers

"""Forecasts: measured spreads take precedence over published ones; without either they are unknown."""

import math

import pytest

from transfer.results.evidence import make_sample, weigh
from transfer.results.forecast import Design, find_spread, forecast, foresee_claim
from transfer.results.planning import Spread, find_smallest_difference
from transfer.results.run_result import RunResult
from transfer.results.summaries import summarise

VOC = "voc-c4-24k@moco"
MEASURED = (Spread(pretraining=0.3, finetuning=0.2, single=math.hypot(0.3, 0.2)), "measured")


def run(backbone: str, seed: int, value: float, **rest: object) -> RunResult:
    return RunResult(backbone=backbone, protocol=VOC, seed=seed, metrics={"AP": value}, commit="c", machine={}, **rest)  # type: ignore[arg-type]


def test_measured_spread_comes_before_the_published_one() -> None:
    measured = summarise([run("a", 0, 50.0), run("a", 1, 51.0)])
    assert find_spread(measured, VOC, "AP") == (Spread(finetuning=pytest.approx(math.sqrt(0.5))), "measured")  # type: ignore[arg-type]
    assert find_spread([], VOC, "AP") == (Spread(finetuning=0.2), "published")
    assert find_spread([], "voc-c4-digits@moco", "AP") == (Spread(), "unknown")


def test_runs_with_deviations_measure_no_spread_of_the_protocol() -> None:
    deviation = [{"key": "x", "expected": 1, "got": 2}]
    cut = summarise([run("a", seed, 50.0 + seed, deviations=deviation) for seed in (0, 1)])
    assert find_spread(cut, VOC, "AP")[1] == "published"


@pytest.mark.parametrize("first", [(1, 1), (1, 3), (2, 1), (3, 2)])
@pytest.mark.parametrize("second", [(1, 1), (1, 2), (2, 2), (5, 1)])
def test_foreseen_claim_is_the_one_that_the_runs_will_make(first: Design, second: Design) -> None:
    sides = [
        make_sample("x", [(p, 1.0 * p + 0.1 * f + place) for p in range(count) for f in range(each)])
        for place, (count, each) in enumerate((first, second))
    ]
    assert foresee_claim(first, second) == weigh(sides[0], sides[1]).claim


def test_forecast_of_methods_uses_the_spread_of_their_units() -> None:
    found = forecast(MEASURED, (10, 1), (10, 1), delta=0.5, costs=(10.0, 1.0))  # type: ignore[arg-type]
    assert found.claim == "methods"
    assert found.smallest == pytest.approx(find_smallest_difference(math.hypot(0.3, 0.2), 10))
    assert found.best_ratio == pytest.approx(math.sqrt(10) * 0.2 / 0.3)
    assert found.split is not None
    assert (found.split.pretrainings, found.split.finetunings) == (8, 2)
    stricter = forecast(MEASURED, (10, 1), (10, 1), delta=0.5, family=4)  # type: ignore[arg-type]
    assert stricter.smallest is not None
    assert stricter.smallest > found.smallest  # type: ignore[operator]
    assert stricter.split is None  # no costs, no cheapest split


def test_published_noise_does_not_support_claims_about_methods() -> None:
    found = find_spread([], VOC, "AP")
    assert forecast(found, (3, 2), (3, 2), delta=0.5).smallest is None
    assert forecast(found, (1, 5), (1, 5), delta=0.5).smallest == pytest.approx(find_smallest_difference(0.2, 5))
    assert forecast((Spread(), "unknown"), (1, 5), (1, 5), delta=0.5).smallest is None


def test_two_runs_show_what_the_published_noise_lets_them() -> None:
    """(1.960 + 0.842) √2 · 0.2 points, by the normal distribution."""
    found = forecast(find_spread([], VOC, "AP"), (1, 1), (1, 1), delta=0.5)
    assert found.claim == "two_runs"
    assert found.smallest == pytest.approx((1.959964 + 0.841621) * math.sqrt(2) * 0.2, rel=1e-5)
    assert forecast((Spread(), "unknown"), (1, 1), (1, 1), delta=0.5).claim == "none"

"""Plans: power against published numbers and simulation, the smallest difference, the cheapest split."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transfer.results.evidence import make_sample
from transfer.results.planning import (
    Spread,
    count_units,
    find_best_ratio,
    find_cheapest_split,
    find_power,
    find_smallest_difference,
    measure_spread,
)

SPREAD = Spread(pretraining=0.3, finetuning=0.2)


def unit_std(finetunings: int) -> float:
    found = SPREAD.of_unit(finetunings)
    assert found is not None
    return found


@pytest.mark.parametrize(("finetunings", "units", "power"), [(1, 10, 0.834), (2, 8, 0.8005), (5, 8, 0.844)])
def test_power_is_that_of_the_noncentral_t(finetunings: int, units: int, power: float) -> None:
    assert find_power(0.5, unit_std(finetunings), units) == pytest.approx(power, abs=6e-4)
    assert find_power(0.5, unit_std(finetunings), units - 1) < 0.8
    assert count_units(0.5, unit_std(finetunings)) == units


def test_power_without_a_difference_is_the_level() -> None:
    assert find_power(0.0, 1.0, 5) == pytest.approx(0.05)
    assert find_power(0.0, 1.0, 5, level=0.01) == pytest.approx(0.01)
    assert find_power(1.0, 1.0, 1) == 0.0


def test_power_agrees_with_a_simulated_students_test() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.normal(1.2, 1, (20_000, 6)), rng.normal(0, 1, (20_000, 6))
    from scipy import stats

    shown = (stats.ttest_ind(first, second, axis=1).pvalue <= 0.05).mean()
    assert find_power(1.2, 1.0, 6) == pytest.approx(shown, abs=0.012)  # 3.4 standard errors


@given(st.floats(0.01, 3), st.integers(2, 40), st.integers(2, 40))
def test_smallest_difference_is_shown_with_the_power_asked_for(std: float, first: int, second: int) -> None:
    smallest = find_smallest_difference(std, first, second)
    assert smallest is not None
    assert find_power(smallest, std, first, second) == pytest.approx(0.8, abs=1e-3)


def test_one_unit_shows_nothing_and_no_spread_shows_all() -> None:
    assert find_smallest_difference(0.3, 1, 5) is None
    assert find_smallest_difference(0.0, 2) == 0.0
    assert count_units(0.01, 5.0) is None


@given(st.floats(0.0, 100.0), st.floats(0.01, 5.0), st.integers(2, 200))
def test_power_is_a_probability_and_grows_with_units(difference: float, std: float, units: int) -> None:
    smaller, larger = find_power(difference, std, units), find_power(difference, std, units + 1)
    assert 0.0 <= smaller <= larger + 1e-9 <= 1.0 + 1e-8


def test_cheapest_split_is_the_cheapest_of_all() -> None:
    for pretraining_cost, finetuning_cost in ((10.0, 1.0), (1.0, 1.0), (1.0, 10.0), (200.0, 3.0)):
        found = find_cheapest_split(0.5, SPREAD, pretraining_cost, finetuning_cost)
        assert found is not None
        assert found.power >= 0.8
        plans = [
            2 * units * (pretraining_cost + finetunings * finetuning_cost)
            for finetunings in range(1, 30)
            for units in range(2, 30)
            if find_power(0.5, unit_std(finetunings), units) >= 0.8
        ]
        assert found.cost == pytest.approx(min(plans))


def test_best_ratio_follows_cost_and_spread() -> None:
    assert find_best_ratio(SPREAD, 9.0, 1.0) == pytest.approx(3 * 0.2 / 0.3)
    assert find_best_ratio(Spread(pretraining=0.0, finetuning=0.2), 9.0, 1.0) == math.inf
    assert find_best_ratio(Spread(single=0.4), 9.0, 1.0) is None


def test_unknown_spread_gives_no_plan_and_an_undivided_one_gives_one_fine_tuning() -> None:
    assert find_cheapest_split(0.5, Spread(), 1.0, 1.0) is None
    undivided = find_cheapest_split(0.5, Spread(single=math.hypot(0.3, 0.2)), 10.0, 1.0)
    assert undivided is not None
    assert (undivided.pretrainings, undivided.finetunings) == (10, 1)


def test_measured_spread_is_that_of_the_model() -> None:
    rng = np.random.default_rng(0)
    samples = []
    for number in range(40):
        means = rng.normal(50 + number, 0.3, 20)
        runs = [(seed, float(value)) for seed in range(20) for value in rng.normal(means[seed], 0.2, 1 + seed % 3)]
        samples.append(make_sample(f"m{number}", runs))
    found = measure_spread(samples)
    assert found.pretraining == pytest.approx(0.3, abs=0.02)
    assert found.finetuning == pytest.approx(0.2, abs=0.01)
    assert found.single == pytest.approx(math.hypot(0.3, 0.2), abs=0.02)


def test_spread_is_unknown_where_nothing_repeats() -> None:
    assert measure_spread([make_sample("a", [(0, 1.0)])]) == Spread()
    checkpoints = measure_spread([make_sample("a", [(0, 1.0), (0, 3.0)])])
    assert (checkpoints.pretraining, checkpoints.finetuning) == (None, pytest.approx(math.sqrt(2)))
    single = measure_spread([make_sample("a", [(0, 1.0), (1, 3.0)])])
    assert (single.pretraining, single.finetuning, single.single) == (None, None, pytest.approx(math.sqrt(2)))

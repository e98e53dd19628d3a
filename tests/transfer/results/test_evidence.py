"""Verdicts: permitted claims, the test, the four outcomes, and degenerate data."""

import math
import statistics
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from transfer.results.evidence import Evidence, Sample, adjust_by_holm, find_interval, judge, make_sample, weigh

NUMBER = st.floats(0, 100, allow_subnormal=False).map(lambda value: round(value, 3))


def sample(method: str, *pretrainings: list[float]) -> Sample:
    return make_sample(method, [(seed, value) for seed, values in enumerate(pretrainings) for value in values])


def decide(first: Sample, second: Sample, **options: float) -> Evidence:
    return judge([weigh(first, second, **options)])[0]


@given(st.lists(NUMBER, min_size=2, max_size=9), st.lists(NUMBER, min_size=2, max_size=9))
def test_unbalanced_designs_agree_with_scipys_welch(first: list[float], second: list[float]) -> None:
    if statistics.stdev(first) < 1e-3 or statistics.stdev(second) < 1e-3:
        return
    found = weigh(sample("a", *([value] for value in first)), sample("b", *([value] for value in second)))
    test = stats.ttest_ind(first, second, equal_var=False)
    interval = test.confidence_interval(0.95)
    assert found.claim == "methods"
    assert found.low is not None
    assert found.high is not None
    assert found.p is not None
    if min(len(first), len(second)) == 2 < max(len(first), len(second)):  # the smaller side's degrees of freedom: wider
        assert found.high - found.low >= (interval.high - interval.low) * (1 - 1e-9)
        assert found.p >= test.pvalue * (1 - 1e-9)
        half = stats.t.ppf(0.975, 1) * math.sqrt(
            statistics.variance(first) / len(first) + statistics.variance(second) / len(second)
        )
        assert found.high - found.low == pytest.approx(2 * half)
    else:
        assert (found.low, found.high) == (pytest.approx(interval.low), pytest.approx(interval.high))
        assert found.p == pytest.approx(test.pvalue, rel=1e-6, abs=1e-12)


def test_fine_tunings_of_a_pretraining_are_averaged_first() -> None:
    first, second = sample("a", [50, 52], [53, 53, 56]), sample("b", [49], [50, 52])
    assert first.units == (51, 54)
    found = weigh(first, second)
    assert found.difference == pytest.approx(52.5 - 50.0)
    assert found.p == pytest.approx(stats.ttest_ind([51, 54], [49, 51], equal_var=False).pvalue)


def test_more_fine_tunings_never_replicate_a_pretraining() -> None:
    """Even a thousand fine-tunings of one pretraining per side allow no claim about methods."""
    rng = np.random.default_rng(0)
    first, second = (sample(name, rng.normal(level, 0.1, 1000).tolist()) for name, level in (("a", 50.0), ("b", 49.0)))
    assert decide(first, second).claim == "checkpoints"


@pytest.mark.parametrize(
    ("first", "second", "published", "claim"),
    [
        ([[1], [2]], [[3], [4]], None, "methods"),
        ([[1, 2], [2]], [[3], [4], [5]], None, "methods"),
        ([[1, 2]], [[3, 4]], None, "checkpoints"),
        ([[1, 2]], [[3], [4]], None, "checkpoint_and_method"),
        ([[1], [2]], [[3, 4, 5]], None, "checkpoint_and_method"),
        ([[1]], [[3]], 0.2, "two_runs"),
        ([[1, 2]], [[3, 4]], 0.2, "checkpoints"),
        ([[1]], [[3]], None, "none"),
        ([[1]], [[3, 4]], 0.2, "none"),
        ([[1]], [[3], [4]], 0.2, "none"),
    ],
)
def test_claim_follows_from_what_is_replicated(
    first: list[list[float]], second: list[list[float]], published: float | None, claim: str
) -> None:
    found = judge([weigh(sample("a", *first), sample("b", *second), published_std=published)])[0]
    assert found.claim == claim
    assert (found.p is None) == (claim == "none")
    assert (found.outcome == "too_few_runs") == (claim == "none")
    assert bool(found.reason) == (claim == "none")


def test_two_runs_have_the_published_spread_times_root_two() -> None:
    found = decide(sample("a", [57.5]), sample("b", [57.0]), published_std=0.2)
    assert found.high is not None
    assert found.high - found.difference == pytest.approx(stats.norm.ppf(0.975) * 0.2 * math.sqrt(2))
    assert found.p == pytest.approx(2 * stats.norm.sf(0.5 / (0.2 * math.sqrt(2))))
    assert found.outcome == "undecided"


def test_four_outcomes_and_undecided_is_never_equivalent() -> None:
    base = sample("b", [50.0], [50.1], [49.9])
    outcomes = {
        "better": sample("a", [52.0], [52.1], [51.9]),
        "worse": sample("a", [48.0], [48.1], [47.9]),
        "equivalent": sample("a", [50.05], [50.1], [49.9]),
        "undecided": sample("a", [51.5], [50.1], [48.9]),
    }
    for outcome, first in outcomes.items():
        assert decide(first, base, delta=0.5).outcome == outcome
    assert decide(outcomes["equivalent"], base, delta=0.05).outcome == "undecided"


def test_better_and_worse_swap_with_the_sides() -> None:
    first, second = sample("a", [52.0], [52.1]), sample("b", [50.0], [50.1])
    there, back = decide(first, second), decide(second, first)
    assert (there.outcome, back.outcome) == ("better", "worse")
    assert (there.low, there.high, there.p) == (pytest.approx(-back.high), pytest.approx(-back.low), back.p)


def test_identical_runs_show_no_spread() -> None:
    """Repeating a deterministic measurement is not replication: difference 1.0, but no interval and no p of 0."""
    found = decide(sample("knn", [51.0, 51.0, 51.0]), sample("b", [50.0, 50.0]))
    assert (found.outcome, found.claim, found.low, found.p) == ("too_few_runs", "none", None, None)
    assert found.difference == 1.0
    assert "same value" in found.reason
    rounded = decide(sample("a", [0.1 + 0.2, 0.3]), sample("b", [0.7, 0.7]))
    assert rounded.outcome == "too_few_runs"  # 0.1 + 0.2 differs from 0.3 by rounding alone


def test_one_side_without_spread_leaves_the_other_sides_degrees_of_freedom() -> None:
    found = decide(sample("a", [51.0], [51.0], [51.0]), sample("b", [49.0], [50.0], [51.0]))
    assert found.low is not None
    half = stats.t.ppf(0.975, 2) * math.sqrt(1 / 3)
    assert found.low == pytest.approx(1.0 - half)


@pytest.mark.parametrize("nothing", [None, math.nan, math.inf, -math.inf])
def test_runs_without_a_finite_value_are_counted_and_left_out(nothing: float | None) -> None:
    found = make_sample("a", [(0, 50.0), (0, nothing), (1, nothing)])
    assert (found.runs, found.missing, found.pretrainings) == ({0: (50.0,)}, 2, 1)
    with pytest.raises(ValueError, match="none of its 2 runs has a finite value"):
        make_sample("a", [(0, nothing), (1, nothing)])


def test_holm_agrees_with_its_definition() -> None:
    assert adjust_by_holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert adjust_by_holm([]) == []
    assert adjust_by_holm([0.7, 0.9]) == [1.0, 1.0]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.floats(0.001, 0.2))
def test_holm_rejects_what_the_step_down_procedure_rejects(p: list[float], level: float) -> None:
    rejected: set[int] = set()
    for step, place in enumerate(sorted(range(len(p)), key=p.__getitem__)):
        if (len(p) - step) * p[place] > level:
            break
        rejected.add(place)
    assert {place for place, value in enumerate(adjust_by_holm(p)) if value <= level} == rejected


def test_family_makes_a_finding_harder_but_not_members_without_p() -> None:
    base, first = sample("b", [50.0, 50.4, 49.6]), sample("a", [51.0, 51.4, 50.6])
    alone = weigh(first, base)
    assert alone.p is not None
    assert 0.025 < alone.p < 0.05
    assert judge([alone])[0].outcome == "better"
    empty = weigh(sample("c", [1.0]), base)
    assert judge([alone, empty])[0].outcome == "better"
    chance = weigh(sample("d", [50.1, 50.5, 49.8]), base)
    assert judge([alone, chance])[0].outcome == "undecided"


def test_interval_of_a_mean_is_students() -> None:
    found = find_interval(sample("a", [50.0, 50.2], [50.6], [49.9]))
    expected = stats.t.interval(0.95, 2, np.mean([50.1, 50.6, 49.9]), stats.sem([50.1, 50.6, 49.9]))
    assert found == (pytest.approx(expected[0]), pytest.approx(expected[1]))
    assert find_interval(sample("a", [50.0])) is None
    assert find_interval(sample("a", [50.0, 50.0])) is None


@given(st.lists(st.lists(NUMBER, min_size=1, max_size=3), min_size=1, max_size=4), NUMBER)
def test_any_data_gives_an_outcome_without_a_warning(pretrainings: list[list[float]], other: float) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = decide(sample("a", *pretrainings), sample("b", [other, other], [other]))
    for value in (found.low, found.high, found.p, found.p_adjusted):
        assert value is None or math.isfinite(value)
    assert (found.outcome == "too_few_runs") == (found.p is None)

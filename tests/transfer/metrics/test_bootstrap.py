import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transfer.metrics.bootstrap import (
    MetricDraws,
    bootstrap_accuracy,
    draw_images,
    mean_draws,
    paired_interval,
    percentile_interval,
    read_draws,
    summarise_draws,
    write_draws,
)


def draws_of(values: list[float], identity: str = "a", value: float = 50.0) -> MetricDraws:
    return MetricDraws(identity=identity, images=10, value=value, values=np.array(values))


@given(st.lists(st.text(max_size=5), min_size=1, max_size=30, unique=True), st.randoms())
def test_draws_depend_on_the_ids_and_not_on_their_order(ids: list[str], random: object) -> None:
    shuffled = list(ids)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    first, second = draw_images(ids, 20), draw_images(shuffled, 20)
    assert first.identity == second.identity
    assert first.counts.sum(axis=1).tolist() == [len(ids)] * 20
    for column, name in enumerate(ids):
        np.testing.assert_array_equal(first.counts[:, column], second.counts[:, shuffled.index(name)])


def test_draws_of_other_images_have_another_identity() -> None:
    assert draw_images([1, 2, 3], 5).identity == draw_images(["1", "2", "3"], 5).identity
    assert draw_images([1, 2, 3], 5).identity != draw_images([1, 2, 4], 5).identity
    assert draw_images([1, 2, 3], 5).identity != draw_images([1, 2, 3], 6).identity


def test_each_image_is_drawn_as_often_as_sampling_with_replacement_draws_it() -> None:
    counts = draw_images(range(400), 500).counts.astype(float)
    assert counts.mean() == 1.0
    assert counts.var() == pytest.approx(1 - 1 / 400, rel=0.02)  # Binomial(N, 1/N)
    assert (counts == 0).mean() == pytest.approx(np.exp(-1), rel=0.02)


@pytest.mark.parametrize("ids", [[], [1, 1], [1, "1"]])
def test_images_that_are_not_distinct_are_refused(ids: list[object]) -> None:
    with pytest.raises(ValueError, match="needs distinct images"):
        draw_images(ids)


def test_interval_is_numpys_percentiles_of_the_finite_draws() -> None:
    values = np.arange(1000.0)
    interval = percentile_interval(draws_of([*values, float("nan")]))
    assert (interval.low, interval.high) == pytest.approx(tuple(np.percentile(values, [2.5, 97.5])))
    assert interval.draws == 1000
    assert np.isnan(percentile_interval(draws_of([float("nan")])).low)


def test_a_paired_difference_removes_what_both_runs_share() -> None:
    shared = np.random.default_rng(0).normal(50, 5, 1000)
    first, second = draws_of((shared + 1).tolist(), value=51.0), draws_of(shared.tolist())
    interval = paired_interval(first, second)
    assert (interval.value, interval.low, interval.high) == pytest.approx((1, 1, 1))
    assert paired_interval(first, first).low == paired_interval(first, first).high == 0


def test_mean_of_runs_is_taken_draw_by_draw() -> None:
    mean = mean_draws([draws_of([1, 2], value=1), draws_of([3, 6], value=4)])
    assert mean.values.tolist() == [2, 4]
    assert mean.value == 2.5
    with pytest.raises(ValueError, match="at least one run"):
        mean_draws([])


def test_runs_on_other_test_sets_are_not_subtracted() -> None:
    with pytest.raises(ValueError, match="same draws of one test set"):
        paired_interval(draws_of([1, 2]), draws_of([1, 2], identity="b"))
    with pytest.raises(ValueError, match="same draws of one test set"):
        mean_draws([draws_of([1, 2]), draws_of([1, 2, 3])])


def test_written_draws_read_back_to_four_digits(tmp_path: Path) -> None:
    before = {"AP": draws_of([12.34567, float("nan")], value=13.0), "AP50": draws_of([1, 2], identity="b")}
    write_draws(tmp_path, before)
    for place in (tmp_path, tmp_path / "bootstrap.json"):
        after = read_draws(place)
        assert list(after) == ["AP", "AP50"]
        np.testing.assert_array_equal(after["AP"].values, [12.3457, float("nan")])
        assert (after["AP50"].identity, after["AP"].value, after["AP"].images) == ("b", 13.0, 10)
    summary = summarise_draws(before)
    assert summary["AP50"]["draws"] == 2
    assert set(summary["AP50"]) == {"low", "high", "draws", "images", "level"}


def test_a_run_without_the_file_has_no_draws_and_a_damaged_file_is_explained(tmp_path: Path) -> None:
    assert read_draws(tmp_path) == {}
    for text in ("[]", "{}", '{"version": 2, "metrics": {}}', '{"version": 1, "metrics": {"AP": {"values": "x"}}}'):
        (tmp_path / "bootstrap.json").write_text(text)
        with pytest.raises(ValueError, match=r"bootstrap\.json: no draws of a test set"):
            read_draws(tmp_path)
    (tmp_path / "bootstrap.json").write_text(json.dumps({"version": 1, "metrics": {}})[:-3])
    with pytest.raises(ValueError, match="not valid JSON"):
        read_draws(tmp_path)


def test_accuracy_on_the_draws_counts_each_image_as_often_as_it_is_drawn() -> None:
    ids, right = [f"c/{number}" for number in range(30)], np.arange(30) % 3 == 0
    draws = bootstrap_accuracy(ids, right, 50)
    sample = draw_images(ids, 50)
    assert draws.identity == sample.identity
    assert draws.value == 100 * 10 / 30
    for value, counts in zip(draws.values, sample.counts, strict=True):
        assert value == 100 * np.repeat(right, counts).sum() / 30
    spread = bootstrap_accuracy(ids, right, 2000).values.std()
    assert spread == pytest.approx(100 * np.sqrt(1 / 3 * 2 / 3 / 30), rel=0.06)  # of a share of 30 images

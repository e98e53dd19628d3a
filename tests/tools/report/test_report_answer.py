"""The dot plots: positions on an axis match the values, and the controls are marked."""

import dataclasses
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tools.report.answer import build_axes
from tools.report.details import list_breakdowns, list_runs
from tools.report.tables import build_tables
from tools.report.text.numbers import write_difference, write_mean, write_p, write_value
from transfer.results.comparison import reach_verdict
from transfer.results.question import Controls, Question
from transfer.results.run_result import RunResult
from transfer.results.summaries import summarise

VALUE = st.floats(0, 100, allow_subnormal=False)


def run(backbone: str, seed: int, value: float, metric: str = "AP", **rest: object) -> RunResult:
    return RunResult(
        backbone=backbone, protocol="voc", seed=seed, metrics={metric: value}, commit="c", machine={}, **rest
    )  # type: ignore[arg-type]


@given(st.lists(st.tuples(st.integers(0, 3), VALUE), min_size=1, max_size=12))
def test_every_run_lies_on_its_axis_in_the_order_of_its_value(runs: list[tuple[int, float]]) -> None:
    summaries = summarise(run(f"m{method}@{place}", 0, value) for place, (method, value) in enumerate(runs))
    verdict = reach_verdict(summaries, Question())
    (axis,) = build_axes(build_tables(summaries, verdict)[0], verdict)
    pairs = sorted(
        (value, dot)
        for row, line in zip(summaries, axis.lines, strict=True)
        for value, dot in zip(row.values, line.dots, strict=True)
    )
    assert all(0 <= dot <= 100 for _, dot in pairs)
    assert [dot for _, dot in pairs] == sorted(dot for _, dot in pairs)
    ticks = [tick.place for tick in axis.ticks]
    assert ticks == sorted(ticks)
    assert all(-1e-6 <= place <= 100 + 1e-6 for place in ticks)
    assert len({tick.label for tick in axis.ticks}) == len(ticks)
    for line in axis.lines:
        if line.interval:
            start, width = line.interval
            assert start <= line.mean <= start + width + 0.01
            assert start + width <= 100.01


def test_ends_of_the_scale_are_the_controls() -> None:
    levels = {"random": 10.0, "mochi": 30.0, "supervised": 50.0}
    summaries = summarise(run(name, seed, level + seed) for name, level in levels.items() for seed in (0, 1))
    verdict = reach_verdict(summaries, Question(controls=Controls(floor="random", ceiling="supervised")))
    (axis,) = build_axes(build_tables(summaries, verdict)[0], verdict)
    assert [mark.label for mark in axis.ends] == ["random", "supervised"]
    lines = {line.name: line for line in axis.lines}
    assert [line.role for line in lines.values()] == ["floor", "", "ceiling"]
    assert lines["random"].mean < lines["mochi"].mean < lines["supervised"].mean
    assert lines["mochi"].mean == pytest.approx((lines["random"].mean + lines["supervised"].mean) / 2, abs=0.02)


def test_many_methods_show_the_best_and_the_ends_of_the_scale() -> None:
    summaries = summarise(run(f"m{place}", 0, float(place)) for place in range(100))
    verdict = reach_verdict(summaries, Question(controls=Controls(floor="m0", ceiling="m50")))
    (axis,) = build_axes(build_tables(summaries, verdict)[0], verdict)
    shown, folded = [line.name for line in axis.shown], [line.name for line in axis.folded]
    assert shown == [*(f"m{place}" for place in range(99, 75, -1)), "m50", "m0"]
    assert len({*shown, *folded}) == len(shown) + len(folded) == 100


def test_only_headline_metrics_have_an_axis() -> None:
    summaries = summarise([run("a", 0, 1.0), run("a", 1, 2.0, "AP50")])
    verdict = reach_verdict(summaries, Question())
    assert len(build_axes(build_tables(summaries, verdict)[0], verdict)) == 1


def test_numbers_have_two_decimals_below_one() -> None:
    assert [write_value(value) for value in (57.25, 0.254, None)] == ["57.2", "0.25", "–"]
    assert [write_difference(value) for value in (1.25, -0.254, 0.0, None)] == ["+1.2", "−0.25", "+0.00", "–"]
    assert write_mean(57.321, (57.1, 57.542)) == "57.32 (57.10 to 57.54)"
    assert write_mean(57.321, (55.1, 59.542)) == "57.3 (55.1 to 59.5)"
    assert write_mean(57.321, None) == "57.3"
    assert [write_p(p) for p in (None, 0.0001, 0.0123, 0.5, 1.0)] == ["–", "< 0.001", "0.012", "0.50", "1.00"]


def test_runs_and_breakdowns_hold_every_value() -> None:
    details = {
        "val": {"per_class": {"cat": {"AP": 10.0}, "dog": {"AP": 20.0}}, "errors": {"box": {"ap50_lost": {"Cls": 1.0}}}}
    }
    summaries = summarise([run("m@1", seed, 5.0 * seed, details=details) for seed in (0, 1)])
    (table,) = build_tables(summaries, reach_verdict(summaries, Question()))
    assert [(entry.backbone, entry.seed, list(entry.values)) for entry in list_runs(table)] == [
        ("m@1", 0, [0.0]), ("m@1", 1, [5.0]),
    ]  # fmt: skip
    assert [(entry.title, list(entry.rows)) for entry in list_breakdowns(table)] == [
        ("AP, points of AP50 lost by kind of error (TIDE)", [("Cls", [1.0])]),
        ("AP, by class (%)", [("cat", [10.0]), ("dog", [20.0])]),
    ]


def test_tables_and_verdict_take_time_in_proportion_to_the_runs() -> None:
    """800 backbones × 2 seeds × 2 protocols: eight times as many backbones take about eight times as long, not 64."""

    def measure(backbones: int) -> float:
        values = np.random.default_rng(0).normal(50, 2, (backbones, 2, 2)).tolist()
        measured = (("voc-c4-24k@moco", "AP"), ("coco-c4-1x@moco", "box/AP"))
        results = [
            dataclasses.replace(run(f"b{place}", seed, values[place][part][seed], metric), protocol=protocol)
            for place in range(backbones)
            for part, (protocol, metric) in enumerate(measured)
            for seed in (0, 1)
        ]
        began = time.process_time()
        summaries = summarise(results)
        verdict = reach_verdict(summaries, Question())
        tables = build_tables(summaries, verdict)
        spent = time.process_time() - began
        assert [len(table.rows) for table in tables] == [backbones, backbones]
        return spent

    small = min(measure(100) for _ in range(3))
    assert measure(800) < 8 * 3 * small

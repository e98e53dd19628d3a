import json
import statistics
from pathlib import Path

import pytest

from transfer.results.published import published_rows
from transfer.results.run_result import RunResult, compare, read_result, read_results, summarise, write_result

VOC = "voc-c4-24k@moco"


def make_result(backbone: str, seed: int, ap: float | None, protocol: str = VOC, **rest: object) -> RunResult:
    return RunResult(
        backbone=backbone,
        protocol=protocol,
        seed=seed,
        metrics={"AP": ap, "AP50": 80.0 + seed},
        commit="c",
        machine={"cpu": "x"},
        **rest,  # type: ignore[arg-type]
    )


def test_written_result_reads_back_equal(tmp_path: Path) -> None:
    result = make_result("mochi", 3, 57.5, weights_sha256="ab", seconds=1.5, details={"per_class": {"cat": 1.0}})
    path = write_result(tmp_path / "run", result)
    assert path == tmp_path / "run" / "metrics.json"
    again = read_result(tmp_path / "run")
    assert (again.backbone, again.protocol, again.seed) == ("mochi", VOC, 3)
    assert again.metrics == result.metrics
    assert again.details == result.details


def test_result_says_commit_and_machine_unasked(tmp_path: Path) -> None:
    write_result(tmp_path, RunResult(backbone="b", protocol=VOC, seed=0, metrics={}))
    result = read_result(tmp_path)
    assert result.commit
    assert result.machine["cpu"]


def test_nan_is_written_as_null(tmp_path: Path) -> None:
    write_result(tmp_path, make_result("b", 0, float("nan"), details={"x": [float("inf")]}))
    values = json.loads((tmp_path / "metrics.json").read_text())
    assert values["metrics"]["AP"] is None
    assert values["details"] == {"x": [None]}


def test_results_are_found_at_any_depth(tmp_path: Path) -> None:
    for seed in (1, 0):
        write_result(tmp_path / "stages" / f"voc-{seed}", make_result("b", seed, 1.0))
    assert [result.seed for result in read_results(tmp_path)] == [0, 1]


def test_missing_and_foreign_results_are_sentences(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="may not be done"):
        read_result(tmp_path)
    (tmp_path / "metrics.json").write_text('{"loss": 1}')
    with pytest.raises(ValueError, match="expected a run's result with the keys"):
        read_result(tmp_path)
    with pytest.raises(ValueError, match="no such file or folder"):
        read_results(tmp_path / "nothing")


def test_summary_has_mean_sample_std_and_n() -> None:
    values = [57.0, 57.4, 56.9]
    ap, ap50 = summarise(make_result("mochi", seed, value) for seed, value in enumerate(values))
    assert (ap.metric, ap.n, ap.seeds, ap.values) == ("AP", 3, (0, 1, 2), tuple(values))
    assert ap.mean == statistics.fmean(values)
    assert ap.std == statistics.stdev(values)
    assert (ap50.metric, ap50.mean, ap50.std) == ("AP50", 81.0, 1.0)


def test_single_run_has_no_std() -> None:
    assert summarise([make_result("mochi", 0, 57.0)])[0].std is None


def test_null_metric_does_not_count() -> None:
    summaries = summarise([make_result("b", 0, None), make_result("b", 1, 50.0)])
    assert {summary.metric: summary.n for summary in summaries} == {"AP": 1, "AP50": 2}


def test_protocols_and_deviations_are_never_pooled() -> None:
    deviation = [{"key": "SOLVER.MAX_ITER", "expected": 24000, "got": 100}]
    results = [
        make_result("b", 0, 50.0),
        make_result("b", 0, 40.0, protocol="coco-c4-1x@moco"),
        make_result("b", 0, 30.0, deviations=deviation),
    ]
    summaries = [summary for summary in summarise(results) if summary.metric == "AP"]
    assert [(summary.mean, summary.n) for summary in summaries] == [(50.0, 1), (40.0, 1), (30.0, 1)]
    for other in summaries[1:]:
        with pytest.raises(ValueError, match="the protocol, its deviations and the metric must be the same"):
            compare(summaries[0], other)


def test_copy_of_a_trial_is_refused() -> None:
    with pytest.raises(ValueError, match="a copy is no second trial"):
        summarise([make_result("b", 0, 50.0), make_result("b", 0, 50.0)])


@pytest.mark.parametrize(
    ("protocol", "metric", "difference", "within"),
    [
        (VOC, "AP", 0.2, True),
        (VOC, "AP", 0.3, False),
        (VOC, "AP50", -0.2, True),
        (VOC, "AP50", -0.25, False),
        (VOC, "AP75", 0.4, True),
        (VOC, "AP75", 0.5, False),
        ("coco-c4-1x@moco", "box/AP", 0.3, True),
        ("coco-c4-1x@moco", "mask/AP", 0.4, False),
        ("linear-in1k@moco", "top1", 5.0, None),
    ],
)
def test_published_noise_band_decides_single_runs(
    protocol: str, metric: str, difference: float, within: bool | None
) -> None:
    first, second = (
        summarise([RunResult(backbone=name, protocol=protocol, seed=0, metrics={metric: value}, commit="", machine={})])
        for name, value in (("mochi", 50 + difference), ("moco_v2", 50.0))
    )
    comparison = compare(first[0], second[0])
    assert comparison.difference == pytest.approx(difference)
    assert comparison.within is within


def test_larger_measured_std_widens_the_band() -> None:
    first = summarise(make_result("a", seed, value) for seed, value in enumerate([50.0, 54.0]))[0]
    second = summarise([make_result("b", 0, 51.0)])[0]
    comparison = compare(first, second)
    assert comparison.noise == statistics.stdev([50.0, 54.0])
    assert comparison.noise_source == "measured std"
    assert comparison.within is True


def test_published_rows_carry_label_and_source() -> None:
    rows = {(row.backbone, row.epochs): row for row in published_rows(VOC)}
    confirmed, reported = rows["MoCo v2", 200], rows["MoCHi (128,1024,512)", 200]
    assert (confirmed.metrics, confirmed.label) == ({"AP50": 82.4, "AP": 57.0, "AP75": 63.6}, "confirmed")
    assert (reported.metrics, reported.label) == ({"AP50": 82.7, "AP": 57.5, "AP75": 64.4}, "as reported")
    assert all(row.source for row in rows.values())
    assert published_rows("voc-c4-digits@moco") == []

"""Pooling: pretraining seeds are replications of one method, and recipes, protocols and copies are never mixed."""

import math
import statistics
from typing import Any

import pytest

from transfer.results.run_details import find_classes, find_error_kinds, find_sizes
from transfer.results.run_result import RunResult
from transfer.results.summaries import RunKey, key_of, published_noise, summarise

VOC = "voc-c4-24k@moco"


def make_result(backbone: str, seed: int, ap: float | None, protocol: str = VOC, **rest: object) -> RunResult:
    metrics = {"AP": ap, "AP50": 80.0 + seed}
    return RunResult(
        backbone=backbone, protocol=protocol, seed=seed, metrics=metrics, commit="c", machine={"cpu": "x"}, **rest
    )  # type: ignore[arg-type]


def test_summary_of_one_pretraining_has_mean_sample_std_and_n() -> None:
    values = [57.0, 57.4, 56.9]
    ap, ap50 = summarise(make_result("mochi", seed, value) for seed, value in enumerate(values))
    assert (ap.metric, ap.n, ap.seeds, ap.values) == ("AP", 3, (0, 1, 2), tuple(values))
    assert ap.mean == statistics.fmean(values)
    assert ap.std == statistics.stdev(values)
    assert (ap50.metric, ap50.mean, ap50.std) == ("AP50", 81.0, 1.0)
    assert summarise([make_result("mochi", 0, 57.0)])[0].std is None


def test_pretraining_seeds_are_pooled_as_replications_of_one_method() -> None:
    runs = [("mochi@1", 0, 50.0), ("moco@v2", 0, 1.0), ("mochi@0", 0, 52.0), ("mochi@1", 1, 51.0), ("mochi@0", 1, 53.0)]
    mochi, other = (row for row in summarise(make_result(*run) for run in runs) if row.metric == "AP")
    assert (mochi.backbone, other.backbone) == ("mochi", "moco@v2")  # a name that ends otherwise is a name
    assert mochi.sample.runs == {"mochi@1": (50.0, 51.0), "mochi@0": (52.0, 53.0)}
    assert mochi.pretrainings == ("mochi@1", "mochi@1", "mochi@0", "mochi@0")
    assert mochi.seeds == (0, 1, 0, 1)
    assert mochi.mean == 51.5
    assert mochi.std == statistics.stdev([50.5, 52.5])


def test_name_without_a_seed_is_one_more_pretraining() -> None:
    """`mochi`, `mochi@1` and `mochi@2` are three pretrainings of mochi, as older chains name them."""
    results = [make_result(name, 0, value) for name, value in (("mochi", 50.0), ("mochi@1", 51.0), ("mochi@2", 52.0))]
    (ap,) = (row for row in summarise(results) if row.metric == "AP")
    assert (ap.sample.pretrainings, ap.n) == (3, 3)


def test_mean_weighs_pretrainings_equally_however_often_each_was_fine_tuned() -> None:
    runs = [("m@0", 0, 50.0), ("m@0", 1, 52.0), ("m@0", 2, 54.0), ("m@1", 0, 60.0)]
    assert summarise(make_result(*run) for run in runs)[0].mean == 56.0


def test_same_weights_under_two_names_are_one_pretraining() -> None:
    """A copied checkpoint is not a replication: four fine-tunings of one pretraining, not two pretrainings."""
    results = [
        make_result(name, seed, 50.0 + seed, weights_sha256="ab") for name in ("mochi@0", "mochi@1") for seed in (0, 1)
    ]
    ap = summarise(results)[0]
    assert (ap.sample.pretrainings, ap.sample.finetunings) == (1, (4,))


def test_runs_are_found_again_by_their_keys() -> None:
    deviation = [{"key": "SOLVER.MAX_ITER", "expected": 24000, "got": 100}]
    results = [make_result("m@1", seed, 1.0 * seed, deviations=deviation) for seed in (1, 0)]
    known: dict[RunKey, float | None] = {key_of(result): result.metrics["AP"] for result in results}
    (ap,) = (row for row in summarise(results) if row.metric == "AP")
    assert [known[run] for run in ap.runs] == list(ap.values)


@pytest.mark.parametrize("nothing", [None, math.nan, math.inf])
def test_null_metric_is_left_out_and_counted_as_missing(nothing: float | None) -> None:
    summaries = summarise([make_result("b", 0, nothing), make_result("b", 1, 50.0)])
    assert {summary.metric: (summary.n, summary.sample.missing) for summary in summaries} == {
        "AP": (1, 1), "AP50": (2, 0),
    }  # fmt: skip
    assert [row.metric for row in summarise([make_result("b", 0, nothing)])] == ["AP50"]


def test_protocols_and_deviations_are_never_pooled() -> None:
    deviation = [{"key": "SOLVER.MAX_ITER", "expected": 24000, "got": 100}]
    results = [
        make_result("b", 0, 50.0),
        make_result("b", 0, 40.0, protocol="coco-c4-1x@moco"),
        make_result("b", 0, 30.0, deviations=deviation),
    ]
    summaries = [summary for summary in summarise(results) if summary.metric == "AP"]
    assert [(summary.mean, summary.n) for summary in summaries] == [(50.0, 1), (40.0, 1), (30.0, 1)]
    assert len({(row.protocol, row.recipe) for row in summaries}) == 3


def test_copy_of_a_trial_is_refused() -> None:
    with pytest.raises(ValueError, match="a copy is no second trial"):
        summarise([make_result("b", 0, 50.0), make_result("b", 0, 50.0)])


def test_published_noise_applies_only_at_full_size() -> None:
    assert [published_noise(VOC, metric) for metric in ("AP50", "AP", "AP75", "APs")] == [0.2, 0.2, 0.4, None]
    assert published_noise("coco-fpn-2x@infomin", "mask/AP") == 0.3
    for protocol in ("voc-c4-digits@moco", "coco-c4-digits@moco", "linear-in1k@moco", "voc-of-my-own", "coco-mine"):
        assert published_noise(protocol, "AP") is published_noise(protocol, "box/AP") is None


def test_values_by_class_are_found_in_each_evaluators_details() -> None:
    voc = {
        "voc_test": {"per_class": {"cat": {"AP": 1.0, "AP50": 2.0}}, "metric": "VOC 2007"},
        "config": {"per_class": {}},
    }
    coco: dict[str, Any] = {"coco_val": {"per_class": {"box": {"cat": 3.0, "dog": None}, "mask": {"cat": 4.0}}}}
    coco["coco_val"] |= {
        "errors": {"box": {"ap50_lost": {"Cls": 2.0}, "counts": {"Cls": 9}}},
        "by_size": {"box": {"APs": 1.0}},
    }
    voc["voc_test"] |= {"errors": {"box": {"ap50_lost": {"Loc": 3.0}}}, "by_size": {"box": {"APs": None, "APl": 5.0}}}
    assert find_classes(voc, "AP") == {"cat": 1.0}
    assert find_classes(coco, "box/AP") == {"cat": 3.0}
    assert find_classes(coco, "mask/AP") == {"cat": 4.0}
    assert find_classes({"per_class": {"one": 50.0}}, "top1") == {"one": 50.0}
    assert (find_error_kinds(coco, "box/AP"), find_sizes(coco, "box/AP")) == ({"Cls": 2.0}, {"APs": 1.0})
    assert (find_error_kinds(coco, "mask/AP"), find_sizes(coco, "mask/AP")) == ({}, {})
    assert (find_error_kinds(voc, "AP"), find_sizes(voc, "AP")) == ({"Loc": 3.0}, {"APl": 5.0})
    for nothing in ({}, None, "x", {"per_class": 3}, {"data": {"per_class": {"box": 3}}}):
        assert find_classes(nothing, "box/AP") == find_error_kinds(nothing, "box/AP") == find_sizes(nothing, "AP") == {}


def test_classes_are_averaged_over_runs() -> None:
    results = [
        make_result("m", seed, 1.0, details={"val": {"per_class": {"cat": {"AP": value}, name: {"AP": 1.0}}}})
        for seed, (value, name) in enumerate([(10.0, "dog"), (20.0, "bus")])
    ]
    assert summarise(results)[0].per_class == {"cat": 15.0}

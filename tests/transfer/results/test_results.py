import json
from pathlib import Path

import pytest

from transfer.results.published import published_rows
from transfer.results.run_result import RunResult, read_result, read_results, write_result

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


def test_result_records_commit_and_machine_by_default(tmp_path: Path) -> None:
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


def test_missing_and_foreign_results_are_explained(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="may not be finished"):
        read_result(tmp_path)
    (tmp_path / "metrics.json").write_text('{"loss": 1}')
    with pytest.raises(ValueError, match="expected a run's result with the keys"):
        read_result(tmp_path)
    with pytest.raises(ValueError, match="no such file or folder"):
        read_results(tmp_path / "nothing")


def test_published_rows_carry_label_and_source() -> None:
    rows = {(row.backbone, row.epochs): row for row in published_rows(VOC)}
    confirmed, reported = rows["MoCo v2", 200], rows["MoCHi (128,1024,512)", 200]
    assert (confirmed.metrics, confirmed.label) == ({"AP50": 82.4, "AP": 57.0, "AP75": 63.6}, "confirmed")
    assert (reported.metrics, reported.label) == ({"AP50": 82.7, "AP": 57.5, "AP75": 64.4}, "as reported")
    assert all(row.source for row in rows.values())
    assert published_rows("voc-c4-digits@moco") == []

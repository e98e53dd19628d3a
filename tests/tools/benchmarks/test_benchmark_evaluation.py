import json
import warnings
from pathlib import Path

import pytest

from pretrain.runtime.machine import PROJECT_ROOT
from tools.benchmarks.benchmark_evaluation import main, measure

RECORDS = sorted((PROJECT_ROOT / "tools" / "benchmarks" / "records").glob("evaluation_*.json"))


def test_measure_compares_every_round_and_keeps_the_extremes() -> None:
    row = measure("coco_bbox", (lambda: 1, lambda: 1, lambda a, b: a == b), rounds=3, budget=60)
    assert row["equal"] is True
    assert (row["rounds"], row["reference_rounds"], row["target"]) == (3, 3, 80.0)
    assert row["low"] <= row["speedup"] <= row["high"]
    assert measure("voc", (lambda: 1, lambda: 2, lambda a, b: a == b), rounds=1, budget=60)["equal"] is False


def test_reference_over_budget_runs_once_and_ours_in_every_round() -> None:
    calls = {"reference": 0, "ours": 0}

    def run(name: str) -> None:
        calls[name] += 1

    row = measure("voc", (lambda: run("reference"), lambda: run("ours"), lambda a, b: True), rounds=3, budget=0.0)
    assert calls == {"reference": 1, "ours": 3}
    assert (row["rounds"], row["reference_rounds"]) == (3, 1)


@pytest.mark.slow
def test_benchmark_writes_all_rows_and_finds_them_equal(tmp_path: Path) -> None:
    path = tmp_path / "evaluation.json"
    sizes = ["voc_images=8", "coco_images=8", "segm_images=2", "mask_images=1", "rounds=1"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert main([f"json={path}", *sizes]) == 0
    table = json.loads(path.read_text())
    assert list(table["rows"]) == ["voc", "coco_bbox", "coco_segm", "mask_encode"]
    for row in table["rows"].values():
        assert row["equal"] is True
        assert {"speedup", "low", "high", "rounds"} <= row.keys()
    assert table["machine"]["cpu"]


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_recorded_run_meets_its_targets(path: Path) -> None:
    rows = json.loads(path.read_text())["rows"]
    assert rows["voc"]["speedup"] >= 70
    assert rows["coco_bbox"]["speedup"] >= 80
    assert rows["mask_encode"]["speedup"] >= 3
    assert all(row["equal"] for row in rows.values())

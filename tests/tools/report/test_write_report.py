"""The report matches the chain's files: means, intervals, comparisons, lineage, cost."""

import csv
import json
from pathlib import Path

import pytest

from pretrain.runtime.storage import append_json_line, write_json
from tests.making.chain_folders import write_chain, write_detector, write_manifest, write_stage
from tools.report.gather import gather
from tools.report.lineage import describe_backbones, describe_cost, sum_costs
from tools.write_report import main


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_chain(tmp_path_factory.mktemp("runs") / "trial")
    main([str(folder)])
    return folder


def test_summary_holds_a_row_per_backbone_protocol_and_metric(chain: Path) -> None:
    summary = json.loads((chain / "report" / "summary.json").read_text())
    rows = {(row["backbone"], row["protocol"], row["metric"]): row for row in summary["rows"]}
    row = rows["mochi", "voc-c4-digits@moco", "AP"]
    assert row["mean"] == pytest.approx(30.1)  # 30.0, 30.1, 30.2
    assert row["std"] == pytest.approx(0.1)
    assert row["n"] == 3
    assert (row["low"], row["high"]) == (pytest.approx(30.1 - 0.2484, abs=1e-4), pytest.approx(30.1 + 0.2484, abs=1e-4))
    assert ("random", "coco-c4-digits@moco", "mask/AP") in rows
    assert summary["machine"]["cpu"]
    assert summary["commit"]


def test_csv_and_latex_hold_the_same_numbers(chain: Path) -> None:
    with (chain / "report" / "results.csv").open() as stream:
        lines = list(csv.DictReader(stream))
    assert float(lines[0]["mean"]) == pytest.approx(30.1)
    assert r"\textbf{30.10 (29.85 to 30.35)}" in (chain / "report" / "tables.tex").read_text()


def test_markdown_has_the_control_the_verdict_and_a_table_per_comparison_and_protocol(chain: Path) -> None:
    text = (chain / "report" / "report.md").read_text()
    titles = [line for line in text.splitlines() if line.startswith("## ")]
    assert titles == [
        "## random against mochi",
        "## Digits boxes and masks, C4, COCO metric (coco-c4-digits@moco)",
        "## Digits detection, C4, VOC metric (voc-c4-digits@moco)",
    ]
    assert text.index("No control:") < text.index("**No: this random checkpoint is worse than this mochi checkpoint")
    assert "| mochi | **30.10 (29.85 to 30.35)** |" in text
    assert "| random | 25.10 (24.85 to 25.35) |" in text


def test_pictures_lie_beside_the_report(chain: Path) -> None:
    names = {path.name for path in (chain / "report" / "pictures").iterdir()}
    assert "voc-c4-digits@moco-image_1-mochi.png" in names
    assert "hardness.svg" in names


def test_unfinished_chain_reports_what_is_there(tmp_path: Path) -> None:
    write_json(tmp_path / "chain.json", {"name": "half", "stages": []})
    write_detector(tmp_path, "mochi", "voc-c4-digits@moco", 0, {"AP": 1.0})
    broken = write_stage(tmp_path, "coco-mochi", "finetune")
    (broken / "DONE.json").unlink()
    write_json(broken / "FAILED.json", {"kind": "error", "message": "out of memory"})
    main([str(tmp_path)])
    text = (tmp_path / "report" / "report.md").read_text()
    assert "Without a result: coco-mochi (failed)" in text
    assert "out of memory" in (tmp_path / "report" / "index.html").read_text()


def test_own_programs_file_of_another_form_is_no_result(tmp_path: Path) -> None:
    for kind in ("command", "detector"):
        stage = write_stage(tmp_path / kind, kind, kind)
        write_json(stage / "metrics.json", {"loss": 1})
        write_json(tmp_path / kind / "chain.json", {"name": kind, "stages": []})
    assert gather(tmp_path / "command").results == []
    with pytest.raises(ValueError, match="expected a run's result"):
        gather(tmp_path / "detector")


def test_folder_without_a_chain_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"contains no chain\.json"):
        main([str(tmp_path)])


def test_sweep_becomes_a_heat_map_of_means(tmp_path: Path) -> None:
    grid = {"mochi:mixing.n": [256, 1024], "mochi:mixing.s": [0, 128]}
    write_json(tmp_path / "chain.json", {"name": "s", "config": {"backbones": {"mochi": {}}, "grid": grid}})
    for n in (256, 1024):
        for s in (0, 128):
            write_detector(tmp_path, f"mochi_n{n}_s{s}", "voc-c4-digits@moco", 0, {"AP": float(n + s)})
    main([str(tmp_path)])
    page = (tmp_path / "report" / "index.html").read_text()
    assert "AP over mochi:mixing.n and mochi:mixing.s" in page
    assert '"x": ["256", "1024"], "y": ["0", "128"], "z": [[256.0, 1024.0], [384.0, 1152.0]]' in page


def test_curves_show_pretraining_detectors_and_their_last_evaluation(tmp_path: Path) -> None:
    write_json(tmp_path / "chain.json", {"name": "curves", "stages": []})
    stage = write_stage(tmp_path, "pretrain-mochi", "pretrain")
    for epoch in (1, 2):
        line = {"step": 10 * epoch, "loss": 7.0 - epoch, "accuracy": 5.0, "accuracy_with_mixes": 1.0}
        append_json_line(stage / "metrics.jsonl", line)
        look = {"step": 10 * epoch, "epoch": epoch, "knn_top1": 10.0 * epoch, "hardness": [0.5, 0.3, 0.2]}
        append_json_line(stage / "metrics.jsonl", look)
    detector = write_detector(tmp_path, "mochi", "voc-c4-digits@moco", 0, {"AP": 31.0})
    append_json_line(detector / "metrics.jsonl", {"step": 12, "AP": 20.0})
    append_json_line(detector / "metrics.jsonl", {"step": 24, "total_loss": 0.1})
    curves = {curve.chart: curve for curve in gather(tmp_path).curves}
    assert curves["Proxy task, including mixed negatives"].y == (1.0, 1.0)
    assert curves["kNN accuracy during pretraining"].y == (10.0, 20.0)
    assert curves["Hardness of the negatives by epoch, mochi"].y == [0.5, 0.3, 0.2]
    final = curves["AP during fine-tuning, voc-c4-digits@moco"]
    assert (final.x, final.y) == ((12.0, 24.0), (20.0, 31.0))


def test_gpu_hours_count_every_gpu_and_lost_attempts_are_faults(tmp_path: Path) -> None:
    write_json(tmp_path / "chain.json", {"name": "cost", "stages": []})
    stage = write_detector(tmp_path, "mochi", "voc-c4-digits@moco", 0, {"AP": 1.0})
    spec = json.loads((stage / "spec.json").read_text())
    write_json(stage / "spec.json", spec | {"resources": {"nodes": 2, "gpus": 4}})
    lost = {"number": 1, "job_id": "17", "host": "n1", "gpu": ["H100"] * 4, "seconds": None, "outcome": None}
    ended = {**lost, "number": 2, "job_id": "18", "host": "n2", "seconds": 1800.0, "outcome": "done"}
    for attempt in (lost, ended):
        write_json(stage / "attempts" / f"{attempt['number']:04d}.json", attempt)
    (found,) = gather(tmp_path).stages
    cost = describe_cost(found)
    assert cost["gpu_hours"] == pytest.approx(0.5 * 8)
    assert cost["survived"] == "lost"
    assert (sum_costs([found])[-1]["retries"], sum_costs([found])[-1]["survived"]) == (1, 1)
    assert (found.names_of("job_id"), found.gpus) == ("17, 18", ["H100"])


def test_backbones_lead_back_to_config_commit_and_job(tmp_path: Path) -> None:
    write_json(tmp_path / "chain.json", {"name": "lineage", "stages": []})
    write_stage(tmp_path, "pretrain-mochi", "pretrain")
    write_manifest(write_stage(tmp_path, "convert-mochi", "convert"), epoch=200)
    (row,) = describe_backbones(gather(tmp_path).stages)
    assert (row["weights"], row["source"], row["epochs"]) == ("ab" * 6, "cd" * 6, 200)
    assert (row["method"], row["matched"]) == ("moco with MoCHi(64, 32, 16)", "318 of 318")
    assert (row["config"], row["jobs"], row["hosts"]) == ("x.yaml", "17", "node1")

"""The report says what the files say: means, spread, noise, lineage, cost."""

import csv
import json
from pathlib import Path

import pytest

from pretrain.runtime.storage import append_json_line, write_json
from tests.making.chain_folders import write_chain, write_detector, write_manifest, write_stage
from tools.report.gather import gather
from tools.report.lineage import describe_backbones, describe_cost, sum_costs
from tools.report.page import write_page
from tools.report.tables import build_tables, to_latex
from tools.report.verdict import write_headline, write_verdict
from tools.write_report import main
from transfer.results.run_result import RunResult, summarise


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_chain(tmp_path_factory.mktemp("runs") / "trial")
    main([str(folder)])
    return folder


def results(backbone: str, values: list[float], protocol: str = "voc-c4-digits@moco") -> list[RunResult]:
    return [
        RunResult(backbone=backbone, protocol=protocol, seed=seed, metrics={"AP": value}, commit="c", machine={})
        for seed, value in enumerate(values)
    ]


def test_summary_holds_a_row_per_backbone_protocol_and_metric(chain: Path) -> None:
    summary = json.loads((chain / "report" / "summary.json").read_text())
    rows = {(row["backbone"], row["protocol"], row["metric"]): row for row in summary["rows"]}
    row = rows["mochi", "voc-c4-digits@moco", "AP"]
    assert row["mean"] == pytest.approx(30.1)  # 30.0, 30.1, 30.2
    assert row["std"] == pytest.approx(0.1)
    assert row["n"] == 3
    assert ("random", "coco-c4-digits@moco", "mask/AP") in rows
    assert summary["machine"]["cpu"]
    assert summary["commit"]


def test_csv_and_latex_hold_the_same_numbers(chain: Path) -> None:
    with (chain / "report" / "results.csv").open() as stream:
        lines = list(csv.DictReader(stream))
    assert float(lines[0]["mean"]) == pytest.approx(30.1)
    assert r"30.1 $\pm$ 0.1" in (chain / "report" / "tables.tex").read_text()


def test_markdown_has_one_table_per_protocol_and_bold_beyond_the_noise(chain: Path) -> None:
    text = (chain / "report" / "report.md").read_text()
    assert text.count("## ") == 2
    assert "| mochi | **30.1 ± 0.1** |" in text


def test_pictures_lie_beside_the_report(chain: Path) -> None:
    names = {path.name for path in (chain / "report" / "pictures").iterdir()}
    assert "voc-c4-digits@moco-image_1-mochi.png" in names
    assert "hardness.svg" in names


def test_difference_within_the_noise_is_not_bold_and_said_so() -> None:
    summaries = summarise([*results("mochi", [30, 32, 31]), *results("random", [30, 31, 31])])
    (table,) = build_tables(summaries)
    assert not any(cell.bold for row in table.rows for cell in row.cells)
    assert "does not differ from random by more than the noise" in write_verdict(summaries)[0]


def test_single_runs_have_an_unknown_spread_and_the_verdict_says_so() -> None:
    summaries = summarise([*results("mochi", [30.0]), *results("random", [20.0])])
    assert "(+10.0) by one run each, so with an unknown spread" in write_verdict(summaries)[0]
    assert not any(cell.bold for row in build_tables(summaries)[0].rows for cell in row.cells)


def test_worse_backbone_is_called_worse() -> None:
    summaries = summarise([*results("mochi", [10.0, 10.1]), *results("random", [20.0, 20.1])])
    assert "mochi is below random beyond the noise" in write_verdict(summaries)[0]


def test_mixing_is_compared_with_the_same_method_without() -> None:
    runs = [*results("mochi", [31.0, 31.1]), *results("moco_v2", [30.0, 30.1]), *results("simclr_mochi", [5.0, 5.1])]
    sentences = write_verdict(summarise([*runs, *results("simclr", [4.0, 4.1])]))
    assert [sentence.split(" is ")[0] for sentence in sentences] == ["mochi", "simclr_mochi"]
    assert "above simclr beyond the noise in voc-c4-digits@moco AP (+1.0)" in sentences[1]


@pytest.mark.parametrize(
    ("runs", "sentence"),
    [
        ([], "No stage has a result yet, so there is nothing to say."),
        (results("mochi", [1.0]), "Only mochi has results; a verdict needs a second backbone."),
        (
            [*results("mochi", [30.0]), *results("random", [20.0])],
            "Not known yet: mochi is above random in 1 of 1 measurement, but by one run each, so it could be noise.",
        ),
        (
            [*results("mochi", [30.0, 30.2]), *results("random", [30.0, 30.1])],
            "No difference shown: mochi and random lie within the noise in the one measurement.",
        ),
        (
            [*results("mochi", [30.0, 30.2]), *results("random", [20.0, 20.1])],
            "Yes: mochi is above random beyond the noise in the one measurement, by up to 10.1 points "
            "(AP of voc-c4-digits@moco).",
        ),
        (
            [*results("mochi", [1.0, 1.2]), *results("moco_v2", [2.0, 2.1]), *results("random", [0.0, 0.1])],
            "No: mochi is below moco_v2 beyond the noise in the one measurement, by up to 0.9 points "
            "(AP of voc-c4-digits@moco).",
        ),
        (
            [*results("densecl", [9.0, 9.2]), *results("soco", [2.0, 2.1])],
            "Yes: densecl is above soco beyond the noise in the one measurement, by up to 7.0 points "
            "(AP of voc-c4-digits@moco).",
        ),
    ],
)
def test_headline_says_in_one_sentence_what_the_noise_allows(runs: list[RunResult], sentence: str) -> None:
    assert write_headline(summarise(runs)) == sentence


def test_noise_band_is_the_larger_of_measured_and_published() -> None:
    def band(values: list[float], protocol: str) -> str:
        (table,) = build_tables(summarise(results("mochi", values, protocol)))
        return table.noise[0].text

    assert band([30.0, 31.0], "voc-c4-24k@moco") == "± 0.7"
    assert band([30.0, 30.1], "voc-c4-24k@moco") == "± 0.2"
    assert band([30.0, 30.1], "voc-c4-digits@moco") == "± 0.1"
    assert band([30.0], "voc-c4-digits@moco") == "unknown"


def test_published_trials_show_their_deviation() -> None:
    (table,) = build_tables(summarise(results("mochi", [57.0, 57.2], "voc-c4-24k@moco")))
    assert next(row for row in table.rows if row.backbone == "MoCo v2, 200 epochs").cells[0].text == "57.0 ± 0.2"


def test_published_rows_stand_only_beside_their_own_protocol() -> None:
    full = build_tables(summarise(results("mochi", [57.0, 57.2], "voc-c4-24k@moco")))[0]
    digits = build_tables(summarise(results("mochi", [57.0, 57.2])))[0]
    assert any(row.published and "as reported" in row.note for row in full.rows)
    assert not any(row.published for row in digits.rows)


def test_names_are_escaped_for_latex() -> None:
    (table,) = build_tables(summarise(results("a_b&c", [1.0])))
    assert r"a\_b\&c & 1.0 & 1" in to_latex(table)


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
    with pytest.raises(ValueError, match=r"no chain\.json there"):
        main([str(tmp_path)])


def test_sweep_becomes_a_heat_map_of_means(tmp_path: Path) -> None:
    grid = {"mochi:mixing.n": [256, 1024], "mochi:mixing.s": [0, 128]}
    write_json(tmp_path / "chain.json", {"name": "s", "config": {"backbones": {"mochi": {}}, "grid": grid}})
    for n in (256, 1024):
        for s in (0, 128):
            write_detector(tmp_path, f"mochi_n{n}_s{s}", "voc-c4-digits@moco", 0, {"AP": float(n + s)})
    page = write_page(gather(tmp_path), [], [])
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
    assert curves["Proxy task, the mixed negatives included"].y == (1.0, 1.0)
    assert curves["kNN accuracy while pretraining"].y == (10.0, 20.0)
    assert curves["Hardness of the negatives by epoch, mochi"].y == [0.5, 0.3, 0.2]
    final = curves["AP while fine-tuning, voc-c4-digits@moco"]
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


def test_text_from_outside_cannot_become_markup(tmp_path: Path) -> None:
    write_json(tmp_path / "chain.json", {"name": "<script>alert(1)</script>", "stages": []})
    write_detector(tmp_path, "</script><b>", "voc", 0, {"AP": 1.0})
    main([str(tmp_path)])
    page = (tmp_path / "report" / "index.html").read_text()
    assert "<script>alert(1)" not in page
    assert "</script><b>" not in page

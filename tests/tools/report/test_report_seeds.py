"""The seeds of one pretraining share a colour, a legend entry and a row of the report."""

from pathlib import Path

import pytest

from pretrain.runtime.storage import append_json_line
from tools.report.charts import build_charts
from tools.report.curves import read_all_curves
from tools.report.page import tabulate_analysis
from tools.report.stage_record import Stage


def test_curves_of_another_seed_share_the_methods_look(tmp_path: Path) -> None:
    stages = []
    for name in ("mochi", "moco_v2", "mochi@1"):
        folder = tmp_path / name
        folder.mkdir()
        for epoch in (1, 2):
            line = {"step": epoch, "epoch": epoch, "loss": 6.0 - epoch, "hardness": [0.5, 0.3]}
            append_json_line(folder / "metrics.jsonl", line)
        stages.append(Stage(name=f"pretrain-{name}", kind="pretrain", folder=folder, state="done", spec={}))
    charts = {chart["title"]: chart["traces"] for chart in build_charts(list(read_all_curves(stages)))}
    assert {title for title in charts if "Hardness" in title} == {
        "Hardness of the negatives by epoch, mochi", "Hardness of the negatives by epoch, moco_v2",
    }  # fmt: skip
    losses = {trace["name"]: trace for trace in charts["Pretraining loss"]}
    assert losses.keys() == {"mochi", "moco_v2", "mochi (seed 1)"}
    assert losses["mochi (seed 1)"]["line"] == losses["mochi"]["line"] != losses["moco_v2"]["line"]
    assert [name for name, trace in losses.items() if trace["showlegend"]] == ["mochi", "moco_v2"]


def test_analysis_table_holds_means_and_deviations_over_seeds() -> None:
    numbers = {
        "mochi": {"proxy_accuracy": 0.1, "intra_variance": 1.0},
        "random": {"proxy_accuracy": 0.5, "intra_variance": None},
        "mochi@1": {"proxy_accuracy": 0.3, "intra_variance": 1.0},
    }
    table = tabulate_analysis({"numbers": numbers, "images": 9, "space": "head", "negatives": "queue"})
    rows = dict(table["rows"])
    assert list(rows) == ["mochi", "random"]
    assert rows["mochi"][0] == (pytest.approx(20.0), pytest.approx(100 * 0.02**0.5))
    assert rows["mochi"][1] == (1.0, 0.0)
    assert rows["random"][1] is None
    assert rows["random"][0] == (50.0, None)

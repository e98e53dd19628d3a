"""The report answers the question of the chain file or the command line; folders of earlier versions get a default."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pretrain.runtime.settings import SettingsError
from pretrain.runtime.storage import read_json, write_json
from tests.making.chain_folders import write_detector, write_stage
from tools.report.asked import find_costs, list_backbones, make_draws_reader, read_question
from tools.report.gather import gather
from tools.write_report import main
from transfer.metrics.bootstrap import MetricDraws, write_draws
from transfer.results.question import Controls
from transfer.results.summaries import key_of

VOC = "voc-c4-digits@moco"
NAMES = ("mochi@0", "mochi@1", "moco@0", "moco@1", "random")


def write(folder: Path, config: dict[str, Any] | None = None) -> Path:
    chain = {"name": "x", "stages": []} | ({} if config is None else {"config": config})
    write_json(folder / "chain.json", chain)
    for name in NAMES:
        for seed in (0, 1):
            level = {"mochi": 30.0, "moco": 20.0, "random": 5.0}[name.partition("@")[0]]
            write_detector(folder, name, VOC, seed, {"AP": level + 0.1 * seed + 0.05 * int(name[-1] == "1")})
    return folder


CONFIG = {
    "backbones": {name: {} for name in NAMES},
    "compare": [["mochi", "moco"]],
    "controls": {"floor": "random", "ceiling": "moco"},
    "delta": 0.3,
}


def test_chain_files_question_is_answered(tmp_path: Path) -> None:
    main([str(write(tmp_path, CONFIG))])
    summary = read_json(tmp_path / "report" / "summary.json")
    assert summary["version"] == 2
    (entry,) = summary["comparisons"]
    assert entry.keys() >= {
        "first", "second", "protocol", "metric", "difference", "low", "high", "p_adjusted", "outcome", "units", "claim",
    }  # fmt: skip
    assert (entry["first"], entry["second"], entry["outcome"], entry["claim"]) == ("mochi", "moco", "better", "methods")
    assert entry["units"] == {name: {"pretrainings": 2, "finetunings": [2, 2]} for name in ("first", "second")}
    assert entry["delta"] == 0.3
    assert summary["control"]["passed"] is True
    assert (summary["control"]["floor"], summary["control"]["ceiling"]) == ("random", "moco")
    assert [row["backbone"] for row in summary["rows"]] == ["mochi", "moco", "random"]


def test_command_line_overrides_the_chain_files_question(tmp_path: Path) -> None:
    folder = write(tmp_path, CONFIG)
    main([str(folder), "baseline=random", "controls.floor=random", "controls.ceiling=mochi", "delta=1"])
    summary = read_json(folder / "report" / "summary.json")
    assert [(entry["first"], entry["second"]) for entry in summary["comparisons"]] == [
        ("mochi", "random"), ("moco", "random"),
    ]  # fmt: skip
    assert summary["control"]["ceiling"] == "mochi"
    assert {entry["delta"] for entry in summary["comparisons"]} == {1.0}
    with pytest.raises(SettingsError, match="compare\\[0\\] names 'nobody', which is no backbone here"):
        main([str(folder), "compare=[[mochi,nobody]]"])


def test_folder_of_an_older_chain_compares_all_with_its_first_backbone(tmp_path: Path) -> None:
    """No compare, no controls, no delta in chain.json, and results whose backbones have no pretraining seeds."""
    write_json(tmp_path / "chain.json", {"name": "old", "config": {"backbones": {"zeta": {}, "alpha": {}}}})
    for name, level in (("alpha", 20.0), ("zeta", 30.0)):
        for seed in (0, 1):
            write_detector(tmp_path, name, VOC, seed, {"AP": level + 0.1 * seed})
    main([str(tmp_path)])
    summary = read_json(tmp_path / "report" / "summary.json")
    assert [(entry["first"], entry["second"]) for entry in summary["comparisons"]] == [("alpha", "zeta")]
    assert summary["control"] == {"passed": None, "floor": None, "ceiling": None, "comparisons": []}


def test_folder_without_a_chain_file_takes_its_backbones_from_the_results(tmp_path: Path) -> None:
    files = gather(write(tmp_path))
    assert list(list_backbones(files)) == list(NAMES)
    assert read_question(files, {}).baseline == "mochi"


def test_swept_backbones_are_known_by_their_variants(tmp_path: Path) -> None:
    config = {
        "backbones": {"mochi": {}, "moco": {}},
        "grid": {"mochi:mixing.n": [1, 2]},
        "compare": [["mochi", "moco"]],
    }
    write_json(tmp_path / "chain.json", {"name": "s", "config": config})
    question = read_question(gather(tmp_path), {})
    assert question.compare == (("mochi_n1", "moco"), ("mochi_n2", "moco"))
    named = read_question(gather(tmp_path), {"compare": (["mochi_n2", "mochi_n1"],), "controls": Controls()})
    assert named.compare == (("mochi_n2", "mochi_n1"),)


def test_costs_are_mean_hours_by_kind(tmp_path: Path) -> None:
    write_json(tmp_path / "chain.json", {"name": "c", "stages": []})
    stage = write_stage(tmp_path, "pretrain-mochi", "pretrain")
    write_json(stage / "attempts" / "0001.json", {"number": 1, "seconds": 7200.0, "gpu": "", "outcome": "done"})
    write_detector(tmp_path, "mochi", VOC, 0, {"AP": 1.0})  # two attempts of 36 s
    costs = find_costs(gather(tmp_path))
    assert costs.pretraining == pytest.approx(2.0)
    assert costs.finetuning == {VOC: pytest.approx(0.02)}
    assert costs.unit == "hours of this machine"


def test_damaged_draws_are_reported_and_count_as_missing(tmp_path: Path) -> None:
    folder = write(tmp_path)
    files = gather(folder)
    stage = next(stage for stage in files.stages if stage.result is not None and stage.result.backbone == "moco@0")
    (stage.folder / "bootstrap.json").write_text('{"version": 99}')
    notes: list[str] = []
    assert stage.result is not None
    assert make_draws_reader(files, notes)(key_of(stage.result)) == {}
    assert "bootstrap.json" in notes[0]
    main([str(folder)])
    assert "no draws of a test set" in (folder / "report" / "report.md").read_text()


def test_latex_keeps_the_chosen_rows_sources_runs_and_deviations(tmp_path: Path) -> None:
    write_json(tmp_path / "chain.json", {"name": "l", "stages": []})
    for name in ("mochi", "moco"):
        for seed in (0, 1):
            write_detector(tmp_path, name, "voc-c4-24k@moco", seed, {"AP": 57.0 + seed})
    main([str(tmp_path), "rows=[mochi,'MoCo v2, 200 epochs']"])
    text = (tmp_path / "report" / "tables.tex").read_text()
    rows = [line for line in text.splitlines() if line.endswith(r"\\") and not line.startswith("backbone")]
    assert [row.partition(" & ")[0] for row in rows] == ["mochi", "MoCo v2, 200 epochs"]
    assert r"57.0 $\pm$ 0.2" in rows[1]
    assert "confirmed: facebookresearch/moco" in rows[1]
    assert r"1 pretraining $\times$ 2 fine-tunings" in rows[0]


def test_draws_beside_the_results_become_the_test_sets_interval(tmp_path: Path) -> None:
    folder = write(tmp_path, CONFIG)
    shared = np.random.default_rng(0).normal(0, 2, 1000)
    for stage in gather(folder).stages:
        if stage.result is not None:
            level = stage.result.metrics["AP"] or 0.0
            draws = MetricDraws(identity="x", images=4952, value=level, values=level + shared)
            write_draws(stage.folder, {"AP": draws})
    main([str(folder)])
    summary = read_json(folder / "report" / "summary.json")
    (entry,) = summary["comparisons"]
    assert entry["test_set"]["images"] == 4952
    assert entry["test_set"]["low"] == pytest.approx(10.0, abs=1e-3)  # the shared part cancels
    assert entry["test_set"]["high"] == pytest.approx(10.0, abs=1e-3)
    assert "(4,952 images)" in (folder / "report" / "index.html").read_text()

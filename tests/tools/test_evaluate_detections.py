import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pretrain.runtime.command_line import run_command
from tests.transfer.detection.test_evaluators import BOXES_ONLY, NAMES, evaluate, register_coco, register_voc
from tools import evaluate_detections as command
from tools.benchmarks.synthetic_detections import make_coco
from transfer.detection.evaluators import build_evaluator
from transfer.metrics.bootstrap import read_draws, write_draws


@pytest.fixture(scope="module")
def coco(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """truth.json, results.json and a worse other.json."""
    folder = tmp_path_factory.mktemp("coco")
    truth, results = make_coco(np.random.default_rng(0), 12, categories=3)
    worse = [result for number, result in enumerate(results) if number % 100 > 1]
    for name, content in (("truth", truth), ("results", results), ("other", worse)):
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


def evaluate_files(*words: Any) -> dict[str, Any]:
    out = Path(str(words[0])).parent / "report.json"
    assert run_command(command.main, "", [*map(str, words), f"json={out}", "draws=50"]) == 0
    content: dict[str, Any] = json.loads(out.read_text())
    return content


def test_coco_files_give_the_numbers_of_a_fine_tunes_own_evaluation(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name, _, batches = register_coco(tmp_path / "set")
    run = tmp_path / "run"
    evaluator: Any = build_evaluator(BOXES_ONLY, name, run / "evaluation" / name)
    expected = evaluate(evaluator, batches)
    findings = evaluator.examine()
    write_draws(run, findings.draws)
    truth = tmp_path / "set" / "truth.json"
    for detections in (run, run / "evaluation" / name / "coco_instances_results.json"):
        report = evaluate_files(truth, detections, "draws=1000")["first"]
        assert report["metrics"] == expected
        assert report["per_class"] == evaluator.details["per_class"]
        assert report["errors"] == findings.errors
    out = tmp_path / "whole.json"
    assert run_command(command.main, "", [str(truth), str(run), f"json={out}"]) == 0
    draws = json.loads(out.read_text())["first"]["draws"]["box/AP"]
    assert draws["identity"] == read_draws(run)["box/AP"].identity
    np.testing.assert_allclose(draws["values"], read_draws(run)["box/AP"].values, atol=1e-4)
    assert "95 % interval over test images" in capsys.readouterr().out


@pytest.mark.parametrize("year", [2007, 2012])
def test_voc_files_give_the_numbers_of_a_fine_tunes_own_evaluation(tmp_path: Path, year: int) -> None:
    name, batches = register_voc(tmp_path, year)
    evaluator: Any = build_evaluator(BOXES_ONLY, name, tmp_path / "run" / "evaluation" / name)
    expected = evaluate(evaluator, batches)
    report = evaluate_files(tmp_path / "VOC2007", tmp_path / "run", f"year={year}")["first"]
    assert report["metrics"] == pytest.approx(expected)  # classes in another order, so another order of the sum
    assert report["per_class"] == evaluator.details["per_class"]
    assert set(report["by_size"]["box"]) == {"APs", "APm", "APl"}
    assert set(report["per_class"]) == set(NAMES)


def test_two_files_are_compared_on_the_same_draws(coco: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = evaluate_files(coco / "truth.json", coco / "results.json", f"other={coco / 'other.json'}")
    first, second, pair = content["first"], content["second"], content["difference"]["box/AP"]
    assert pair["value"] == pytest.approx(second["metrics"]["box/AP"] - first["metrics"]["box/AP"])
    values = np.array(second["draws"]["box/AP"]["values"]) - first["draws"]["box/AP"]["values"]
    assert (pair["low"], pair["high"]) == pytest.approx(tuple(np.percentile(values, [2.5, 97.5])))
    assert "second - first" in capsys.readouterr().out
    same = evaluate_files(coco / "truth.json", coco / "results.json", f"other={coco / 'results.json'}")
    assert (same["difference"]["box/AP"]["low"], same["difference"]["box/AP"]["high"]) == (0, 0)


def test_corners_given_as_coco_boxes_are_recognised_and_converted_on_request(
    coco: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = json.loads((coco / "results.json").read_text())
    for result in results:
        x, y, w, h = result["bbox"]
        result["bbox"] = [x, y, x + w, y + h]
    corners = tmp_path / "corners.json"
    corners.write_text(json.dumps(results))
    assert run_command(command.main, "", [str(coco / "truth.json"), str(corners)]) == 2
    assert "look like corners [x1, y1, x2, y2]" in capsys.readouterr().err
    converted = evaluate_files(coco / "truth.json", corners, "boxes=xyxy")["first"]["metrics"]
    expected = evaluate_files(coco / "truth.json", coco / "results.json")["first"]["metrics"]
    assert converted == pytest.approx(expected)


def change_first(**values: Any) -> Any:
    return lambda results: [{**results[0], **values}, *results[1:]]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda results: [{**r, "bbox": [v / 1000 for v in r["bbox"]]} for r in results], "fractions of the image"),
        (change_first(image_id=999), "1 image ids of the results are not in the annotations"),
        (change_first(category_id=0), "use the annotations' own ids"),
        (change_first(score=None), "1 results without a finite score"),
        (lambda results: {"annotations": results}, "the results are not a list of objects"),
        (lambda _: ["a"], "the results are not a list of objects"),
    ],
)
def test_results_that_do_not_fit_are_refused(
    change: Any, sentence: str, coco: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "results.json"
    path.write_text(json.dumps(change(json.loads((coco / "results.json").read_text()))))
    assert run_command(command.main, "", [str(coco / "truth.json"), str(path)]) == 2
    assert sentence in capsys.readouterr().err


def test_odd_results_are_noted(coco: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = json.loads((coco / "results.json").read_text())
    path = tmp_path / "results.json"
    path.write_text(
        json.dumps([{**r, "score": 100 * r["score"]} for r in results if r["image_id"] > 2 and r["category_id"] > 1])
    )
    evaluate_files(coco / "truth.json", path)
    said = capsys.readouterr().out
    for note in ("not in 0 … 1: only their order counts", "2 of 12 images have no detection", "1 of 3 categories"):
        assert note in said


def test_options_and_files_of_the_wrong_kind_are_explained(
    coco: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truth, results = str(coco / "truth.json"), str(coco / "results.json")
    for words, sentence in (
        ([truth, results, "task=mask"], "mask AP needs"),
        ([truth, results, "task=all", "year=2010", "draws=0"], "expected one of auto, box, mask, both"),
        ([truth, str(tmp_path)], "expected detections: a results file"),
        ([str(tmp_path), results], "do not belong together"),
        ([str(tmp_path / "none.json"), results], "no such file"),
        ([truth], "expected GT DETECTIONS"),
    ):
        assert run_command(command.main, "", words) == 2
        assert sentence in capsys.readouterr().err

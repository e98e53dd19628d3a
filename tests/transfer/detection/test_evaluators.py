import json
import sys
import warnings
from pathlib import Path
from subprocess import run
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.evaluation import COCOEvaluator, PascalVOCDetectionEvaluator
from detectron2.structures import Boxes, Instances

from pretrain.runtime.machine import PROJECT_ROOT
from tools.benchmarks.synthetic_detections import make_coco, write_voc
from transfer.detection.evaluators import CocoEvaluator, VocEvaluator, build_evaluator
from transfer.metrics.coco_ap import evaluate_coco
from transfer.metrics.voc_files import evaluate_voc

NAMES = ["cat", "dog", "bird", "cow"]
IMAGES = 12
RUN = SimpleNamespace(COCO_ENGINE="hotcoco")
BOXES_ONLY = SimpleNamespace(MODEL=SimpleNamespace(MASK_ON=False), RUN=RUN)
WITH_MASKS = SimpleNamespace(MODEL=SimpleNamespace(MASK_ON=True), RUN=RUN)
Batches = list[tuple[list[dict[str, Any]], list[dict[str, Any]]]]


def make_instances(boxes: Any, scores: Any, labels: Any, size: tuple[int, int]) -> Instances:
    instances = Instances(size)
    instances.pred_boxes = Boxes(torch.as_tensor(np.asarray(boxes, dtype=np.float32).reshape(-1, 4)))
    instances.scores = torch.as_tensor(np.asarray(scores, dtype=np.float32))
    instances.pred_classes = torch.as_tensor(np.asarray(labels, dtype=np.int64))
    return instances


def register_voc(folder: Path, year: int = 2007) -> tuple[str, Batches]:
    found = write_voc(folder / "VOC2007", np.random.default_rng(0), IMAGES, NAMES)
    name = f"voc_{folder.name}_{year}"
    MetadataCatalog.get(name).set(
        thing_classes=NAMES,
        dirname=str(folder / "VOC2007"),
        year=year,
        split="test",
        evaluator_type="pascal_voc",
    )
    return name, [
        ([{"image_id": image}], [{"instances": make_instances(boxes, scores, labels, (375, 500))}])
        for image, boxes, scores, labels in found
    ]


def register_coco(folder: Path) -> tuple[str, dict[str, Any], Batches]:
    """Return annotations whose category ids are multiples of ten, so that contiguous ids differ."""
    truth, results = make_coco(np.random.default_rng(0), IMAGES, categories=5)
    for record in [*truth["annotations"], *results]:
        record["category_id"] *= 10
    for category in truth["categories"]:
        category["id"] *= 10
    folder.mkdir(exist_ok=True)
    (folder / "truth.json").write_text(json.dumps(truth))
    name = f"coco_{folder.name}"
    MetadataCatalog.get(name).set(
        json_file=str(folder / "truth.json"),
        evaluator_type="coco",
        thing_classes=[category["name"] for category in truth["categories"]],
        thing_dataset_id_to_contiguous_id={category["id"]: n for n, category in enumerate(truth["categories"])},
    )
    batches = []
    for image in range(1, IMAGES + 1):
        own = [result for result in results if result["image_id"] == image]
        boxes = np.array([result["bbox"] for result in own], dtype=np.float32)
        boxes[:, 2:] += boxes[:, :2]
        labels = [result["category_id"] // 10 - 1 for result in own]
        instances = make_instances(boxes, [result["score"] for result in own], labels, (480, 640))
        batches.append(([{"image_id": image}], [{"instances": instances}]))
    return name, truth, batches


def evaluate(evaluator: Any, batches: Batches) -> Any:
    evaluator.reset()
    for inputs, outputs in batches:
        evaluator.process(inputs, outputs)
    return evaluator.evaluate()


@pytest.mark.parametrize("year", [2007, 2012])
def test_voc_evaluator_equals_detectron2s(tmp_path: Path, year: int) -> None:
    name, batches = register_voc(tmp_path, year)
    ours = build_evaluator(BOXES_ONLY, name, tmp_path / "out")
    assert isinstance(ours, VocEvaluator)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = evaluate(PascalVOCDetectionEvaluator(name), batches)["bbox"]
    assert evaluate(ours, batches) == dict(expected)
    assert set(ours.details["per_class"]) == set(NAMES)
    saved = evaluate_voc(tmp_path / "VOC2007", "test", tmp_path / "out" / "voc_det", NAMES, year=year)
    assert saved["metrics"] == dict(expected)


def test_voc_evaluator_names_classes_without_truth(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    name, _ = register_voc(tmp_path)
    MetadataCatalog.get(f"{name}_more").set(
        thing_classes=[*NAMES, "okapi"], dirname=str(tmp_path / "VOC2007"), year=2007, split="test"
    )
    evaluator = VocEvaluator(f"{name}_more", tmp_path / "out")
    assert evaluate(evaluator, []) == {"AP": 0.0, "AP50": 0.0, "AP75": 0.0}
    assert evaluator.details["classes_without_truth"] == ["okapi"]
    assert "no ground-truth box for 1 of 5 classes (okapi)" in caplog.text


def test_voc_evaluator_refuses_an_image_of_another_set(tmp_path: Path) -> None:
    name, batches = register_voc(tmp_path)
    batches[0][0][0]["image_id"] = "999999"
    with pytest.raises(ValueError, match=r"1 evaluated images are not in its image set, e\.g\. 999999"):
        evaluate(VocEvaluator(name, tmp_path / "out"), batches)


def test_coco_evaluator_equals_detectron2s(tmp_path: Path) -> None:
    name, truth, batches = register_coco(tmp_path)
    ours = build_evaluator(BOXES_ONLY, name, tmp_path / "out")
    assert isinstance(ours, CocoEvaluator)
    metrics = evaluate(ours, batches)
    theirs = COCOEvaluator(name, ("bbox",), distributed=False, use_fast_impl=False)
    expected = evaluate(theirs, batches)["bbox"]
    assert metrics == {f"box/{key}": expected[key] for key in ("AP", "AP50", "AP75", "APs", "APm", "APl")}
    per_class = {f"AP-{key}": value for key, value in ours.details["per_class"]["box"].items()}
    assert per_class == pytest.approx({key: value for key, value in expected.items() if key.startswith("AP-")})
    saved = evaluate_coco(truth, tmp_path / "out" / "coco_instances_results.json", engine="pycocotools")
    assert saved.metrics()["AP"] == metrics["box/AP"]


def test_coco_evaluator_takes_rles_and_bitmaps_alike(tmp_path: Path) -> None:
    name, truth, _ = register_coco(tmp_path)
    bitmaps = torch.zeros(2, 480, 640, dtype=torch.bool)
    bitmaps[0, 10:50, 20:70] = True
    bitmaps[1, 100:300, 100:200] = True
    with_bitmaps = make_instances([[20, 10, 70, 50], [100, 100, 200, 300]], [0.9, 0.8], [0, 1], (480, 640))
    with_bitmaps.pred_masks = bitmaps
    evaluator = CocoEvaluator(name, tmp_path / "bitmaps", masks=False)
    evaluator.tasks = ("bbox", "segm")
    evaluator.process([{"image_id": 1}], [{"instances": with_bitmaps}])
    rles = [record["segmentation"] for record in evaluator._results]
    truth["annotations"] = [
        {"id": n + 1, "image_id": 1, "category_id": 10 * (n + 1), "iscrowd": 0, "area": 2000.0, "bbox": [0, 0, 1, 1]}
        | {"segmentation": rle}
        for n, rle in enumerate(rles)
    ]
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    with_rles = make_instances(with_bitmaps.pred_boxes.tensor, [0.9, 0.8], [0, 1], (480, 640))
    with_rles.pred_rles = rles
    for instances in (with_bitmaps, with_rles):
        masks = build_evaluator(WITH_MASKS, name, tmp_path / "out")
        metrics = evaluate(masks, [([{"image_id": 1}], [{"instances": instances}])])
        assert metrics["mask/AP"] == pytest.approx(100)
        assert metrics["box/AP"] == 0


def test_unfit_data_sets_are_sentences(tmp_path: Path) -> None:
    name, _, _ = register_coco(tmp_path)
    with pytest.raises(ValueError, match="mask AP needs a segmentation in every annotation"):
        build_evaluator(WITH_MASKS, name, tmp_path)
    with pytest.raises(ValueError, match="evaluator_type None; expected pascal_voc or coco"):
        build_evaluator(BOXES_ONLY, "an unregistered set", tmp_path)
    with pytest.raises(ValueError, match="has no json_file"):
        CocoEvaluator("an unregistered set", tmp_path, masks=False)


KINDS = {"Cls", "Loc", "Both", "Dupe", "Bkg", "Miss", "FP", "FN"}


@pytest.mark.parametrize("year", [2007, 2012])
def test_voc_findings_hold_draws_of_the_metrics_sizes_and_errors(tmp_path: Path, year: int) -> None:
    name, batches = register_voc(tmp_path, year)
    evaluator = build_evaluator(BOXES_ONLY, name, tmp_path / "out")
    metrics = evaluate(evaluator, batches)
    findings = evaluator.examine()  # type: ignore[attr-defined]
    assert {key: draws.value for key, draws in findings.draws.items()} == metrics
    for draws in findings.draws.values():
        assert (draws.images, len(draws.values)) == (IMAGES, 1000)
        assert np.nanquantile(draws.values, 0.001) < draws.value < np.nanquantile(draws.values, 0.999)
    assert set(findings.errors["box"]["ap50_lost"]) == KINDS
    assert set(findings.by_size["box"]) == {"APs", "APm", "APl"}


def test_voc_findings_take_difficult_objects_as_neither_found_nor_missed(tmp_path: Path) -> None:
    name, batches = register_voc(tmp_path)
    evaluator = build_evaluator(BOXES_ONLY, name, tmp_path / "out")
    evaluate(evaluator, [(inputs, [{"instances": make_instances([], [], [], (9, 9))}]) for inputs, _ in batches])
    missed = evaluator.examine().errors["box"]["counts"]["Miss"]  # type: ignore[attr-defined]
    difficult = evaluator.truth.difficult  # type: ignore[attr-defined]
    assert difficult.any()
    assert missed == (~difficult).sum()


@pytest.mark.parametrize("engine", ["hotcoco", "pycocotools"])
def test_coco_findings_hold_draws_of_the_metrics_sizes_and_errors(tmp_path: Path, engine: str) -> None:
    name, _, batches = register_coco(tmp_path)
    settings = SimpleNamespace(MODEL=SimpleNamespace(MASK_ON=False), RUN=SimpleNamespace(COCO_ENGINE=engine))
    evaluator = build_evaluator(settings, name, tmp_path / "out")
    metrics = evaluate(evaluator, batches)
    findings = evaluator.examine()  # type: ignore[attr-defined]
    assert {key: draws.value for key, draws in findings.draws.items()} == {
        key: metrics[key] for key in ("box/AP", "box/AP50", "box/AP75")
    }
    assert {f"box/{key}": value for key, value in findings.by_size["box"].items()}.items() <= metrics.items()
    errors = findings.errors["box"]
    assert set(errors["ap50_lost"]) == KINDS
    assert errors["counts"]["Bkg"] > 0


RANK_PROGRAM = """
import json, sys, warnings
warnings.simplefilter("ignore")
from pathlib import Path
import torch
import transfer.detection
from tests.transfer.detection.test_evaluators import *
from detectron2.utils import comm
rank, folder = int(sys.argv[1]), Path(sys.argv[2])
store = torch.distributed.FileStore(str(folder / "store"), 2)
torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
comm._LOCAL_PROCESS_GROUP = torch.distributed.group.WORLD
own = folder / str(rank)
voc, voc_batches = register_voc(own)
coco, _, coco_batches = register_coco(own)
half = slice(0, IMAGES // 2) if rank == 0 else slice(IMAGES // 2, None)
table = [
    evaluate(build_evaluator(BOXES_ONLY, voc, own / "voc"), voc_batches[half]),
    evaluate(build_evaluator(BOXES_ONLY, coco, own / "coco"), coco_batches[half]),
]
(folder / f"{rank}.json").write_text(json.dumps(table))
"""


@pytest.mark.slow
def test_two_processes_give_what_one_gives(tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    def start(rank: int) -> None:
        words = [sys.executable, "-c", RANK_PROGRAM, str(rank), str(tmp_path)]
        run(words, check=True, cwd=PROJECT_ROOT, timeout=240)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(start, range(2)))
    alone = tmp_path / "alone"
    alone.mkdir()
    voc, voc_batches = register_voc(alone)
    coco, _, coco_batches = register_coco(alone)
    expected = [
        evaluate(build_evaluator(BOXES_ONLY, voc, alone / "voc"), voc_batches),
        evaluate(build_evaluator(BOXES_ONLY, coco, alone / "coco"), coco_batches),
    ]
    assert json.loads((tmp_path / "0.json").read_text()) == expected
    assert json.loads((tmp_path / "1.json").read_text()) == [{}, {}]

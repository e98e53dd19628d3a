import contextlib
import copy
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from detectron2.evaluation.coco_evaluation import _evaluate_predictions_on_coco
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as rle_codec

from transfer.metrics.coco_ap import evaluate_coco, load_pycocotools

TRUTH: dict[str, Any] = {
    "images": [{"id": 1, "width": 60, "height": 50}],
    "categories": [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 3, "bbox": [5, 5, 20, 20], "area": 400, "iscrowd": 0}],
}
HIT = {"image_id": 1, "category_id": 3, "bbox": [5, 5, 20, 20], "score": 0.9}


def ellipse_rle(box: list[float], width: int, height: int) -> dict[str, Any]:
    """Return the RLE of the ellipse that fills a box; its area is about pi/4 of the box's."""
    x, y, w, h = box
    rows, columns = np.mgrid[0:height, 0:width] + 0.5
    inside = ((columns - x - w / 2) / (w / 2)) ** 2 + ((rows - y - h / 2) / (h / 2)) ** 2 <= 1
    rle = rle_codec.encode(np.asfortranarray(inside.astype(np.uint8)))
    return {"size": rle["size"], "counts": rle["counts"].decode()}


def rectangle_rle(box: list[float], width: int, height: int) -> dict[str, Any]:
    mask = np.zeros((height, width), dtype=np.uint8, order="F")
    x, y, w, h = (round(value) for value in box)
    mask[y : y + h, x : x + w] = 1
    mask[y : y + h : 3, x] = 0
    rle = rle_codec.encode(mask)
    return {"size": rle["size"], "counts": rle["counts"].decode()}


@st.composite
def scenes(draw: st.DrawFn) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Few images with coarse boxes: ties in score and overlap, crowds, empty categories and images, no detections."""
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    images, width, height = draw(st.integers(1, 4)), 160, 120
    categories = draw(st.integers(1, 3))  # of four: some stay empty
    crowds = draw(st.sampled_from([0.0, 0.3]))
    steps = draw(st.sampled_from([2, 1000]))

    def box() -> list[float]:
        x, y = random.integers(0, 10, 2) * 5
        w, h = random.integers(1, 10, 2) * 10
        return [float(x), float(y), float(min(w, width - x)), float(min(h, height - y))]

    annotations = []
    for number in range(draw(st.integers(0, 12))):
        place = box()
        annotations.append(
            {
                "id": number + 1,
                "image_id": int(random.integers(images)) + 1,
                "category_id": int(random.integers(categories)) + 1,
                "bbox": place,
                "iscrowd": int(random.random() < crowds),
                "segmentation": rectangle_rle(place, width, height),
                "area": place[2] * place[3],
            }
        )
    results = []
    for _ in range(draw(st.integers(0, 120))):
        copied = annotations[random.integers(len(annotations))] if annotations and random.random() < 0.6 else None
        place = list(copied["bbox"]) if copied and random.random() < 0.5 else box()
        results.append(
            {
                "image_id": copied["image_id"] if copied else int(random.integers(images)) + 1,
                "category_id": copied["category_id"] if copied else int(random.integers(categories)) + 1,
                "bbox": place,
                "score": float(random.integers(0, steps + 1) / steps),
                "segmentation": rectangle_rle(place, width, height),
            }
        )
    truth = {
        "images": [{"id": number + 1, "width": width, "height": height} for number in range(images)],
        "categories": [{"id": number + 1, "name": f"c{number}"} for number in range(4)],
        "annotations": annotations,
    }
    return truth, results


@pytest.mark.parametrize("task", ["bbox", "segm"])
@settings(max_examples=25, deadline=None)
@given(scene=scenes())
def test_default_engine_equals_pycocotools_bit_by_bit(task: Any, scene: tuple[Any, Any]) -> None:
    truth, results = scene
    got, expected = (evaluate_coco(truth, results, task, engine=engine) for engine in ("hotcoco", "pycocotools"))
    np.testing.assert_array_equal(got.stats, expected.stats)
    np.testing.assert_array_equal(got.precision, expected.precision)
    np.testing.assert_array_equal(got.recall, expected.recall)
    assert got.categories == expected.categories


@st.composite
def elliptic_scenes(draw: st.DrawFn) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Ellipses whose boxes often fall into another COCO size class (bounds 32² and 96² pixels) than the masks."""
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    width, height = 200, 160

    def box() -> list[float]:
        w, h = random.choice([24, 30, 34, 36, 40, 90, 98, 102, 110, 130], 2)
        return [float(random.integers(0, width - w)), float(random.integers(0, height - h)), float(w), float(h)]

    annotations, results = [], []
    for number in range(draw(st.integers(1, 10))):
        place = box()
        mask = ellipse_rle(place, width, height)
        annotation = {"image_id": int(random.integers(3)) + 1, "category_id": int(random.integers(3)) + 1}
        annotations.append(
            {
                **annotation,
                "id": number + 1,
                "bbox": place,
                "segmentation": mask,
                "iscrowd": int(random.random() < 0.15),
            }
            | {"area": float(rle_codec.area(mask))}
        )
    for _ in range(draw(st.integers(1, 40))):
        near = annotations[random.integers(len(annotations))]
        x, y, w, h = near["bbox"] if random.random() < 0.8 else box()
        jitter = random.choice([0, 0, 2, 6])
        place = [max(0.0, x - jitter), y, w, min(h + jitter, height - y)]
        results.append(
            {"image_id": near["image_id"], "category_id": near["category_id"], "bbox": place}
            | {"score": float(random.integers(0, 1000) / 1000), "segmentation": ellipse_rle(place, width, height)}
        )
    truth = {
        "info": {},
        "images": [{"id": number, "width": width, "height": height} for number in (1, 2, 3)],
        "categories": [{"id": number, "name": f"c{number}"} for number in (1, 2, 3)],
        "annotations": annotations,
    }
    return truth, results


@pytest.mark.parametrize("task", ["bbox", "segm"])
@settings(max_examples=25, deadline=None)
@given(scene=elliptic_scenes())
def test_all_twelve_numbers_equal_detectron2s_own_evaluation(task: Any, scene: tuple[Any, Any]) -> None:
    truth, results = scene
    with contextlib.redirect_stdout(io.StringIO()):
        expected = _evaluate_predictions_on_coco(
            load_pycocotools(copy.deepcopy(truth)), copy.deepcopy(results), task, use_fast_impl=False
        )
    for engine in ("hotcoco", "pycocotools"):
        got = evaluate_coco(truth, results, task, engine=engine)  # type: ignore[arg-type]
        np.testing.assert_array_equal(got.stats, expected.stats)
        np.testing.assert_array_equal(got.precision, expected.eval["precision"])


def test_a_round_mask_in_a_large_box_counts_as_medium() -> None:
    box = [10.0, 10.0, 100.0, 100.0]  # a box of 10,000 pixels is large (over 96²), its ellipse of 7,854 medium
    mask = ellipse_rle(box, 200, 160)
    near = ellipse_rle([*box[:3], 98.0], 200, 160)
    entry = {"image_id": 1, "category_id": 3, "bbox": box}
    truth = {
        "images": [{"id": 1, "width": 200, "height": 160}],
        "categories": [{"id": 3, "name": "cat"}],
        "annotations": [{**entry, "id": 1, "iscrowd": 0, "area": 7854.0, "segmentation": mask}],
    }
    wrong = {**entry, "score": 0.9, "segmentation": ellipse_rle([90.0, 40.0, 100.0, 100.0], 200, 160)}
    result = evaluate_coco(truth, [wrong, {**entry, "score": 0.8, "segmentation": near}], "segm")
    assert result.metrics()["APm"] == pytest.approx(50)  # the wrong one counts among the medium ones
    assert np.isnan(result.metrics()["APl"])


@pytest.mark.parametrize("engine", ["hotcoco", "pycocotools"])
def test_hit_has_ap_100_and_no_detections_have_0(engine: Any) -> None:
    result = evaluate_coco(TRUTH, [HIT], engine=engine)
    assert result.metrics()["AP"] == pytest.approx(100)
    assert np.isnan(result.metrics()["APl"])
    assert result.per_class()["cat"] == pytest.approx(100)
    assert np.isnan(result.per_class()["dog"])
    assert evaluate_coco(TRUTH, [], engine=engine).metrics()["AP"] == 0


def test_evaluation_leaves_its_input_unchanged() -> None:
    before = json.dumps([TRUTH, HIT])
    for engine in ("hotcoco", "pycocotools"):
        evaluate_coco(TRUTH, [HIT], engine=engine)  # type: ignore[arg-type]
    assert json.dumps([TRUTH, HIT]) == before


def test_files_give_what_their_content_gives(tmp_path: Path) -> None:
    (tmp_path / "truth.json").write_text(json.dumps(TRUTH))
    (tmp_path / "results.json").write_text(json.dumps([HIT]))
    from_files = evaluate_coco(tmp_path / "truth.json", tmp_path / "results.json")
    np.testing.assert_array_equal(from_files.precision, evaluate_coco(TRUTH, [HIT]).precision)


@pytest.mark.parametrize(
    ("truth", "result", "task", "sentence"),
    [
        (TRUTH, HIT, "segm", "1 annotations without a segmentation: mask AP needs a segmentation in every annotation"),
        (TRUTH, {**HIT, "image_id": 2}, "bbox", "1 image ids of the results are not in the annotations, e.g. 2"),
        (TRUTH, {**HIT, "category_id": 0}, "bbox", r"category ids \[0\] that the annotations lack"),
        (TRUTH, HIT, "boxes", "expected the task bbox or segm"),
        ({"images": []}, HIT, "bbox", "lack annotations, categories"),
    ],
)
def test_results_that_do_not_fit_are_explained(truth: Any, result: Any, task: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        evaluate_coco(truth, [result], task)


def test_missing_and_broken_files_are_explained(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such file; expected COCO annotations"):
        evaluate_coco(tmp_path / "truth.json", [])
    (tmp_path / "truth.json").write_text("{")
    with pytest.raises(ValueError, match="not valid JSON"):
        evaluate_coco(tmp_path / "truth.json", [])

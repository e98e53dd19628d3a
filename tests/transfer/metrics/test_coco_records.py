"""Loose COCO files: both engines give the same numbers, or both refuse with the same error."""

import copy
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as rle_codec

from transfer.metrics.coco_ap import ENGINES, evaluate_coco
from transfer.metrics.coco_masks import find_broken_rles

SQUARE = [[5, 5, 25, 5, 25, 25, 5, 25]]
MASK = {"size": [50, 60], "counts": rle_codec.frPyObjects(SQUARE, 50, 60)[0]["counts"].decode()}


def make_truth(**changes: Any) -> dict[str, Any]:
    """Return two images with one cat each; `changes` apply to the first annotation, and None removes a field."""
    entry = {"bbox": [5, 5, 20, 20], "area": 400, "iscrowd": 0, "category_id": 3, "segmentation": SQUARE}
    first = {"id": 1, "image_id": 1, **entry, **changes}
    return {
        "images": [{"id": number, "width": 60, "height": 50} for number in (1, 2)],
        "categories": [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}],
        "annotations": [
            {key: value for key, value in first.items() if value is not None},
            {"id": 2, "image_id": 2, **entry},
        ],
    }


def make_results(**changes: Any) -> list[dict[str, Any]]:
    first = {"image_id": 1, "category_id": 3, "bbox": [5, 5, 20, 20], "score": 0.9, "segmentation": MASK, **changes}
    miss = {"image_id": 1, "category_id": 3, "bbox": [40, 30, 10, 10], "score": 0.95}
    far = rle_codec.frPyObjects([[40, 30, 50, 30, 50, 40, 40, 40]], 50, 60)[0]
    miss["segmentation"] = {"size": [50, 60], "counts": far["counts"].decode()}
    return [{key: value for key, value in first.items() if value is not None}, miss, {**miss, "image_id": 2}]


def evaluate_with_all(truth: Any, results: Any, task: Any) -> list[float]:
    """Return COCO's twelve numbers after checking that all engines agree."""
    tables = [evaluate_coco(truth, results, task, engine=engine).stats.tolist() for engine in ENGINES]
    assert tables[0] == tables[1]
    return tables[0]


@pytest.mark.parametrize("task", ["bbox", "segm"])
@pytest.mark.parametrize(
    "changes",
    [
        {"id": 0},
        {"id": -5},
        {"id": "a1"},
        {"iscrowd": None},
        {"iscrowd": False},
        {"ignore": 1},
        {"area": None},
        {"bbox": [5.0, 5.0, 20.0, 20.0]},
        {"segmentation": MASK},
        {"segmentation": {"size": [50, 60], "counts": [255, 20, *[30, 20] * 19, 1775]}},
        {"segmentation": [*SQUARE, [1, 1, 2, 2]]},
        {"segmentation": [[3, 3], *SQUARE]},
        {"segmentation": [[], *SQUARE]},
    ],
    ids=str,
)
def test_a_loose_annotation_gives_the_number_of_the_strict_one(changes: dict[str, Any], task: Any) -> None:
    expected = evaluate_with_all(make_truth(), make_results(), task)
    assert evaluate_with_all(make_truth(**changes), make_results(), task) == expected
    assert expected[0] == pytest.approx(51 / 101 / 3)  # one of two cats, behind two wrong detections


@pytest.mark.parametrize("task", ["bbox", "segm"])
@pytest.mark.parametrize(
    "changes",
    [
        {"segmentation": {**MASK, "counts": MASK["counts"].encode()}},
        {"segmentation": SQUARE},
        {"id": 1, "area": 1, "iscrowd": 1, "keypoints": [], "caption": "a cat"},
    ],
    ids=str,
)
def test_a_loose_result_gives_the_number_of_the_strict_one(changes: dict[str, Any], task: Any) -> None:
    expected = evaluate_with_all(make_truth(), make_results(), task)
    assert evaluate_with_all(make_truth(), make_results(**changes), task) == expected


@pytest.mark.parametrize(
    ("renumber", "recategorise"),
    [
        (lambda key: key - 1, lambda key: key - 3),
        (lambda key: f"{key:06d}", lambda key: -key),
        (lambda key: 2**40 + key, lambda key: 10 * key),
    ],
)
def test_other_ids_give_the_same_numbers(renumber: Any, recategorise: Any) -> None:
    truth, results = make_truth(), make_results()
    expected = {task: evaluate_with_all(truth, results, task) for task in ("bbox", "segm")}
    for record in [*truth["annotations"], *results]:
        record["image_id"] = renumber(record["image_id"])
        record["category_id"] = recategorise(record["category_id"])
    for kind, change in (("images", renumber), ("categories", recategorise)):
        for record in truth[kind]:
            record["id"] = change(record["id"])
    for task, numbers in expected.items():
        assert evaluate_with_all(truth, results, task) == numbers


@pytest.mark.parametrize("task", ["bbox", "segm"])
@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"id": 2}, "1 annotation ids that occur more than once"),
        ({"id": None}, "1 annotation ids that are neither integers nor strings"),
        ({"bbox": [float("nan"), 5, 20, 20]}, "1 boxes that are not four finite numbers"),
        ({"bbox": [5, 5, float("inf"), 20]}, "1 boxes that are not four finite numbers"),
        ({"bbox": []}, "1 boxes that are not four finite numbers"),
        ({"bbox": None}, "1 boxes that are not four finite numbers"),
        ({"bbox": [5, 5, 1e9, 20]}, "1 boxes with a negative side, or beyond 10 image sides"),
        ({"bbox": [25, 25, -20, 20]}, "1 boxes with a negative side, or beyond 10 image sides"),
        ({"area": float("nan")}, "1 annotations whose area is not a number"),
        ({"iscrowd": "no"}, "1 annotations whose iscrowd is not 0 or 1"),
        ({"category_id": 4}, "1 annotations of a category that is not listed"),
    ],
)
def test_an_annotation_that_cannot_be_measured_is_refused_by_all(
    changes: dict[str, Any], sentence: str, task: Any
) -> None:
    for engine in ENGINES:
        with pytest.raises(ValueError, match=sentence):
            evaluate_coco(make_truth(**changes), make_results(), task, engine=engine)


@pytest.mark.parametrize(
    ("segmentation", "sentence"),
    [
        ([[5, 5, 25, 25]], "1 segmentations without a polygon of three points"),
        ([[5, 5]], "1 segmentations without a polygon of three points"),
        ([[]], "1 segmentations without a polygon of three points"),
        ([], "mask AP needs a segmentation in every annotation"),
        (None, "mask AP needs a segmentation in every annotation"),
        ([[5, 5, 25, 5, 25, 25, 5]], "1 polygons with an odd number of coordinates"),
        ([[5, 5, 25, float("nan"), 25, 25]], "1 polygons with NaN, or with coordinates beyond 10 image sides"),
        ([[5, 5, 1e9, 5, 25, 25]], "1 polygons with NaN, or with coordinates beyond 10 image sides"),
        ([[5, 5, "25", 5, 25, 25]], "1 polygons with NaN, or with coordinates beyond 10 image sides"),
        ([5, 5, 25, 5, 25, 25], "1 segmentations that are neither polygons nor RLE"),
        ("mask.png", "1 segmentations that are neither polygons nor RLE"),
        ({"size": [60, 50], "counts": MASK["counts"]}, "1 RLE masks of another size than their image"),
        ({"size": [50, 60], "counts": [1, 2, 3]}, "1 RLE masks whose runs do not fill their image"),
        ({"size": [50, 60], "counts": [-1, 3001]}, "1 RLE masks whose counts are neither"),
        ({"size": [50, 60], "counts": "zz"}, "1 RLE masks that cannot be decoded"),
        ({"size": [50, 60], "counts": "é"}, "1 RLE masks that cannot be decoded"),
        ({"size": [50, 60], "counts": MASK["counts"][:-1]}, "1 RLE masks that cannot be decoded"),
    ],
    ids=str,
)
def test_a_mask_that_cannot_be_measured_is_refused_by_all(segmentation: Any, sentence: str) -> None:
    for engine in ENGINES:
        with pytest.raises(ValueError, match=sentence):
            evaluate_coco(make_truth(segmentation=segmentation), make_results(), "segm", engine=engine)
        if segmentation not in ([], None):
            with pytest.raises(ValueError, match=sentence):
                evaluate_coco(make_truth(), make_results(segmentation=segmentation), "segm", engine=engine)
        evaluate_coco(make_truth(segmentation=segmentation, area=400), make_results(), "bbox", engine=engine)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"score": None}, "1 results without a finite score"),
        ({"score": float("nan")}, "1 results without a finite score"),
        ({"score": "0.9"}, "1 results without a finite score"),
        ({"bbox": [5, 5, 20]}, "1 boxes that are not four finite numbers"),
        ({"bbox": [5, 5, 1e9, 20]}, "beyond 10 image sides"),
        ({"bbox": None}, "box AP needs boxes, 1 of 3 results have none"),
        ({"image_id": None}, "1 image ids of the results are not in the annotations"),
        ({"image_id": "1"}, "1 image ids of the results are not in the annotations"),
        ({"category_id": [3]}, "that the annotations lack"),
    ],
    ids=str,
)
def test_a_result_that_cannot_be_measured_is_refused_by_all(changes: dict[str, Any], sentence: str) -> None:
    for engine in ENGINES:
        with pytest.raises(ValueError, match=sentence):
            evaluate_coco(make_truth(), make_results(**changes), engine=engine)


def test_all_kinds_of_mistakes_come_at_once_with_their_numbers() -> None:
    truth = make_truth(bbox=[1], area="big")
    truth["annotations"][1]["bbox"] = None
    with pytest.raises(ValueError, match="2 boxes that are not four finite numbers") as error:
        evaluate_coco(truth, make_results())
    assert "1 annotations whose area" in str(error.value)


@pytest.mark.parametrize(
    ("part", "value", "sentence"),
    [
        ("images", [{"id": 1}, {"id": 1}], "1 image ids that occur more than once"),
        ("images", [{"id": 1}, {"id": "b"}], "kinds of image ids"),
        ("images", [{"id": 1.5}], "1 image ids that are neither integers nor strings"),
        ("categories", [{"id": 3, "name": "a"}, {"id": 3, "name": "b"}], "1 category ids that occur more than once"),
        ("categories", [{"id": "cat", "name": "cat"}], "category ids that are strings"),
        ("categories", [{"id": 3}], "categories without a name"),
        ("annotations", ["a"], "annotation ids that are neither integers nor strings"),
        ("images", None, "lack images"),
    ],
)
def test_lists_that_cannot_be_read_are_explained(part: str, value: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        evaluate_coco({**make_truth(), part: value}, [])


def test_annotations_of_unlisted_images_are_left_out_as_detectron2_leaves_them_out() -> None:
    truth = make_truth()
    truth["annotations"].append({**truth["annotations"][0], "id": 9, "image_id": 77})
    assert evaluate_with_all(truth, make_results(), "bbox") == evaluate_with_all(make_truth(), make_results(), "bbox")


def test_masks_need_the_sizes_of_their_images_and_boxes_do_not() -> None:
    truth = make_truth()
    for image in truth["images"]:
        del image["width"]
    assert evaluate_with_all(truth, make_results(), "bbox") == evaluate_with_all(make_truth(), make_results(), "bbox")
    with pytest.raises(ValueError, match="2 images without a width and height"):
        evaluate_coco(truth, make_results(), "segm")


def test_input_stays_unchanged() -> None:
    truth, results = make_truth(id=0), make_results()
    before = json.dumps([truth, results])
    for engine in ENGINES:
        evaluate_coco(truth, results, "segm", engine=engine)
    assert json.dumps([truth, results]) == before


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 30), st.integers(1, 30))
def test_sound_rles_pass_and_cut_or_changed_ones_do_not_crash(seed: int, height: int, width: int) -> None:
    random = np.random.default_rng(seed)
    masks = [
        rle_codec.encode(np.asfortranarray((random.random((height, width)) < share).astype(np.uint8)))
        for share in (0, 0.1, 0.5, 1)
    ]
    rles = [{"size": mask["size"], "counts": mask["counts"].decode()} for mask in masks]
    assert find_broken_rles(rles) == []
    damaged = copy.deepcopy(rles)
    for rle in damaged:
        text = list(rle["counts"])
        text[random.integers(len(text))] = chr(random.integers(40, 120))
        rle["counts"] = "".join(text)
    broken = find_broken_rles(damaged)
    for index, rle in enumerate(damaged):
        if index not in broken:  # what passes fills its image
            assert rle_codec.decode({**rle, "counts": rle["counts"].encode()}).shape == (height, width)
    assert find_broken_rles([{"size": [height, width], "counts": ""}, *rles, {"size": [2, 2], "counts": "1"}]) == [0, 5]

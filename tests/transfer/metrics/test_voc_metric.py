import tempfile
import warnings
from pathlib import Path

import numpy as np
import pytest
from detectron2.evaluation.pascal_voc_evaluation import voc_eval
from hypothesis import given, settings
from hypothesis import strategies as st

from transfer.metrics.voc_ap import IOU_THRESHOLDS, VocDetections, VocTruth, compute_voc_ap, round_as_written
from transfer.metrics.voc_files import evaluate_voc, read_det_files, read_voc_truth, write_det_files

NAMES = ["cat", "dog", "bird"]


def write_truth(root: Path, truth: VocTruth) -> None:
    (root / "Annotations").mkdir()
    (root / "ImageSets" / "Main").mkdir(parents=True)
    (root / "ImageSets" / "Main" / "test.txt").write_text("".join(f"{name}\n" for name in truth.images))
    for number, name in enumerate(truth.images):
        objects = ""
        for index in np.flatnonzero(truth.image == number):
            corners = zip(("xmin", "ymin", "xmax", "ymax"), truth.boxes[index].astype(int), strict=True)
            box = "".join(f"<{tag}>{value}</{tag}>" for tag, value in corners)
            objects += (
                f"<object><name>{NAMES[truth.category[index]]}</name><pose>x</pose><truncated>0</truncated>"
                f"<difficult>{int(truth.difficult[index])}</difficult><bndbox>{box}</bndbox></object>"
            )
        (root / "Annotations" / f"{name}.xml").write_text(f"<annotation>{objects}</annotation>")


def detectron2_ap(root: Path, det_folder: Path, year: int) -> np.ndarray:
    """Return AP (10, 3) computed by Detectron2's own function from the same files."""
    arguments = [str(root / "Annotations" / "{}.xml"), str(root / "ImageSets" / "Main" / "test.txt")]
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        return np.array(
            [
                [voc_eval(str(det_folder / "{}.txt"), *arguments, name, threshold, year == 2007)[2] for name in NAMES]
                for threshold in IOU_THRESHOLDS
            ]
        )


@st.composite
def scenes(draw: st.DrawFn) -> tuple[VocTruth, VocDetections]:
    """Few images on a coarse grid, so that ties in score and overlap, duplicates and empty classes are common."""
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    images = draw(st.integers(1, 4))
    boxes, found = draw(st.integers(0, 8)), draw(st.integers(0, 60))
    classes = draw(st.integers(1, 3))  # fewer than three: empty classes
    step = draw(st.sampled_from([1, 5]))

    def corners(count: int) -> np.ndarray:
        low = random.integers(1, 20, (count, 2)) * step
        return np.concatenate([low, low + random.integers(0, 12, (count, 2)) * step], axis=1).astype(float)

    truth = VocTruth(
        images=tuple(f"{number:06d}" for number in range(images)),
        image=np.sort(random.integers(0, images, boxes)),
        category=random.integers(0, classes, boxes),
        boxes=corners(boxes),
        difficult=random.random(boxes) < draw(st.sampled_from([0.0, 0.3, 1.0])),
    )
    near = corners(found)
    if boxes:
        copied = random.random(found) < 0.7
        near[copied] = truth.boxes[random.integers(0, boxes, int(copied.sum()))]
        near += np.rint(random.normal(0, draw(st.sampled_from([0.0, 1.5])), near.shape) * 10) / 10
    detections = VocDetections(
        image=random.integers(0, images, found),
        category=random.integers(0, classes, found),
        scores=np.rint(random.random(found) * draw(st.sampled_from([3, 1000]))) / 1000,
        boxes=np.rint(near * 10) / 10,
    )
    return truth, detections


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
@settings(max_examples=40, deadline=None)
@given(scenes(), st.sampled_from([2007, 2012]))
def test_ap_equals_detectron2s_bit_by_bit(scene: tuple[VocTruth, VocDetections], year: int) -> None:
    truth, detections = scene
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_truth(root, truth)
        write_det_files(root / "det", detections, truth.images, NAMES)
        expected = detectron2_ap(root, root / "det", year)
        # the files are grouped by class: for equal scores, only the order within a class matters
        got = compute_voc_ap(read_voc_truth(root, "test", NAMES), detections, 3, year=year)
    np.testing.assert_array_equal(got, expected)


@settings(max_examples=30, deadline=None)
@given(scenes())
def test_det_files_read_back_as_the_same_detections(scene: tuple[VocTruth, VocDetections]) -> None:
    truth, detections = scene
    order = np.argsort(detections.category, kind="stable")
    with tempfile.TemporaryDirectory() as folder:
        write_det_files(folder, detections, truth.images, NAMES)
        again = read_det_files(folder, truth.images, NAMES)
        lines = sum(len((Path(folder) / f"{name}.txt").read_text().splitlines()) for name in NAMES)
    assert lines == len(detections.scores)
    for field in ("image", "category", "scores", "boxes"):
        np.testing.assert_array_equal(getattr(again, field), getattr(detections, field)[order])


@settings(max_examples=200, deadline=None)
@given(st.floats(0, 4000, width=32), st.floats(0, 1, width=32))
def test_rounding_equals_printing_and_reading(corner: float, score: float) -> None:
    boxes, scores = round_as_written(np.full((1, 4), corner, dtype=np.float32), np.array([score]))
    shifted = np.float32(corner) + 1
    assert boxes[0].tolist() == [float(f"{shifted:.1f}")] * 2 + [float(f"{np.float32(corner):.1f}")] * 2
    assert scores[0] == float(f"{score:.3f}")


def truth_of(boxes: list[list[float]], difficult: list[bool]) -> VocTruth:
    count = len(boxes)
    return VocTruth(
        images=("1",),
        image=np.zeros(count, dtype=np.int64),
        category=np.zeros(count, dtype=np.int64),
        boxes=np.array(boxes, dtype=float).reshape(-1, 4),
        difficult=np.array(difficult, dtype=bool),
    )


def found_of(boxes: list[list[float]], scores: list[float]) -> VocDetections:
    count = len(boxes)
    zeros = np.zeros(count, dtype=np.int64)
    return VocDetections(
        image=zeros, category=zeros, scores=np.array(scores), boxes=np.array(boxes, dtype=float).reshape(-1, 4)
    )


def test_perfect_detection_has_ap_one_and_none_has_zero() -> None:
    truth = truth_of([[1, 1, 10, 10]], [False])
    for year in (2007, 2012):
        assert compute_voc_ap(truth, found_of([[1, 1, 10, 10]], [0.9]), 1, year=year).tolist() == pytest.approx(
            np.ones((10, 1))
        )
        assert not compute_voc_ap(truth, found_of([], []), 1, year=year).any()


def test_difficult_hit_is_neither_right_nor_wrong() -> None:
    truth = truth_of([[1, 1, 10, 10], [50, 50, 60, 60]], [True, False])
    found = found_of([[1, 1, 10, 10], [50, 50, 60, 60]], [0.9, 0.8])
    assert compute_voc_ap(truth, found, 1) == pytest.approx(1.0)


def test_second_hit_of_a_box_is_wrong() -> None:
    truth = truth_of([[1, 1, 10, 10], [50, 50, 60, 60]], [False, False])
    found = found_of([[1, 1, 10, 10], [1, 1, 10, 10], [50, 50, 60, 60]], [0.9, 0.8, 0.7])
    # precision 1 up to recall 1/2 (6 of the 11 points), then 2/3 (5 points)
    assert compute_voc_ap(truth, found, 1)[0, 0] == pytest.approx((6 + 5 * 2 / 3) / 11)
    assert compute_voc_ap(truth, found, 1, year=2012)[0, 0] == pytest.approx((1 + 2 / 3) / 2)


def test_stable_ties_take_the_earlier_detection_first() -> None:
    truth = truth_of([[1, 1, 10, 10]], [False])
    wrong, right = [80, 80, 90, 90], [1, 1, 10, 10]
    late = compute_voc_ap(truth, found_of([wrong] * 40 + [right], [0.5] * 41), 1, ties="stable")
    early = compute_voc_ap(truth, found_of([right] + [wrong] * 40, [0.5] * 41), 1, ties="stable")
    assert late[0, 0] == pytest.approx(1 / 41)
    assert early[0, 0] == pytest.approx(1.0)


def test_unknown_year_is_refused() -> None:
    with pytest.raises(ValueError, match=r"2007 \(11-point AP\) or 2012"):
        compute_voc_ap(truth_of([], []), found_of([], []), 1, year=2010)


def test_metrics_are_computed_from_files(tmp_path: Path) -> None:
    truth = truth_of([[1, 1, 10, 10]], [False])
    write_truth(tmp_path, truth)
    write_det_files(tmp_path / "det", found_of([[1, 1, 10, 10]], [0.9]), truth.images, NAMES)
    table = evaluate_voc(tmp_path, "test", tmp_path / "det", ["cat"])
    assert table["metrics"]["AP"] == pytest.approx(100)
    assert table["per_class"]["cat"]["AP75"] == pytest.approx(100)


def test_bad_voc_files_are_explained(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such image set"):
        read_voc_truth(tmp_path, "test", NAMES)
    write_truth(tmp_path, truth_of([[1, 1, 10, 10]], [False]))
    (tmp_path / "cat.txt").write_text("1 0.9 1 2 3\n")
    with pytest.raises(ValueError, match="line 1: expected `image score"):
        read_det_files(tmp_path, ["1"], ["cat"])
    annotation = tmp_path / "Annotations" / "1.xml"
    annotation.write_text("<annotation><object><name>cat</name></object></annotation>")
    with pytest.raises(ValueError, match="needs name, bndbox and difficult, but its bndbox is"):
        read_voc_truth(tmp_path, "test", ["cat"])
    annotation.write_text("<annotation>")
    with pytest.raises(ValueError, match="not valid XML"):
        read_voc_truth(tmp_path, "test", ["cat"])
    annotation.unlink()
    with pytest.raises(ValueError, match="cannot read the annotation"):
        read_voc_truth(tmp_path, "test", ["cat"])

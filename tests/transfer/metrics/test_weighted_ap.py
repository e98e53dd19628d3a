"""AP on bootstrap draws against a slow reference that copies the images under new ids and evaluates them again."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transfer.metrics.bootstrap import draw_images
from transfer.metrics.coco_ap import ENGINES, evaluate_coco, load_evaluation
from transfer.metrics.coco_bootstrap import match_coco, weigh_coco
from transfer.metrics.coco_records import normalise_results, normalise_truth
from transfer.metrics.voc_ap import VocDetections, VocTruth, average_voc_ap, compute_voc_ap, match_voc, weigh_voc_ap


@st.composite
def voc_scenes(draw: st.DrawFn) -> tuple[VocTruth, VocDetections]:
    """Coarse boxes and scores, so that ties, duplicates, difficult boxes and empty classes and images are common."""
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    images, boxes, found = draw(st.integers(1, 6)), draw(st.integers(0, 12)), draw(st.integers(0, 60))
    low = random.integers(1, 8, (boxes, 2)) * 10
    truth = VocTruth(
        images=tuple(f"{number:06d}" for number in range(images)),
        image=np.sort(random.integers(0, images, boxes)),
        category=random.integers(0, 2, boxes),
        boxes=np.concatenate([low, low + random.integers(1, 4, (boxes, 2)) * 10], axis=1).astype(float),
        difficult=random.random(boxes) < draw(st.sampled_from([0.0, 0.3])),
    )
    source = random.integers(0, max(boxes, 1), found)
    corner = random.integers(1, 8, (found, 2)) * 10.0
    place = np.concatenate([corner, corner + 20], axis=1)
    image, category = random.integers(0, images, found), random.integers(0, 3, found)
    if boxes:
        near = random.random(found) < 0.7
        place[near] = truth.boxes[source[near]] + random.integers(0, 3, (int(near.sum()), 4)) * 2
        image[near], category[near] = truth.image[source[near]], truth.category[source[near]]
    scores = random.integers(0, draw(st.sampled_from([3, 1000])), found) / 1000
    return truth, VocDetections(image=image, category=category, scores=scores, boxes=place)


def copy_voc(truth: VocTruth, detections: VocDetections, counts: np.ndarray) -> tuple[VocTruth, VocDetections]:
    """Return the scene with image i repeated counts[i] times; copies of a detection directly follow it."""
    copies = [(image, copy) for image, count in enumerate(counts.tolist()) for copy in range(count)]
    number = {key: index for index, key in enumerate(copies)}

    def spread(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        rows = np.repeat(np.arange(len(image)), counts[image])
        copy = np.concatenate([np.empty(0, int), *(np.arange(counts[entry]) for entry in image)]).astype(int)
        keys = zip(image[rows].tolist(), copy.tolist(), strict=True)
        return rows, np.array([number[key] for key in keys], dtype=np.int64)

    rows, image = spread(truth.image)
    boxes = replace(
        truth,
        images=tuple(f"{image}-{copy}" for image, copy in copies),
        image=image,
        category=truth.category[rows],
        boxes=truth.boxes[rows],
        difficult=truth.difficult[rows],
    )
    rows, image = spread(detections.image)
    found = VocDetections(
        image=image, category=detections.category[rows], scores=detections.scores[rows], boxes=detections.boxes[rows]
    )
    return boxes, found


@settings(max_examples=60, deadline=None)
@given(voc_scenes(), st.sampled_from([2007, 2012]))
def test_voc_draws_equal_an_evaluation_of_copied_images(scene: tuple[VocTruth, VocDetections], year: int) -> None:
    truth, detections = scene
    counts = draw_images(truth.images, 6).counts
    matches = match_voc(truth, detections, 3, ties="stable")
    weighed = weigh_voc_ap(matches, counts, year=year)
    for row, ap in zip(counts.astype(int), weighed, strict=True):
        expected = compute_voc_ap(*copy_voc(truth, detections, row), 3, year=year, ties="stable")
        np.testing.assert_allclose(ap, expected, rtol=0, atol=1e-12)


@settings(max_examples=60, deadline=None)
@given(voc_scenes(), st.sampled_from([2007, 2012]), st.sampled_from(["detectron2", "stable"]))
def test_voc_draws_that_hold_each_image_once_are_the_metric_bit_by_bit(
    scene: tuple[VocTruth, VocDetections], year: int, ties: Any
) -> None:
    truth, detections = scene
    matches = match_voc(truth, detections, 3, ties=ties)
    once = weigh_voc_ap(matches, np.ones((2, len(truth.images)), dtype=np.uint16), year=year)
    metric = compute_voc_ap(truth, detections, 3, year=year, ties=ties)
    np.testing.assert_array_equal(once[0], metric)
    np.testing.assert_array_equal(once[1], average_voc_ap(matches, year=year))


@st.composite
def coco_scenes(draw: st.DrawFn) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Scores are distinct within an image, and tie between images; crowds, misses and empty images are common."""
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    images, categories = draw(st.integers(1, 5)), 2
    annotations: list[dict[str, Any]] = []
    for _ in range(draw(st.integers(0, 12))):
        x, y, w, h = [*(random.integers(0, 5, 2) * 10), *(random.integers(1, 4, 2) * 20)]
        place = {"image_id": int(random.integers(images)), "category_id": int(random.integers(categories))}
        crowd = int(random.random() < 0.2)
        annotations.append({"bbox": [float(x), float(y), float(w), float(h)], **place, "iscrowd": crowd})
    results = []
    for image in range(images):
        own = [entry for entry in annotations if entry["image_id"] == image]
        for score in random.permutation(30)[: random.integers(0, 15)].tolist():
            near = own[random.integers(len(own))] if own and random.random() < 0.7 else None
            box = list(near["bbox"]) if near else [5.0, 5.0, 30.0, 30.0]
            box[2] += float(random.integers(0, 4) * 3)
            category = near["category_id"] if near else int(random.integers(categories))
            results.append({"image_id": image, "category_id": category, "bbox": box, "score": score / 30})
    truth = {
        "images": [{"id": number, "width": 200, "height": 200} for number in range(images)],
        "categories": [{"id": number, "name": f"c{number}"} for number in range(categories)],
        "annotations": [{**entry, "id": number} for number, entry in enumerate(annotations)],
    }
    return truth, results


def copy_coco(truth: dict[str, Any], results: list[Any], counts: list[int]) -> tuple[dict[str, Any], list[Any]]:
    """Return the files with image i repeated counts[i] times under the ids 100 i, 100 i + 1, …."""
    copies = [(image, copy) for image, count in enumerate(counts) for copy in range(count)]

    def spread(records: list[Any]) -> list[Any]:
        return [
            {**record, "image_id": 100 * image + copy}
            for image, copy in copies
            for record in records
            if record["image_id"] == image
        ]

    annotations = [{**entry, "id": number} for number, entry in enumerate(spread(truth["annotations"]))]
    images = [{"id": 100 * image + copy, "width": 200, "height": 200} for image, copy in copies]
    return {**truth, "images": images, "annotations": annotations}, spread(results)


@pytest.mark.parametrize("engine", ENGINES)
@settings(max_examples=30, deadline=None)
@given(scene=coco_scenes())
def test_coco_draws_equal_an_evaluation_of_copied_images(engine: Any, scene: tuple[Any, Any]) -> None:
    annotations, found = scene
    truth = normalise_truth(annotations, masks=False)
    records = normalise_results(found, truth, masks=False)
    matches = match_coco(load_evaluation(truth.content, records, "bbox", engine), truth)
    counts = draw_images(truth.image_ids, 5).counts
    counts[0] = 1
    weighed = weigh_coco(matches, counts)
    for row, draw in enumerate(counts.tolist()):
        expected = evaluate_coco(*copy_coco(annotations, found, draw)).metrics()
        for name in ("AP", "AP50", "AP75"):
            np.testing.assert_allclose(weighed[name][row], expected[name], rtol=0, atol=1e-9)
    once = evaluate_coco(annotations, found, engine=engine).metrics()
    assert all(np.array_equal(values[0], once[name], equal_nan=True) for name, values in weighed.items())


def test_one_image_drawn_twice_changes_ap_as_computed_by_hand() -> None:
    one, box = np.array([0]), np.array([[1.0, 1, 10, 10]])
    truth = VocTruth(
        images=("a", "b"), image=np.array([0, 1]), category=np.array([0, 0]), boxes=np.tile(box, (2, 1)),
        difficult=np.array([False, False]),
    )  # fmt: skip
    found = VocDetections(image=one, category=one, scores=np.array([0.9]), boxes=box)
    matches = match_voc(truth, found, 1)
    ap = weigh_voc_ap(matches, np.array([[1, 1], [2, 0], [0, 2]]), year=2007)[:, 0, 0]
    assert ap == pytest.approx([6 / 11, 1, 0])  # half of the boxes found; all; none


@pytest.mark.slow
def test_a_thousand_draws_of_a_voc_sized_result_take_less_than_a_minute() -> None:
    import time

    random, images, classes, boxes = np.random.default_rng(0), 4952, 20, 15000
    corner = random.integers(1, 300, (boxes, 2)).astype(float)
    truth = VocTruth(
        images=tuple(map(str, range(images))),
        image=np.sort(random.integers(0, images, boxes)),
        category=random.integers(0, classes, boxes),
        boxes=np.concatenate([corner, corner + random.integers(20, 200, (boxes, 2))], axis=1),
        difficult=random.random(boxes) < 0.2,
    )
    count = images * 100
    source, near = random.integers(0, boxes, count), random.random(count) < 0.1
    detections = VocDetections(
        image=np.where(near, truth.image[source], random.integers(0, images, count)),
        category=truth.category[source],
        scores=np.rint(np.where(near, random.beta(4, 2, count), random.random(count) * 0.2) * 1000) / 1000,
        boxes=truth.boxes[source] + random.normal(0, 10, (count, 4)),
    )
    began = time.process_time()
    matches = match_voc(truth, detections, classes)
    spread = weigh_voc_ap(matches, draw_images(truth.images).counts, year=2007).mean(axis=(1, 2)).std()
    assert 0.001 < spread < 0.01
    assert time.process_time() - began < 60

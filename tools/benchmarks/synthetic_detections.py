"""Random ground truth and detections of the sizes of VOC and COCO, for the evaluation benchmark.

Detections resemble those of a detector: each object is found up to three times with jitter and high scores; the rest of
the 100 detections of an image are random boxes with low scores.
"""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
OBJECTS_PER_VOC_IMAGE = 3.0
"""VOC 2007 test: 14,976 objects in 4,952 images, a fifth of them difficult."""
OBJECTS_PER_COCO_IMAGE = 7.3
"""COCO val2017: 36,781 objects in 5,000 images, about 1 % of them crowds."""
DETECTIONS_PER_IMAGE = 100


def make_boxes(random: np.random.Generator, count: int, width: int, height: int) -> Array:
    """Return (count, 4) boxes x1, y1, x2, y2 inside the image; with log-normal sides, like real objects'."""
    sides = np.exp(random.normal(np.log(0.22), 0.8, (count, 2))).clip(0.02, 0.95) * [width, height]
    corner = random.random((count, 2)) * ([width, height] - sides)
    return np.concatenate([corner, corner + sides], axis=1)


def make_detections(
    random: np.random.Generator, boxes: Array, classes: npt.NDArray[np.int64], class_count: int, size: tuple[int, int]
) -> tuple[Array, Array, npt.NDArray[np.int64]]:
    """Return 100 boxes (100, 4), scores (100,) and classes (100,) for an image of `size` (width, height)."""
    width, height = size
    repeats = random.integers(0, 4, len(boxes))
    near = np.repeat(boxes, repeats, axis=0)[:DETECTIONS_PER_IMAGE]
    sides = near[:, 2:] - near[:, :2]
    near = near + random.normal(0, 0.08, near.shape) * np.concatenate([sides, sides], axis=1)
    far = make_boxes(random, DETECTIONS_PER_IMAGE - len(near), width, height)
    found = np.concatenate([near, far])
    found[:, 2:] = np.maximum(found[:, 2:], found[:, :2] + 1)
    found = found.clip(0, [width, height, width, height])
    found[:, :2] = np.minimum(found[:, :2], found[:, 2:] - 0.5)
    scores = np.concatenate([random.beta(4, 2, len(near)), 0.05 + random.exponential(0.06, len(far))]).clip(0, 1)
    # Most false detections are of classes present in the image.
    around = random.choice(np.append(classes, random.integers(class_count)), len(far))
    anywhere = random.random(len(far)) < 0.3
    around[anywhere] = random.integers(0, class_count, int(anywhere.sum()))
    labels = np.concatenate([np.repeat(classes, repeats)[:DETECTIONS_PER_IMAGE], around])
    return found, scores, labels


def write_voc(root: Path, random: np.random.Generator, images: int, class_names: list[str]) -> list[Any]:
    """Write annotations and an image set "test" below `root`; return (name, boxes, scores, classes) per image.

    Detections are float32 with 0-based corners, as a model returns them.
    """
    (root / "Annotations").mkdir(parents=True)
    (root / "ImageSets" / "Main").mkdir(parents=True)
    names = [f"{number:06d}" for number in range(1, images + 1)]
    (root / "ImageSets" / "Main" / "test.txt").write_text("".join(f"{name}\n" for name in names))
    detections = []
    for name in names:
        count = 1 + random.poisson(OBJECTS_PER_VOC_IMAGE - 1)
        boxes = make_boxes(random, count, 500, 375)
        few = random.integers(0, len(class_names), 2)  # an image shows one or two classes
        classes = random.choice(few, count)
        corners = np.rint(boxes).astype(int) + np.array([1, 1, 0, 0])
        objects = "".join(
            f"<object><name>{class_names[category]}</name><pose>Unspecified</pose><truncated>0</truncated>"
            f"<difficult>{int(hard)}</difficult><bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin><xmax>{x2}</xmax>"
            f"<ymax>{y2}</ymax></bndbox></object>"
            for category, hard, (x1, y1, x2, y2) in zip(classes, random.random(count) < 0.2, corners, strict=True)
        )
        (root / "Annotations" / f"{name}.xml").write_text(f"<annotation>{objects}</annotation>")
        found, scores, labels = make_detections(random, boxes, classes, len(class_names), (500, 375))
        detections.append((name, found.astype(np.float32), scores.astype(np.float32), labels))
    return detections


def make_coco(random: np.random.Generator, images: int, categories: int = 80) -> tuple[dict[str, Any], list[Any]]:
    """Return COCO annotations and results (boxes only) for `images` images of 640 × 480."""
    truth: dict[str, Any] = {
        "images": [{"id": number, "width": 640, "height": 480} for number in range(1, images + 1)],
        "categories": [{"id": number, "name": f"category {number}"} for number in range(1, categories + 1)],
        "annotations": [],
    }
    results = []
    for image in range(1, images + 1):
        count = int(random.poisson(OBJECTS_PER_COCO_IMAGE))
        boxes = make_boxes(random, count, 640, 480)
        classes = random.choice(random.integers(0, categories, 3), count)  # an image shows about three categories
        crowd = random.random(count) < 0.01
        for box, category, is_crowd in zip(_as_xywh(boxes), classes.tolist(), crowd.tolist(), strict=True):
            record = {"image_id": image, "category_id": category + 1, "bbox": box, "area": box[2] * box[3] * 0.6}
            truth["annotations"].append({"id": len(truth["annotations"]) + 1, "iscrowd": int(is_crowd), **record})
        found, scores, labels = make_detections(random, boxes, classes, categories, (640, 480))
        for box, score, label in zip(_as_xywh(found), scores.tolist(), labels.tolist(), strict=True):
            results.append({"image_id": image, "category_id": label + 1, "bbox": box, "score": score})
    return truth, results


def make_masks(random: np.random.Generator, count: int, side: int = 28) -> npt.NDArray[np.float32]:
    """Return (count, side, side) soft masks in [0, 1]: ellipses with a wavy edge, filling most of their box."""
    axis = (np.arange(side) + 0.5) / side * 2 - 1
    y, x = np.meshgrid(axis, axis, indexing="ij")
    angle, radius = np.arctan2(y, x), np.hypot(x, y)
    depth, phase = random.uniform(0, 0.25, (2, count)), random.uniform(0, 2 * np.pi, (2, count))
    edge = 0.85 + sum(
        depth[wave][:, None, None] * np.sin((wave + 2) * angle + phase[wave][:, None, None]) for wave in (0, 1)
    )
    return np.asarray(1 / (1 + np.exp((radius - edge) * 12)), dtype=np.float32)


def _as_xywh(boxes: Array) -> list[list[float]]:
    """Return [x, y, width, height] lists of (n, 4) corners, rounded to float32 like a model's."""
    corners = boxes.astype(np.float32)
    corners[:, 2:] -= corners[:, :2]
    return list(corners.tolist())

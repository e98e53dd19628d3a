"""VOC's files: ground truth from XML, read once, and one det file a class; evaluation from files alone."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from pretrain.runtime.storage import make_file_name, open_whole
from transfer.metrics.voc_annotations import read_annotation, read_image_set
from transfer.metrics.voc_ap import FloatArray, Ties, VocDetections, VocTruth, compute_voc_ap, group_by_class


def read_voc_truth(root: str | Path, split: str, class_names: Sequence[str]) -> VocTruth:
    """Return the ground truth of ROOT/ImageSets/Main/<split>.txt; boxes of other classes are left out.

    Read once per process for the same arguments.

    Raises:
        ValueError: a file is missing or an annotation lacks a needed field; the text names it.

    """
    return _read_voc_truth(Path(root).absolute(), split, tuple(class_names))


@lru_cache(maxsize=8)
def _read_voc_truth(root: Path, split: str, class_names: tuple[str, ...]) -> VocTruth:
    images = read_image_set(root, split)
    index = {name: number for number, name in enumerate(class_names)}
    rows = [
        [number, index[entry.name], entry.difficult, *entry.box]
        for number, name in enumerate(images)
        for entry in read_annotation(root / "Annotations" / f"{name}.xml").objects
        if entry.name in index
    ]
    table = np.array(rows, dtype=np.float64).reshape(-1, 7)
    return VocTruth(
        images=images,
        image=table[:, 0].astype(np.int64),
        category=table[:, 1].astype(np.int64),
        difficult=table[:, 2].astype(bool),
        boxes=table[:, 3:],
    )


def write_det_files(
    folder: str | Path, detections: VocDetections, images: Sequence[str], class_names: Sequence[str]
) -> None:
    """Write FOLDER/<class>.txt with lines "image score xmin ymin xmax ymax", the form of VOC's own tools.

    Half a million lines take a fifth of a second: the texts of all numbers come from tables, not one by one.
    """
    order, bounds = group_by_class(detections.category, len(class_names))
    columns = [
        np.array([name.encode() for name in images] or [b""])[detections.image[order]],
        _as_text(detections.scores[order], 3),
        *(_as_text(detections.boxes[order, corner], 1) for corner in range(4)),
    ]
    count = len(order)
    pieces = []
    for number, column in enumerate(columns):
        pieces.append(column.view(np.uint8).reshape(count, column.dtype.itemsize))
        pieces.append(np.full((count, 1), ord("\n" if number == len(columns) - 1 else " "), dtype=np.uint8))
    lines = np.concatenate(pieces, axis=1)  # (M, width) bytes; zeros pad the shorter texts
    for category, name in enumerate(class_names):
        rows = lines[bounds[category] : bounds[category + 1]]
        data = rows[rows != 0].tobytes()
        with open_whole(Path(folder) / f"{make_file_name(name)}.txt") as stream:
            stream.write(data)


def _as_text(values: FloatArray, decimals: int) -> np.ndarray[Any, np.dtype[np.bytes_]]:
    """Return numbers (M,), rounded to `decimals` before, as zero-padded bytes (M,)."""
    scaled = np.rint(values * 10**decimals).astype(np.int64)
    lowest, highest = (int(scaled.min()), int(scaled.max())) if len(scaled) else (0, 0)
    texts = [f"{value / 10**decimals:.{decimals}f}".encode() for value in range(lowest, highest + 1)]
    return np.asarray(np.array(texts)[scaled - lowest])


def read_det_files(folder: str | Path, images: Sequence[str], class_names: Sequence[str]) -> VocDetections:
    """Return the detections in FOLDER/<class>.txt; ValueError names a line that is none, or an unknown image."""
    index = {name: number for number, name in enumerate(images)}
    rows: list[list[float]] = []
    for category, name in enumerate(class_names):
        path = Path(folder) / f"{make_file_name(name)}.txt"
        if not path.is_file():
            raise ValueError(f"{path}: no such det file; expected one per class, empty where nothing was found")
        for number, line in enumerate(path.read_text().splitlines(), 1):
            try:
                image, *numbers = line.split()
                score, *box = map(float, numbers)
                xmin, ymin, xmax, ymax = box
                rows.append([index[image], category, score, xmin, ymin, xmax, ymax])
            except (KeyError, ValueError) as error:
                raise ValueError(
                    f"{path}, line {number}: expected `image score xmin ymin xmax ymax` with an image of the set, "
                    f"got {line!r}"
                ) from error
    table = np.array(rows, dtype=np.float64).reshape(-1, 7)
    image_column, category_column = table[:, :2].astype(np.int64).T
    return VocDetections(image=image_column, category=category_column, scores=table[:, 2], boxes=table[:, 3:])


def tabulate_voc_ap(ap: np.ndarray[Any, np.dtype[np.float64]], class_names: Sequence[str]) -> dict[str, Any]:
    """Return {"metrics": AP, AP50, AP75 in percent, "per_class": {name: the same}} from AP (10, C) in [0, 1].

    The means are taken as Detectron2 takes them: over classes first, then over thresholds.
    """
    percent = ap * 100
    by_threshold = [float(np.mean(row)) for row in percent]
    return {
        "metrics": {"AP": float(np.mean(by_threshold)), "AP50": by_threshold[0], "AP75": by_threshold[5]},
        "per_class": {
            name: {"AP": float(np.mean(column)), "AP50": float(column[0]), "AP75": float(column[5])}
            for name, column in zip(class_names, percent.T, strict=True)
        },
    }


def evaluate_voc(
    root: str | Path,
    split: str,
    det_folder: str | Path,
    class_names: Sequence[str],
    *,
    year: int = 2007,
    ties: Ties = "detectron2",
) -> dict[str, Any]:
    """Return VOC metrics of saved det files.

    Args:
        root: VOC's folder, with Annotations and ImageSets/Main.
        split: the list of images, such as "test".
        det_folder: holds CLASS.txt for each class, lines of "image score xmin ymin xmax ymax" (pixels from 1).
        class_names: the classes, in any order.
        year: whose AP is taken: 2007 has 11 recall points, 2012 all points of the curve.
        ties: the order of equal scores: as Detectron2's sort leaves them, or as in the file ("stable").

    Returns:
        {"metrics": {"AP", "AP50", "AP75"}, "per_class": {name: the same}}, all in percent; AP is the mean over IoU .50
        to .95.

    Raises:
        ValueError: a file is missing or damaged, or names an image that the list does not.

    """
    truth = read_voc_truth(root, split, class_names)
    detections = read_det_files(det_folder, truth.images, class_names)
    return tabulate_voc_ap(compute_voc_ap(truth, detections, len(class_names), year=year, ties=ties), class_names)

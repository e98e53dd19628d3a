"""Read a COCO-format annotation file as the entries that Detectron2 trains on, with its classes and counts.

The entries equal those of detectron2.data.datasets.load_coco_json, which fails on invalid files with a bare assertion;
here every mistake is explained. Class indices follow `class_names` if given, and categories are matched by name, so a
test file may use other category ids than its training file.
"""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pycocotools import mask as rle_codec

from transfer.metrics.coco_masks import FAR
from transfer.metrics.record_mistakes import Mistakes, is_number

LISTS = ("images", "annotations", "categories")
XYWH_ABS = 1
"""The value of Detectron2's BoxMode for [x, y, width, height] (detectron2/structures/boxes.py)."""
LAYOUT_HINT = "`python -m tools.check_data ROOT` lists what is missing"
Record = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class CocoEntries:
    """A data set in Detectron2's form."""

    entries: list[Record]
    """One per image, in the order of the ids: file_name, height, width, image_id, annotations."""
    class_names: tuple[str, ...]
    class_indices: Mapping[int, int]
    """The file's category id → the model's class index."""
    boxes: int
    """Number of annotations in the file."""
    masks: int
    """Number of annotations with a segmentation."""
    rle_masks: int
    """Number of RLE masks that are not crowds: Detectron2 trains on them only with INPUT.MASK_FORMAT bitmask."""


def read_coco_entries(path: Path, images: Path, class_names: Sequence[str] | None = None) -> CocoEntries:
    """Return the entries of an annotation file; see `build_coco_entries`."""
    return build_coco_entries(_read_lists(path), path, images, class_names)


def build_coco_entries(
    content: Mapping[str, list[Record]], path: Path, images: Path, class_names: Sequence[str] | None = None
) -> CocoEntries:
    """Return the entries of an annotation file's content.

    Args:
        content: lists of images, categories and annotations.
        path: path of the file, for error messages.
        images: folder that file names are relative to.
        class_names: the model's classes, in order; None: those of the file, in the order of their ids.

    Raises:
        ValueError: invalid entries (one line per kind of mistake), or other categories than `class_names`.

    """
    mistakes = Mistakes()
    _check_ids(content, mistakes)
    mistakes.refuse(str(path))
    names = {entry["id"]: entry["name"] for entry in sorted(content["categories"], key=lambda entry: entry["id"])}
    wanted = tuple(class_names) if class_names is not None else tuple(names.values())
    if set(wanted) != set(names.values()):
        lacking, more = sorted(set(wanted) - set(names.values())), sorted(set(names.values()) - set(wanted))
        raise ValueError(
            f"{path}: its categories differ from the training set's: lacking {lacking[:5]}, unknown {more[:5]}; "
            "categories are matched by name, so give both files the same names (their ids may differ)"
        )
    indices = {key: wanted.index(name) for key, name in names.items()}
    by_image: dict[Any, list[Record]] = {entry["id"]: [] for entry in content["images"]}
    for entry in content["annotations"]:
        if entry.get("image_id") in by_image:  # the others belong to no image; Detectron2 ignores them too
            by_image[entry["image_id"]].append(entry)
    entries = [
        _read_image(entry, images, by_image[entry["id"]], indices, mistakes)
        for entry in sorted(content["images"], key=lambda entry: entry["id"])
    ]
    mistakes.refuse(str(path))
    masked = [entry for entry in content["annotations"] if entry.get("segmentation")]
    return CocoEntries(
        entries=entries,
        class_names=wanted,
        class_indices=indices,
        boxes=len(content["annotations"]),
        masks=len(masked),
        rle_masks=sum(isinstance(entry["segmentation"], dict) and not entry.get("iscrowd") for entry in masked),
    )


def _read_lists(path: Path) -> dict[str, list[Record]]:
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not valid JSON ({error}); fetch the annotations again") from error
    lacking = [key for key in LISTS if not isinstance(content, dict) or not isinstance(content.get(key), list)]
    if lacking:
        raise ValueError(f"{path}: no COCO annotations, {', '.join(lacking)} missing; {LAYOUT_HINT}")
    odd = [key for key in LISTS if any(not isinstance(entry, dict) for entry in content[key])]
    if odd:
        raise ValueError(f"{path}: some entries of {', '.join(odd)} are not objects; {LAYOUT_HINT}")
    if not content["images"] or not content["categories"]:
        raise ValueError(f"{path}: {len(content['images'])} images and {len(content['categories'])} categories; "
                         "expected at least one of each")  # fmt: skip
    return {key: content[key] for key in LISTS}


def _check_ids(content: Mapping[str, list[Record]], mistakes: Mistakes) -> None:
    kinds = {"images": (int, str), "categories": (int,), "annotations": (int, str)}
    for key, types in kinds.items():
        ids = [entry.get("id") for entry in content[key]]
        sound = [value for value in ids if isinstance(value, types) and not isinstance(value, bool)]
        if len(sound) < len(ids):
            mistakes.add(f"kinds of {key} without a valid id", f"{len(ids) - len(sound)} of {len(ids)}")
        for value, count in Counter(sound).items():
            if count > 1:
                mistakes.add(f"ids of {key} that occur more than once (make them unique)", str(value))
    if len({isinstance(entry.get("id"), str) for entry in content["images"]}) > 1:
        mistakes.add("kinds of image ids", "some are numbers, some are strings; make all of them numbers")
    for entry in content["images"]:
        sides = [entry.get("width"), entry.get("height")]
        if not isinstance(entry.get("file_name"), str) or any(type(side) is not int or side < 1 for side in sides):
            mistakes.add("images without a file_name, width and height", f"image {entry.get('id')}")
    names = Counter(entry.get("name") for entry in content["categories"])
    for name, count in names.items():
        if count > 1 or not isinstance(name, str):
            mistakes.add("category names that are missing or occur more than once", repr(name))


def _read_image(
    image: Record, folder: Path, annotations: list[Record], indices: Mapping[int, int], mistakes: Mistakes
) -> Record:
    limit = FAR * max(image["width"], image["height"])
    objects = [_read_object(entry, limit, indices, mistakes) for entry in annotations]
    return {
        "file_name": str(folder / image["file_name"]),
        "height": image["height"],
        "width": image["width"],
        "image_id": image["id"],
        "annotations": [entry for entry in objects if entry is not None],
    }


def _read_object(entry: Record, limit: float, indices: Mapping[int, int], mistakes: Mistakes) -> Record | None:
    """Return an annotation in Detectron2's form; None if it is invalid or its polygons enclose nothing."""
    where, box = f"annotation {entry['id']}", entry.get("bbox")
    if entry.get("ignore", 0) != 0:
        mistakes.add("annotations with ignore: 1, which Detectron2 does not support (use iscrowd: 1)", where)
    if not isinstance(entry.get("category_id"), int) or entry["category_id"] not in indices:
        mistakes.add("annotations of a category that is not listed", f"{where}: {entry.get('category_id')!r}")
        return None
    sound = isinstance(box, list) and len(box) == 4 and all(is_number(value) for value in box)
    if not sound or max(map(abs, box or [0])) > limit:
        mistakes.add(f"boxes that are not four numbers within {FAR} image sides [x, y, width, height]", where)
        return None
    if entry.get("iscrowd", 0) not in (0, 1):
        mistakes.add("annotations whose iscrowd is not 0 or 1", f"{where}: {entry['iscrowd']!r}")
    record = {key: entry[key] for key in ("iscrowd", "bbox") if key in entry}
    record |= {"category_id": indices[entry["category_id"]], "bbox_mode": XYWH_ABS}
    if entry.get("segmentation"):
        masks = _read_masks(entry["segmentation"], limit, where, mistakes)
        if not masks:
            return None
        record["segmentation"] = masks
    return record


def _read_masks(value: Any, limit: float, where: str, mistakes: Mistakes) -> Any:
    """Return the polygons of three or more points, or the RLE; [] if there is no mask."""
    try:
        if isinstance(value, dict):
            return rle_codec.frPyObjects(value, *value["size"]) if isinstance(value["counts"], list) else value
        polygons = [part for part in value if len(part) % 2 == 0 and len(part) >= 6]
        far = any(not math.isfinite(sum(part)) or max(map(abs, part)) > limit for part in polygons)
    except (TypeError, KeyError, ValueError) as error:
        mistakes.add("segmentations that are neither polygons nor RLE", f"{where} ({error})")
        return []
    if far:
        mistakes.add(f"polygons with NaN, or with coordinates beyond {FAR} image sides", where)
    return polygons

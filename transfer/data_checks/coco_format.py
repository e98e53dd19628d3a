"""Find all problems of a COCO-format data set: structure, ids, categories, boxes, images."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transfer.data_checks.problems import Problem, check_image, choose_sample

ATTRIBUTES: dict[str, dict[str, type | tuple[type, ...]]] = {
    "images": {"id": (int, str), "file_name": str, "width": int, "height": int},
    "categories": {"id": int, "name": str},
    "annotations": {"id": (int, str), "image_id": (int, str), "category_id": int, "bbox": list},
}
"""Attributes required in each list; without them Detectron2 and the evaluators fail or count wrongly."""


@dataclass(frozen=True, kw_only=True)
class CocoContent:
    """The valid entries of an annotation file."""

    path: Path
    images: list[dict[str, Any]]
    categories: list[dict[str, Any]]
    annotations: list[dict[str, Any]]
    listed: frozenset[Any]
    """Ids of all images, including invalid entries."""

    def category_map(self) -> dict[int, str]:
        """Return category id → name."""
        return {entry["id"]: entry["name"] for entry in self.categories}

    def without_masks(self) -> int:
        """Return the number of annotations without a segmentation."""
        return sum(not entry.get("segmentation") for entry in self.annotations)


def read_coco(path: Path) -> tuple[CocoContent | None, list[Problem]]:
    """Return the file's valid entries (None if it is not a COCO annotation file) and the problems of the others."""
    try:
        values = json.loads(path.read_bytes())
        lists = {kind: values[kind] for kind in ATTRIBUTES}
        if not all(isinstance(entries, list) for entries in lists.values()):
            raise TypeError("images, categories and annotations must be lists")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        return None, [
            Problem(where=str(path), what=f"not COCO annotations ({error})", remedy="fetch the annotations again")
        ]
    problems = []
    for kind, entries in lists.items():
        lists[kind] = [entry for entry in entries if not _find_lacking(kind, entry)]
        if bad := [
            (number, lacking) for number, entry in enumerate(entries) if (lacking := _find_lacking(kind, entry))
        ]:
            number, lacking = bad[0]
            what = f"{len(bad)} {kind} lack a valid {' or '.join(lacking)}, the first is number {number}"
            problems.append(Problem(where=str(path), what=what, remedy="write these entries in COCO's format"))
    listed = frozenset(entry["id"] for entry in values["images"] if _has_id(entry))
    return CocoContent(path=path, listed=listed, **lists), problems


def check_coco(content: CocoContent, folder: Path, *, deep: bool) -> Iterator[Problem]:
    """Yield the problems of a set whose images are in `folder`; `deep` decodes all images instead of a sample."""
    yield from _check_repeats(content)
    images = {entry["id"]: entry for entry in content.images}
    categories = content.category_map()
    for entry in content.annotations:
        if entry["image_id"] in images:
            yield from _check_annotation(content.path, entry, images[entry["image_id"]], categories)
        elif entry["image_id"] not in content.listed:
            where = f"{content.path}, annotation {entry['id']}"
            yield Problem(where=where, what=f"its image {entry['image_id']} is not listed", remedy="remove it")
    lost = [entry["file_name"] for entry in images.values() if not (folder / entry["file_name"]).is_file()]
    if lost:
        what = f"{len(lost)} of {len(images)} images are missing, e.g. {lost[0]}"
        yield Problem(where=str(folder), what=what, remedy="unpack the images again, or give the right folder")
    for key in choose_sample(list(images), deep):
        file = folder / images[key]["file_name"]
        if file.is_file():
            yield from check_image(file, (images[key]["width"], images[key]["height"]))


def compare_categories(first: CocoContent, second: CocoContent) -> list[Problem]:
    """Return a problem if two sets of one task have different category names; [] if they agree."""
    ours, theirs = set(first.category_map().values()), set(second.category_map().values())
    if ours == theirs:
        return []
    what = (
        f"its category names differ from {first.path.name}'s: lacking {sorted(ours - theirs)[:5]}, unknown "
        f"{sorted(theirs - ours)[:5]}"
    )
    return [Problem(where=str(second.path), what=what, remedy="give both files the same category names")]


def _has_id(entry: Any) -> bool:
    return isinstance(entry, dict) and isinstance(entry.get("id"), int | str)


def _find_lacking(kind: str, entry: Any) -> list[str]:
    """Return the attributes that are missing or of the wrong type in an entry of the list `kind`."""
    if not isinstance(entry, dict):
        return ["mapping"]
    lacking = [
        name
        for name, types in ATTRIBUTES[kind].items()
        if not isinstance(entry.get(name), types) or isinstance(entry.get(name), bool)
    ]
    if kind == "annotations" and "bbox" not in lacking:
        sound = len(entry["bbox"]) == 4 and all(isinstance(number, int | float) for number in entry["bbox"])
        lacking += [] if sound else ["bbox of four numbers"]
    return lacking


def _check_repeats(content: CocoContent) -> Iterator[Problem]:
    for what, keys in (
        ("image ids", [entry["id"] for entry in content.images]),
        ("file names", [entry["file_name"] for entry in content.images]),
        ("annotation ids", [entry["id"] for entry in content.annotations]),
        ("category ids", [entry["id"] for entry in content.categories]),
        ("category names", [entry["name"] for entry in content.categories]),
    ):
        if twice := [key for key, count in Counter(keys).items() if count > 1]:
            text = f"{len(twice)} {what} occur more than once, e.g. {twice[0]}"
            yield Problem(where=str(content.path), what=text, remedy="make them unique")


def _check_annotation(
    path: Path, entry: dict[str, Any], image: dict[str, Any], categories: dict[int, str]
) -> Iterator[Problem]:
    where = f"{path}, annotation {entry['id']}"
    if entry["category_id"] not in categories:
        what = f"its category {entry['category_id']} is not listed"
        yield Problem(where=where, what=what, remedy="add the category, or correct the id")
    left, top, width, height = entry["bbox"]
    inside = width > 0 and height > 0 and min(left, top) >= -1
    inside = inside and left + width <= image["width"] + 1 and top + height <= image["height"] + 1
    if not inside and not entry.get("iscrowd"):
        what = f"the box {entry['bbox']} is empty or extends beyond the {image['width']} x {image['height']} image"
        yield Problem(where=where, what=what, remedy="correct it: [x, y, width, height] in pixels")

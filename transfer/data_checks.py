"""Look for all that is wrong with VOC, COCO and COCO-format data before a run meets it: one list, with remedies."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import ParseError

import cv2
from defusedxml import ElementTree

OFFICIAL_COUNTS = {
    ("VOC2007", "trainval"): 5011,
    ("VOC2007", "test"): 4952,
    ("VOC2012", "trainval"): 11540,
    ("coco", "train2017"): 118287,
    ("coco", "val2017"): 5000,
}
"""Images of the published sets; other counts are told, and are no mistake (the embedded digits have others)."""
VOC_SPLITS = {"VOC2007": ("trainval", "test"), "VOC2012": ("trainval",)}
VOC_NAMES = frozenset(
    (
        "aeroplane",
        "bicycle",
        "bird",
        "boat",
        "bottle",
        "bus",
        "car",
        "cat",
        "chair",
        "cow",
        "diningtable",
        "dog",
        "horse",
        "motorbike",
        "person",
        "pottedplant",
        "sheep",
        "sofa",
        "train",
        "tvmonitor",
    )
)
SAMPLE = 20
"""Images decoded per set without deep=true: evenly spread."""
MERGE_REMEDY = "unpack VOCtrainval_06-Nov-2007.tar and VOCtest_06-Nov-2007.tar into the same VOC2007 folder"


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One thing that is wrong, and what to do."""

    where: str
    what: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}. Remedy: {self.remedy}"


@dataclass(frozen=True, kw_only=True)
class DataReport:
    """What a root holds."""

    counts: dict[str, int]
    """Images by "VOC2007/trainval", "coco/val2017", …."""
    notes: tuple[str, ...]
    problems: tuple[Problem, ...]


def check_data(root: str | Path, *, deep: bool = False, extra: Iterable[tuple[str, str]] = ()) -> DataReport:
    """Return counts and all problems of the data sets below `root`.

    Args:
        root: holds VOC2007, VOC2012 and coco, or some of them.
        deep: decode every image instead of a sample.
        extra: (annotation file, image folder) of further COCO-format sets, relative to `root`.

    """
    root, counts, problems = Path(root), Counter[str](), list[Problem]()
    for name, splits in VOC_SPLITS.items():
        if (root / name).is_dir():
            problems += _check_voc(root / name, splits, counts, deep)
    pairs = [(f"coco/annotations/instances_{split}.json", f"coco/{split}") for split in ("train2017", "val2017")]
    pairs = pairs if (root / "coco").is_dir() else []
    images: dict[str, set[str]] = {}
    for annotations, folder in [*pairs, *extra]:
        problems += _check_coco(root / annotations, root / folder, (folder, counts, images), deep)
    if both := _find_same_files(root / "coco", images.get("coco/train2017", set()) & images.get("coco/val2017", set())):
        problems.append(_leak(root / "coco", "train2017 and val2017", both))
    if not counts and not problems:
        problems.append(
            Problem(
                where=str(root), what="holds no VOC2007, VOC2012 or coco folder", remedy="name the folder above them"
            )
        )
    notes = [
        f"{folder}/{split}: {counts[f'{folder}/{split}']} images; the published set has {official}"
        for (folder, split), official in OFFICIAL_COUNTS.items()
        if f"{folder}/{split}" in counts and counts[f"{folder}/{split}"] != official
    ]
    return DataReport(counts=dict(counts), notes=tuple(notes), problems=tuple(problems))


def _check_voc(folder: Path, splits: tuple[str, ...], counts: Counter[str], deep: bool) -> Iterator[Problem]:
    missing = [name for name in ("Annotations", "ImageSets/Main", "JPEGImages") if not (folder / name).is_dir()]
    if missing:
        yield Problem(where=str(folder), what=f"{', '.join(missing)} missing", remedy="unpack VOC's archive again")
        return
    members: dict[str, list[str]] = {}
    for split in splits:
        path = folder / "ImageSets" / "Main" / f"{split}.txt"
        if not path.is_file():
            remedy = MERGE_REMEDY if folder.name == "VOC2007" else "unpack VOC's archive again"
            yield Problem(where=str(path), what="no such image set", remedy=remedy)
            continue
        members[split] = path.read_text().split()
        counts[f"{folder.name}/{split}"] = len(members[split])
        yield from _check_voc_split(folder, path, members[split], deep)
    if len(members) == 2 and (both := set(members["trainval"]) & set(members["test"])):
        yield _leak(folder, "trainval and test", both)


def _check_voc_split(folder: Path, path: Path, names: list[str], deep: bool) -> Iterator[Problem]:
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        yield Problem(where=str(path), what=f"{len(twice)} ids twice, e.g. {twice[0]}", remedy="remove the repeats")
    for kind, ending in (("Annotations", "xml"), ("JPEGImages", "jpg")):
        lost = [name for name in names if not (folder / kind / f"{name}.{ending}").is_file()]
        if lost:
            remedy = MERGE_REMEDY if folder.name == "VOC2007" else "unpack VOC's archive again"
            what = f"{len(lost)} of {len(names)} images of {path.stem} have no file here, e.g. {lost[0]}.{ending}"
            yield Problem(where=str(folder / kind), what=what, remedy=remedy)
    sample = set(_sample(names, deep))
    for name in names:
        file = folder / "Annotations" / f"{name}.xml"
        if file.is_file():
            image = folder / "JPEGImages" / f"{name}.jpg" if name in sample else None
            yield from _check_voc_file(file, image)


def _check_voc_file(file: Path, image: Path | None) -> Iterator[Problem]:
    try:
        tree: Any = ElementTree.parse(file)
        width, height = (int(tree.findtext(f"size/{side}")) for side in ("width", "height"))
        entries = [(str(entry.findtext("name")), _read_box(entry)) for entry in tree.iterfind("object")]
    except (ParseError, TypeError, ValueError, AttributeError) as error:
        yield Problem(where=str(file), what=f"not a VOC annotation ({error})", remedy="unpack VOC's archive again")
        return
    for name, (left, top, right, bottom) in entries:
        if name not in VOC_NAMES:
            yield Problem(
                where=str(file),
                what=f"{name!r} is none of VOC's 20 classes",
                remedy="register a data set of other classes in COCO's format (DATASETS.COCO_FORMAT)",
            )
        if not (1 <= left < right <= width and 1 <= top < bottom <= height):
            yield Problem(
                where=str(file),
                what=f"the box {(left, top, right, bottom)} of {name} is empty or leaves the {width} x {height} image",
                remedy="correct the annotation: pixels count from 1, both corners lie inside",
            )
    if image is not None and image.is_file():
        yield from _check_image(image, (width, height))


def _read_box(entry: Any) -> tuple[float, ...]:
    return tuple(float(entry.findtext(f"bndbox/{side}")) for side in ("xmin", "ymin", "xmax", "ymax"))


def _check_coco(
    path: Path, folder: Path, into: tuple[str, Counter[str], dict[str, set[str]]], deep: bool
) -> Iterator[Problem]:
    name, counts, files = into
    try:
        values = json.loads(path.read_bytes())
        images = {entry["id"]: entry for entry in values["images"]}
        categories = {entry["id"] for entry in values["categories"]}
        annotations = values["annotations"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        yield Problem(where=str(path), what=f"not COCO annotations ({error})", remedy="fetch the annotations again")
        return
    counts[name] = len(values["images"])
    files[name] = {str(entry.get("file_name")) for entry in values["images"]}
    for what, ids in (
        ("image ids", [entry["id"] for entry in values["images"]]),
        ("file names", [entry.get("file_name") for entry in values["images"]]),
        ("annotation ids", [entry.get("id") for entry in annotations]),
        ("category ids", [entry["id"] for entry in values["categories"]]),
    ):
        if twice := [key for key, count in Counter(ids).items() if count > 1]:
            yield Problem(
                where=str(path), what=f"{len(twice)} {what} come twice, e.g. {twice[0]}", remedy="make them unique"
            )
    for entry in annotations:
        yield from _check_coco_entry(path, entry, images, categories)
    lost = [entry for entry in images.values() if not (folder / str(entry.get("file_name"))).is_file()]
    if lost:
        yield Problem(
            where=str(folder),
            what=f"{len(lost)} of {len(images)} images are missing, e.g. {lost[0].get('file_name')}",
            remedy="unpack the images again, or name the right folder",
        )
    for key in _sample(list(images), deep):
        file = folder / str(images[key].get("file_name"))
        if file.is_file():
            yield from _check_image(file, (images[key].get("width"), images[key].get("height")))


def _check_coco_entry(path: Path, entry: Any, images: dict[Any, Any], categories: set[Any]) -> Iterator[Problem]:
    where = f"{path}, annotation {entry.get('id')}"
    if entry.get("image_id") not in images:
        yield Problem(where=where, what=f"its image {entry.get('image_id')} is not listed", remedy="remove it")
        return
    if entry.get("category_id") not in categories:
        what = f"its category {entry.get('category_id')} is not listed"
        yield Problem(where=where, what=what, remedy="add the category, or correct the id")
    image, box = images[entry["image_id"]], entry.get("bbox", ())
    inside = len(box) == 4 and box[2] > 0 and box[3] > 0 and min(box[:2]) >= -1
    inside = inside and box[0] + box[2] <= image["width"] + 1 and box[1] + box[3] <= image["height"] + 1
    if not inside and not entry.get("iscrowd"):
        yield Problem(
            where=where,
            what=f"the box {list(box)} is empty or leaves the {image['width']} x {image['height']} image",
            remedy="correct it: [x, y, width, height] in pixels",
        )


def _check_image(path: Path, size: tuple[Any, Any]) -> Iterator[Problem]:
    image = cv2.imread(str(path), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    if image is None:
        yield Problem(where=str(path), what="cannot be decoded", remedy="fetch the image again")
    elif (image.shape[1], image.shape[0]) != size:
        what = f"is {image.shape[1]} x {image.shape[0]} pixels, the annotation says {size[0]} x {size[1]}"
        yield Problem(where=str(path), what=what, remedy="fetch the image again: one of the two is another version's")


def _find_same_files(folder: Path, names: set[str]) -> set[str]:
    """Return those of `names` whose bytes are the same in train2017 and val2017."""
    pairs = {name: (folder / "train2017" / name, folder / "val2017" / name) for name in names}
    there = {name: pair for name, pair in pairs.items() if all(path.is_file() for path in pair)}
    return {name for name, (first, second) in there.items() if first.read_bytes() == second.read_bytes()}


def _leak(where: Path, sets: str, both: set[str]) -> Problem:
    return Problem(
        where=str(where),
        what=f"{len(both)} images are in {sets}, e.g. {min(both)}: the test is leaked",
        remedy="restore the published image sets",
    )


def _sample(names: list[Any], deep: bool) -> list[Any]:
    return names if deep else names[:: max(1, len(names) // SAMPLE)]

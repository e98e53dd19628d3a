"""Find all problems of VOC, COCO and COCO-format data before a run starts, each with a remedy."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from transfer.data_checks.coco_format import CocoContent, check_coco, compare_categories, read_coco
from transfer.data_checks.problems import Problem, check_image, choose_sample, find_copies, find_leak, find_refusal
from transfer.metrics.coco_files import build_coco_entries
from transfer.metrics.coco_records import normalise_truth
from transfer.metrics.voc_annotations import read_annotation, read_image_set

OFFICIAL_COUNTS = {
    ("VOC2007", "trainval"): 5011,
    ("VOC2007", "test"): 4952,
    ("VOC2012", "trainval"): 11540,
    ("coco", "train2017"): 118287,
    ("coco", "val2017"): 5000,
}
"""Number of images in the published sets; other counts are noted, but are no problem (the digits have others)."""
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
MERGE_REMEDY = "unpack VOCtrainval_06-Nov-2007.tar and VOCtest_06-Nov-2007.tar into the same VOC2007 folder"


MASKS_CONVERTED = 100_000
"""Largest number of masks converted without deep=true; takes a few seconds."""


@dataclass(frozen=True, kw_only=True)
class DataReport:
    """Contents and problems of a data root."""

    counts: dict[str, int]
    """Number of images per set: "VOC2007/trainval", "coco/val2017", …."""
    notes: tuple[str, ...]
    problems: tuple[Problem, ...]


def check_data(root: str | Path, *, deep: bool = False, extra: Iterable[tuple[str, str]] = ()) -> DataReport:
    """Return counts and all problems of the data sets below `root`.

    Args:
        root: folder with any of VOC2007, VOC2012 and coco.
        deep: decode every image instead of a sample, and find training images identical to test images.
        extra: (annotation file, image folder) of further COCO-format sets, relative to `root`.

    """
    root, counts, notes = Path(root), Counter[str](), list[str]()
    problems = list(_check_vocs(root, counts, deep))
    if (root / "coco").is_dir():
        problems += _check_coco2017(root / "coco", counts, notes, deep)
    for annotations, folder in extra:
        problems += _check_coco_set(root / annotations, root / folder, (folder, counts, notes), deep)[1]
    if not counts and not problems:
        what = "holds no VOC2007, VOC2012 or coco folder"
        problems.append(Problem(where=str(root), what=what, remedy="give the folder that contains them"))
    notes += [
        f"{folder}/{split}: {counts[f'{folder}/{split}']} images; the published set has {official}"
        for (folder, split), official in OFFICIAL_COUNTS.items()
        if f"{folder}/{split}" in counts and counts[f"{folder}/{split}"] != official
    ]
    return DataReport(counts=dict(counts), notes=tuple(notes), problems=tuple(problems))


def _check_vocs(root: Path, counts: Counter[str], deep: bool) -> Iterator[Problem]:
    members: dict[tuple[str, str], list[str]] = {}
    for name, splits in VOC_SPLITS.items():
        if (root / name).is_dir():
            yield from _check_voc(root / name, splits, members, deep)
    counts.update({f"{name}/{split}": len(ids) for (name, split), ids in members.items()})
    test = members.get(("VOC2007", "test"), [])
    for (name, split), ids in members.items():
        if split == "trainval":
            shared = set(ids) & set(test)
            copies = _find_voc_copies(root, name, ids if deep else shared, test if deep else shared)
            leaked = shared | {copy for copy in copies if " = " in copy} if name == "VOC2007" else copies
            yield from find_leak(root, (f"{name}/{split}", "VOC2007/test"), leaked)


def _find_voc_copies(root: Path, name: str, ids: Iterable[str], test: Iterable[str]) -> set[str]:
    first, second = (
        [root / folder / "JPEGImages" / f"{image}.jpg" for image in images]
        for folder, images in ((name, ids), ("VOC2007", test))
    )
    return set(find_copies(first, second))


def _check_coco2017(folder: Path, counts: Counter[str], notes: list[str], deep: bool) -> Iterator[Problem]:
    contents = []
    for split in ("train2017", "val2017"):
        path = folder / "annotations" / f"instances_{split}.json"
        content, problems = _check_coco_set(path, folder / split, (f"coco/{split}", counts, notes), deep)
        yield from problems
        contents += [content] if content else []
    if len(contents) == 2:
        yield from compare_categories(*contents)
        names = [[entry["file_name"] for entry in content.images] for content in contents]
        both = set(names[0]) & set(names[1])
        first, second = (
            [folder / split / name for name in (listed if deep else both)]
            for split, listed in zip(("train2017", "val2017"), names, strict=True)
        )
        yield from find_leak(folder, ("train2017", "val2017"), find_copies(first, second))


def _check_coco_set(
    path: Path, folder: Path, into: tuple[str, Counter[str], list[str]], deep: bool
) -> tuple[CocoContent | None, list[Problem]]:
    """Return the set's content and problems; add its image count and a note on missing masks to `into`."""
    name, counts, notes = into
    content, problems = read_coco(path)
    if content is None:
        return None, problems
    counts[name] = len(content.images)
    if bare := content.without_masks():
        notes.append(
            f"{name}: {bare} of {len(content.annotations)} annotations have no segmentation: usable for box protocols "
            "only"
        )
    problems += check_coco(content, folder, deep=deep)
    return content, problems or _find_coco_refusals(content, folder, deep)


def _find_coco_refusals(content: CocoContent, folder: Path, deep: bool) -> list[Problem]:
    """Return the problems that a run's loader and evaluator find in a set without other problems."""
    lists = {kind: getattr(content, kind) for kind in ("images", "categories", "annotations")}
    masks = not content.without_masks() and (deep or len(content.annotations) <= MASKS_CONVERTED)
    return [
        *find_refusal(lambda: build_coco_entries(lists, content.path, folder), content.path),
        *find_refusal(lambda: normalise_truth(lists, masks=masks), content.path),
    ]


def _check_voc(
    folder: Path, splits: tuple[str, ...], members: dict[tuple[str, str], list[str]], deep: bool
) -> Iterator[Problem]:
    """Yield the problems of one year's folder; store the ids of its splits in `members`."""
    missing = [name for name in ("Annotations", "ImageSets/Main", "JPEGImages") if not (folder / name).is_dir()]
    if missing:
        yield Problem(where=str(folder), what=f"{', '.join(missing)} missing", remedy="unpack VOC's archive again")
        return
    for split in splits:
        path = folder / "ImageSets" / "Main" / f"{split}.txt"
        if not path.is_file():
            remedy = MERGE_REMEDY if folder.name == "VOC2007" else "unpack VOC's archive again"
            yield Problem(where=str(path), what="no such image set", remedy=remedy)
            continue
        ids = members[folder.name, split] = path.read_text(errors="replace").split()
        yield from _check_voc_split(folder, path, ids, deep)


def _check_voc_split(folder: Path, path: Path, names: list[str], deep: bool) -> Iterator[Problem]:
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        what = f"{len(twice)} ids occur more than once, e.g. {twice[0]}"
        yield Problem(where=str(path), what=what, remedy="remove the duplicates")
    else:
        yield from find_refusal(lambda: read_image_set(folder, path.stem), path)
    for kind, ending in (("Annotations", "xml"), ("JPEGImages", "jpg")):
        lost = [name for name in names if not (folder / kind / f"{name}.{ending}").is_file()]
        if lost:
            remedy = MERGE_REMEDY if folder.name == "VOC2007" else "unpack VOC's archive again"
            what = f"{len(lost)} of {len(names)} images of {path.stem} have no file here, e.g. {lost[0]}.{ending}"
            yield Problem(where=str(folder / kind), what=what, remedy=remedy)
    sample = set(choose_sample(names, deep))
    for name in names:
        file = folder / "Annotations" / f"{name}.xml"
        if file.is_file():
            image = folder / "JPEGImages" / f"{name}.jpg" if name in sample else None
            yield from _check_voc_file(file, image)


def _check_voc_file(file: Path, image: Path | None) -> Iterator[Problem]:
    try:
        annotation = read_annotation(file)
    except ValueError as error:
        what = str(error).removeprefix(f"{file}: ")
        yield Problem(where=str(file), what=what, remedy="correct it, or unpack VOC's archive again")
        return
    if annotation.size is None:
        yield Problem(where=str(file), what="not a VOC annotation: it has no size", remedy="unpack VOC's archive again")
        return
    width, height = annotation.size
    for entry in annotation.objects:
        left, top, right, bottom = entry.box
        if entry.name not in VOC_NAMES:
            yield Problem(
                where=str(file),
                what=f"{entry.name!r} is not one of VOC's 20 classes",
                remedy="register a data set with other classes in COCO's format (DATASETS.COCO_FORMAT)",
            )
        if not (1 <= left < right <= width and 1 <= top < bottom <= height):
            yield Problem(
                where=str(file),
                what=f"the box {entry.box} of {entry.name} is empty or extends beyond the {width} x {height} image",
                remedy="correct the annotation: pixels count from 1, and both corners lie inside the box",
            )
    if image is not None and image.is_file():
        yield from check_image(image, (width, height))

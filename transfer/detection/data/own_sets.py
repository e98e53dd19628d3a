"""User-defined data sets: read classes from the data, and register sets in VOC's layout with other classes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

from defusedxml import ElementTree
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode

from pretrain.input.images import IMAGE_SUFFIXES
from pretrain.runtime.storage import read_json

YEAR = 2012
"""VOC year of the AP: all points of the precision-recall curve."""
SHOWN = 5
"""Maximum number of mistakes listed per set; the others are counted."""
CORNERS = ("xmin", "ymin", "xmax", "ymax")


@dataclass(frozen=True)
class VocImage:
    """One annotated image; boxes (xmin, ymin, xmax, ymax) in 1-based pixels, as in the file."""

    name: str
    file: Path
    width: int
    height: int
    boxes: tuple[tuple[str, tuple[float, ...]], ...]


def settle_own_data(cfg: Any) -> Any:
    """Return `cfg` completed from the data: classes of VOC-format sets, and the number of classes if it is 0.

    Raises:
        ValueError: an annotation file is missing or unreadable, or two COCO-format sets differ in their categories.

    """
    cfg, root = cfg.clone(), Path(cfg.DATASETS.ROOT)
    folders = {name: (root / folder, split) for name, folder, split, _ in cfg.DATASETS.VOC_FORMAT}
    given = {name: list(classes) for name, _, _, classes in cfg.DATASETS.VOC_FORMAT}
    trained = [name for name in cfg.DATASETS.TRAIN if name in folders]
    if trained and not all(given.values()):
        images = [image for name in trained for image in read_images(*folders[name])]
        found = sorted({name for image in images for name, _ in image.boxes})
        given = {name: classes or found for name, classes in given.items()}
        cfg.DATASETS.VOC_FORMAT = [[*entry[:3], given[entry[0]]] for entry in cfg.DATASETS.VOC_FORMAT]
    coco = {name: root / file for name, file, _ in cfg.DATASETS.COCO_FORMAT}
    names = dict.fromkeys([*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST])
    classes = {name: _read_categories(name, coco[name]) for name in names if name in coco}
    _refuse_other_classes(classes)
    if cfg.MODEL.ROI_HEADS.NUM_CLASSES == 0 and cfg.DATASETS.TRAIN:
        first = cfg.DATASETS.TRAIN[0]
        if first not in classes | given:
            raise ValueError(
                f"{first}: MODEL.ROI_HEADS.NUM_CLASSES is 0 and this set is not declared in data_sets; set the number"
            )
        cfg.MODEL.ROI_HEADS.NUM_CLASSES = len((classes | given)[first])
    return cfg


def _read_categories(name: str, path: Path) -> list[str]:
    """Return a COCO file's category names sorted by id, the class order of Detectron2."""
    if not path.is_file():
        raise ValueError(f"{path}: no such annotation file (of {name}); paths are relative to data=ROOT")
    return _read_category_names(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=8)
def _read_category_names(path: Path, _modified_ns: int) -> list[str]:
    values = read_json(path)
    categories = values.get("categories") if isinstance(values, dict) else None
    try:
        return [str(entry["name"]) for entry in sorted(categories or [], key=lambda entry: entry["id"])]
    except (TypeError, KeyError) as error:
        raise ValueError(f"{path}: not a COCO annotation file: each category needs an id and a name") from error


def _refuse_other_classes(classes: dict[str, list[str]]) -> None:
    """Raise ValueError if COCO-format sets differ in their category names; ids may differ."""
    for (first, names), (second, others) in pairwise(classes.items()):
        if set(names) != set(others):
            lacking, unknown = sorted(set(names) - set(others)), sorted(set(others) - set(names))
            raise ValueError(
                f"{second}: its categories differ from those of {first}: missing {lacking[:5]}, unknown {unknown[:5]}; "
                "they are matched by name, so use the same names in both files"
            )


def find_voc_mistakes(cfg: Any, name: str, root: Path) -> list[str]:
    """Return one sentence per mistake in the VOC-format set `name` of cfg.DATASETS.VOC_FORMAT."""
    folder, split, classes = _find_entry(cfg, name)
    tested = name in cfg.DATASETS.TEST
    return [f"{name}: {mistake}" for mistake in _find_mistakes(cfg, root / folder, split, classes, tested=tested)]


def register_voc_format(cfg: Any, name: str, root: Path) -> Iterator[str]:
    """Register the VOC-format set `name` of cfg.DATASETS.VOC_FORMAT, or yield one sentence per mistake."""
    mistakes = find_voc_mistakes(cfg, name, root)
    yield from mistakes[:SHOWN]
    if len(mistakes) > SHOWN:
        yield f"{name}: and {len(mistakes) - SHOWN} more mistakes"
    if mistakes:
        return
    folder, split, classes = _find_entry(cfg, name)
    images = read_images(root / folder, split)
    DatasetCatalog.register(name, lambda: [describe_image(image, classes) for image in images])
    MetadataCatalog.get(name).set(
        thing_classes=list(classes),
        dirname=str(root / folder),
        split=split,
        year=YEAR,
        evaluator_type="pascal_voc",
    )


def _find_entry(cfg: Any, name: str) -> tuple[str, str, list[str]]:
    folder, split, classes = next(entry[1:] for entry in cfg.DATASETS.VOC_FORMAT if entry[0] == name)
    return folder, split, classes


def _find_mistakes(cfg: Any, folder: Path, split: str, classes: Sequence[str], *, tested: bool) -> Iterator[str]:
    if cfg.MODEL.MASK_ON:
        yield "VOC's detection annotations hold boxes only: set MODEL.MASK_ON: False"
    if len(classes) != cfg.MODEL.ROI_HEADS.NUM_CLASSES:
        yield f"has {len(classes)} classes, MODEL.ROI_HEADS.NUM_CLASSES is {cfg.MODEL.ROI_HEADS.NUM_CLASSES}"
    try:
        images = read_images(folder, split)
    except ValueError as error:
        yield str(error)
        return
    seen: set[str] = set()
    for image in images:
        for name, box in image.boxes:
            seen.add(name)
            if name not in classes:
                yield f"{image.name}.xml: unknown class {name!r}, expected one of {', '.join(classes)}"
            if not (box[0] < box[2] and box[1] < box[3]):
                yield f"{image.name}.xml: the box {box} of {name} is empty"
        if not image.file.is_file():
            yield f"{image.name}: no image {image.file.with_suffix('')}.*"
    if not seen:
        yield f"{folder / 'ImageSets' / 'Main' / f'{split}.txt'}: no listed image has an object"
    elif tested and (unseen := [name for name in classes if name not in seen]):
        yield (
            f"no object of {', '.join(unseen)} in the list {split}, so their AP and the mean AP are undefined; "
            "add images with them, or remove these classes from `classes` and from the annotations"
        )


def describe_image(image: VocImage, classes: Sequence[str]) -> dict[str, Any]:
    """Return an image as a Detectron2 entry with 0-based pixels, as in Detectron2's VOC loader."""
    return {
        "file_name": str(image.file),
        "image_id": image.name,
        "height": image.height,
        "width": image.width,
        "annotations": [
            {
                "category_id": classes.index(name),
                "bbox": [left - 1.0, top - 1.0, right, bottom],
                "bbox_mode": BoxMode.XYXY_ABS,
            }
            for name, (left, top, right, bottom) in image.boxes
        ],
    }


def read_images(folder: Path, split: str) -> tuple[VocImage, ...]:
    """Return the annotated images of FOLDER/ImageSets/Main/<split>.txt, in its order, cached per list.

    Raises:
        ValueError: a file is missing, or an annotation is incomplete; the message names it.

    """
    path = folder / "ImageSets" / "Main" / f"{split}.txt"
    if not path.is_file():
        raise ValueError(
            f"{path}: no such image list; a VOC-format set needs ImageSets/Main, Annotations and JPEGImages"
        )
    return _read_images(folder, path, path.stat().st_mtime_ns)


@lru_cache(maxsize=8)
def _read_images(folder: Path, path: Path, _modified_ns: int) -> tuple[VocImage, ...]:
    names = [line.split()[0] for line in path.read_text().splitlines() if line.strip()]
    pictures = folder / "JPEGImages"
    files = {file.stem: file for file in pictures.glob("*") if file.suffix.lower() in IMAGE_SUFFIXES}
    return tuple(
        _read_annotation(name, folder / "Annotations" / f"{name}.xml", files.get(name, pictures / f"{name}.jpg"))
        for name in names
    )


def _read_annotation(name: str, path: Path, file: Path) -> VocImage:
    try:
        tree: Any = ElementTree.parse(path)
        width, height = (int(tree.findtext(f"size/{side}")) for side in ("width", "height"))
        boxes = tuple(
            (str(entry.findtext("name")), tuple(float(entry.findtext(f"bndbox/{corner}")) for corner in CORNERS))
            for entry in tree.iterfind("object")
        )
    except (OSError, ElementTree.ParseError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path}: not a VOC annotation ({error}); expected size (width, height), and name and bndbox per object"
        ) from error
    return VocImage(name, file, width, height, boxes)

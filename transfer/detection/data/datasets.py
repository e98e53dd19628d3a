"""Register VOC, COCO and other COCO-format data sets below the root given by the config or the command line.

Importing this module registers nothing, and no environment variable is read. Detectron2's registrations of the same
names (for the root "datasets") are replaced. Layout below the root, as documented by Detectron2: VOC2007/ and
VOC2012/ with Annotations, ImageSets/Main, JPEGImages (2007: trainval and test merged); coco/annotations and
coco/{train,val}2017.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.pascal_voc import CLASS_NAMES
from detectron2.structures import BoxMode

from transfer.detection.data.own_sets import register_voc_format
from transfer.detection.data.packed_entries import PackedEntries, read_on_node
from transfer.detection.data.voc_entries import load_voc_entries
from transfer.metrics.coco_files import LAYOUT_HINT, CocoEntries, read_coco_entries

VOC_CLASSES: tuple[str, ...] = tuple(CLASS_NAMES)
"""VOC's twenty categories in Detectron2's order; DATASETS.VOC_CLASSES overrides them."""
VOC_SPLITS = ("train", "val", "trainval", "test")
COCO_SETS = {
    "coco_2017_train": ("coco/annotations/instances_train2017.json", "coco/train2017"),
    "coco_2017_val": ("coco/annotations/instances_val2017.json", "coco/val2017"),
}


@dataclass(frozen=True, kw_only=True)
class CocoSet:
    """Name and files of a COCO-format data set."""

    name: str
    annotations: Path
    images: Path


def register_datasets(cfg: Any) -> None:
    """Register every training and test set of the config below cfg.DATASETS.ROOT.

    Categories are matched by name, so COCO-format sets may use different category ids.
    VOC's difficult boxes are used in training (as in Detectron2's loader) and ignored by the evaluation.

    Raises:
        ValueError: one line per mistake: unknown name, missing files, a number of classes that differs from the
            model's, or no masks although MODEL.MASK_ON is set.

    """
    root = Path(cfg.DATASETS.ROOT)
    if not cfg.DATASETS.ROOT or not root.is_dir():
        raise ValueError(f"data={cfg.DATASETS.ROOT or ''}: no such data set folder; give data=ROOT, {LAYOUT_HINT}")
    names = list(dict.fromkeys([*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST]))
    mistakes: list[str] = []
    class_names: tuple[str, ...] | None = None
    for name in names:
        mistakes += _register(cfg, root, name, class_names)
        if class_names is None and name in DatasetCatalog.list() and not mistakes:
            class_names = tuple(MetadataCatalog.get(name).thing_classes)
    if mistakes:
        raise ValueError("\n".join(mistakes))


def find_coco_sets(root: str | Path, extra: Sequence[Sequence[str]] = ()) -> dict[str, CocoSet]:
    """Return COCO's two sets and those of DATASETS.COCO_FORMAT by name; relative paths start at `root`.

    Raises:
        ValueError: an entry is not [name, annotation file, image folder].

    """
    bad = [entry for entry in extra if len(entry) != 3 or not all(isinstance(part, str) for part in entry)]
    if bad:
        raise ValueError(f"DATASETS.COCO_FORMAT: expected [name, annotation file, image folder] entries, got {bad}")
    files = COCO_SETS | {name: (annotations, images) for name, annotations, images in extra}
    return {
        name: CocoSet(name=name, annotations=Path(root) / annotations, images=Path(root) / images)
        for name, (annotations, images) in files.items()
    }


def split_voc_name(name: str) -> tuple[int, str] | None:
    """Return (2007, "trainval") for "voc_2007_trainval"; None for any other pattern."""
    parts = name.split("_")
    if len(parts) == 3 and parts[0] == "voc" and parts[1] in ("2007", "2012") and parts[2] in VOC_SPLITS:
        return int(parts[1]), parts[2]
    return None


def _register(cfg: Any, root: Path, name: str, class_names: tuple[str, ...] | None) -> Iterator[str]:
    coco = find_coco_sets(root, cfg.DATASETS.COCO_FORMAT)
    if name in coco:
        yield from _register_coco(cfg, coco[name], class_names)
    elif name in [entry[0] for entry in cfg.DATASETS.VOC_FORMAT]:
        _forget(name)
        yield from register_voc_format(cfg, name, root)
    elif voc := split_voc_name(name):
        yield from _register_voc(cfg, root, name, *voc)
    else:
        yield (
            f"{name}: no such data set; expected voc_<2007 or 2012>_<{'|'.join(VOC_SPLITS)}>, or one of "
            f"{', '.join(coco)} (declare your own under data_sets, see transfer/detection/data/own_data.py)"
        )


def _register_voc(cfg: Any, root: Path, name: str, year: int, split: str) -> Iterator[str]:
    folder = root / f"VOC{year}"
    image_set = folder / "ImageSets" / "Main" / f"{split}.txt"
    if cfg.MODEL.MASK_ON:
        yield f"{name}: VOC's detection annotations hold boxes only, but MODEL.MASK_ON needs masks; use a COCO protocol"
        return
    if not image_set.is_file():
        yield f"{name}: {image_set} is missing; {LAYOUT_HINT}"
        return
    classes = tuple(cfg.DATASETS.VOC_CLASSES) or VOC_CLASSES
    if len(classes) != cfg.MODEL.ROI_HEADS.NUM_CLASSES:
        yield f"{name}: has {len(classes)} classes, MODEL.ROI_HEADS.NUM_CLASSES is {_classes(cfg)}"
        return
    _forget(name)
    DatasetCatalog.register(name, partial(load_voc_entries, folder, split, classes))
    MetadataCatalog.get(name).set(
        thing_classes=list(classes), dirname=str(folder), year=year, split=split, evaluator_type="pascal_voc"
    )


def _register_coco(cfg: Any, files: CocoSet, class_names: tuple[str, ...] | None) -> Iterator[str]:
    missing = [path for path in (files.annotations, files.images) if not path.exists()]
    if missing:
        yield f"{files.name}: {' and '.join(map(str, missing))} missing; {LAYOUT_HINT}"
        return
    try:
        entries, content = read_on_node(lambda: split_facts(files, class_names))
    except ValueError as error:
        yield str(error)
        return
    if misfit := _find_misfit(cfg, files, content):
        yield f"{files.annotations}: {misfit}"
        return
    _forget(files.name)
    DatasetCatalog.register(files.name, OnceRead(entries, files, content.class_names))
    MetadataCatalog.get(files.name).set(
        json_file=str(files.annotations),
        image_root=str(files.images),
        evaluator_type="coco",
        thing_classes=list(content.class_names),
        thing_dataset_id_to_contiguous_id=dict(content.class_indices),
    )


def split_facts(files: CocoSet, class_names: tuple[str, ...] | None) -> tuple[list[dict[str, Any]], CocoEntries]:
    """Return (entries, content without the entries) of a set."""
    content = _read_coco(files.annotations, files.images, class_names)
    return content.entries, replace(content, entries=[])


def _find_misfit(cfg: Any, files: CocoSet, content: CocoEntries) -> str:
    """Return why a set does not fit the model of `cfg`; an empty string if it fits."""
    classes, bare = len(content.class_names), content.boxes - content.masks
    if classes != cfg.MODEL.ROI_HEADS.NUM_CLASSES:
        return f"has {classes} categories, MODEL.ROI_HEADS.NUM_CLASSES is {_classes(cfg)}"
    if cfg.MODEL.MASK_ON and bare:
        return (
            f"{bare} of {content.boxes} annotations have no segmentation, but MODEL.MASK_ON needs masks; use a box "
            "protocol (MODEL.MASK_ON=False is a deviation) or another annotation file"
        )
    trains = cfg.MODEL.MASK_ON and files.name in cfg.DATASETS.TRAIN
    if trains and content.rle_masks and cfg.INPUT.MASK_FORMAT == "polygon":
        return (
            f"{content.rle_masks} masks are RLE, which INPUT.MASK_FORMAT=polygon does not support; set "
            "INPUT.MASK_FORMAT=bitmask, or convert the masks to polygons"
        )
    return ""


class OnceRead:
    """Return the entries read at registration on the first call, and read the file again on later calls.

    A file of 400 MB is thus parsed once for checking and training, and its entries are not kept in memory in addition
    to the loader's.
    """

    def __init__(self, entries: Sequence[dict[str, Any]], files: CocoSet, class_names: tuple[str, ...]) -> None:
        self._entries: Sequence[dict[str, Any]] | None = entries
        self.files, self.class_names = files, class_names

    def peek(self) -> Sequence[dict[str, Any]]:
        """Return the entries and keep them for the next call."""
        self._entries = self()
        return self._entries

    def __call__(self) -> Sequence[dict[str, Any]]:
        """Return the entries."""
        entries = self._entries
        if not isinstance(
            entries, PackedEntries
        ):  # packed entries are memory-mapped and shared by the ranks: keep them
            self._entries = None
        if entries is None:
            entries = _read_coco(self.files.annotations, self.files.images, self.class_names).entries
        return entries


def _classes(cfg: Any) -> int:
    return int(cfg.MODEL.ROI_HEADS.NUM_CLASSES)


def _forget(name: str) -> None:
    if name in DatasetCatalog.list():
        DatasetCatalog.remove(name)
    if name in MetadataCatalog.list():
        MetadataCatalog.remove(name)


def _read_coco(path: Path, images: Path, class_names: Sequence[str] | None) -> CocoEntries:
    """Return the entries with Detectron2's BoxMode as bbox_mode, which its mapper requires."""
    content = read_coco_entries(path, images, class_names)
    for entry in content.entries:
        for record in entry["annotations"]:
            record["bbox_mode"] = BoxMode(record["bbox_mode"])
    return content

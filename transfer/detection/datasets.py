"""Register VOC, COCO and any COCO-format data set under a root that the config or the command line gives.

Nothing happens at import and no environment variable is read; Detectron2's own registrations of the same names (made
for the root "datasets") are replaced. Layout below the root, as Detectron2 documents it: VOC2007/ and VOC2012/ with
Annotations, ImageSets/Main, JPEGImages (2007: trainval and test merged); coco/annotations and coco/{train,val}2017.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances, register_pascal_voc
from detectron2.data.datasets.pascal_voc import CLASS_NAMES

from pretrain.runtime.storage import read_json
from transfer.detection.data.own_sets import register_voc_format

VOC_CLASSES: tuple[str, ...] = tuple(CLASS_NAMES)
"""VOC's twenty categories in Detectron2's order."""
VOC_SPLITS = ("train", "val", "trainval", "test")
COCO_SETS = {
    "coco_2017_train": ("coco/annotations/instances_train2017.json", "coco/train2017"),
    "coco_2017_val": ("coco/annotations/instances_val2017.json", "coco/val2017"),
}
LAYOUT_HINT = "see `python -m tools.check_data ROOT` for what is there and what is missing"


@dataclass(frozen=True, kw_only=True)
class CocoSet:
    """A COCO-format data set's files."""

    name: str
    annotations: Path
    images: Path


def register_datasets(cfg: Any) -> None:
    """Register every data set that the config trains or tests on, below cfg.DATASETS.ROOT.

    VOC's difficult boxes stay in training (Detectron2's loader keeps them) and are ignored by the evaluation.

    Raises:
        ValueError: one line per mistake: unknown name, missing files, another number of classes than the model has,
            or no masks where MODEL.MASK_ON asks for them.

    """
    root = Path(cfg.DATASETS.ROOT)
    if not cfg.DATASETS.ROOT or not root.is_dir():
        raise ValueError(f"data={cfg.DATASETS.ROOT or ''}: no such folder of data sets; give data=ROOT, {LAYOUT_HINT}")
    names = list(dict.fromkeys([*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST]))
    mistakes = [mistake for name in names for mistake in _register(cfg, root, name)]
    if mistakes:
        raise ValueError("\n".join(mistakes))


def find_coco_sets(root: str | Path, extra: Sequence[Sequence[str]] = ()) -> dict[str, CocoSet]:
    """Return COCO's two sets and those of DATASETS.COCO_FORMAT by name; paths are relative to `root`.

    Raises:
        ValueError: an entry is no [name, annotation file, image folder].

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
    """Return (2007, "trainval") of "voc_2007_trainval"; None for a name of another form."""
    parts = name.split("_")
    if len(parts) == 3 and parts[0] == "voc" and parts[1] in ("2007", "2012") and parts[2] in VOC_SPLITS:
        return int(parts[1]), parts[2]
    return None


def _register(cfg: Any, root: Path, name: str) -> Iterator[str]:
    coco = find_coco_sets(root, cfg.DATASETS.COCO_FORMAT)
    if name in coco:
        yield from _register_coco(cfg, coco[name])
    elif name in [entry[0] for entry in cfg.DATASETS.VOC_FORMAT]:
        _forget(name)
        yield from register_voc_format(cfg, name, root)
    elif voc := split_voc_name(name):
        yield from _register_voc(cfg, root, name, *voc)
    else:
        yield (
            f"{name}: no such data set; expected voc_<2007 or 2012>_<{'|'.join(VOC_SPLITS)}>, or one of "
            f"{', '.join(coco)} (name your own under data_sets:, see transfer/detection/data/own_data.py)"
        )


def _register_voc(cfg: Any, root: Path, name: str, year: int, split: str) -> Iterator[str]:
    folder = root / f"VOC{year}"
    image_set = folder / "ImageSets" / "Main" / f"{split}.txt"
    if cfg.MODEL.MASK_ON:
        yield f"{name}: VOC's detection annotations hold boxes only; MODEL.MASK_ON needs masks: take a coco protocol"
        return
    if not image_set.is_file():
        yield f"{name}: {image_set} is missing; {LAYOUT_HINT}"
        return
    if len(VOC_CLASSES) != cfg.MODEL.ROI_HEADS.NUM_CLASSES:
        yield f"{name}: has {len(VOC_CLASSES)} classes, MODEL.ROI_HEADS.NUM_CLASSES is {_classes(cfg)}"
        return
    _forget(name)
    register_pascal_voc(name, str(folder), split, year, VOC_CLASSES)
    MetadataCatalog.get(name).set(evaluator_type="pascal_voc")


def _register_coco(cfg: Any, files: CocoSet) -> Iterator[str]:
    missing = [path for path in (files.annotations, files.images) if not path.exists()]
    if missing:
        yield f"{files.name}: {' and '.join(map(str, missing))} missing; {LAYOUT_HINT}"
        return
    classes, masks, boxes = _read_facts(files.annotations, files.annotations.stat().st_mtime_ns)
    if classes != cfg.MODEL.ROI_HEADS.NUM_CLASSES:
        yield f"{files.annotations}: has {classes} categories, MODEL.ROI_HEADS.NUM_CLASSES is {_classes(cfg)}"
        return
    if cfg.MODEL.MASK_ON and masks < boxes:
        yield (
            f"{files.annotations}: {boxes - masks} of {boxes} annotations have no segmentation, but MODEL.MASK_ON "
            "needs masks: take a box protocol (MODEL.MASK_ON=False is a deviation), or another annotation file"
        )
        return
    _forget(files.name)
    register_coco_instances(files.name, {}, str(files.annotations), str(files.images))


@lru_cache(maxsize=8)
def _read_facts(path: Path, _modified_ns: int) -> tuple[int, int, int]:
    """Return (categories, annotations with a segmentation, annotations) of a COCO file."""
    values = read_json(path)
    kinds = ("images", "annotations", "categories")
    lacking = [kind for kind in kinds if not isinstance(values, dict) or not isinstance(values.get(kind), list)]
    if lacking:
        raise ValueError(f"{path}: no COCO annotations, {', '.join(lacking)} missing; {LAYOUT_HINT}")
    masks = sum(isinstance(entry, dict) and bool(entry.get("segmentation")) for entry in values["annotations"])
    return len(values["categories"]), masks, len(values["annotations"])


def _classes(cfg: Any) -> int:
    return int(cfg.MODEL.ROI_HEADS.NUM_CLASSES)


def _forget(name: str) -> None:
    if name in DatasetCatalog.list():
        DatasetCatalog.remove(name)
    if name in MetadataCatalog.list():
        MetadataCatalog.remove(name)

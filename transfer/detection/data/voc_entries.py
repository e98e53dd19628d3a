"""Read VOC annotations as Detectron2 entries, equal to those of its own loader, with errors that name the file."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detectron2.structures import BoxMode

from transfer.metrics.voc_annotations import read_annotation, read_image_set


def load_voc_entries(root: str | Path, split: str, class_names: Sequence[str]) -> list[dict[str, Any]]:
    """Return one entry per image of ROOT/ImageSets/Main/<split>.txt; difficult objects are kept.

    Equal to detectron2.data.datasets.load_voc_instances, which fails on an image set of one line.

    Raises:
        ValueError: one line per annotation that is unreadable, lacks a size, or has an unknown class.

    """
    entries, mistakes = [], []
    for name in read_image_set(Path(root), split):
        try:
            entries.append(_load_entry(Path(root), name, class_names))
        except ValueError as error:
            mistakes.append(str(error))
    if mistakes:
        more = f"\n… and {len(mistakes) - 20} more annotations" if len(mistakes) > 20 else ""
        raise ValueError("\n".join(mistakes[:20]) + more)
    return entries


def _load_entry(root: Path, name: str, class_names: Sequence[str]) -> dict[str, Any]:
    path = root / "Annotations" / f"{name}.xml"
    annotation = read_annotation(path)
    if annotation.size is None:
        raise ValueError(
            f"{path}: it has no size in whole pixels; expected <size><width>…</width><height>…</height></size>"
        )
    unknown = sorted({entry.name for entry in annotation.objects} - set(class_names))
    if unknown:
        raise ValueError(
            f"{path}: unknown classes {unknown}; expected {', '.join(class_names)} (set DATASETS.VOC_CLASSES "
            "for other classes)"
        )
    return {
        "file_name": str(root / "JPEGImages" / f"{name}.jpg"),
        "image_id": name,
        "height": annotation.size[1],
        "width": annotation.size[0],
        "annotations": [
            {
                "category_id": class_names.index(entry.name),
                "bbox": [entry.box[0] - 1.0, entry.box[1] - 1.0, *entry.box[2:]],
                "bbox_mode": BoxMode.XYXY_ABS,
            }
            for entry in annotation.objects
        ],
    }

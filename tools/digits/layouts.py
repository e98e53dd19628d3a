"""Write scenes of digits in the directory layouts of ImageNet, VOC and COCO."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray

from pretrain.runtime.storage import write_json
from tools.digits.scenes import DigitPool, Image, Mask, PaintedDigit, SceneStyle, paint_scene, paint_single

DIGIT_NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
"""COCO's categories (ids 1 to 10) and the class folders of the ImageNet layout, by digit."""
VOC_NAMES = ("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow")
"""The VOC category of each digit: the first ten of VOC's twenty, so that standard VOC loaders read them."""
JPEG_QUALITY = 92
POLYGON_SCALE = 4
"""Polygons are traced on the mask enlarged by this factor, so their corners are within a quarter pixel of its edges."""

MakeRng = Callable[[str, int], np.random.Generator]
"""(split, index) → random generator of that image; independent of the number of images in any split."""


def write_classes(folder: Path, pool: DigitPool, count: int, side_px: int, make_rng: MakeRng) -> None:
    """Write `count` square images of one main digit each to FOLDER/<digit name>/, cycling through the classes."""
    for index in range(count):
        label = index % len(DIGIT_NAMES)
        image = paint_single(pool, make_rng(folder.name, index), label, side_px)
        write_jpeg(folder / DIGIT_NAMES[label] / f"{folder.name}_{index:08d}.JPEG", image)


def write_voc(root: Path, sets: Sequence[tuple[str, DigitPool, int]], style: SceneStyle, make_rng: MakeRng) -> None:
    """Write a VOC year: JPEGImages, Annotations and ImageSets/Main/{trainval,train,val,test}.txt.

    Args:
        root: …/VOC2007 or …/VOC2012; its name determines the year.
        sets: (trainval or test, pool, number of images); train and val are the halves of trainval.
        style: sizes of the scenes.
        make_rng: see `MakeRng`.

    """
    year = root.name.removeprefix("VOC")
    lists = root / "ImageSets" / "Main"
    lists.mkdir(parents=True, exist_ok=True)
    number = 0
    for split, pool, count in sets:
        names = []
        for index in range(count):
            number += 1
            name = f"{number:06d}" if year == "2007" else f"{year}_{number:06d}"
            image, digits = paint_scene(pool, make_rng(root.name + split, index), style)
            write_jpeg(root / "JPEGImages" / f"{name}.jpg", image)
            text = describe_voc(name, root.name, image.shape, digits)
            _write(root / "Annotations" / f"{name}.xml", text.encode())
            names.append(name)
        parts = {split: names}
        if split == "trainval":
            parts |= {"train": names[: len(names) // 2], "val": names[len(names) // 2 :]}
        for part, members in parts.items():
            _write(lists / f"{part}.txt", "".join(f"{name}\n" for name in members).encode())


def describe_voc(name: str, folder: str, shape: Sequence[int], digits: Sequence[PaintedDigit]) -> str:
    """Return the VOC annotation; pixel coordinates start at 1 and both corners are inclusive."""
    height, width, depth = shape
    lines = [
        "<annotation>",
        f"  <folder>{escape(folder)}</folder>",
        f"  <filename>{escape(name)}.jpg</filename>",
        f"  <size><width>{width}</width><height>{height}</height><depth>{depth}</depth></size>",
        "  <segmented>0</segmented>",
    ]
    for digit in digits:
        left, top, right, bottom = digit.box
        lines += [
            "  <object>",
            f"    <name>{VOC_NAMES[digit.label]}</name>",
            "    <pose>Unspecified</pose>",
            f"    <truncated>{int(digit.truncated)}</truncated>",
            f"    <difficult>{int(digit.difficult)}</difficult>",
            f"    <bndbox><xmin>{left + 1}</xmin><ymin>{top + 1}</ymin>",
            f"    <xmax>{right}</xmax><ymax>{bottom}</ymax></bndbox>",
            "  </object>",
        ]
    return "\n".join([*lines, "</annotation>", ""])


def write_coco(root: Path, split: str, pool: DigitPool, scenes: tuple[int, SceneStyle], make_rng: MakeRng) -> None:
    """Write ROOT/<split>2017/*.jpg and ROOT/annotations/instances_<split>2017.json; `scenes` is (count, style)."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for index in range(scenes[0]):
        image, digits = paint_scene(pool, make_rng(root.name + split, index), scenes[1])
        name = f"{index + 1:012d}.jpg"
        write_jpeg(root / f"{split}2017" / name, image)
        height, width = image.shape[:2]
        images.append({"id": index + 1, "file_name": name, "height": height, "width": width, "license": 1})
        for digit in digits:
            annotations.append({"id": len(annotations) + 1, "image_id": index + 1, **describe_coco(digit)})
    write_json(
        root / "annotations" / f"instances_{split}2017.json",
        {
            "info": {"description": "Handwritten digits on textures", "version": "1", "year": 2017},
            "licenses": [{"id": 1, "name": "BSD-3-Clause (scikit-learn's copy of the UCI digits)", "url": ""}],
            "images": images,
            "annotations": annotations,
            "categories": [
                {"id": label + 1, "name": name, "supercategory": "digit"} for label, name in enumerate(DIGIT_NAMES)
            ],
        },
    )


def describe_coco(digit: PaintedDigit) -> dict[str, Any]:
    """Return the COCO annotation without ids: polygons, or for a crowd an uncompressed RLE and iscrowd 1."""
    left, top, right, bottom = digit.box
    segmentation: Any = encode_rle(digit.mask) if digit.crowd else list(trace_polygons(digit.mask))
    return {
        "category_id": digit.label + 1,
        "iscrowd": int(digit.crowd),
        "area": int(digit.mask.sum()),
        "bbox": [left, top, right - left, bottom - top],
        "segmentation": segmentation,
    }


def trace_polygons(mask: Mask) -> Iterator[list[float]]:
    """Yield the outlines of the mask's parts as flat [x, y, x, y, …] in pixels; the top-left corner is (0, 0)."""
    large = mask.astype(np.uint8).repeat(POLYGON_SCALE, axis=0).repeat(POLYGON_SCALE, axis=1)
    contours, _ = cv2.findContours(large, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    for contour in sorted(contours, key=lambda points: tuple(points[0, 0])):
        corners = cv2.approxPolyDP(contour, 1.5, True)[:, 0, :]
        if len(corners) >= 3:
            yield [round((float(value) + 0.5) / POLYGON_SCALE, 3) for value in corners.ravel()]


def encode_rle(mask: Mask) -> dict[str, Any]:
    """Return COCO's uncompressed RLE: column-major run lengths, alternately background and foreground."""
    flat: NDArray[np.bool_] = np.concatenate([[False], mask.ravel(order="F")])
    starts = np.flatnonzero(flat[1:] != flat[:-1])
    counts = np.diff(np.concatenate([[0], starts, [mask.size]]))
    return {"counts": [int(count) for count in counts], "size": list(mask.shape)}


def write_jpeg(path: Path, image: Image) -> None:
    """Write an RGB image (height, width, 3) as JPEG."""
    _write(path, simplejpeg.encode_jpeg(np.ascontiguousarray(image), quality=JPEG_QUALITY, colorspace="RGB"))


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)

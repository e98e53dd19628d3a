"""Small custom data sets in COCO and VOC format: coloured boxes on noise."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

SHAPES = ("bolt", "nut", "washer", "gear", "spring", "pin", "clip")


def draw_scene(seed: int, path: Path, classes: int, size: int = 64) -> list[tuple[int, list[int]]]:
    """Write an image with three boxes, cycling through the classes; return (class, [left, top, right, bottom])."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 60, (size, size + 16, 3), dtype=np.uint8)
    objects = []
    for number in range(3):
        kind = (seed * 3 + number) % classes
        left, top = (int(rng.integers(0, size // 2)) for _ in range(2))
        box = [left, top, left + 24, top + 20]
        pixels[box[1] : box[3], box[0] : box[2]] = np.array([40 + 30 * kind, 255 - 30 * kind, 128])
        objects.append((kind, box))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return objects


def write_coco_set(root: Path, part: str, count: int, names: Sequence[str] = SHAPES) -> None:
    """Write ROOT/annotations/<part>.json and ROOT/images/<part>/*.png; boxes only, non-consecutive category ids."""
    images, annotations = [], []
    for number in range(count):
        name = f"{part}_{number}.png"
        objects = draw_scene(number + (100 if part == "test" else 0), root / "images" / part / name, len(names))
        images.append({"id": number + 1, "file_name": name, "width": 80, "height": 64})
        for kind, (left, top, right, bottom) in objects:
            box = [left, top, right - left, bottom - top]
            annotations.append(
                {"id": len(annotations) + 1, "image_id": number + 1, "category_id": 10 * kind + 3, "bbox": box}
                | {"area": box[2] * box[3], "iscrowd": 0}
            )
    categories = [{"id": 10 * kind + 3, "name": name} for kind, name in enumerate(names)]
    path = root / "annotations" / f"{part}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))


def write_voc_set(root: Path, part: str, count: int, names: Sequence[str]) -> None:
    """Write VOC's layout below ROOT: image sets, annotations, PNG images."""
    listed = [f"{part}{number:03d}" for number in range(count)]
    for seed, name in enumerate(listed):
        objects = draw_scene(seed, root / "JPEGImages" / f"{name}.png", len(names))
        body = "".join(
            f"<object><name>{names[kind]}</name><difficult>0</difficult><bndbox><xmin>{box[0] + 1}</xmin>"
            f"<ymin>{box[1] + 1}</ymin><xmax>{box[2]}</xmax><ymax>{box[3]}</ymax></bndbox></object>"
            for kind, box in objects
        )
        path = root / "Annotations" / f"{name}.xml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"<annotation><size><width>80</width><height>64</height></size>{body}</annotation>")
    path = root / "ImageSets" / "Main" / f"{part}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(listed) + "\n")

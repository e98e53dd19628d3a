"""Make three small data sets to try the walk-throughs on: `python examples/make_own_sets.py data/digits data/mine`.

They are cut from the embedded digits (`mochi data make data/digits`) and have the forms that people bring: MINE/shop in
COCO's form with seven classes and no masks, MINE/scans in VOC's layout with class names of its own, and MINE/photos, a
flat folder of images without labels.
"""

import json
import shutil
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

CLASSES = ("bolt", "nut", "washer", "gear", "spring", "pin", "clip")
"""Of the digits zero to six; the objects of the other three digits are left out."""
PARTS = {"train": "train2017", "test": "val2017"}


def read_part(digits: Path, part: str) -> dict[str, Any]:
    """Return the digits' COCO annotations of a part with seven classes, boxes only."""
    values: dict[str, Any] = json.loads((digits / f"coco/annotations/instances_{PARTS[part]}.json").read_text())
    kept = [entry for entry in values["annotations"] if entry["category_id"] <= len(CLASSES) and not entry["iscrowd"]]
    return {
        "images": values["images"],
        "annotations": [{key: value for key, value in entry.items() if key != "segmentation"} for entry in kept],
        "categories": [{"id": number, "name": name} for number, name in enumerate(CLASSES, start=1)],
    }


def write_coco(folder: Path, part: str, values: dict[str, Any], images: Path) -> None:
    """Write FOLDER/annotations/<part>.json and FOLDER/images/<part>/."""
    path = folder / "annotations" / f"{part}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values))
    shutil.copytree(images, folder / "images" / part, dirs_exist_ok=True)


def write_voc(folder: Path, part: str, values: dict[str, Any], images: Path) -> None:
    """Write FOLDER/Annotations, FOLDER/ImageSets/Main/<part>.txt and FOLDER/JPEGImages; pixels count from 1."""
    for name in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    objects = defaultdict(list)
    for entry in values["annotations"]:
        left, top, width, height = (round(number) for number in entry["bbox"])
        corners = f"<xmin>{left + 1}</xmin><ymin>{top + 1}</ymin><xmax>{left + width}</xmax><ymax>{top + height}</ymax>"
        name = CLASSES[entry["category_id"] - 1]
        objects[entry["image_id"]].append(f"<object><name>{name}</name><bndbox>{corners}</bndbox></object>")
    listed = []
    for image in values["images"]:
        name = f"{part}_{Path(image['file_name']).stem}"
        size = f"<size><width>{image['width']}</width><height>{image['height']}</height></size>"
        text = f"<annotation>{size}{''.join(objects[image['id']])}</annotation>"
        (folder / "Annotations" / f"{name}.xml").write_text(text)
        shutil.copy(images / image["file_name"], folder / "JPEGImages" / f"{name}.jpg")
        listed.append(name)
    (folder / "ImageSets/Main" / f"{part}.txt").write_text("\n".join(listed) + "\n")


def copy_photos(source: Path, folder: Path) -> int:
    """Copy every image below `source` into one flat folder; return how many."""
    folder.mkdir(parents=True, exist_ok=True)
    images = sorted(source.rglob("*.JPEG"))
    for image in images:
        shutil.copy(image, folder / f"{image.parent.name}_{image.name}")
    return len(images)


def main(digits: Path, mine: Path) -> int:
    """Write the three sets; return the number of photos."""
    for part, images in PARTS.items():
        values = read_part(digits, part)
        write_coco(mine / "shop", part, values, digits / "coco" / images)
        write_voc(mine / "scans", part, values, digits / "coco" / images)
    photos = copy_photos(digits / "imagenet/train", mine / "photos")
    print(f"{mine}: shop (COCO's form), scans (VOC's layout), photos ({photos} images without labels)")
    return photos


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))

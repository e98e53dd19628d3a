"""The smallest data set that can be scored: one image, one cat, one perfect detection."""

import json
from pathlib import Path


def write_one_cat(root: Path) -> None:
    """Write one image with one cat in VOC and COCO format, and its perfect detection under runs/mine."""
    for folder in ("data/VOC2007/Annotations", "data/VOC2007/ImageSets/Main", "data/coco/annotations"):
        (root / folder).mkdir(parents=True)
    box = "<xmin>10</xmin><ymin>20</ymin><xmax>40</xmax><ymax>60</ymax>"
    cat = f"<object><name>cat</name><difficult>0</difficult><bndbox>{box}</bndbox></object>"
    (root / "data/VOC2007/Annotations/000001.xml").write_text(f"<annotation>{cat}</annotation>")
    (root / "data/VOC2007/ImageSets/Main/test.txt").write_text("000001\n")
    (root / "runs/mine/voc_det").mkdir(parents=True)
    (root / "runs/mine/voc_det/cat.txt").write_text("000001 0.900 10.0 20.0 40.0 60.0\n")
    (root / "runs/mine/voc_det/dog.txt").write_text("")
    truth = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 20, 30, 40], "area": 1200, "iscrowd": 0}
    annotations = {
        "images": [{"id": 1, "width": 80, "height": 80, "file_name": "1.jpg"}],
        "annotations": [truth],
        "categories": [{"id": 1, "name": "cat"}],
    }
    (root / "data/coco/annotations/instances_val2017.json").write_text(json.dumps(annotations))
    found = {"image_id": 1, "category_id": 1, "bbox": [10, 20, 30, 40], "score": 0.9}
    (root / "runs/mine/coco_instances_results.json").write_text(json.dumps([found]))

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode
from PIL import Image

from transfer.detection.gallery import GAP_PIXELS, choose_records, draw_gallery, read_detections
from transfer.metrics.voc_ap import VocDetections
from transfer.metrics.voc_files import write_det_files

CIRCLE = [[20.0, 10.0, 60.0, 10.0, 60.0, 40.0, 20.0, 40.0]]


def register(folder: Path) -> str:
    records: list[dict[str, Any]] = []
    for number in range(4):
        path = folder / f"{number}.jpg"
        Image.fromarray(np.full((60, 80, 3), 120, dtype=np.uint8)).save(path)
        box = {"bbox": [20, 10, 60, 40], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 1, "segmentation": CIRCLE}
        annotations = [box] if number else []
        records.append(
            {"file_name": str(path), "image_id": number, "height": 60, "width": 80, "annotations": annotations}
        )
    name = f"gallery_{folder.name}"
    DatasetCatalog.register(name, lambda: records)
    MetadataCatalog.get(name).set(thing_classes=["cat", "dog"], thing_dataset_id_to_contiguous_id={10: 0, 20: 1})
    return name


def write_coco_run(folder: Path, segmentation: dict[str, Any]) -> Path:
    folder.mkdir()
    hit = {"image_id": 1, "category_id": 20, "bbox": [20, 10, 40, 30], "score": 0.9, **segmentation}
    (folder / "coco_instances_results.json").write_text(json.dumps([hit, {**hit, "image_id": 2, "score": 0.1}]))
    return folder


def write_voc_run(folder: Path) -> Path:
    detections = VocDetections(
        image=np.array([1]),
        category=np.array([1]),
        scores=np.array([0.75]),
        boxes=np.array([[21.0, 11.0, 60.0, 40.0]]),
    )
    write_det_files(folder / "voc_det", detections, ["0", "1"], ["cat", "dog"])
    return folder


def test_gallery_has_a_column_for_truth_and_each_run(tmp_path: Path) -> None:
    name = register(tmp_path)
    rle = {"segmentation": {"size": [60, 80], "counts": [20 * 60 + 10, 30, 60 * 80 - 20 * 60 - 40]}}
    runs = {"mochi": write_coco_run(tmp_path / "a", rle), "random": write_coco_run(tmp_path / "b", {})}
    path = draw_gallery(tmp_path / "gallery.png", name, runs, images=2, width=160)
    with Image.open(path) as sheet:
        picture = np.asarray(sheet.convert("RGB")).astype(int)
    assert picture.shape[1] == 3 * (160 + GAP_PIXELS)
    columns = [picture[26 : 26 + 120, start : start + 160] for start in (0, 166, 332)]
    for column in columns:  # something was drawn on the grey image
        assert (np.abs(column - 120).max(axis=2) > 30).mean() > 0.01
    # the second image has ground truth, but no detection above the threshold
    below = picture[26 + 120 + GAP_PIXELS : 26 + 240 + GAP_PIXELS]
    assert (np.abs(below[:, :160] - 120).max(axis=2) > 30).any()
    assert not (np.abs(below[:, 166:326] - 120).max(axis=2) > 30).any()


def test_images_are_spread_over_those_with_truth(tmp_path: Path) -> None:
    records = DatasetCatalog.get(register(tmp_path))
    assert [record["image_id"] for record in choose_records(records, 2)] == [1, 3]
    assert [record["image_id"] for record in choose_records(records, 9)] == [1, 2, 3]


def test_saved_detections_come_back_in_image_pixels(tmp_path: Path) -> None:
    name = register(tmp_path)
    expected = {"category": 1, "score": 0.9, "box": [20, 10, 60, 40]}
    assert read_detections(write_coco_run(tmp_path / "a", {}), name)[1] == [expected]
    records = [{"image_id": "0"}, {"image_id": "1"}]
    DatasetCatalog.register(f"{name}_voc", lambda: records)
    MetadataCatalog.get(f"{name}_voc").set(thing_classes=["cat", "dog"])
    expected = {"category": 1, "score": 0.75, "box": [20.0, 10.0, 60.0, 40.0]}
    for place in (tmp_path / "run" / "evaluation" / f"{name}_voc", tmp_path / "c" / f"{name}_voc", tmp_path / "d"):
        write_voc_run(place)
    for run in ("run", "c", "d"):
        assert read_detections(tmp_path / run, f"{name}_voc")["1"] == [expected]


def test_gallery_without_runs_or_detections_is_a_sentence(tmp_path: Path) -> None:
    name = register(tmp_path)
    with pytest.raises(ValueError, match="at least one NAME=FOLDER"):
        draw_gallery(tmp_path / "x.png", name, {})
    with pytest.raises(ValueError, match="no saved detections"):
        draw_gallery(tmp_path / "x.png", name, {"mochi": tmp_path / "nothing"})

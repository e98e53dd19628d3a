import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pretrain.runtime.command_line import UsageError
from pretrain.runtime.machine import PROJECT_ROOT
from tools.draw_gallery import main

CONFIG = PROJECT_ROOT / "configs" / "transfer" / "coco_c4_digits.yaml"


def test_gallery_without_a_run_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="at least one NAME=FOLDER"):
        main([str(CONFIG), "gallery.png", "images=2"])


@pytest.mark.slow
def test_command_draws_the_runs_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    coco = tmp_path / "coco"
    images = coco / "val2017"
    images.mkdir(parents=True)
    (coco / "train2017").mkdir()
    (coco / "annotations").mkdir()
    Image.fromarray(np.full((60, 80, 3), 90, dtype=np.uint8)).save(images / "1.jpg")
    polygon = [[10.0, 10.0, 40.0, 10.0, 40.0, 40.0, 10.0, 40.0]]
    truth = {
        "images": [{"id": 1, "file_name": "1.jpg", "width": 80, "height": 60}],
        "categories": [{"id": number + 1, "name": f"digit {number}"} for number in range(10)],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 4, "bbox": [10, 10, 30, 30], "area": 900, "iscrowd": 0}
            | {"segmentation": polygon}
        ],
    }
    for split in ("train", "val"):
        (coco / "annotations" / f"instances_{split}2017.json").write_text(json.dumps(truth))
    run = tmp_path / "run"
    run.mkdir()
    found = [{"image_id": 1, "category_id": 4, "bbox": [10, 10, 30, 30], "score": 0.9}]
    (run / "coco_instances_results.json").write_text(json.dumps(found))
    path = tmp_path / "gallery.png"
    assert main([str(CONFIG), str(path), f"mochi={run}", f"data={tmp_path}", "width=100"]) == 0
    with Image.open(path) as picture:
        assert picture.width == 2 * 106
    assert "ground truth and mochi" in capsys.readouterr().out

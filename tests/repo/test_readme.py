"""The README's Python examples run unmodified."""

import json
import re
from pathlib import Path

import pytest
import torch
import torchvision

from pretrain.runtime.machine import PROJECT_ROOT
from transfer.weights.convert import convert

README = (PROJECT_ROOT / "README.md").read_text()
EXAMPLES = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def run(example: str) -> dict[str, object]:
    names: dict[str, object] = {}
    exec(compile(example, "README.md", "exec"), names)
    return names


def test_readme_shows_the_mixing_and_the_backbones() -> None:
    assert [
        name for example in EXAMPLES for name in ("mix(", "load_backbone(", "evaluate_voc(") if name in example
    ] == [
        "mix(",
        "load_backbone(",
        "evaluate_voc(",
    ]


def test_mixing_example_adds_the_columns_it_says() -> None:
    names = run(EXAMPLES[0])
    assert names["harder"].shape == (8, 768)
    assert names["loss"].isfinite()


def test_backbone_example_reads_what_the_demo_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "runs" / "digits" / "stages" / "convert-mochi-0123456789ab"
    folder.mkdir(parents=True)
    state = torchvision.models.resnet18().state_dict()
    encoder = {f"module.encoder_q.{name}": tensor for name, tensor in state.items() if not name.startswith("fc.")}
    torch.save({"state_dict": encoder, "arch": "resnet18", "epoch": 1}, tmp_path / "encoder.pt")
    convert(tmp_path / "encoder.pt", folder / "backbone.pkl")
    names = run(EXAMPLES[1])
    assert names["found"].depth == 18
    assert torch.equal(names["backbone"].conv1.weight, state["conv1.weight"])
    assert torch.equal(names["tensors"]["backbone.stem.conv1.weight"], state["conv1.weight"])


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


def test_evaluation_example_scores_a_perfect_detection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_one_cat(tmp_path)
    monkeypatch.chdir(tmp_path)
    names = run(EXAMPLES[2])
    assert names["voc"]["per_class"]["cat"]["AP"] == pytest.approx(100)
    assert names["coco"].metrics()["AP"] == pytest.approx(100)

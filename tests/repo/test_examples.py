"""The examples run unmodified."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest
import torch
import torchvision

from pretrain.runtime.machine import PROJECT_ROOT
from tests.making.one_cat import write_one_cat
from tools.make_digits import main as make_digits
from transfer.weights.convert import convert


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, PROJECT_ROOT / "examples" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_example_is_tested() -> None:
    source = Path(__file__).read_text()
    for path in (PROJECT_ROOT / "examples").glob("*.py"):
        assert f'load("{path.stem}")' in source, f"{path.name} has no test"


def test_mixing_example_returns_a_finite_loss() -> None:
    assert load("mixing_in_your_loop").main().isfinite()


def test_backbone_example_loads_the_converted_weights(tmp_path: Path) -> None:
    state = torchvision.models.resnet18().state_dict()
    encoder = {f"module.encoder_q.{name}": tensor for name, tensor in state.items() if not name.startswith("fc.")}
    torch.save({"state_dict": encoder, "arch": "resnet18", "epoch": 1}, tmp_path / "encoder.pt")
    convert(tmp_path / "encoder.pt", tmp_path / "backbone.pkl")
    model = load("load_converted_backbone").main(tmp_path / "backbone.pkl")
    assert torch.equal(model.conv1.weight, state["conv1.weight"])


def test_scoring_example_scores_a_perfect_detection(tmp_path: Path) -> None:
    write_one_cat(tmp_path)
    scores = load("score_saved_detections").main(tmp_path / "data", tmp_path / "runs/mine", ["cat"])
    assert scores == pytest.approx({"voc": 100, "coco": 100})


def test_own_sets_example_writes_seven_classes_in_both_forms_and_flat_photos(tmp_path: Path) -> None:
    counts = (
        "imagenet_train=6 imagenet_val=1 voc2007_trainval=1 voc2007_test=1 voc2012_trainval=1 coco_train=8 coco_val=4"
    )
    make_digits([str(tmp_path / "digits"), "imagenet_px=64", *counts.split()])
    assert load("make_own_sets").main(tmp_path / "digits", tmp_path / "mine") == 6
    shop = json.loads((tmp_path / "mine/shop/annotations/train.json").read_text())
    assert len(shop["categories"]) == 7 and len(shop["images"]) == 8
    assert all("segmentation" not in entry for entry in shop["annotations"])
    names = (tmp_path / "mine/scans/ImageSets/Main/test.txt").read_text().split()
    texts = [(tmp_path / f"mine/scans/Annotations/{name}.xml").read_text() for name in names]
    test = json.loads((tmp_path / "mine/shop/annotations/test.json").read_text())
    assert sum(text.count("<object>") for text in texts) == len(test["annotations"]) > 0
    assert not [path for path in (tmp_path / "mine/photos").iterdir() if path.is_dir()]

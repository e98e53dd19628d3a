"""User-defined data sets and protocols: read, checked, trained on, evaluated, never compared with published rows."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pretrain.runtime.command_line import run_command
from pretrain.runtime.machine import PROJECT_ROOT
from pretrain.runtime.storage import read_json
from tests.making.detector_runs import SHORT, SMALL_RESNET, make_backbone
from tests.making.imagenet_like import declare, encode, make_photo
from tests.making.own_sets import SHAPES, write_coco_set, write_voc_set
from tools.check_data import main as check_data
from tools.finetune_detector import main as finetune_detector
from transfer.detection.config import flatten_config, read_detector_config
from transfer.detection.data.datasets import register_datasets
from transfer.detection.data.own_sets import settle_own_data
from transfer.detection.loaded_weights import fresh_names
from transfer.detection.protocol_files import PROTOCOL_FILES
from transfer.detection.protocols import lint, read_protocol
from transfer.results.published import ROWS, published_rows

COCO_SETS = """
data_sets:
  shapes:
    format: coco
    train: {annotations: annotations/train.json, images: images/train}
    test: {annotations: annotations/test.json, images: images/test}
"""
VOC_SETS = """
data_sets:
  parts: {format: voc, folder: VOCparts, train: train, test: val}
"""
FPN = "PROTOCOL: mine-boxes\nBASED_ON: coco-fpn-digits@moco\nMODEL: {MASK_ON: False}\n"
C4 = "PROTOCOL: mine-boxes-c4\nBASED_ON: voc-c4-digits@moco\n"


def write_config(folder: Path, text: str) -> Path:
    path = folder / "mine.yaml"
    path.write_text(text)
    return path


@pytest.fixture
def shapes(tmp_path: Path) -> Path:
    write_coco_set(tmp_path, "train", 6)
    write_coco_set(tmp_path, "test", 3)
    return tmp_path


@pytest.mark.parametrize("base", sorted(PROTOCOL_FILES))
def test_a_short_file_is_its_base_but_for_what_it_says(shapes: Path, base: str) -> None:
    text = f"PROTOCOL: mine\nBASED_ON: {base}\nMODEL: {{MASK_ON: False}}\nSOLVER: {{MAX_ITER: 7}}\n"
    cfg = settle_own_data(read_detector_config(write_config(shapes, text + COCO_SETS)))
    mine, named = flatten_config(cfg), flatten_config(read_protocol(base))
    changed = {key for key in mine.keys() | named.keys() if mine.get(key) != named.get(key)}
    expected = {
        "PROTOCOL", "BASED_ON", "SOLVER.MAX_ITER", "DATASETS.TRAIN", "DATASETS.TEST", "DATASETS.ROOT",
        "DATASETS.COCO_FORMAT", "MODEL.ROI_HEADS.NUM_CLASSES",
    }  # fmt: skip
    assert changed == (expected if not named["MODEL.MASK_ON"] else expected | {"MODEL.MASK_ON"})
    assert (mine["MODEL.ROI_HEADS.NUM_CLASSES"], mine["DATASETS.TRAIN"]) == (7, ["shapes_train"])
    assert {entry.key for entry in lint(cfg)} == changed - {"PROTOCOL", "BASED_ON", "DATASETS.ROOT"}
    register_datasets(cfg)
    stored = write_config(shapes, cfg.dump())
    assert flatten_config(read_detector_config(stored)) == mine, "a run's config.yaml is complete"


def test_own_results_stand_beside_no_published_row(shapes: Path) -> None:
    for name in ("voc-mine", "coco-fpn-1x@moco", "COCO-x", "linear-mine", "a/b", "../x", ""):
        with pytest.raises(ValueError, match="PROTOCOL: "):
            read_detector_config(write_config(shapes, f"PROTOCOL: {name!r}\nBASED_ON: voc-c4-24k@moco\n"))
    assert not published_rows("mine-boxes")
    assert not [row for row in ROWS if not row.protocol.startswith(("voc", "coco", "knn", "linear"))]


def test_every_mistake_of_the_data_sets_is_told_at_once(tmp_path: Path) -> None:
    text = """
PROTOCOL: mine
BASED_ON: coco-fpn-3x
data_sets:
  a/b: {format: coco, train: {annotations: x.json, images: y}}
  b: {format: yolo}
  c: {format: coco, train: x.json, tests: z}
  d: {format: voc, train: train, classes: []}
  e: {format: voc, folder: f}
"""
    with pytest.raises(ValueError) as caught:
        read_detector_config(write_config(tmp_path, text))
    for part in (
        "coco-fpn-3x",
        "a/b",
        "b.format",
        "c.train",
        "unknown tests",
        "d.folder",
        "d.classes",
        "e: has neither",
    ):
        assert part in str(caught.value), part


def test_test_categories_of_another_name_are_refused(shapes: Path) -> None:
    path = shapes / "annotations" / "test.json"
    content = json.loads(path.read_text())
    content["categories"][1]["name"] = "gasket"
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"shapes_test: .*missing \['nut'\], unknown \['gasket'\]"):
        settle_own_data(read_detector_config(write_config(shapes, FPN + COCO_SETS)))


def test_mistakes_of_a_voc_format_set_are_told_before_the_first_step(tmp_path: Path) -> None:
    names = ("cell", "crack", "dust")
    write_voc_set(tmp_path / "VOCparts", "train", 4, names)
    write_voc_set(tmp_path / "VOCparts", "val", 3, names)
    cfg = settle_own_data(read_detector_config(write_config(tmp_path, C4 + VOC_SETS)))
    register_datasets(cfg)
    assert cfg.DATASETS.VOC_FORMAT[1] == ["parts_test", "VOCparts", "val", list(names)]
    (tmp_path / "VOCparts" / "JPEGImages" / "val001.png").unlink()
    changed = tmp_path / "VOCparts" / "Annotations" / "val002.xml"
    changed.write_text(changed.read_text().replace("crack", "scratch"))
    (tmp_path / "VOCparts" / "ImageSets" / "Main" / "val.txt").write_text("val000 1\nval001 1\nval002 -1\n")
    with pytest.raises(
        ValueError, match=r"(?s)val001: no image .*val002\.xml: unknown class 'scratch', expected one of cell"
    ):
        register_datasets(cfg)
    cfg.MODEL.MASK_ON = True
    with pytest.raises(ValueError, match=r"boxes only: set MODEL\.MASK_ON: False"):
        register_datasets(cfg)


def test_a_class_without_an_object_to_find_is_refused(tmp_path: Path) -> None:
    write_voc_set(tmp_path / "VOCparts", "train", 4, SHAPES)
    write_voc_set(tmp_path / "VOCparts", "val", 1, SHAPES)
    cfg = settle_own_data(read_detector_config(write_config(tmp_path, C4 + VOC_SETS)))
    with pytest.raises(ValueError, match=r"parts_test: no object of .*gear.* in the list val"):
        register_datasets(cfg)


@pytest.mark.parametrize("kind", ["coco-fpn@moco", "coco-fpn@infomin", "coco-c4", "voc-c4"])
def test_a_detector_without_masks_has_no_fresh_mask_head(kind: str) -> None:
    boxes, whole = set(fresh_names(kind, masks=False)), set(fresh_names(kind))
    assert not [name for name in boxes if "mask" in name]
    assert boxes == {name for name in whole if "mask" not in name}
    assert set(fresh_names("voc-c4", masks=True)) == set(fresh_names("coco-c4"))


def test_check_data_looks_at_what_a_config_names(
    shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_config(shapes, FPN + COCO_SETS)
    assert run_command(check_data, "", [str(shapes), f"config={config}"]) == 0
    assert "no problems found" in capsys.readouterr().out
    ramp = np.arange(80 * 64, dtype=np.uint16).reshape(64, 80) * 12
    Image.fromarray(ramp).save(shapes / "images" / "test" / "test_0.png")
    assert run_command(check_data, "", [str(shapes), f"config={config}"]) == 2
    assert "test_0.png: has the pixel mode I;16, which Detectron2 clips to 8 bits" in capsys.readouterr().err
    data = encode(make_photo(0, 64, 80))
    (shapes / "images" / "test" / "test_0.png").write_bytes(declare(data, 65500, 65500))
    assert run_command(check_data, "", [str(shapes), f"config={config}"]) == 2
    assert "test_0.png: declares 65500 x 65500 pixels, over 179 megapixels" in capsys.readouterr().err
    write_voc_set(tmp_path / "VOCparts", "train", 4, ("cell", "crack"))
    write_voc_set(tmp_path / "VOCparts", "val", 2, ("cell", "crack"))
    (tmp_path / "VOCparts" / "JPEGImages" / "val001.png").write_bytes(b"cut")
    config = write_config(tmp_path, C4 + VOC_SETS)
    assert run_command(check_data, "", [str(tmp_path), f"config={config}"]) == 2
    said = capsys.readouterr()
    assert "parts_train: 4 images" in said.out
    assert "val001.png: cannot be decoded" in said.err


@pytest.mark.slow
@pytest.mark.xdist_group("detectors")
@pytest.mark.parametrize("head", [FPN, C4], ids=["fpn", "c4"])
def test_own_coco_set_of_seven_classes_trains_and_is_measured(shapes: Path, head: str) -> None:
    run_to_the_end(shapes, write_config(shapes, head + COCO_SETS), "mine-boxes")
    result = read_json(shapes / "run" / "metrics.json")
    assert result["metrics"].keys() >= {"box/AP", "box/AP50", "box/AP75"}
    per_class = result["details"]["details"]["shapes_test"]["per_class"]["box"]
    assert list(per_class) == list(SHAPES)


@pytest.mark.slow
@pytest.mark.xdist_group("detectors")
def test_own_voc_set_with_other_classes_trains_and_is_measured(tmp_path: Path) -> None:
    names = ("cell", "crack", "dust")
    write_voc_set(tmp_path / "VOCparts", "train", 6, names)
    write_voc_set(tmp_path / "VOCparts", "val", 3, names)
    run_to_the_end(tmp_path, write_config(tmp_path, C4 + VOC_SETS), "mine-boxes-c4")
    result = read_json(tmp_path / "run" / "metrics.json")
    assert result["metrics"].keys() == {"AP", "AP50", "AP75"}
    assert list(result["details"]["details"]["parts_test"]["per_class"]) == list(names)


def run_to_the_end(folder: Path, config: Path, protocol: str) -> None:
    depth = 50 if "c4" in config.read_text() else 18  # C4's res5 has bottlenecks
    weights = make_backbone(folder, depth)
    words = [str(config), str(weights), f"out={folder / 'run'}", "backbone=test", *SHORT]
    words += SMALL_RESNET if depth == 18 else []
    words = [word for word in words if not word.startswith("SOLVER.MAX_ITER")]
    assert finetune_detector([*words, "SOLVER.MAX_ITER=2", "SOLVER.STEPS=(1,)", "MODEL.DEVICE=cpu"]) == 0
    result = read_json(folder / "run" / "metrics.json")
    assert result["protocol"].startswith(protocol.removesuffix("-c4"))
    assert result["details"]["based_on"] in PROTOCOL_FILES
    assert {"MODEL.ROI_HEADS.NUM_CLASSES", "DATASETS.TRAIN"} <= {entry["key"] for entry in result["deviations"]}
    assert list((folder / "run" / "detections").glob("*.png"))


def test_config_of_the_documentation_is_read_as_it_stands(tmp_path: Path) -> None:
    page = (PROJECT_ROOT / "docs" / "your-data.md").read_text()
    text = page.partition("```yaml\nPROTOCOL: mine-boxes")[2].partition("```")[0]
    write_coco_set(tmp_path / "shop", "train", 6)
    write_coco_set(tmp_path / "shop", "test", 3)
    cfg = settle_own_data(read_detector_config(write_config(tmp_path, f"PROTOCOL: mine-boxes{text}")))
    register_datasets(cfg)
    assert (cfg.MODEL.ROI_HEADS.NUM_CLASSES, cfg.MODEL.MASK_ON) == (7, False)
    assert (cfg.DATASETS.TRAIN, cfg.DATASETS.TEST) == (("shop_train",), ("shop_test",))

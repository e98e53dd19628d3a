"""Which data training and evaluation accept, checked before the first step and by tools.check_data alike."""

import json
import re
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data import detection_utils as reference
from detectron2.data.datasets import load_coco_json
from detectron2.data.datasets.pascal_voc import load_voc_instances
from detectron2.structures import Boxes, Instances
from PIL import Image

from tests.making.detector_runs import make_small_digits
from transfer.data_checks.problems import check_image
from transfer.data_checks.voc_and_coco import check_data
from transfer.detection.data.data_readiness import check_data_sets
from transfer.detection.data.datasets import VOC_CLASSES, register_datasets
from transfer.detection.data.voc_entries import load_voc_entries
from transfer.detection.evaluators import build_evaluator
from transfer.detection.protocols import read_protocol
from transfer.metrics.coco_files import read_coco_entries


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_small_digits(tmp_path_factory.mktemp("digits") / "data")


@pytest.fixture
def data(digits: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(digits, tmp_path / "data"))


def check(data: Path, protocol: str) -> None:
    """Register and check the data sets as a run does before its first step."""
    cfg = read_protocol(protocol)
    cfg.DATASETS.ROOT = str(data)
    register_datasets(cfg)
    check_data_sets(cfg, data / "out")


def change_coco(data: Path, split: str, change: Callable[[dict[str, Any]], object]) -> Path:
    path = data / "coco/annotations" / f"instances_{split}2017.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    return path


def change_voc(data: Path, pattern: str, replacement: str, split: str = "test") -> Path:
    name = (data / "VOC2007/ImageSets/Main" / f"{split}.txt").read_text().split()[0]
    path = data / "VOC2007/Annotations" / f"{name}.xml"
    text, count = re.subn(pattern, replacement, path.read_text(), count=1)
    assert count == 1
    path.write_text(text)
    return path


@pytest.mark.parametrize("split", ["train", "val"])
def test_coco_entries_equal_those_of_detectron2s_loader(digits: Path, split: str) -> None:
    path, images = digits / f"coco/annotations/instances_{split}2017.json", digits / f"coco/{split}2017"
    MetadataCatalog.pop(f"expected_{split}", None)
    expected = load_coco_json(str(path), str(images), f"expected_{split}")
    got = read_coco_entries(path, images)
    assert got.entries == expected
    assert list(got.class_names) == MetadataCatalog.get(f"expected_{split}").thing_classes


@pytest.mark.filterwarnings("ignore:.*np.str.*")
def test_voc_entries_equal_those_of_detectron2s_loader(digits: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = load_voc_instances(str(digits / "VOC2007"), "trainval", VOC_CLASSES)
    assert load_voc_entries(digits / "VOC2007", "trainval", VOC_CLASSES) == expected


def test_voc_sets_may_have_classes_of_their_own(data: Path) -> None:
    cfg = read_protocol("voc-c4-digits@moco")
    texts = "".join(path.read_text() for path in data.glob("VOC*/Annotations/*.xml"))
    names = sorted(set(re.findall("<name>(.*?)</name>", texts)), reverse=True)
    cfg.DATASETS.ROOT, cfg.DATASETS.VOC_CLASSES, cfg.MODEL.ROI_HEADS.NUM_CLASSES = str(data), names, len(names)
    register_datasets(cfg)
    check_data_sets(cfg, data / "out")
    assert MetadataCatalog.get("voc_2007_test").thing_classes == names
    cfg.DATASETS.VOC_CLASSES, cfg.MODEL.ROI_HEADS.NUM_CLASSES = names[1:], len(names) - 1
    register_datasets(cfg)
    with pytest.raises(ValueError, match=rf"unknown classes \['{names[0]}'\]"):
        check_data_sets(cfg, data / "out")


def renumber(content: dict[str, Any]) -> None:
    """Renumber the categories in reverse order, starting at 50."""
    new = {entry["id"]: 50 + 3 * number for number, entry in enumerate(reversed(content["categories"]))}
    for entry in content["categories"]:
        entry["id"] = new[entry["id"]]
    for entry in content["annotations"]:
        entry["category_id"] = new[entry["category_id"]]


def test_categories_are_matched_by_name_where_train_and_val_number_them_differently(data: Path) -> None:
    cfg = read_protocol("coco-c4-digits@moco")
    cfg.DATASETS.ROOT = str(data)
    register_datasets(cfg)
    before = DatasetCatalog.get("digits_val")
    path = change_coco(data, "val", renumber)
    register_datasets(cfg)
    after = DatasetCatalog.get("digits_val")
    assert after == before
    assert MetadataCatalog.get("digits_val").thing_classes == MetadataCatalog.get("digits_train").thing_classes
    evaluator: Any = build_evaluator(cfg, "digits_val", data / "out")
    evaluator.tasks = ("bbox",)
    for entry in after:
        found = Instances((entry["height"], entry["width"]))
        boxes = torch.tensor([annotation["bbox"] for annotation in entry["annotations"]]).reshape(-1, 4)
        found.pred_boxes = Boxes(torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], dim=1))
        found.pred_classes = torch.tensor([annotation["category_id"] for annotation in entry["annotations"]])
        found.scores = torch.ones(len(boxes))
        evaluator.process([entry], [{"instances": found}])
    assert evaluator.evaluate()["box/AP"] == pytest.approx(100)
    known = {category["id"] for category in json.loads(path.read_text())["categories"]}
    saved = json.loads((data / "out/coco_instances_results.json").read_text())
    assert {result["category_id"] for result in saved} <= known


def test_categories_with_other_names_are_refused_and_named(data: Path) -> None:
    change_coco(data, "val", lambda content: content["categories"][2].update(name="dos"))
    with pytest.raises(ValueError, match=r"lacking \['two'\], unknown \['dos'\]; categories are matched by name"):
        check(data, "coco-c4-digits@moco")
    text = "\n".join(map(str, check_data(data).problems))
    assert "its category names differ from instances_train2017.json's: lacking ['two'], unknown ['dos']" in text


def test_a_file_is_read_once_for_registering_checking_and_training(data: Path) -> None:
    check(data, "coco-c4-digits@moco")
    shutil.rmtree(data / "coco/annotations")
    assert len(DatasetCatalog.get("digits_train")) == 8
    with pytest.raises(OSError, match=r"instances_train2017\.json"):
        DatasetCatalog.get("digits_train")


def test_whole_digits_are_ready(data: Path) -> None:
    for protocol in ("voc-c4-digits@moco", "coco-c4-digits@moco", "coco-fpn-digits@moco"):
        check(data, protocol)


@pytest.mark.parametrize(
    ("pattern", "replacement"),
    [
        (r"<xmin>(\d+)</xmin>", r"<xmin>\1.5</xmin>"),
        ("<difficult>.</difficult>", ""),
        ("<difficult>.</difficult>", "<difficult></difficult>"),
        ("<difficult>.</difficult>", "<difficult> 0 </difficult>"),
        ("<difficult>.</difficult>", "<difficult>1.0</difficult>"),
        ("<truncated>.</truncated>", ""),
    ],
)
@pytest.mark.parametrize("split", ["trainval", "test"])
def test_voc_annotations_that_detectron2_trains_on_are_ready(
    pattern: str, replacement: str, split: str, data: Path
) -> None:
    change_voc(data, pattern, replacement, split)
    check(data, "voc-c4-digits@moco")
    assert not check_data(data).problems


@pytest.mark.parametrize(
    ("pattern", "replacement", "sentence"),
    [
        ("<difficult>.</difficult>", "<difficult>maybe</difficult>", "its difficult is 'maybe': expected 0 or 1"),
        (r"<xmin>\d+</xmin>", "<xmin>nan</xmin>", r"its bndbox is \[None, "),
        (r"<xmin>\d+</xmin>", "", r"its bndbox is \[None, "),
        (r"<xmin>\d+</xmin>", "<xmin>900</xmin>", "expected four numbers, min before max"),
        (r"<name>\w+</name>", "<name></name>", "it has no name"),
        (r"<name>\w+</name>", "<name>okapi</name>", "okapi"),
        (r"<size>", "<sizes>", "not valid XML"),
        (r"<width>\d+</width>", "", "it has no size"),
    ],
)
@pytest.mark.parametrize("split", ["trainval", "test"])
def test_voc_annotations_that_stop_a_run_are_refused_with_their_file(
    pattern: str, replacement: str, sentence: str, split: str, data: Path
) -> None:
    path = change_voc(data, pattern, replacement, split)
    with pytest.raises(ValueError, match=sentence) as error:
        check(data, "voc-c4-digits@moco")
    assert str(path) in str(error.value)
    assert re.search(sentence, "\n".join(map(str, check_data(data).problems)))


def test_an_image_set_of_one_line_is_ready_and_one_of_none_is_refused(data: Path) -> None:
    path = data / "VOC2007/ImageSets/Main/test.txt"
    first = path.read_text().split()[0]
    path.write_text(f"{first}\n")
    check(data, "voc-c4-digits@moco")
    assert not check_data(data).problems
    for text, sentence in (("\n", "holds no image"), (f"{first} 1\n", "more than a name"), (f"{first}\n" * 2, "twice")):
        path.write_text(text)
        with pytest.raises(ValueError, match=sentence):
            check(data, "voc-c4-digits@moco")
        assert check_data(data).problems


def set_annotation(**values: Any) -> Callable[[dict[str, Any]], object]:
    return lambda content: content["annotations"][0].update(values)


def use_text_ids(content: dict[str, Any]) -> None:
    for entry in content["images"]:
        entry["id"] = f"image {entry['id']}"
    for entry in content["annotations"]:
        entry["image_id"] = f"image {entry['image_id']}"


@pytest.mark.parametrize("change", [use_text_ids, renumber, set_annotation(id=0), set_annotation(ignore=0)])
def test_coco_annotations_that_detectron2_trains_on_are_ready(change: Any, data: Path) -> None:
    for split in ("train", "val"):
        change_coco(data, split, change)
    check(data, "coco-c4-digits@moco")
    assert not check_data(data).problems


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (set_annotation(ignore=1), "1 annotations with ignore: 1"),
        (set_annotation(category_id=77), "1 annotations of a category that is not listed"),
        (set_annotation(bbox=[1, 2, float("nan"), 4]), "1 boxes that are not four numbers"),
        (set_annotation(bbox=[1, 2, 1e9, 4]), "1 boxes that are not four numbers"),
        (set_annotation(bbox=[]), "1 boxes that are not four numbers"),
        (set_annotation(iscrowd=3), "1 annotations whose iscrowd is not 0 or 1"),
        (set_annotation(segmentation=[[1, 2, 3, 4, float("nan"), 6]]), "polygons with NaN"),
        (set_annotation(segmentation=[[1, 2, 3, 4, 1e9, 6]]), "polygons with NaN, or with coordinates beyond"),
        (set_annotation(segmentation=7), "segmentations that are neither polygons nor RLE"),
        (lambda content: content["images"].clear(), "0 images and 10 categories"),
        (lambda content: content["images"][0].update(id=content["images"][1]["id"]), "come twice"),
        (lambda content: content["annotations"][0].update(id=content["annotations"][1]["id"]), "come twice"),
        (lambda content: content["images"][0].update(width=None), "1 images without a file_name, width and height"),
        (lambda content: content["categories"][0].update(name="two"), "come twice"),
    ],
)
@pytest.mark.parametrize("split", ["train", "val"])
def test_coco_annotations_that_stop_a_run_are_refused_with_their_file(
    change: Any, sentence: str, split: str, data: Path
) -> None:
    path = change_coco(data, split, change)
    with pytest.raises(ValueError, match=sentence) as error:
        check(data, "coco-c4-digits@moco")
    assert str(path) in str(error.value)
    assert check_data(data).problems


def test_rle_masks_are_refused_for_training_on_polygons_and_taken_by_bitmasks_and_tests(data: Path) -> None:
    def use_rle(content: dict[str, Any]) -> None:
        image = content["images"][0]
        runs = {"size": [image["height"], image["width"]], "counts": [5, 10, image["height"] * image["width"] - 15]}
        own = next(entry for entry in content["annotations"] if entry["image_id"] == image["id"])
        own.update(segmentation=runs, iscrowd=0)

    change_coco(data, "val", use_rle)
    check(data, "coco-c4-digits@moco")
    change_coco(data, "train", use_rle)
    with pytest.raises(ValueError, match=r"masks are RLE, .*INPUT.MASK_FORMAT=bitmask"):
        check(data, "coco-c4-digits@moco")
    cfg = read_protocol("coco-c4-digits@moco")
    cfg.DATASETS.ROOT, cfg.INPUT.MASK_FORMAT = str(data), "bitmask"
    register_datasets(cfg)
    check_data_sets(cfg, data / "out")


@pytest.mark.parametrize("split", ["train", "val"])
def test_missing_and_broken_images_are_refused(split: str, data: Path) -> None:
    files = sorted((data / f"coco/{split}2017").glob("*.jpg"))
    files[0].unlink()
    with pytest.raises(ValueError, match=rf"1 of {len(files)} images are missing: .*{files[0].name}"):
        check(data, "coco-c4-digits@moco")
    files[0].write_bytes(files[1].read_bytes()[:200])
    with pytest.raises(ValueError, match=rf"{files[0].name}: cannot be decoded"):
        check(data, "coco-c4-digits@moco")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_as_detectron2_turns_them(orientation: int, tmp_path: Path) -> None:
    path, exif = tmp_path / "turned.jpg", Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", (30, 20), "red").save(path, exif=exif)
    for size in ((30, 20), (20, 30)):
        entry = {"width": size[0], "height": size[1], "file_name": str(path)}
        try:
            reference.check_image_size(entry, reference.read_image(str(path), "BGR"))
            trains = True
        except reference.SizeMismatchError:
            trains = False
        assert (check_image(path, size) == []) is trains

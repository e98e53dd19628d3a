import json
from pathlib import Path
from typing import Any

import pytest

from tests.making.detector_runs import make_small_digits
from tools.check_data import main as check_data_command
from tools.digits.layouts import VOC_NAMES
from transfer.data_checks.voc_and_coco import check_data
from transfer.detection.data.datasets import register_datasets
from transfer.detection.protocols import read_protocol

from detectron2.data import DatasetCatalog, MetadataCatalog  # isort: skip


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return make_small_digits(tmp_path / "data")


def config_of(name: str, root: Path) -> Any:
    cfg = read_protocol(name)
    cfg.DATASETS.ROOT = str(root)
    return cfg


def test_voc_is_registered_under_the_given_root_with_difficult_boxes(data: Path) -> None:
    names = sorted((data / "VOC2007/ImageSets/Main/trainval.txt").read_text().split())
    first = data / "VOC2007/Annotations" / f"{names[0]}.xml"
    first.write_text(first.read_text().replace("<difficult>0</difficult>", "<difficult>1</difficult>"))
    register_datasets(config_of("voc-c4-digits@moco", data))
    entries = {entry["image_id"]: entry for entry in DatasetCatalog.get("voc_2007_trainval")}
    assert sorted(entries) == names
    assert len(entries[names[0]]["annotations"]) == first.read_text().count("<object>")
    metadata = MetadataCatalog.get("voc_2007_test")
    assert (metadata.evaluator_type, metadata.year, metadata.dirname) == ("pascal_voc", 2007, str(data / "VOC2007"))


def test_set_in_vocs_layout_has_the_classes_that_the_config_names_or_vocs_twenty(data: Path) -> None:
    cfg = config_of("voc-c4-digits@moco", data)
    register_datasets(cfg)
    assert MetadataCatalog.get("voc_2007_test").thing_classes == list(VOC_NAMES)
    cfg.DATASETS.VOC_CLASSES = []
    with pytest.raises(ValueError, match=r"voc_2007_test: has 20 classes, MODEL.ROI_HEADS.NUM_CLASSES is 10"):
        register_datasets(cfg)
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 20
    register_datasets(cfg)
    assert len(MetadataCatalog.get("voc_2007_test").thing_classes) == 20


def test_coco_format_sets_of_the_config_are_registered_and_registering_twice_is_no_mistake(data: Path) -> None:
    for _ in range(2):
        register_datasets(config_of("coco-c4-digits@moco", data))
    assert len(DatasetCatalog.get("digits_train")) == 8
    assert MetadataCatalog.get("digits_val").evaluator_type == "coco"


def test_missing_and_unfit_data_are_sentences(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="give data=ROOT"):
        register_datasets(config_of("voc-c4-digits@moco", tmp_path / "nothing"))
    cfg = config_of("voc-c4-digits@moco", data)
    cfg.MODEL.MASK_ON = True
    with pytest.raises(ValueError, match="VOC's detection annotations hold boxes only"):
        register_datasets(cfg)
    cfg = config_of("voc-c4-digits@moco", data)
    cfg.DATASETS.TRAIN = ("voc_2009_train",)
    with pytest.raises(ValueError, match="voc_2009_train: no such data set"):
        register_datasets(cfg)
    with pytest.raises(ValueError, match=r"has 10 categories, MODEL.ROI_HEADS.NUM_CLASSES is 80"):
        register_datasets(config_of("coco-c4-1x@moco", data))
    (data / "coco/annotations/instances_train2017.json").unlink()
    with pytest.raises(ValueError, match=r"instances_train2017.json missing; see `python -m tools.check_data"):
        register_datasets(config_of("coco-c4-digits@moco", data))


@pytest.mark.parametrize("text", ["[]", "3", '{"images": [], "annotations": {}, "categories": []}'])
def test_annotation_files_of_another_form_are_sentences(text: str, data: Path) -> None:
    (data / "coco/annotations/instances_train2017.json").write_text(text)
    with pytest.raises(ValueError, match=r"instances_train2017\.json: no COCO annotations, .*annotations.* missing"):
        register_datasets(config_of("coco-c4-digits@moco", data))
    assert "not COCO annotations" in "".join(map(str, check_data(data).problems))


def test_mask_protocol_on_boxes_alone_is_a_sentence(data: Path) -> None:
    path = data / "coco/annotations/instances_train2017.json"
    values = json.loads(path.read_text())
    for entry in values["annotations"]:
        del entry["segmentation"]
    path.write_text(json.dumps(values))
    with pytest.raises(ValueError, match=r"annotations have no segmentation, but MODEL.MASK_ON needs masks"):
        register_datasets(config_of("coco-c4-digits@moco", data))


def test_whole_digits_have_no_problem(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check_data_command([str(data), "deep=true"]) == 0
    assert "no problems found" in capsys.readouterr().out
    report = check_data(data)
    assert report.counts["coco/train2017"] == 8
    assert len(report.notes) == 5  # no count equals that of the published set


def test_every_problem_is_listed_at_once_with_its_remedy(data: Path) -> None:
    voc, coco = data / "VOC2007", data / "coco"
    trainval = (voc / "ImageSets/Main/trainval.txt").read_text().split()
    test = voc / "ImageSets/Main/test.txt"
    test.write_text(test.read_text() + trainval[0] + "\n")
    (voc / "JPEGImages" / f"{trainval[1]}.jpg").unlink()
    (voc / "JPEGImages" / f"{trainval[2]}.jpg").write_bytes(b"no image")
    annotation = voc / "Annotations" / f"{trainval[3]}.xml"
    annotation.write_text(annotation.read_text().replace("<xmax>", "<xmax>9", 1))
    (data / "VOC2012/ImageSets/Main/trainval.txt").unlink()
    path = coco / "annotations/instances_train2017.json"
    values = json.loads(path.read_text())
    values["annotations"][0] |= {"category_id": 77}
    values["annotations"][1] |= {"bbox": [0, 0, 5000, 3], "iscrowd": 0}
    values["annotations"][2] |= {"image_id": 4444}
    values["annotations"][3]["id"] = values["annotations"][4]["id"]
    path.write_text(json.dumps(values))
    (coco / "val2017" / "000000000001.jpg").write_bytes((coco / "train2017" / "000000000001.jpg").read_bytes())
    del values["images"][5]["width"]
    values["annotations"][6]["bbox"] = [1, "2", 3, 4]
    values["annotations"].append("no entry")
    values["categories"][3]["name"] = values["categories"][4]["name"]
    path.write_text(json.dumps(values))
    text = "\n".join(map(str, check_data(data, deep=True).problems))
    for expected in (
        "1 images are in VOC2007/trainval and VOC2007/test",
        f"e.g. {trainval[1]}.jpg",
        f"{trainval[2]}.jpg: cannot be decoded",
        "is empty or leaves the",
        "no such image set",
        "its category 77 is not listed",
        "the box [0, 0, 5000, 3]",
        "its image 4444 is not listed",
        "1 annotation ids come twice",
        "1 images are in train2017 and val2017",
        "1 images lack a sound width, the first is number 5",
        "2 annotations lack a sound bbox of four numbers, the first is number 6",
        "1 category names come twice, e.g. four",
        "its category names differ from instances_train2017.json's: lacking [], unknown ['three']",
    ):
        assert expected in text
    assert text.count("Remedy: ") == len(text.splitlines())
    with pytest.raises(ValueError, match=r"problems\n"):
        check_data_command([str(data)])


def test_test_images_among_those_to_train_on_are_found_under_any_name_by_deep(data: Path) -> None:
    copied = sorted((data / "VOC2012/JPEGImages").glob("*.jpg"))[0]
    tested = (data / "VOC2007/ImageSets/Main/test.txt").read_text().split()[0]
    (data / "VOC2007/JPEGImages" / f"{tested}.jpg").write_bytes(copied.read_bytes())
    second = sorted((data / "coco/train2017").glob("*.jpg"))[5]
    (data / "coco/val2017/000000000001.jpg").write_bytes(second.read_bytes())
    text = "\n".join(map(str, check_data(data, deep=True).problems))
    assert f"1 images are in VOC2012/trainval and VOC2007/test, e.g. {copied.name}" in text
    assert f"1 images are in train2017 and val2017, e.g. {second.name} = 000000000001.jpg" in text


def test_annotations_without_masks_are_noted(data: Path) -> None:
    path = data / "coco/annotations/instances_val2017.json"
    values = json.loads(path.read_text())
    del values["annotations"][0]["segmentation"]
    path.write_text(json.dumps(values))
    assert any("have no segmentation: fit for box protocols only" in note for note in check_data(data).notes)


def test_folder_without_data_is_a_problem(tmp_path: Path) -> None:
    assert "holds no VOC2007, VOC2012 or coco folder" in str(check_data(tmp_path).problems[0])

import json
from pathlib import Path

import cv2
import defusedxml.ElementTree
import numpy as np
import pytest
from pycocotools.coco import COCO

from pretrain.runtime.command_line import run_command
from pretrain.runtime.storage import digest_file
from tools.digits.layouts import DIGIT_NAMES, VOC_NAMES, describe_coco, encode_rle, trace_polygons
from tools.digits.scenes import PaintedDigit, SceneStyle, load_pools, paint_scene
from tools.make_digits import main

SMALL = (
    "imagenet_train=40",
    "imagenet_val=20",
    "voc2007_trainval=12",
    "voc2007_test=8",
    "voc2012_trainval=6",
    "coco_train=60",
    "coco_val=8",
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("digits")
    assert main([str(root), *SMALL]) == 0
    return root


def digests(root: Path) -> dict[str, str]:
    return {path.relative_to(root).as_posix(): digest_file(path) for path in root.rglob("*") if path.is_file()}


def test_same_options_give_the_same_bytes(data: Path, tmp_path: Path) -> None:
    main([str(tmp_path), *SMALL])
    assert digests(tmp_path) == digests(data)


def test_another_seed_gives_other_images(data: Path, tmp_path: Path) -> None:
    main([str(tmp_path), *SMALL, "seed=1"])
    mine, other = digests(data), digests(tmp_path)
    assert not {mine[name] for name in mine if name.endswith(".jpg")} & set(other.values())


def test_train_and_test_show_disjoint_digits_of_every_class() -> None:
    pools = load_pools(0)
    train = {stroke.tobytes() for stroke in pools["train"].strokes}
    assert not any(stroke.tobytes() in train for stroke in pools["test"].strokes)
    assert len(pools["train"].labels) + len(pools["test"].labels) == 1797
    assert set(pools["test"].labels) == set(range(10))


def test_imagenet_layout_has_a_folder_per_digit_and_equal_classes(data: Path) -> None:
    for split, count in (("train", 4), ("val", 2)):
        folders = sorted((data / "imagenet" / split).iterdir())
        assert [folder.name for folder in folders] == sorted(DIGIT_NAMES)
        assert all(len(list(folder.glob("*.JPEG"))) == count for folder in folders)
    image = cv2.imread(str(next((data / "imagenet" / "val").rglob("*.JPEG"))))
    assert image.shape == (112, 112, 3)


def test_voc_layout_names_files_that_exist_with_boxes_inside_the_image(data: Path) -> None:
    lists = data / "VOC2007" / "ImageSets" / "Main"
    trainval = (lists / "trainval.txt").read_text().split()
    assert trainval == (lists / "train.txt").read_text().split() + (lists / "val.txt").read_text().split()
    flags = set()
    for name in [*trainval, *(lists / "test.txt").read_text().split()]:
        height, width = cv2.imread(str(data / "VOC2007" / "JPEGImages" / f"{name}.jpg")).shape[:2]
        tree = defusedxml.ElementTree.parse(data / "VOC2007" / "Annotations" / f"{name}.xml")
        assert (tree.findtext("size/width"), tree.findtext("size/height")) == (str(width), str(height))
        for thing in tree.findall("object"):
            box = [int(thing.findtext(f"bndbox/{key}")) for key in ("xmin", "ymin", "xmax", "ymax")]
            assert 1 <= box[0] < box[2] <= width
            assert 1 <= box[1] < box[3] <= height
            assert thing.findtext("name") in VOC_NAMES
            flags.add((thing.findtext("truncated"), thing.findtext("difficult")))
    assert {flag for flag, _ in flags} == {"0", "1"}
    assert {flag for _, flag in flags} == {"0", "1"}
    assert (data / "VOC2012" / "ImageSets" / "Main" / "trainval.txt").read_text().split()[0] == "2012_000001"


def test_coco_masks_read_by_pycocotools_fill_their_boxes(data: Path) -> None:
    coco = COCO(str(data / "coco" / "annotations" / "instances_train2017.json"))
    assert [entry["name"] for entry in coco.loadCats(sorted(coco.getCatIds()))] == list(DIGIT_NAMES)
    crowds = 0
    for entry in coco.loadAnns(coco.getAnnIds()):
        mask = coco.annToMask(entry)
        left, top, width, height = entry["bbox"]
        assert mask.sum() == pytest.approx(entry["area"], rel=0.12)
        assert mask[top : top + height, left : left + width].sum() >= 0.98 * mask.sum()
        assert isinstance(entry["segmentation"], dict) == bool(entry["iscrowd"])
        crowds += entry["iscrowd"]
    assert crowds >= 1


def test_polygon_and_run_lengths_cover_the_same_pixels_as_the_mask() -> None:
    mask = np.zeros((20, 30), dtype=bool)
    mask[5:15, 8:20] = True
    (polygon,) = trace_polygons(mask)
    assert min(polygon[0::2]) == pytest.approx(8, abs=0.25)
    assert max(polygon[0::2]) == pytest.approx(20, abs=0.25)
    counts = encode_rle(mask)["counts"]
    flat = np.repeat(np.arange(len(counts)) % 2, counts)
    assert np.array_equal(flat.reshape(mask.shape, order="F"), mask)
    assert encode_rle(np.ones((2, 2), dtype=bool))["counts"] == [0, 4]
    assert describe_coco(PaintedDigit(3, mask, truncated=False, difficult=False))["bbox"] == [8, 5, 12, 10]


def test_scene_has_a_digit_to_find_and_a_truncated_one_touches_the_border() -> None:
    pool = load_pools(0)["train"]
    truncated = 0
    for seed in range(60):
        image, digits = paint_scene(pool, np.random.default_rng(seed), SceneStyle(truncated_share=0.5))
        assert any(not digit.difficult and not digit.crowd for digit in digits)
        for digit in digits:
            left, top, right, bottom = digit.box
            at_border = left == 0 or top == 0 or right == image.shape[1] or bottom == image.shape[0]
            truncated += digit.truncated
            assert at_border or not digit.truncated
    assert truncated > 10


def test_a_complete_set_is_kept_and_different_options_are_refused(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(data), *SMALL]) == 0
    assert "already contains" in capsys.readouterr().out
    assert run_command(main, "", [str(data), "seed=5"]) == 2
    assert "different options" in capsys.readouterr().err


def test_an_interrupted_set_is_made_again(data: Path, tmp_path: Path) -> None:
    (tmp_path / "coco").mkdir(parents=True)
    (tmp_path / "coco" / "leftover").touch()
    (tmp_path / ".partial-digits" / "coco").mkdir(parents=True)
    main([str(tmp_path), *SMALL])
    assert digests(tmp_path) == digests(data)


@pytest.mark.parametrize("override", ["imagenet_train=-1", "imagenet_px=20", "scene_max_px=300", "scene_min_px=161"])
def test_impossible_sizes_are_refused_by_name(
    override: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(main, "", [str(tmp_path), override]) == 2
    assert override in capsys.readouterr().err
    assert not (tmp_path / "digits.json").exists()


def test_note_records_the_options(data: Path) -> None:
    assert json.loads((data / "digits.json").read_text())["coco_train"] == 60


def test_small_scenes_of_many_crowds_can_be_painted(tmp_path: Path) -> None:
    sizes = ["scene_min_px=48", "scene_max_px=52", "scene_max_digits=2", "digit_min_px=12", "digit_max_px=30"]
    counts = ["imagenet_train=10", "imagenet_val=10", "voc2007_trainval=2", "voc2007_test=2", "voc2012_trainval=2"]
    assert main([str(tmp_path), *sizes, *counts, "coco_train=150", "coco_val=2"]) == 0

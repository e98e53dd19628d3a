from pathlib import Path

import pytest
import yaml

from transfer.detection.config import PIXEL_FORMATS, flatten_config, get_key, read_detector_config
from transfer.detection.protocols import (
    CONFIG_FOLDER,
    FULL_SIZE,
    LOW_LABEL,
    PROTOCOL_FILES,
    describe_rewrite,
    differ_from_full_size,
    lint,
    match_depth,
    read_protocol,
    rewrite_for_fewer,
)
from transfer.results.published import published_rows
from transfer.results.summaries import published_noise

# Reference values, from facebookresearch/moco detection/configs (C4), detectron2 configs/Base-RCNN-{C4,FPN}.yaml and
# HobbitLong/PyContrast (FPN with heads of InfoMin).
IN_FORCE = {
    "MODEL.META_ARCHITECTURE": "GeneralizedRCNN",
    "MODEL.BACKBONE.FREEZE_AT": 0,
    "MODEL.RESNETS.NORM": "SyncBN",
    "MODEL.RESNETS.DEPTH": 50,
    "MODEL.RPN.BATCH_SIZE_PER_IMAGE": 256,
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 512,
    "MODEL.ROI_HEADS.POSITIVE_FRACTION": 0.25,
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.05,
    "MODEL.ROI_HEADS.NMS_THRESH_TEST": 0.5,
    "MODEL.ROI_BOX_HEAD.POOLER_TYPE": "ROIAlignV2",
    "INPUT.MAX_SIZE_TRAIN": 1333,
    "INPUT.MAX_SIZE_TEST": 1333,
    "INPUT.MIN_SIZE_TEST": 800,
    "INPUT.RANDOM_FLIP": "horizontal",
    "DATALOADER.ASPECT_RATIO_GROUPING": True,
    "SOLVER.IMS_PER_BATCH": 16,
    "SOLVER.BASE_LR": 0.02,
    "SOLVER.WEIGHT_DECAY": 1e-4,
    "SOLVER.WEIGHT_DECAY_NORM": 0.0,
    "SOLVER.MOMENTUM": 0.9,
    "SOLVER.GAMMA": 0.1,
    "SOLVER.WARMUP_METHOD": "linear",
    "SOLVER.WARMUP_FACTOR": 0.001,
    "SOLVER.AMP.ENABLED": False,
    "TEST.DETECTIONS_PER_IMAGE": 100,
    "TEST.EVAL_PERIOD": 0,
    "TEST.PRECISE_BN.ENABLED": True,
    "TEST.PRECISE_BN.NUM_ITER": 200,
    **PIXEL_FORMATS["torchvision"],
}
C4 = {
    "MODEL.BACKBONE.NAME": "build_resnet_backbone",
    "MODEL.ANCHOR_GENERATOR.SIZES": [[32, 64, 128, 256, 512]],
    "MODEL.RPN.PRE_NMS_TOPK_TEST": 6000,
    "MODEL.RPN.POST_NMS_TOPK_TEST": 1000,
    "MODEL.ROI_HEADS.NAME": "Res5ROIHeadsExtraNorm",
    "MODEL.ROI_HEADS.IN_FEATURES": ["res4"],
    "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": 14,
}
VOC = {
    "MODEL.MASK_ON": False,
    "MODEL.ROI_HEADS.NUM_CLASSES": 20,
    "INPUT.MIN_SIZE_TRAIN": list(range(480, 801, 32)),
    "DATASETS.TRAIN": ["voc_2007_trainval", "voc_2012_trainval"],
    "DATASETS.TEST": ["voc_2007_test"],
    "SOLVER.STEPS": [18000, 22000],
    "SOLVER.MAX_ITER": 24000,
    "SOLVER.WARMUP_ITERS": 100,
}
COCO = {
    "MODEL.MASK_ON": True,
    "MODEL.ROI_HEADS.NUM_CLASSES": 80,
    "INPUT.MIN_SIZE_TRAIN": list(range(640, 801, 32)),
    "DATASETS.TRAIN": ["coco_2017_train"],
    "DATASETS.TEST": ["coco_2017_val"],
    "SOLVER.WARMUP_ITERS": 1000,
}
ONE = {"SOLVER.STEPS": [60000, 80000], "SOLVER.MAX_ITER": 90000}
TWO = {"SOLVER.STEPS": [120000, 160000], "SOLVER.MAX_ITER": 180000}
FPN = {
    "MODEL.BACKBONE.NAME": "build_resnet_fpn_backbone",
    "MODEL.FPN.NORM": "SyncBN",
    "MODEL.ANCHOR_GENERATOR.SIZES": [[32], [64], [128], [256], [512]],
    "MODEL.RPN.IN_FEATURES": ["p2", "p3", "p4", "p5", "p6"],
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN": 2000,
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": 1000,
    "MODEL.RPN.PRE_NMS_TOPK_TEST": 1000,
    "MODEL.RPN.POST_NMS_TOPK_TEST": 1000,
    "MODEL.ROI_HEADS.NAME": "StandardROIHeads",
    "MODEL.ROI_HEADS.IN_FEATURES": ["p2", "p3", "p4", "p5"],
    "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": 7,
    "MODEL.ROI_MASK_HEAD.NUM_CONV": 4,
    "MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION": 14,
}
A = {
    "MODEL.ROI_BOX_HEAD.NUM_CONV": 0,
    "MODEL.ROI_BOX_HEAD.NUM_FC": 2,
    "MODEL.ROI_BOX_HEAD.NORM": "",
    "MODEL.ROI_MASK_HEAD.NORM": "",
}
B = {
    "MODEL.ROI_BOX_HEAD.NUM_CONV": 4,
    "MODEL.ROI_BOX_HEAD.NUM_FC": 1,
    "MODEL.ROI_BOX_HEAD.NORM": "SyncBN",
    "MODEL.ROI_MASK_HEAD.NORM": "SyncBN",
}
REFERENCE = {
    "voc-c4-24k@moco": C4 | VOC,
    "coco-c4-1x@moco": C4 | COCO | ONE,
    "coco-c4-2x@moco": C4 | COCO | TWO,
    "coco-fpn-1x@moco": FPN | COCO | A | ONE,
    "coco-fpn-2x@moco": FPN | COCO | A | TWO,
    "coco-fpn-1x@infomin": FPN | COCO | B | ONE,
    "coco-fpn-2x@infomin": FPN | COCO | B | TWO,
}


@pytest.mark.parametrize("name", REFERENCE)
def test_config_text_says_every_reference_value_itself(name: str) -> None:
    cfg = read_protocol(name)
    text = yaml.safe_load((CONFIG_FOLDER / PROTOCOL_FILES[name]).read_text())
    for key, value in (IN_FORCE | REFERENCE[name]).items():
        assert get_key(cfg, key) == value, key
        node = text
        for part in key.split("."):
            assert part in node, f"{key} is not written in the file"
            node = node[part]


def test_full_size_protocols_are_those_of_the_reference_and_digits_ones_cut_them_down() -> None:
    assert set(REFERENCE) | set(FULL_SIZE) | set(LOW_LABEL) == set(PROTOCOL_FILES)
    for name in PROTOCOL_FILES:
        assert name == read_protocol(name).PROTOCOL
        assert lint(read_protocol(name)) == []
    for name in FULL_SIZE:
        keys = {entry.key for entry in differ_from_full_size(name)}
        assert "SOLVER.MAX_ITER" in keys
        assert not keys & {"MODEL.BACKBONE.FREEZE_AT", "MODEL.RESNETS.NORM", "MODEL.ROI_HEADS.NAME", "SOLVER.MOMENTUM"}


def test_supervised_pixel_format_is_within_the_protocol_and_a_mixture_is_a_sentence() -> None:
    cfg = read_detector_config(CONFIG_FOLDER / "voc_c4_24k_moco_msra.yaml")
    assert {key: get_key(cfg, key) for key in PIXEL_FORMATS["msra"]} == PIXEL_FORMATS["msra"]
    assert lint(cfg) == []
    cfg.MODEL.RESNETS.STRIDE_IN_1X1 = False
    with pytest.raises(ValueError, match="Set these four keys together"):
        lint(cfg)


def test_lint_names_each_changed_setting_and_leaves_free_ones_out() -> None:
    cfg = read_protocol("voc-c4-24k@moco")
    cfg.SOLVER.BASE_LR, cfg.MODEL.BACKBONE.FREEZE_AT = 0.01, 2
    cfg.SEED, cfg.DATASETS.ROOT, cfg.OUTPUT_DIR = 5, "somewhere", "elsewhere"
    cfg.MODEL.RESNETS.NORM = "naiveSyncBN"
    assert [(entry.key, entry.expected, entry.got) for entry in lint(cfg)] == [
        ("MODEL.BACKBONE.FREEZE_AT", 0, 2),
        ("SOLVER.BASE_LR", 0.02, 0.01),
    ]


@pytest.mark.parametrize("name", FULL_SIZE)
def test_digits_protocols_take_the_depth_of_the_weights_and_full_size_ones_keep_theirs(name: str) -> None:
    for depth, channels in ((18, 64), (34, 64), (50, 256), (101, 256)):
        cfg = match_depth(read_protocol(name), depth)
        found = cfg.MODEL.RESNETS
        assert (depth, channels) == (found.DEPTH, found.RES2_OUT_CHANNELS)
        assert lint(cfg) == []
        full = match_depth(read_protocol(FULL_SIZE[name]), depth)
        assert (full.MODEL.RESNETS.DEPTH, lint(full)) == (50, [])
    other = read_protocol(FULL_SIZE[name])
    other.MODEL.RESNETS.DEPTH = 18
    assert [entry.key for entry in lint(other)] == ["MODEL.RESNETS.DEPTH"]


def test_fewer_gpus_divide_batch_and_rate_and_stretch_the_schedule() -> None:
    cfg = rewrite_for_fewer(read_protocol("voc-c4-24k@moco"), "divide", 4)
    solver = cfg.SOLVER
    assert (solver.IMS_PER_BATCH, solver.BASE_LR, solver.MAX_ITER) == (4, 0.005, 96000)
    assert (solver.STEPS, solver.WARMUP_ITERS) == ((72000, 88000), 400)
    assert {entry.key for entry in lint(cfg)} == {
        f"SOLVER.{name}" for name in ("BASE_LR", "IMS_PER_BATCH", "MAX_ITER", "STEPS", "WARMUP_ITERS")
    }
    assert describe_rewrite(read_protocol("voc-c4-24k@moco"), cfg, "divide", 4) == (
        "batch_rule=divide divisor=4: SOLVER.BASE_LR 0.02 → 0.005, SOLVER.IMS_PER_BATCH 16 → 4, SOLVER.MAX_ITER 24000 "
        "→ 96000, SOLVER.STEPS [18000, 22000] → [72000, 88000], SOLVER.WARMUP_ITERS 100 → 400"
    )
    same = rewrite_for_fewer(read_protocol("voc-c4-24k@moco"), "same", 4)
    assert lint(same) == []
    assert "no change" in describe_rewrite(read_protocol("voc-c4-24k@moco"), same, "same", 4)
    assert describe_rewrite(same, same, "same", 1) == ""
    accumulated = rewrite_for_fewer(read_protocol("voc-c4-24k@moco"), "accumulate", 4)
    assert [(entry.key, entry.got) for entry in lint(accumulated)] == [("SOLVER.ACCUMULATE", 4)]
    with pytest.raises(ValueError, match="is not divisible by it; use one of"):
        rewrite_for_fewer(read_protocol("voc-c4-24k@moco"), "divide", 3)


def test_wrong_protocol_and_wrong_keys_are_sentences(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must be one of voc-c4-24k@moco, coco-c4-1x@moco"):
        read_protocol("voc-c4@moco")
    path = CONFIG_FOLDER / PROTOCOL_FILES["voc-c4-24k@moco"]
    with pytest.raises(ValueError, match=r"unknown setting SOLVER.MAXITER; did you mean SOLVER.MAX_ITER") as found:
        read_detector_config(path, ["SOLVER.MAXITER=3", "MODEL.MASK_ON=5"])
    assert "MODEL.MASK_ON" in str(found.value)
    with pytest.raises(ValueError, match=r"RUN.COCO_ENGINE=fast: expected hotcoco or pycocotools"):
        read_detector_config(path, ["RUN.COCO_ENGINE=fast"])
    assert lint(read_detector_config(path, ["RUN.COCO_ENGINE=pycocotools"])) == []
    with pytest.raises(ValueError, match="no such config file"):
        read_detector_config(tmp_path / "none.yaml")
    (tmp_path / "based.yaml").write_text("_BASE_: other.yaml\n")
    with pytest.raises(ValueError, match="a detector config is self-contained"):
        read_detector_config(tmp_path / "based.yaml")


def test_written_config_reads_back(tmp_path: Path) -> None:
    cfg = read_protocol("coco-fpn-digits@infomin")
    (tmp_path / "config.yaml").write_text(cfg.dump())
    assert flatten_config(read_detector_config(tmp_path / "config.yaml")) == flatten_config(cfg)


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("DATASETS.TRAIN=[voc_2007_trainval, 'b']", ["voc_2007_trainval", "b"]),
        ("SOLVER.STEPS=[100, 200]", [100, 200]),
        ("SOLVER.STEPS=(100, 200)", [100, 200]),
        ("SOLVER.STEPS=[]", []),
        ("MODEL.CHANNELS_LAST=true", True),
        ("MODEL.CHANNELS_LAST=True", True),
        ("MODEL.CHANNELS_LAST=off", False),
        ("SOLVER.BASE_LR=1", 1.0),
        ("SOLVER.BASE_LR=1e-3", 0.001),
        ("INPUT.FORMAT=RGB", "RGB"),
    ],
)
def test_override_of_a_detector_is_read_as_yaml_or_python_write_it(override: str, value: object) -> None:
    cfg = read_detector_config(CONFIG_FOLDER / "voc_c4_24k_moco.yaml", [override])
    assert get_key(cfg, override.partition("=")[0]) == value


def test_low_label_protocols_differ_in_labels_and_length_alone() -> None:
    for name in LOW_LABEL:
        changed = {entry.key: (entry.expected, entry.got) for entry in differ_from_full_size(name)}
        assert changed.keys() == {"DATASETS.LABELLED_PERCENT", "SOLVER.MAX_ITER", "SOLVER.STEPS"}
        assert changed["SOLVER.MAX_ITER"][1] * 10 == changed["SOLVER.MAX_ITER"][0]
        assert f"-{changed['DATASETS.LABELLED_PERCENT'][1]:g}pct@" in name
        assert published_noise(name, "AP") is None
        assert not published_rows(name)

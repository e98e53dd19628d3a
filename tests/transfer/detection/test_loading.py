import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

import transfer.detection.heads  # noqa: F401  registers Res5ROIHeadsExtraNorm
from pretrain.runtime.machine import PROJECT_ROOT
from tests.making.detector_runs import CONFIGS
from tests.making.family_checkpoints import (
    MAKERS,
    caffe2_state,
    make_dino,
    make_lightly_dino,
    make_state,
    make_teacher_student,
    save,
)
from transfer.detection.config import read_detector_config, set_pixel_format
from transfer.detection.loaded_weights import check_loaded, check_manifest, fresh_names, kind_of
from transfer.detection.protocols import lint
from transfer.weights.backbone import read_backbone
from transfer.weights.convert import check_converted, convert
from transfer.weights.manifest import Manifest, pixel_format_of, read_manifest

# isort: split
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import get_cfg
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage

pytestmark = pytest.mark.filterwarnings("ignore:torch.meshgrid:UserWarning")  # v0.6 calls it without indexing=

GOLDEN = json.loads((PROJECT_ROOT / "tests" / "golden" / "fresh_tensors.json").read_text())
TOTALS = {"voc-c4": 333, "coco-c4": 337, "coco-fpn@moco": 392, "coco-fpn@infomin": 430}
FRESH = {"voc-c4": 15, "coco-c4": 19, "coco-fpn@moco": 74, "coco-fpn@infomin": 112}


def make_config(kind: str, depth: int = 50) -> Any:
    """Return the protocol's architecture as in MoCo's and InfoMin's configs, with BN for one process."""
    cfg = get_cfg()
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.WEIGHTS = ""
    cfg.MODEL.RESNETS.DEPTH = depth
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64 if depth < 50 else 256
    cfg.MODEL.RESNETS.NORM = "BN"
    cfg.MODEL.RESNETS.STRIDE_IN_1X1 = False
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    cfg.INPUT.FORMAT = "RGB"
    cfg.MODEL.PIXEL_MEAN = [123.675, 116.28, 103.53]
    cfg.MODEL.PIXEL_STD = [58.395, 57.12, 57.375]
    cfg.MODEL.MASK_ON = kind != "voc-c4"
    cfg.MODEL.ROI_HEADS.NAME = "Res5ROIHeadsExtraNorm"
    if "fpn" in kind:
        cfg.MODEL.BACKBONE.NAME = "build_resnet_fpn_backbone"
        cfg.MODEL.RESNETS.OUT_FEATURES = cfg.MODEL.FPN.IN_FEATURES = ["res2", "res3", "res4", "res5"]
        cfg.MODEL.FPN.NORM = "BN"
        cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[32], [64], [128], [256], [512]]
        cfg.MODEL.RPN.IN_FEATURES = ["p2", "p3", "p4", "p5", "p6"]
        cfg.MODEL.ROI_HEADS.NAME = "StandardROIHeads"
        cfg.MODEL.ROI_HEADS.IN_FEATURES = ["p2", "p3", "p4", "p5"]
        cfg.MODEL.ROI_BOX_HEAD.NAME = "FastRCNNConvFCHead"
        cfg.MODEL.ROI_BOX_HEAD.NUM_FC = 2
        cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION = 7
        cfg.MODEL.ROI_MASK_HEAD.NUM_CONV = 4
    else:
        cfg.MODEL.ROI_MASK_HEAD.NUM_CONV = 0
    if kind == "coco-fpn@infomin":
        cfg.MODEL.ROI_BOX_HEAD.NUM_CONV, cfg.MODEL.ROI_BOX_HEAD.NUM_FC = 4, 1
        cfg.MODEL.ROI_BOX_HEAD.NORM = cfg.MODEL.ROI_MASK_HEAD.NORM = "BN"
    return cfg


def load(model: torch.nn.Module, weights: Path) -> None:
    DetectionCheckpointer(model).load(str(weights))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    path = save(folder, MAKERS["moco"](make_state(50), make_state(50, seed=1)))
    convert(path, folder / "backbone.pkl")
    return folder / "backbone.pkl"


@pytest.mark.parametrize("kind", FRESH)
def test_the_names_that_may_be_fresh_are_the_frozen_ones(kind: str) -> None:
    assert sorted(GOLDEN[kind]) == list(fresh_names(kind))
    assert len(GOLDEN[kind]) == FRESH[kind]


def test_protocol_names_lead_to_their_kind() -> None:
    names = ["voc-c4-24k@moco", "coco-c4-2x@moco", "coco-fpn-1x@moco", "coco-fpn-2x@infomin", "voc-c4-digits@moco"]
    assert [kind_of(name) for name in names] == [*FRESH, "voc-c4"]
    for name in ("voc-fpn-1x@moco", "coco-fpn-1x", "imagenet-linear"):
        with pytest.raises(ValueError, match="expected a name of one of the kinds voc-c4, coco-c4"):
            kind_of(name)


def test_manifest_that_contradicts_the_config_is_refused_with_both_values(weights: Path) -> None:
    cfg, manifest = make_config("voc-c4"), read_manifest(weights)
    check_manifest(manifest, cfg)
    cfg.INPUT.FORMAT = "BGR"
    cfg.MODEL.PIXEL_MEAN = [103.53, 116.28, 123.675]
    cfg.MODEL.PIXEL_STD = [1.0, 1.0, 1.0]
    cfg.MODEL.RESNETS.STRIDE_IN_1X1 = True
    cfg.MODEL.RESNETS.DEPTH = 101
    with pytest.raises(ValueError) as caught:
        check_manifest(manifest, cfg)
    for line in (
        "INPUT.FORMAT: the config has BGR, the weights need RGB",
        "MODEL.PIXEL_MEAN: the config has [103.53, 116.28, 123.675], the weights need [123.675, 116.28, 103.53]",
        "MODEL.PIXEL_STD: the config has [1.0, 1.0, 1.0], the weights need [58.395, 57.12, 57.375]",
        "MODEL.RESNETS.STRIDE_IN_1X1: the config has True, the weights need False",
        "MODEL.RESNETS.DEPTH: the config has 101, the weights need 50",
    ):
        assert line in str(caught.value)


def make_batch(masks: bool) -> list[dict[str, Any]]:
    instances = Instances((96, 96), gt_boxes=Boxes(torch.tensor([[10.0, 10, 60, 60], [40, 30, 90, 80]])))
    instances.gt_classes = torch.tensor([1, 2])
    if masks:
        bits = torch.zeros(2, 96, 96, dtype=torch.bool)
        bits[0, 10:60, 10:60] = bits[1, 30:80, 40:90] = True
        instances.gt_masks = BitMasks(bits)
    image = torch.randint(0, 256, (3, 96, 96), generator=torch.Generator().manual_seed(0)).float()
    return [{"image": image, "instances": instances, "height": 96, "width": 96}]


@pytest.mark.slow
@pytest.mark.parametrize("kind", FRESH)
def test_stock_detectron2_loads_318_of_318_and_trains_one_step(kind: str, weights: Path, tmp_path: Path) -> None:
    cfg = make_config(kind)
    cfg.INPUT.MASK_FORMAT = "bitmask"
    model = build_model(cfg)
    assert len(model.state_dict()) == TOTALS[kind]
    with pytest.raises(ValueError, match="318 tensors are wrong"):
        check_loaded(model, weights, kind)  # nothing is equal before loading
    load(model, weights)
    report = check_loaded(model, weights, kind)
    assert (report.equal, report.fresh) == (318, FRESH[kind])
    assert str(report) == f"318 tensors equal the file; {FRESH[kind]} are newly initialised, exactly those of {kind}"

    other = tmp_path / "full.pth"
    convert(weights, other, layout="fpn" if "fpn" in kind else "c4")
    named = build_model(cfg)
    load(named, other)
    assert check_loaded(named, other, kind).equal == 318

    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    with EventStorage():
        losses = model(make_batch(cfg.MODEL.MASK_ON))
    sum(losses.values()).backward()
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert all(parameter.grad is not None for parameter in model.parameters())
    optimizer.step()
    with pytest.raises(ValueError, match="differs from the file"):
        check_loaded(model, weights, kind)


@pytest.mark.slow
@pytest.mark.parametrize(("depth", "tensors"), [(18, 120), (34, 216)])
@pytest.mark.parametrize("kind", FRESH)
def test_detectors_of_basic_blocks_load_every_tensor_leave_the_same_ones_fresh_and_train_all(
    kind: str, depth: int, tensors: int, tmp_path: Path
) -> None:
    convert(save(tmp_path, make_state(depth)), tmp_path / "backbone.pkl")
    cfg = make_config(kind, depth)
    cfg.INPUT.MASK_FORMAT = "bitmask"
    model = build_model(cfg)
    load(model, tmp_path / "backbone.pkl")
    report = check_loaded(model, tmp_path / "backbone.pkl", kind)
    assert (report.equal, report.fresh) == (tensors, len(GOLDEN[kind]))
    with EventStorage():
        losses = model(make_batch(cfg.MODEL.MASK_ON))
    sum(losses.values()).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@cache
def build_detector(kind: str, pixel_format: str = "torchvision") -> tuple[torch.nn.Module, dict[str, torch.Tensor]]:
    """Return a model of the kind with few regions, and a copy of its initial weights."""
    cfg = make_config(kind)
    set_pixel_format(cfg, pixel_format)
    cfg.INPUT.MASK_FORMAT = "bitmask"
    cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE = 8
    cfg.MODEL.RPN.POST_NMS_TOPK_TRAIN = 16
    torch.manual_seed(0)
    model = build_model(cfg)
    return model, {name: tensor.clone() for name, tensor in model.state_dict().items()}


FAMILIES = {
    **{name: (make, None) for name, make in MAKERS.items()},
    "dino": (make_dino, "student"),
    "lightly (dino)": (make_lightly_dino, "student"),
    "stable-pretraining": (make_teacher_student, "student"),
    "caffe2": (lambda *_: {"blobs": caffe2_state(50)}, None),
}
"""{fixture: (function that makes its tree, branch that must be given)}."""
TRAINED = [
    *("moco", "dino", "lightly (plain PyTorch)", "mmselfsup (mmpretrain's MoCo)", "torchvision-detector"),
    *("detectron2 (RetinaNet)", "extracted (FSDP)", "caffe2"),
]
"""One family per key scheme: names, child indices, wrappers, Detectron2, Caffe2; some lack counters."""


def convert_family(name: str, depth: int, folder: Path) -> Manifest:
    make, branch = FAMILIES[name]
    path = save(folder, make(make_state(depth, seed=0), make_state(depth, seed=1)))
    manifest = convert(path, folder / "backbone.pkl", branch=branch)
    assert manifest.source["family"] == name.split(maxsplit=1)[0]
    assert manifest.matched == manifest.expected
    assert check_converted(folder / "backbone.pkl")[1]
    state = read_backbone(folder / "backbone.pkl").state
    folded = {"num_batches_tracked", "running_mean", "running_var"} if manifest.source["filled"] else set()
    kept = {key: tensor for key, tensor in make_state(depth, seed=0).items() if key.rpartition(".")[2] not in folded}
    assert all(torch.equal(tensor, state[key]) for key, tensor in kept.items())
    return manifest


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in FAMILIES if name not in TRAINED])
def test_every_familys_checkpoint_converts_and_verifies(name: str, tmp_path: Path) -> None:
    assert convert_family(name, 18, tmp_path).matched == 120


@pytest.mark.slow
@pytest.mark.xdist_group("detectors of every family")
@pytest.mark.parametrize("name", TRAINED)
def test_every_kind_of_checkpoint_trains_one_step_in_c4_and_fpn_detectors(name: str, tmp_path: Path) -> None:
    assert convert_family(name, 50, tmp_path).matched == 318
    kinds = FRESH if name == "moco" else {kind: FRESH[kind] for kind in ("voc-c4", "coco-fpn@moco")}
    for kind, fresh in kinds.items():
        model, first = build_detector(kind, "msra" if name == "caffe2" else "torchvision")
        model.load_state_dict(first)
        load(model, tmp_path / "backbone.pkl")
        report = check_loaded(model, tmp_path / "backbone.pkl", kind)
        assert (report.equal, report.fresh) == (318, fresh)
        model.train()
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
        optimizer.zero_grad()
        with EventStorage():
            losses = model(make_batch(kind != "voc-c4"))
        sum(losses.values()).backward()
        assert all(torch.isfinite(loss) for loss in losses.values())
        optimizer.step()
        assert not torch.equal(model.state_dict()[fresh_names(kind)[0]], first[fresh_names(kind)[0]])
        optimizer.zero_grad()


@pytest.mark.slow
def test_msras_manifest_fits_the_msra_config_and_no_other(tmp_path: Path) -> None:
    manifest = convert_family("caffe2", 50, tmp_path)
    check_manifest(manifest, read_detector_config(CONFIGS / "voc_c4_24k_moco_msra.yaml"))
    cfg = read_detector_config(CONFIGS / "voc_c4_24k_moco.yaml")
    with pytest.raises(ValueError, match=r"INPUT\.FORMAT: the config has RGB, the weights need BGR"):
        check_manifest(manifest, cfg)
    set_pixel_format(cfg, pixel_format_of(manifest))
    check_manifest(manifest, cfg)
    assert lint(cfg) == []


@pytest.mark.slow
def test_wrong_depth_wrong_kind_and_one_spoilt_tensor_are_refused(weights: Path, tmp_path: Path) -> None:
    cfg = make_config("voc-c4")
    model = build_model(cfg)
    load(model, weights)
    with pytest.raises(
        ValueError,
        match=r"not fully loaded into the coco-fpn@moco model, 705 tensors are wrong \(the model has 333, the file 318",
    ):
        check_loaded(model, weights, "coco-fpn@moco")
    with torch.no_grad():
        model.roi_heads.res5[2].conv3.weight[0] += 1e-3
    with pytest.raises(ValueError, match=r"1 tensors are wrong.*\n  roi_heads\.res5\.2\.conv3\.weight: differs"):
        check_loaded(model, weights, "voc-c4")
    path = save(tmp_path, make_state(34))
    convert(path, tmp_path / "r34.pkl")
    with pytest.raises(
        ValueError, match=r"shape \(64, 64, 1, 1\) in the model, \(64, 64, 3, 3\) in the file|in the model"
    ):
        check_loaded(model, tmp_path / "r34.pkl", "voc-c4")

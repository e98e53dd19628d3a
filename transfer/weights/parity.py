"""Prove that a converted file computes the same: C2 … C5 of torchvision's ResNet and of Detectron2's, side by side."""

import warnings
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

import transfer.detectron2_compat as compat
from transfer.res5_block import build_res5
from transfer.weights.backbone import build_resnet, place_strides
from transfer.weights.pixel_formats import PIXEL_FORMATS, TORCHVISION
from transfer.weights.resnet_names import STAGES

MAX_DIFFERENCE = 1e-4
"""Refused above; the same convolutions on the same numbers differ by rounding only (about 1e-6)."""

_IMAGE_PX = 64
"""Small, and still 2×2 at C5; the kernels are the same at every size."""


def measure_parity(
    source: Mapping[str, Tensor], output: Mapping[str, Tensor], depth: int, pixel_format: str = TORCHVISION
) -> dict[str, float]:
    """Return for C2 … C5 the largest |difference| over the largest |activation| of the source's.

    Both in evaluation mode on one fixed random image; for Detectron2's C4 and FPN arrangements, the worse counts.

    Args:
        source: torchvision names.
        output: Detectron2 names (stem.…, res2.… to res5.…).
        depth: of the ResNet.
        pixel_format: of the weights; says where the strides are.

    Raises:
        ValueError: a difference above `MAX_DIFFERENCE`, or not a number.

    """
    image = torch.randn(1, 3, _IMAGE_PX, _IMAGE_PX, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        ours = run_torchvision(source, depth, image, pixel_format)
        theirs = _run_all(output, depth, image, PIXEL_FORMATS[pixel_format].stride_in_1x1)
    parity = {stage: max(_difference(ours[stage], other[stage]) for other in theirs) for stage in STAGES}
    if not all(value <= MAX_DIFFERENCE for value in parity.values()):
        raise ValueError(
            f"the converted weights compute something else: relative differences {parity}, at most {MAX_DIFFERENCE} is "
            "allowed; nothing is written. Report this file: the key sets agree, the numbers do not"
        )
    return parity


def name_implementation() -> str:
    """Return who stands on Detectron2's side of the comparison."""
    if not compat.is_installed():
        return "torch (Detectron2's forward pass restated; Detectron2 is not installed)"
    try:
        return f"detectron2 {version('detectron2')}"
    except PackageNotFoundError:
        return f"detectron2 {version('pb1-detectron2')}"


def run_torchvision(
    state: Mapping[str, Tensor], depth: int, image: Tensor, pixel_format: str = TORCHVISION
) -> dict[str, Tensor]:
    """Return C2 … C5 of torchvision's ResNet; (1, 3, H, W) in, (1, D, H/4 … H/32, …) out."""
    with torch.device("meta"):  # no initialisation: every tensor is assigned, and the random state stays as it was
        model: Any = build_resnet(depth).eval()
    place_strides(model, pixel_format)
    model.load_state_dict(dict(state), strict=True, assign=True)
    x = model.maxpool(model.relu(model.bn1(model.conv1(image))))
    features = {}
    for stage, layer in zip(STAGES, (model.layer1, model.layer2, model.layer3, model.layer4), strict=True):
        x = features[stage] = layer(x)
    return features


def run_restated(state: Mapping[str, Tensor], image: Tensor, stride_in_1x1: bool = False) -> dict[str, Tensor]:
    """Return C2 … C5 by Detectron2's forward pass written out in plain torch, straight from its names.

    Source: detectron2/modeling/backbone/resnet.py (BasicStem, BasicBlock, BottleneckBlock).
    """
    x = functional.max_pool2d(
        functional.relu(_apply(state, "stem.conv1", image, stride=2)), kernel_size=3, stride=2, padding=1
    )
    features = {}
    for stage in STAGES:
        block = 0
        while f"{stage}.{block}.conv1.weight" in state:
            x = _run_block(state, f"{stage}.{block}", x, 2 if block == 0 and stage != "res2" else 1, stride_in_1x1)
            block += 1
        features[stage] = x
    return features


def _run_block(state: Mapping[str, Tensor], name: str, x: Tensor, stride: int, stride_in_1x1: bool) -> Tensor:
    """Return relu(branch + shortcut); a basic block has its stride in the first 3×3 convolution."""
    bottleneck = f"{name}.conv3.weight" in state
    first, second = (1, stride) if bottleneck and not stride_in_1x1 else (stride, 1)
    out = functional.relu(_apply(state, f"{name}.conv1", x, stride=first))
    out = _apply(state, f"{name}.conv2", out, stride=second)
    if bottleneck:
        out = _apply(state, f"{name}.conv3", functional.relu(out))
    if f"{name}.shortcut.weight" in state:
        x = _apply(state, f"{name}.shortcut", x, stride=stride)
    return functional.relu(out + x)


def _apply(state: Mapping[str, Tensor], name: str, x: Tensor, stride: int = 1) -> Tensor:
    weight = state[f"{name}.weight"]
    x = functional.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)
    mean, variance, scale, shift = (
        state[f"{name}.norm.{kind}"] for kind in ("running_mean", "running_var", "weight", "bias")
    )
    return functional.batch_norm(x, mean, variance, scale, shift, training=False, eps=1e-5)


def _run_all(state: Mapping[str, Tensor], depth: int, image: Tensor, stride_in_1x1: bool) -> list[dict[str, Tensor]]:
    if not compat.is_installed():
        return [run_restated(state, image, stride_in_1x1)]
    return run_detectron2(state, depth, image, stride_in_1x1)


def run_detectron2(
    state: Mapping[str, Tensor], depth: int, image: Tensor, stride_in_1x1: bool = False
) -> list[dict[str, Tensor]]:
    """Return C2 … C5 of Detectron2's own modules: the FPN arrangement (all five stages in one backbone), then C4's.

    C4 puts res5 behind the pooled regions, as a block of its own.
    """
    compat.prepare()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # v0.6 scripts functions at import
        from detectron2.config import get_cfg  # heavy, and Detectron2 may be missing
        from detectron2.layers import ShapeSpec
        from detectron2.modeling.backbone import build_resnet_backbone

    cfg = get_cfg()
    cfg.MODEL.RESNETS.merge_from_list(
        ["DEPTH", depth, "NORM", "BN", "STRIDE_IN_1X1", stride_in_1x1, "RES2_OUT_CHANNELS", 256 if depth >= 50 else 64]
    )
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    cfg.MODEL.RESNETS.OUT_FEATURES = list(STAGES)
    with torch.device("meta"):  # as above
        fpn = build_resnet_backbone(cfg, ShapeSpec(channels=3))
        cfg.MODEL.RESNETS.OUT_FEATURES = list(STAGES[:3])
        c4 = build_resnet_backbone(cfg, ShapeSpec(channels=3))
        res5, _ = build_res5(cfg)
    _load(fpn, state)
    _load(c4, {name: tensor for name, tensor in state.items() if not name.startswith("res5.")})
    _load(res5, {name.removeprefix("res5."): state[name] for name in state if name.startswith("res5.")})
    features = c4(image)
    return [fpn(image), {**features, "res5": res5(features["res4"])}]


def _load(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    module.load_state_dict(dict(state), strict=True, assign=True)
    module.eval()


def _difference(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).abs().max() / ours.abs().max().clamp_min(1e-12))

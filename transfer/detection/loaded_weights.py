"""Verify that a detector loaded exactly its backbone from the weights file and initialised all other parameters itself.

Detectron2 only warns about names and shapes that do not match; the run then trains from random layers and loses 5 to 30
points of AP without an error. `check_loaded` raises instead.
"""

import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from transfer.weights.backbone import read_backbone
from transfer.weights.convert import to_detectron2
from transfer.weights.manifest import Manifest
from transfer.weights.resnet_names import summarise_mistakes

logger = logging.getLogger(__name__)

PROTOCOL_KINDS = ("voc-c4", "coco-c4", "coco-fpn@moco", "coco-fpn@infomin")
"""C4 with the extra norm (boxes; boxes and masks), MoCo's FPN (family A) and InfoMin's FPN (family B)."""

_AFFINE = ("weight", "bias")
_NORM = ("weight", "norm.weight", "norm.bias", "norm.running_mean", "norm.running_var", "norm.num_batches_tracked")
_Layers = dict[str, tuple[str, ...]]
_RPN: _Layers = {
    f"proposal_generator.rpn_head.{name}": _AFFINE for name in ("conv", "objectness_logits", "anchor_deltas")
}
_BOX: _Layers = {f"roi_heads.box_predictor.{name}": _AFFINE for name in ("cls_score", "bbox_pred")}
_MASK: _Layers = {f"roi_heads.mask_head.{name}": _AFFINE for name in ("deconv", "predictor")}
_EXTRA_NORM: _Layers = {"roi_heads.res5": tuple(name for name in _NORM if name != "weight")}
_FPN: _Layers = {f"backbone.fpn_{kind}{level}": _NORM for kind in ("lateral", "output") for level in (2, 3, 4, 5)}
_LAYERS: dict[str, _Layers] = {
    "voc-c4": {**_RPN, **_BOX, **_EXTRA_NORM},
    "coco-c4": {**_RPN, **_BOX, **_EXTRA_NORM, **_MASK},
    "coco-fpn@moco": {
        **(_FPN | _RPN | _BOX | _MASK),
        **{f"roi_heads.box_head.fc{number}": _AFFINE for number in (1, 2)},
        **{f"roi_heads.mask_head.mask_fcn{number}": _AFFINE for number in (1, 2, 3, 4)},
    },
    "coco-fpn@infomin": {
        **(_FPN | _RPN | _BOX | _MASK),
        **{f"roi_heads.box_head.conv{number}": _NORM for number in (1, 2, 3, 4)},
        "roi_heads.box_head.fc1": _AFFINE,
        **{f"roi_heads.mask_head.mask_fcn{number}": _NORM for number in (1, 2, 3, 4)},
    },
}


@dataclass(frozen=True, kw_only=True)
class LoadReport:
    """Result of `check_loaded`."""

    equal: int
    """Number of model tensors bit-identical to the file's: 318 for ResNet-50."""
    fresh: int
    """Number of newly initialised tensors: 15, 19, 74 or 112 for the four kinds."""
    kind: str

    def __str__(self) -> str:
        return f"{self.equal} tensors equal the file; {self.fresh} are newly initialised, exactly those of {self.kind}"


def kind_of(protocol: str) -> str:
    """Return the kind of a protocol ("coco-c4-2x@moco" → "coco-c4"); a kind is returned unchanged.

    Raises:
        ValueError: the name belongs to no kind.

    """
    match = re.fullmatch(r"(voc|coco)-(c4|fpn)(-[\w.-]+)?(@\w+)?", protocol)
    if match:
        kind = f"{match[1]}-{match[2]}" + ((match[4] or "") if match[2] == "fpn" else "")
        if kind in PROTOCOL_KINDS:
            return kind
    raise ValueError(f"protocol {protocol}: expected a name of one of the kinds {', '.join(PROTOCOL_KINDS)}")


def fresh_names(kind: str, masks: bool | None = None) -> tuple[str, ...]:
    """Return the sorted names of the tensors that the detector initialises itself and no backbone file contains.

    `masks` says whether the detector has a mask head; None: as in its kind.
    """
    if masks is not None and kind.endswith("-c4"):
        kind = "coco-c4" if masks else "voc-c4"
    layers = _LAYERS[kind]
    if masks is False:
        layers = {layer: tensors for layer, tensors in layers.items() if ".mask_head." not in layer}
    return tuple(sorted(f"{layer}.{tensor}" for layer, tensors in layers.items() for tensor in tensors))


def check_loaded(
    model: nn.Module, weights_path: str | Path, protocol_kind: str, *, masks: bool | None = None
) -> LoadReport:
    """Compare a detector with the backbone file that it loaded; log and return the counts.

    Args:
        model: Detectron2's GeneralizedRCNN (or its DistributedDataParallel), before the first step.
        weights_path: the converted file.
        protocol_kind: one of `PROTOCOL_KINDS`, or a protocol's full name.
        masks: whether the detector has a mask head; None: as in its kind.

    Raises:
        ValueError: a tensor is missing, differs from the file's, or is in neither the file nor `fresh_names`.

    """
    kind = kind_of(protocol_kind)
    backbone = read_backbone(weights_path)
    file = to_detectron2(backbone.state, backbone.depth, layout="fpn" if "fpn" in kind else "c4")
    state: dict[str, Tensor] = getattr(model, "module", model).state_dict()
    fresh = set(fresh_names(kind, masks))
    mistakes = list(_find_mistakes(state, file, fresh))
    if mistakes:
        raise ValueError(
            f"{weights_path}: not fully loaded into the {kind} model, {len(mistakes)} tensors are wrong (the model has "
            f"{len(state)}, the file {len(file)}, {len(fresh)} should be newly initialised):\n"
            f"{summarise_mistakes(mistakes)}\nConvert the checkpoint with tools.convert_checkpoint, and check depth "
            "and protocol of the config"
        )
    report = LoadReport(equal=len(file), fresh=len(fresh), kind=kind)
    logger.info("%s: %s", weights_path, report)
    return report


def _find_mistakes(state: dict[str, Tensor], file: dict[str, Tensor], fresh: set[str]) -> Iterator[str]:
    for name in sorted(file.keys() - state.keys()):
        yield f"in the file, but not in the model: {name}"
    for name in sorted(fresh - state.keys()):
        yield f"expected as newly initialised, but not in the model: {name}"
    for name in sorted(state.keys() - file.keys() - fresh):
        yield f"in the model, but neither in the file nor expected as newly initialised: {name}"
    for name in sorted(state.keys() & file.keys()):
        ours, theirs = state[name].detach().cpu(), file[name]
        if ours.shape != theirs.shape:
            yield f"{name}: shape {tuple(ours.shape)} in the model, {tuple(theirs.shape)} in the file"
        elif not torch.equal(ours, theirs):
            yield f"{name}: differs from the file (it was not loaded)"


def check_manifest(manifest: Manifest, cfg: Any) -> None:
    """Check that pixel format and depth of a Detectron2 config match the weights; the error lists both values per key.

    Args:
        manifest: of the converted file.
        cfg: Detectron2's CfgNode.

    Raises:
        ValueError: INPUT.FORMAT, MODEL.PIXEL_MEAN, PIXEL_STD, RESNETS.STRIDE_IN_1X1 or RESNETS.DEPTH differs.

    """
    pairs = {
        "INPUT.FORMAT": (cfg.INPUT.FORMAT, manifest.pixel_format),
        "MODEL.PIXEL_MEAN": (list(cfg.MODEL.PIXEL_MEAN), list(manifest.pixel_mean)),
        "MODEL.PIXEL_STD": (list(cfg.MODEL.PIXEL_STD), list(manifest.pixel_std)),
        "MODEL.RESNETS.STRIDE_IN_1X1": (cfg.MODEL.RESNETS.STRIDE_IN_1X1, manifest.stride_in_1x1),
        "MODEL.RESNETS.DEPTH": (cfg.MODEL.RESNETS.DEPTH, manifest.depth),
    }
    wrong = [
        f"{key}: the config has {ours}, the weights need {theirs}"
        for key, (ours, theirs) in pairs.items()
        if not _agree(ours, theirs)
    ]
    if wrong:
        raise ValueError(
            "the config contradicts the manifest of the weights:\n" + summarise_mistakes(wrong) + "\nPass "
            "pixel_format=manifest to take the pixel format from the manifest; for another depth, change the config"
        )


def _agree(ours: Any, theirs: Any) -> bool:
    if isinstance(ours, list):
        return len(ours) == len(theirs) and all(abs(a - b) < 1e-3 for a, b in zip(ours, theirs, strict=True))
    return bool(ours == theirs)

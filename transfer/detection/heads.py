"""Res5ROIHeadsExtraNorm: the C4 head with a batch norm after res5, as in MoCo's transfer protocol.

Self-supervised res5 features have no fixed scale, so the protocol normalises them once more; source:
facebookresearch/moco, detection/train_net.py. Box and mask branches share the norm, which is newly initialised.
Detectron2's head always builds three bottlenecks; here res5 has the blocks of the backbone's depth.
"""

from typing import Any

from detectron2.config import configurable
from detectron2.layers import get_norm
from detectron2.modeling import ROI_HEADS_REGISTRY
from detectron2.modeling.roi_heads import Res5ROIHeads
from torch import nn

from transfer.res5_block import build_res5


@ROI_HEADS_REGISTRY.register()
class Res5ROIHeadsExtraNorm(Res5ROIHeads):
    """Res5ROIHeads with a norm of type MODEL.RESNETS.NORM after res5, without a ReLU."""

    @configurable  # type: ignore[untyped-decorator]
    def __init__(self, *, extra_norm: str, **parts: Any) -> None:
        super().__init__(**parts)
        channels = self.res5[-1].out_channels  # 2048 for ResNet-50, 512 for ResNet-18
        self.res5.add_module("norm", get_norm(extra_norm, channels))

    @classmethod
    def from_config(cls, cfg: Any, input_shape: Any) -> dict[str, Any]:
        """Return the arguments of `__init__` from a Detectron2 config."""
        return {**super().from_config(cfg, input_shape), "extra_norm": cfg.MODEL.RESNETS.NORM}

    @classmethod
    def _build_res5_block(cls, cfg: Any) -> tuple[nn.Sequential, int]:
        """Return (res5, its output channels): basic blocks for ResNet-18 and 34, else Detectron2's bottlenecks."""
        return build_res5(cfg)

"""res5 as a block of its own, behind the pooled regions of a C4 detector, for every depth of ResNet.

Detectron2's head always builds three bottlenecks; ResNet-18 and 34 have basic blocks.
"""

from typing import Any

from torch import nn

BASIC_BLOCKS = {18: 2, 34: 3}
"""Basic blocks of res5 in the depths that have them (He et al., arXiv 1512.03385, table 1)."""


def build_res5(cfg: Any) -> tuple[nn.Sequential, int]:
    """Return res5 of MODEL.RESNETS.DEPTH, whose first block halves height and width, and its number of channels."""
    from detectron2.modeling.backbone.resnet import BasicBlock, ResNet  # heavy, and Detectron2 may be missing
    from detectron2.modeling.roi_heads import Res5ROIHeads

    if cfg.MODEL.RESNETS.DEPTH not in BASIC_BLOCKS:
        bottlenecks: tuple[nn.Sequential, int] = Res5ROIHeads._build_res5_block(cfg)
        return bottlenecks
    blocks = BASIC_BLOCKS[cfg.MODEL.RESNETS.DEPTH]
    channels = 8 * cfg.MODEL.RESNETS.RES2_OUT_CHANNELS  # doubled three times from res2 to res5
    stage = ResNet.make_stage(
        BasicBlock,
        blocks,
        stride_per_block=[2] + [1] * (blocks - 1),
        in_channels=channels // 2,
        out_channels=channels,
        norm=cfg.MODEL.RESNETS.NORM,
    )
    return nn.Sequential(*stage), channels

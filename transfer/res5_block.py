"""Build res5 as the separate block of a C4 detector, applied to the pooled regions, for every ResNet depth.

Detectron2's head always builds three bottlenecks, but ResNet-18 and 34 have basic blocks.
"""

from typing import Any

from torch import nn

BASIC_BLOCKS = {18: 2, 34: 3}
"""Depth → number of basic blocks in res5 (He et al., arXiv 1512.03385, table 1)."""


def build_res5(cfg: Any) -> tuple[nn.Sequential, int]:
    """Return res5 for MODEL.RESNETS.DEPTH and its output channels; its first block halves height and width."""
    from detectron2.modeling.backbone.resnet import BasicBlock, ResNet  # slow import, and Detectron2 may be missing
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

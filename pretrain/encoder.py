"""Build an encoder: torchvision's ResNet whose fc is the projection head, as in MoCo."""

from functools import partial
from typing import Any

import torchvision
from torch import nn
from torch.utils.checkpoint import checkpoint

from pretrain.config import ModelConfig

ARCHITECTURES = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
HEADS = ("mlp", "mlp_bn", "linear")


def build_encoder(settings: ModelConfig) -> nn.Module:
    """Return a ResNet with `fc` replaced by the head, initialised from torch's global generator."""
    build = getattr(torchvision.models, settings.arch)
    encoder: Any = build(num_classes=settings.dim, zero_init_residual=settings.zero_init_residual)
    encoder.fc = build_head(settings.head, encoder.fc)
    if settings.sync_bn:
        encoder = nn.SyncBatchNorm.convert_sync_batchnorm(encoder)  # type: ignore[no-untyped-call]
    built: nn.Module = encoder
    return built


def build_head(kind: str, last: nn.Linear) -> nn.Module:
    """Return the projection head that ends in `last`, (D features) to (d).

    linear is MoCo-v1's; mlp is MoCo-v2's Linear-ReLU-Linear without batch norm (facebookresearch/moco,
    moco/builder.py): `fc` or `fc.0`, `fc.2` in the state dict. mlp_bn has batch norm after both layers, the last one
    without scale and shift (facebookresearch/moco-v3, moco/builder.py).
    """
    if kind == "linear":
        return last
    width = last.in_features
    if kind == "mlp":
        return nn.Sequential(nn.Linear(width, width), nn.ReLU(), last)
    norms = nn.BatchNorm1d(width), nn.BatchNorm1d(last.out_features, affine=False)
    return nn.Sequential(nn.Linear(width, width), norms[0], nn.ReLU(), last, norms[1])


def recompute_in_backward(encoder: nn.Module) -> None:
    """Apply activation checkpointing to res2 … res5: store their inputs only, recompute activations in the backward.

    Parameter names do not change. Batch norm's running statistics are updated twice per step; training does not use
    them.
    """
    for name in ("layer1", "layer2", "layer3", "layer4"):
        blocks = encoder.get_submodule(name)
        blocks.forward = partial(checkpoint, blocks.forward, use_reentrant=False)

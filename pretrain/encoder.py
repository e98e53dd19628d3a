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
    """Return a ResNet with `fc` replaced by the head; weights from torch's global generator."""
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
    moco/builder.py): `fc` or `fc.0`, `fc.2` in the state. mlp_bn has batch norm after both layers, without scale and
    shift after the last (facebookresearch/moco-v3, moco/builder.py).
    """
    if kind == "linear":
        return last
    width = last.in_features
    if kind == "mlp":
        return nn.Sequential(nn.Linear(width, width), nn.ReLU(), last)
    norms = nn.BatchNorm1d(width), nn.BatchNorm1d(last.out_features, affine=False)
    return nn.Sequential(nn.Linear(width, width), norms[0], nn.ReLU(), last, norms[1])


def recompute_in_backward(encoder: nn.Module) -> None:
    """Let the four stages keep their inputs only and compute their activations again in the backward.

    The weights' names stay. Batch norm's running statistics move twice a step, which training does not read.
    """
    for name in ("layer1", "layer2", "layer3", "layer4"):
        stage = encoder.get_submodule(name)
        stage.forward = partial(checkpoint, stage.forward, use_reentrant=False)

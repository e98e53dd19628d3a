"""Build an encoder: torchvision's ResNet whose fc is the projection head, as in MoCo."""

from functools import partial
from typing import Any

import torchvision
from torch import nn
from torch.utils.checkpoint import checkpoint

from pretrain.config import ModelConfig

ARCHITECTURES = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")


def build_encoder(settings: ModelConfig) -> nn.Module:
    """Return a ResNet with `fc` replaced by the head; weights from torch's global generator.

    The head is Linear for MoCo-v1, Linear-ReLU-Linear without batch norm for v2 (facebookresearch/moco,
    moco/builder.py): `fc` or `fc.0`, `fc.2` in the state.
    """
    encoder: Any = getattr(torchvision.models, settings.arch)(num_classes=settings.dim)
    if settings.head == "mlp":
        width = encoder.fc.weight.shape[1]
        encoder.fc = nn.Sequential(nn.Linear(width, width), nn.ReLU(), encoder.fc)
    if settings.sync_bn:
        encoder = nn.SyncBatchNorm.convert_sync_batchnorm(encoder)  # type: ignore[no-untyped-call]
    built: nn.Module = encoder
    return built


def recompute_in_backward(encoder: nn.Module) -> None:
    """Let the four stages keep their inputs only and compute their activations again in the backward.

    The weights' names stay. Batch norm's running statistics move twice a step, which training does not read.
    """
    for name in ("layer1", "layer2", "layer3", "layer4"):
        stage = encoder.get_submodule(name)
        stage.forward = partial(checkpoint, stage.forward, use_reentrant=False)

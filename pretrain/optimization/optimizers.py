"""Build the configured optimizer.

Weight decay of each optimizer, as in its source:

  sgd    added to the gradient of all parameters (facebookresearch/moco, main_moco.py)
  adamw  decoupled, w = w - lr decay w, on all parameters (facebookresearch/moco-v3, main_moco.py)
  lars   added to the gradient, not for biases and normalisation layers (facebookresearch/moco-v3, moco/optimizer.py)
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from pretrain.config import OptimizerConfig
from pretrain.optimization.lars import LARS

OPTIMIZERS = ("sgd", "adamw", "lars")
SECOND_BETA = 0.999
"""beta2 of AdamW: torch's default, which MoCo-v3 uses."""


def build_optimizer(
    weights: Iterable[Tensor], settings: OptimizerConfig, device: torch.device
) -> torch.optim.Optimizer:
    """Return the optimizer of `weights`; the training loop sets its learning rate before every step."""
    if settings.name == "lars":
        return LARS(weights, settings.lr, momentum=settings.momentum, weight_decay=settings.weight_decay)
    if settings.name == "adamw":
        betas = settings.momentum, SECOND_BETA
        return torch.optim.AdamW(weights, settings.lr, betas, weight_decay=settings.weight_decay, fused=True)
    return torch.optim.SGD(
        weights, settings.lr, settings.momentum, weight_decay=settings.weight_decay, fused=device.type == "cuda"
    )

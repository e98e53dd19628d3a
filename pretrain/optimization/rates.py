"""Compare the learning rate with the one that the optimizer's source uses at the same batch size."""

import math

from pretrain.config import OptimizerConfig, PretrainConfig
from pretrain.optimization.schedule import scale_rate

MOCO_RATE, SUPERVISED_RATE = 0.03, 0.1
"""SGD's rate at a batch of 256: facebookresearch/moco; He et al., CVPR 2016, and Goyal et al., arXiv 1706.02677."""
ADAMW_RATE = 1e-3
"""Kingma and Ba, arXiv 1412.6980, section 2, and torch's default; at any batch."""
FAR = 3.0
"""Ratio to the source's rate above which a warning is logged: at 4 times, a supervised ResNet-18 stays at chance for
200 steps (digits at batch 64 and lr 0.1)."""
FEW_EPOCHS = 20
"""Below this number of epochs, updating the rate once per epoch is too coarse."""


def source_rate(settings: OptimizerConfig, method: str, batch_size: int) -> float:
    """Return the rate that the optimizer's source uses at `batch_size`.

    SGD: the linear rule from 0.03 (supervised: 0.1) at 256; AdamW: 0.001; LARS: the larger of 0.6 x batch / 256
    (facebookresearch/moco-v3, README) and 0.075 x sqrt(batch) (arXiv 2002.05709, appendix B.1).
    """
    if settings.name == "adamw":
        return ADAMW_RATE
    if settings.name == "lars":
        return max(0.6 * batch_size / 256, 0.075 * math.sqrt(batch_size))
    return (SUPERVISED_RATE if method == "supervised" else MOCO_RATE) * batch_size / 256


def rate_excess(config: PretrainConfig) -> float:
    """Return the ratio of the run's peak learning rate to the source's rate at the same batch size."""
    batch = config.run.batch_size
    return scale_rate(config.optimizer, batch) / source_rate(config.optimizer, config.model.method, batch)


def find_doubts(config: PretrainConfig) -> list[str]:
    """Return a warning for each config value that is valid but rarely trains well; [] if `run.epochs` is 0."""
    doubts: list[str] = []
    if not config.run.epochs:
        return doubts
    settings, batch = config.optimizer, config.run.batch_size
    excess, usual = rate_excess(config), source_rate(settings, config.model.method, batch)
    if excess > FAR:
        doubts.append(
            f"optimizer.lr: the peak is {scale_rate(settings, batch):.3g}, {excess:.1f} times what the source of "
            f"{settings.name} uses at a batch of {batch} ({usual:.3g}); a short run may stay at chance. Lower it, or "
            "set optimizer.warmup_steps and watch `loss` and `embedding_std`"
        )
    if config.run.epochs < FEW_EPOCHS and settings.schedule != "step" and not settings.per_step:
        doubts.append(
            f"optimizer.per_step: is false, so the rate changes only {config.run.epochs} times in this run; set "
            "optimizer.per_step=true"
        )
    mixing, epochs = config.mixing, config.run.epochs
    if mixing.is_on and not mixing.is_on_in(mixing.warmup_epochs, epochs):
        doubts.append(
            f"mixing: warmup_epochs={mixing.warmup_epochs} and cooldown_epochs={mixing.cooldown_epochs} leave no epoch "
            f"of {epochs} with mixing; lower them, or increase run.epochs"
        )
    return doubts

"""Linear classifiers on a frozen backbone with the recipe of facebookresearch/moco, main_lincls.py.

The backbone stays in eval mode, so its batch norm statistics do not change; after every epoch each of its tensors is
compared with the loaded file. Several learning rates can be tried in one run: each rate has its own head and all heads
train on the same features, at little more than the cost of one.

The learning rate of 30 is intended: the features are averages of rectified activations, most of them well below 1, so
the gradients of a linear head are small as well. The rate is for batch 256 and scales linearly with the batch under
lr_rule=linear. Shapes: B images, D features, C classes, L learning rates.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from transfer.probes.feature_table import Rows
from transfer.probes.features import FeatureConfig, check_feature_config

LR_BATCH = 256
"""Reference batch size of lr_rule=linear [MoCo; Goyal et al. 2017, arXiv 1706.02677]."""
STATISTICS_ROWS = 4096
"""Rows converted to float64 at a time: 64 MiB with 2048 features."""
AUGMENTS = ("crop_flip", "none")
LR_RULES = ("given", "linear")

_IMAGENET: dict[str, object] = {
    "augment": "crop_flip", "lr_rule": "given", "sweep": (), "momentum": 0.9, "weight_decay": 0.0, "gamma": 0.1,
    "standardise": False, "resize_px": 256, "crop_px": 224, "train_images": 0, "val_images": 0,
}  # fmt: skip
PROTOCOLS: dict[str, dict[str, object]] = {
    "linear-in1k@moco": _IMAGENET | {"epochs": 100, "batch_size": 256, "lr": 30.0, "milestones": (60, 80)},
    "linear-in100@mochi": _IMAGENET | {"epochs": 60, "batch_size": 128, "lr": 10.0, "milestones": (30, 40, 50)},
    "linear-in1k-1pct@moco": _IMAGENET | {
        "epochs": 100, "batch_size": 256, "lr": 30.0, "milestones": (60, 80), "train_images": 12_811,
    },
    "linear-in1k-10pct@moco": _IMAGENET | {
        "epochs": 100, "batch_size": 256, "lr": 30.0, "milestones": (60, 80), "train_images": 128_116,
    },
    "linear-digits": _IMAGENET | {
        "augment": "none", "standardise": True, "epochs": 100, "batch_size": 128, "lr": 0.05, "milestones": (60, 80),
        "resize_px": 54, "crop_px": 48, "train_images": 1000, "val_images": 400,
    },
}  # fmt: skip
"""Protocols by name; sources: facebookresearch/moco README (ImageNet-1K); MoCHi, appendix, as reported (ImageNet-100).

1pct and 10pct use as many labels as SimCLR's lists, 12,811 and 128,116 (google-research/simclr, imagenet_subsets):
the first images of every class by name, spread evenly over the classes, or those listed in train_list=FILE.
"""


@dataclass(frozen=True, kw_only=True)
class LinearConfig(FeatureConfig):
    """Config of one linear classification."""

    protocol: str = "linear-in1k@moco"
    augment: str = "crop_flip"
    """crop_flip (RandomResizedCrop and flip, decoded again in every epoch) or none (centre crops, features cached)."""
    standardise: bool = False
    """Scale every feature to mean 0 and deviation 1 over the training images (needs augment=none), so that one learning
    rate suits backbones with features of very different norms, including random ones."""
    epochs: int = 100
    """Passes over the training images."""
    batch_size: int = 256
    """Batch size over all ranks."""
    lr: float = 30.0
    """Learning rate of the head."""
    lr_rule: str = "given"
    """given (lr unchanged) or linear (lr x batch_size / 256)."""
    sweep: tuple[float, ...] = ()
    """Learning rates to try besides `lr`, each with its own head; the result lists all accuracies."""
    momentum: float = 0.9
    """SGD momentum."""
    weight_decay: float = 0.0
    """Weight decay of the head; MoCo uses 0."""
    milestones: tuple[int, ...] = (60, 80)
    """Epochs at which the learning rate drops."""
    gamma: float = 0.1
    """Factor of the learning rate at each milestone."""


def check_linear_config(config: LinearConfig) -> None:
    """Raise ValueError that lists every mistake in the config."""
    mistakes = check_feature_config(config)
    for key, allowed in (("augment", AUGMENTS), ("lr_rule", LR_RULES)):
        if getattr(config, key) not in allowed:
            mistakes.append(f"{key}: got {getattr(config, key)!r}; expected one of {', '.join(allowed)}")
    if config.standardise and config.augment != "none":
        mistakes.append("standardise=true needs cached features: add augment=none, or standardise=false")
    mistakes += [
        f"{key}: expected at least 1, got {getattr(config, key)}"
        for key in ("epochs", "batch_size")
        if getattr(config, key) < 1
    ]
    mistakes += [f"lr: expected rates above 0, got {rate}" for rate in (config.lr, *config.sweep) if not rate > 0]
    if mistakes:
        raise ValueError("\n".join(mistakes))


def list_rates(config: LinearConfig) -> tuple[float, ...]:
    """Return the effective learning rates, `lr` first; lr_rule=linear scales them by batch_size / 256."""
    factor = config.batch_size / LR_BATCH if config.lr_rule == "linear" else 1.0
    return tuple(factor * rate for rate in dict.fromkeys((config.lr, *config.sweep)))


def rate_factor(config: LinearConfig, epoch: int) -> float:
    """Return gamma to the power of the number of milestones reached at `epoch` (0-based)."""
    return float(config.gamma ** sum(epoch >= milestone for milestone in config.milestones))


class Heads(nn.Module):
    """One linear classifier per learning rate, identically initialised: weights N(0, 0.01²), biases 0 [MoCo]."""

    def __init__(self, width: int, classes: int, rates: Sequence[float], seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        start = torch.empty(classes, width).normal_(0, 0.01, generator=generator)
        self.rates = tuple(rates)
        self.weight = nn.ParameterList([start.clone() for _ in rates])
        self.bias = nn.ParameterList([torch.zeros(classes) for _ in rates])

    def forward(self, features: Tensor) -> list[Tensor]:
        """Return the logits (B, C) of every head."""
        return [features @ weight.T + bias for weight, bias in zip(self.weight, self.bias, strict=True)]

    def groups(self) -> list[dict[str, object]]:
        """Return one optimizer parameter group per head, with its own learning rate."""
        return [
            {"params": [weight, bias], "lr": rate}
            for weight, bias, rate in zip(self.weight, self.bias, self.rates, strict=True)
        ]

    def loss(self, features: Tensor, labels: Tensor) -> Tensor:
        """Return the sum of the heads' mean cross entropies; each head's gradient depends on its own term only."""
        losses = [cross_entropy(logits, labels) for logits in self(features)]
        return torch.stack(losses).sum()

    @torch.no_grad()
    def count_hits(self, features: Tensor, labels: Tensor) -> Tensor:
        """Return the number of correctly classified images among B for each head, (L,) int64."""
        return torch.stack([(logits.argmax(dim=1) == labels).sum() for logits in self(features)])


def build_optimizer(heads: Heads, config: LinearConfig) -> torch.optim.SGD:
    """Return an SGD optimizer of the heads' parameters."""
    return torch.optim.SGD(heads.groups(), momentum=config.momentum, weight_decay=config.weight_decay)


def set_rates(optimizer: torch.optim.Optimizer, heads: Heads, factor: float) -> None:
    """Set each head's learning rate to `factor` times its base rate."""
    for group, rate in zip(optimizer.param_groups, heads.rates, strict=True):
        group["lr"] = factor * rate


@dataclass(frozen=True)
class Standardiser:
    """Affine transform of every feature, fitted on the training images."""

    mean: Tensor  # (D,)
    scale: Tensor  # (D,)

    def __call__(self, features: Tensor) -> Tensor:
        """Return (features - mean) / deviation, shape (B, D); constant features become 0."""
        return (features - self.mean) * self.scale


def fit_standardiser(features: Rows) -> Standardiser:
    """Return the standardiser of the training features (n, D), summed in float64 slice by slice."""
    slices = [slice(begin, begin + STATISTICS_ROWS) for begin in range(0, len(features), STATISTICS_ROWS)]
    mean = torch.stack([features[rows].double().sum(dim=0) for rows in slices]).sum(dim=0) / len(features)
    squares = torch.stack([(features[rows].double() - mean).square().sum(dim=0) for rows in slices]).sum(dim=0)
    deviation = (squares / len(features)).sqrt()
    scale = torch.where(deviation > 1e-6 * deviation.max().clamp(min=1e-12), 1 / deviation, 0.0)
    return Standardiser(mean.float(), scale.float())


@dataclass(frozen=True)
class Accuracy:
    """Top-1 accuracy of every head, in percent, after an epoch (1-based)."""

    epoch: int
    top1: tuple[float, ...]


def summarise_accuracy(history: Sequence[Accuracy], rates: Sequence[float]) -> tuple[dict[str, float], dict[str, Any]]:
    """Return the metrics and details of a run; a sweep reports the learning rate with the best final accuracy.

    Returns:
        {"top1": after the last epoch, "top1_best": after the best epoch}, and details with both values and the best
        epoch for each learning rate.

    """
    last = history[-1].top1
    chosen = max(range(len(rates)), key=lambda index: last[index])
    table = []
    for index, rate in enumerate(rates):
        best = max(history, key=lambda entry: entry.top1[index])
        table.append({"lr": rate, "top1": last[index], "top1_best": best.top1[index], "best_epoch": best.epoch})
    metrics = {"top1": last[chosen], "top1_best": table[chosen]["top1_best"]}
    curve = [{"epoch": entry.epoch, "top1": entry.top1[chosen]} for entry in history]
    return metrics, {"rates": table, "lr": rates[chosen], "curve": curve}

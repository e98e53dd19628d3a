"""Train a linear classifier on a frozen backbone: the recipe of facebookresearch/moco, main_lincls.py.

The backbone is in eval mode throughout, so its batch statistics rest too, and after every epoch each of its tensors is
compared with the checkpoint's. Several learning rates may be tried at once: every rate has its own head and all heads
learn from the same features, which costs hardly more than one.

lr 30 surprises everyone. It is right: the features are averages of rectified activations, most of them well below 1,
and so are the gradients of a linear head on them; the rate belongs to batch 256 and scales linearly with the batch
(lr_rule=linear). Shapes: B images, D features, C classes, L learning rates.
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
"""The batch that a rate belongs to under lr_rule=linear [MoCo; Goyal et al. 2017, arXiv 1706.02677]."""
STATISTICS_ROWS = 4096
"""Rows taken to float64 at a time: 64 MiB of 2048 features."""
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
"""The recipes by name: facebookresearch/moco README (ImageNet-1K); MoCHi, appendix, as reported (ImageNet-100).

1pct and 10pct: as many labels as SimCLR's lists have, 12,811 and 128,116 (google-research/simclr, imagenet_subsets);
the images are the first of every class by name, classes evenly, or those of train_list=FILE, as SimCLR's own lists.
"""


@dataclass(frozen=True, kw_only=True)
class LinearConfig(FeatureConfig):
    """One linear classification."""

    protocol: str = "linear-in1k@moco"
    augment: str = "crop_flip"
    """crop_flip (RandomResizedCrop and flip, decoded anew every epoch) or none (centre crops, features cached)."""
    standardise: bool = False
    """Bring every feature to mean 0 and deviation 1 over the training images first (needs augment=none): then one
    learning rate suits backbones whose features have very different lengths, a random one among them."""
    epochs: int = 100
    """Passes over the training images."""
    batch_size: int = 256
    """Global batch: over all ranks."""
    lr: float = 30.0
    """Learning rate of the head."""
    lr_rule: str = "given"
    """given (lr as it stands) or linear (lr x batch_size / 256)."""
    sweep: tuple[float, ...] = ()
    """Rates to try beside `lr`, each with a head of its own; all accuracies are in the result."""
    momentum: float = 0.9
    """SGD momentum."""
    weight_decay: float = 0.0
    """Of the head; MoCo's is 0."""
    milestones: tuple[int, ...] = (60, 80)
    """Epochs at which the rate drops."""
    gamma: float = 0.1
    """Factor of a drop."""


def check_linear_config(config: LinearConfig) -> None:
    """Raise ValueError with every mistake in the settings."""
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
    """Return the learning rates in force, `lr` first: scaled by batch_size / 256 under lr_rule=linear."""
    factor = config.batch_size / LR_BATCH if config.lr_rule == "linear" else 1.0
    return tuple(factor * rate for rate in dict.fromkeys((config.lr, *config.sweep)))


def rate_factor(config: LinearConfig, epoch: int) -> float:
    """Return gamma to the number of milestones that `epoch` (0-based) has reached."""
    return float(config.gamma ** sum(epoch >= milestone for milestone in config.milestones))


class Heads(nn.Module):
    """One linear classifier per learning rate, all from the same start: weights N(0, 0.01²), biases 0 [MoCo]."""

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
        """Return one optimizer group per head, each with its own rate."""
        return [
            {"params": [weight, bias], "lr": rate}
            for weight, bias, rate in zip(self.weight, self.bias, self.rates, strict=True)
        ]

    def loss(self, features: Tensor, labels: Tensor) -> Tensor:
        """Return the sum of the heads' mean cross entropies: each head's gradient is that of its own alone."""
        losses = [cross_entropy(logits, labels) for logits in self(features)]
        return torch.stack(losses).sum()

    @torch.no_grad()
    def count_hits(self, features: Tensor, labels: Tensor) -> Tensor:
        """Return how many of the B images each head classifies rightly, (L,) int64."""
        return torch.stack([(logits.argmax(dim=1) == labels).sum() for logits in self(features)])


def build_optimizer(heads: Heads, config: LinearConfig) -> torch.optim.SGD:
    """Return SGD over the heads alone."""
    return torch.optim.SGD(heads.groups(), momentum=config.momentum, weight_decay=config.weight_decay)


def set_rates(optimizer: torch.optim.Optimizer, heads: Heads, factor: float) -> None:
    """Set each head's rate to `factor` times its own."""
    for group, rate in zip(optimizer.param_groups, heads.rates, strict=True):
        group["lr"] = factor * rate


@dataclass(frozen=True)
class Standardiser:
    """An affine change of every feature, found on the training images."""

    mean: Tensor  # (D,)
    scale: Tensor  # (D,)

    def __call__(self, features: Tensor) -> Tensor:
        """Return (features - mean) / deviation; features that never vary become 0."""
        return (features - self.mean) * self.scale


def fit_standardiser(features: Rows) -> Standardiser:
    """Return the standardiser of the training features (n, D); sums run in float64, slice by slice."""
    slices = [slice(begin, begin + STATISTICS_ROWS) for begin in range(0, len(features), STATISTICS_ROWS)]
    mean = torch.stack([features[rows].double().sum(dim=0) for rows in slices]).sum(dim=0) / len(features)
    squares = torch.stack([(features[rows].double() - mean).square().sum(dim=0) for rows in slices]).sum(dim=0)
    deviation = (squares / len(features)).sqrt()
    scale = torch.where(deviation > 1e-6 * deviation.max().clamp(min=1e-12), 1 / deviation, 0.0)
    return Standardiser(mean.float(), scale.float())


@dataclass(frozen=True)
class Accuracy:
    """Accuracy in percent of every head after an epoch (1-based)."""

    epoch: int
    top1: tuple[float, ...]


def summarise_accuracy(history: Sequence[Accuracy], rates: Sequence[float]) -> tuple[dict[str, float], dict[str, Any]]:
    """Return the metrics and the details of a run; a sweep reports the rate that is best at the end.

    Returns:
        {"top1": after the last epoch, "top1_best": after the best epoch}, and per rate both numbers and the epoch.

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

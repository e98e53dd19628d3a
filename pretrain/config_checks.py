"""Validate a pretraining config before the run starts; all mistakes are reported at once."""

import math
from dataclasses import fields
from itertools import pairwise
from typing import Any

from pretrain.config import MixingConfig, PretrainConfig
from pretrain.encoder import ARCHITECTURES, HEADS
from pretrain.input.view_parameters import RECIPES
from pretrain.methods import METHODS
from pretrain.optimization.optimizers import OPTIMIZERS
from pretrain.optimization.schedule import LR_RULES, SCHEDULES
from pretrain.runtime.settings import SettingsError
from pretrain.synco import TYPES

CHOICES = {
    "data.pipeline": ("auto", "cpu", "crops"),
    "data.augmentation": tuple(RECIPES),
    "model.arch": ARCHITECTURES,
    "model.method": METHODS,
    "model.head": HEADS,
    "optimizer.name": OPTIMIZERS,
    "optimizer.lr_rule": LR_RULES,
    "optimizer.schedule": SCHEDULES,
    "engine.device": ("auto", "cuda", "cpu"),
    "engine.precision": ("auto", "fast", "fp32", "bf16", "fp16"),
}
AT_LEAST = {
    "data.crop_px": 32,  # torchvision's ResNet downsamples five times
    "data.workers": 0,
    "model.dim": 1,
    "model.queue_len": 1,
    "model.bn_groups": 1,
    "mixing.n": 0,
    "mixing.s": 0,
    "mixing.s_prime": 0,
    "mixing.warmup_epochs": 0,
    "mixing.cooldown_epochs": 0,
    "mixing.hcl_beta": 0,
    "optimizer.lr_batch": 1,
    "optimizer.weight_decay": 0,
    "optimizer.warmup_steps": 0,
    "engine.max_batch_per_rank": 0,
    "engine.threads": 0,
    "run.epochs": 0,
    "run.batch_size": 2,  # batch norm needs two images
    "run.seed": 0,  # numpy's generators reject negative seeds
    "run.log_every_steps": 1,
    "run.checkpoint_minutes": 0,
    "run.checkpoint_steps": 0,
    "run.milestone_every_epochs": 0,
    "run.knn_every_epochs": 0,
    "run.analyse_every_epochs": 0,
    "run.profile_steps": 0,
}
LARGEST_SEED = 2**63 - 1


def check_config(config: PretrainConfig, world_size: int = 1) -> None:
    """Raise one SettingsError with a line for every value that is out of range or conflicts with another."""
    mistakes = [
        f"{key}: expected one of {', '.join(allowed)}; got {_get(config, key)!r}"
        for key, allowed in CHOICES.items()
        if _get(config, key) not in allowed
    ]
    mistakes += [
        f"{key}: expected {least} or more; got {_get(config, key)}"
        for key, least in AT_LEAST.items()
        if _get(config, key) < least
    ]
    mistakes += _find_infinite(config) + _find_bad_ranges(config) + _find_contradictions(config)
    if config.run.batch_size >= 2 and world_size >= 1:
        mistakes += _find_bad_batches(config, world_size)
    if mistakes:
        raise SettingsError("\n".join(mistakes))


def _find_infinite(config: PretrainConfig) -> list[str]:
    """Report NaN and infinite values, since range comparisons do not detect NaN."""
    parts = {part.name: getattr(config, part.name) for part in fields(config)}
    return [
        f"{name}.{field.name}: expected a finite number; got {value}"
        for name, part in parts.items()
        for field in fields(part)
        if isinstance(value := getattr(part, field.name), float) and not math.isfinite(value)
    ]


def _find_bad_ranges(config: PretrainConfig) -> list[str]:
    data, model, optimizer = config.data, config.model, config.optimizer
    mistakes = []
    if data.min_scale <= 0 or data.min_scale > 1:
        mistakes.append(f"data.min_scale: expected a fraction in (0, 1]; got {data.min_scale}")
    if model.momentum < 0 or model.momentum > 1:
        mistakes.append(f"model.momentum: expected a number in [0, 1]; got {model.momentum}")
    if model.temperature <= 0:
        mistakes.append(f"model.temperature: expected a number above 0; got {model.temperature}")
    if optimizer.momentum < 0 or optimizer.momentum >= 1:
        mistakes.append(f"optimizer.momentum: expected a number in [0, 1); got {optimizer.momentum}")
    if optimizer.lr <= 0:
        mistakes.append(f"optimizer.lr: expected a number above 0; got {optimizer.lr}")
    marks = optimizer.milestones
    if any(not 0 < share < 1 for share in marks) or any(a >= b for a, b in pairwise(marks)):
        mistakes.append(f"optimizer.milestones: expected increasing fractions of all epochs in (0, 1); got {marks}")
    if any(count < 0 for count in config.mixing.synco):
        mistakes.append(f"mixing.synco: expected counts of 0 or more; got {config.mixing.synco}")
    if config.run.seed > LARGEST_SEED:
        mistakes.append(f"run.seed: expected {LARGEST_SEED} or less; got {config.run.seed}")
    return mistakes


def _find_contradictions(config: PretrainConfig) -> list[str]:
    mixing, model = config.mixing, config.model
    mistakes = _find_bad_mixing(mixing)
    if model.method == "supervised" and (mixing.n or mixing.oracle or mixing.mask_same_image or mixing.hcl_beta):
        mistakes.append("mixing: supervised pretraining has no negatives; leave mixing at its defaults (mixing.n=0)")
    if model.method == "moco" and mixing.n > model.queue_len:
        mistakes.append(f"mixing.n: expected at most model.queue_len={model.queue_len}; got {mixing.n}")
    if model.bn_groups > 1 and model.method != "moco":
        mistakes.append(f"model.bn_groups: only MoCo encodes in groups; {model.method} needs model.bn_groups=1")
    if model.bn_groups > 1 and model.sync_bn:
        mistakes.append("model.bn_groups: splits batch statistics, but model.sync_bn merges them; choose one")
    if not config.run.out:
        mistakes.append("run.out: is empty; set the folder of the run, e.g. run.out=runs/first")
    if config.run.epochs and not (config.data.root or config.data.cache):
        mistakes.append("data.root: is empty; set the image folder (ROOT/train/<class>/*.JPEG), or set data.cache")
    return mistakes


def _find_bad_mixing(mixing: MixingConfig) -> list[str]:
    mistakes = []
    if mixing.n == 0 and mixing.count:
        mistakes.append(
            "mixing.n: is 0, but mixes are configured; set the number of hardest negatives to mix from, e.g. "
            "mixing.n=1024, or set the mix counts to 0"
        )
    if mixing.synco and len(mixing.synco) != len(TYPES):
        mistakes.append(f"mixing.synco: expected six counts ({', '.join(TYPES)}); got {mixing.synco}")
    if mixing.synco and (mixing.s or mixing.s_prime):
        mistakes.append("mixing.synco: replaces s and s_prime; set both to 0")
    if mixing.synco and not mixing.detach:
        mistakes.append("mixing.detach: false applies to MoCHi's mixes only; with mixing.synco set mixing.detach=true")
    return mistakes


def _find_bad_batches(config: PretrainConfig, world_size: int) -> list[str]:
    """Report mistakes in the split of the global batch over ranks, slices and batch-norm groups."""
    mistakes = []
    batch, size, groups = config.run.batch_size, config.engine.max_batch_per_rank, config.model.bn_groups
    share = batch // world_size
    if batch % world_size:
        mistakes.append(
            f"run.batch_size: {batch} cannot be split evenly over {world_size} processes; choose a multiple"
        )
    if config.model.method == "simclr" and 0 < size < share:
        mistakes.append(
            "engine.max_batch_per_rank: SimCLR takes its negatives from one forward pass, so slices would omit most of "
            "them; use more processes, or engine.gradient_checkpointing=true"
        )
    smallest = share if size <= 0 or size >= share else share % size or size
    if smallest < 2 * groups:
        mistakes.append(
            f"model.bn_groups={groups} needs at least {2 * groups} images, two for each batch statistic, in every "
            f"slice of every rank; the smallest of run.batch_size={batch} over {world_size} processes with "
            f"engine.max_batch_per_rank={size} has {smallest}"
        )
    return mistakes


def _get(config: PretrainConfig, key: str) -> Any:
    part, name = key.split(".")
    return getattr(getattr(config, part), name)

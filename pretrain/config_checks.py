"""Check a pretraining's settings before anything is started: all mistakes at once."""

from typing import Any

from pretrain.config import PretrainConfig
from pretrain.encoder import ARCHITECTURES, HEADS
from pretrain.methods import METHODS
from pretrain.optimization.optimizers import OPTIMIZERS
from pretrain.optimization.schedule import LR_RULES, SCHEDULES
from pretrain.runtime.settings import SettingsError
from pretrain.synco import TYPES

CHOICES = {
    "data.pipeline": ("auto", "cpu", "crops"),
    "data.augmentation": ("moco_v1", "moco_v2", "moco_v2_no_blur", "infomin"),
    "model.arch": ARCHITECTURES,
    "model.method": METHODS,
    "model.head": HEADS,
    "optimizer.name": OPTIMIZERS,
    "optimizer.lr_rule": LR_RULES,
    "optimizer.schedule": SCHEDULES,
    "engine.device": ("auto", "cuda", "cpu"),
    "engine.precision": ("auto", "fp32", "bf16", "fp16"),
}
AT_LEAST = {
    "data.crop_px": 32,  # torchvision's ResNet halves five times
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
    "run.epochs": 0,
    "run.batch_size": 2,  # batch norm needs two images
    "run.log_every_steps": 1,
    "run.checkpoint_steps": 0,
    "run.knn_every_epochs": 0,
    "run.analyse_every_epochs": 0,
    "run.profile_steps": 0,
}


def check_config(config: PretrainConfig, world_size: int = 1) -> None:
    """Raise one SettingsError with a line for every setting out of its range, or at odds with another."""
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
    mistakes += _find_bad_ranges(config) + _find_contradictions(config, world_size)
    if mistakes:
        raise SettingsError("\n".join(mistakes))


def _find_bad_ranges(config: PretrainConfig) -> list[str]:
    mistakes = []
    if not 0 < config.data.min_scale <= 1:
        mistakes.append(f"data.min_scale: expected a share in (0, 1]; got {config.data.min_scale}")
    if not 0 <= config.model.momentum <= 1:
        mistakes.append(f"model.momentum: expected a number in [0, 1]; got {config.model.momentum}")
    if config.model.temperature <= 0:
        mistakes.append(f"model.temperature: expected a number above 0; got {config.model.temperature}")
    if not 0 <= config.optimizer.momentum < 1:
        mistakes.append(f"optimizer.momentum: expected a number in [0, 1); got {config.optimizer.momentum}")
    if config.optimizer.lr <= 0:
        mistakes.append(f"optimizer.lr: expected a number above 0; got {config.optimizer.lr}")
    if any(not 0 < share < 1 for share in config.optimizer.milestones):
        mistakes.append(
            f"optimizer.milestones: expected shares of all epochs in (0, 1); got {config.optimizer.milestones}"
        )
    return mistakes


def _find_contradictions(config: PretrainConfig, world_size: int) -> list[str]:
    mistakes = []
    mixing, model = config.mixing, config.model
    share = config.run.batch_size // world_size
    if config.run.batch_size % world_size:
        mistakes.append(f"run.batch_size: {config.run.batch_size} cannot be split evenly over {world_size} processes")
    if mixing.n == 0 and (mixing.s or mixing.s_prime or any(mixing.synco)):
        mistakes.append(
            "mixing.n: is 0, so nothing can be mixed, but mixes are asked for; set N, the hardest negatives"
        )
    if model.method == "supervised" and (mixing.n or mixing.oracle or mixing.mask_same_image or mixing.hcl_beta):
        mistakes.append("mixing: supervised pretraining has no negatives; leave mixing at its defaults (mixing.n=0)")
    if model.method == "moco" and mixing.n > model.queue_len:
        mistakes.append(f"mixing.n: {mixing.n} hardest negatives of a queue of only {model.queue_len}")
    if mixing.synco and len(mixing.synco) != len(TYPES):
        mistakes.append(f"mixing.synco: expected six counts ({', '.join(TYPES)}); got {mixing.synco}")
    if mixing.synco and (mixing.s or mixing.s_prime):
        mistakes.append("mixing.synco: replaces s and s_prime; set both to 0")
    if model.method == "simclr" and 0 < config.engine.max_batch_per_rank < share:
        mistakes.append(
            "engine.max_batch_per_rank: SimCLR's negatives are the images of one pass, so slices would leave most of "
            "them out; use more processes, or engine.gradient_checkpointing=true"
        )
    images = config.engine.max_batch_per_rank or share
    if model.bn_groups > 1 and images < 2 * model.bn_groups:
        mistakes.append(f"model.bn_groups: {images} images make no {model.bn_groups} groups of at least two")
    if model.bn_groups > 1 and model.sync_bn:
        mistakes.append("model.bn_groups: keeps batch statistics apart, and model.sync_bn joins them; choose one")
    if not config.run.out:
        mistakes.append("run.out: say where the run's files go, e.g. run.out=runs/first")
    if config.run.epochs and not (config.data.root or config.data.cache):
        mistakes.append("data.root: say where the images are (ROOT/train/<class>/*.JPEG), or give data.cache")
    return mistakes


def _get(config: PretrainConfig, key: str) -> Any:
    part, name = key.split(".")
    return getattr(getattr(config, part), name)

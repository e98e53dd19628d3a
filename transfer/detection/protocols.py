"""Named transfer protocols, deviations of a config from its protocol, and batch rules for fewer GPUs.

A protocol is one file in configs/transfer. A config names its protocol under PROTOCOL; `lint` compares every key with
that file, so that results record all deviations. Sources: facebookresearch/moco detection/configs (@moco),
HobbitLong/PyContrast (@infomin).
"""

from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from transfer.detection.config import PIXEL_FORMATS, find_pixel_format, flatten_config, read_detector_config
from transfer.detection.data.own_data import base_of, is_own
from transfer.detection.protocol_files import CONFIG_FOLDER, PROTOCOL_FILES

FULL_SIZE = {
    "voc-c4-digits@moco": "voc-c4-24k@moco",
    "coco-c4-digits@moco": "coco-c4-1x@moco",
    "coco-fpn-digits@moco": "coco-fpn-1x@moco",
    "coco-fpn-digits@infomin": "coco-fpn-1x@infomin",
}
"""The full-size protocol of each digits protocol."""

DEPTH_KEYS = ("MODEL.RESNETS.DEPTH", "MODEL.RESNETS.RES2_OUT_CHANNELS")
"""Keys that a digits protocol takes from the weights: it applies to every ResNet; the result's config records which."""

LOW_LABEL = {
    "voc-c4-10pct@moco": "voc-c4-24k@moco",
    "coco-fpn-1pct@moco": "coco-fpn-1x@moco",
    "coco-fpn-5pct@moco": "coco-fpn-1x@moco",
    "coco-fpn-10pct@moco": "coco-fpn-1x@moco",
}
"""The full-label protocol that each low-label protocol is derived from."""

OWN_NAMES = ("BASED_ON", "PROTOCOL")
"""Keys in which a user-defined protocol always differs from its base."""

FREE_KEYS = (
    "CUDNN_BENCHMARK",
    "DATALOADER.NUM_WORKERS",
    "DATASETS.ROOT",
    "MODEL.CHANNELS_LAST",
    "MODEL.DEVICE",
    "MODEL.WEIGHTS",
    "OUTPUT_DIR",
    "RUN.",
    "SEED",
    "SOLVER.CPU_BF16",
    "SOLVER.CHECKPOINT_PERIOD",
    "TEST.EVAL_PERIOD",
    "VERSION",
    "VIS_PERIOD",
)
"""Keys that affect results only by rounding or randomness, so any value is within the protocol."""

BatchRule = Literal["same", "divide", "accumulate"]


@dataclass(frozen=True, kw_only=True)
class Deviation:
    """One config key whose value differs from the protocol's."""

    key: str
    expected: Any
    got: Any


def read_protocol(name: str) -> Any:
    """Return the config that defines protocol `name`.

    Raises:
        ValueError: unknown protocol; the message lists all of them.

    """
    if name not in PROTOCOL_FILES:
        raise ValueError(
            f"unknown protocol {name!r}; PROTOCOL in a config must be one of {', '.join(PROTOCOL_FILES)}; for your own "
            "protocol set BASED_ON to one of them"
        )
    return read_detector_config(CONFIG_FOLDER / PROTOCOL_FILES[name])


def lint(cfg: Any) -> list[Deviation]:
    """Return the deviations of `cfg` from the protocol it names, sorted by key; [] if there are none.

    SyncBN and naiveSyncBN count as equal, because they compute the same. Every known pixel format is within every
    protocol. A user-defined protocol is compared with the one that it is based on.

    Raises:
        ValueError: unknown protocol, or inconsistent pixel format keys.

    """
    expected, got = _settings(base_of(cfg)), flatten_config(cfg)
    names = OWN_NAMES if is_own(cfg) else ()
    find_pixel_format(cfg)
    return [
        Deviation(key=key, expected=expected.get(key), got=got.get(key))
        for key in sorted(expected.keys() | got.keys())
        if key not in names
        and not _is_free(key, base_of(cfg))
        and _plain(key, expected.get(key)) != _plain(key, got.get(key))
    ]


def differ_from_full_size(name: str) -> list[Deviation]:
    """Return the deviations of a digits or low-label protocol from its full-size protocol; [] for a full-size one."""
    whole = (FULL_SIZE | LOW_LABEL).get(name)
    if whole is None:
        return []
    cfg = read_protocol(name)
    cfg.PROTOCOL = whole
    return lint(cfg)


def match_depth(cfg: Any, depth: int) -> Any:
    """Return a copy of `cfg` for a backbone of that depth; full-size protocols fix the depth and stay unchanged.

    ResNet-18 and 34 have basic blocks: res2 has 64 output channels, not 256 (He et al., arXiv 1512.03385, table 1).
    """
    cfg = cfg.clone()
    if base_of(cfg) in FULL_SIZE:
        cfg.MODEL.RESNETS.DEPTH = depth
        cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64 if depth < 50 else 256
    return cfg


def rewrite_for_fewer(cfg: Any, rule: BatchRule, divisor: int) -> Any:
    """Return a copy of `cfg` for a machine `divisor` times smaller than the protocol's.

    1. same: no change; the recipe depends on the total batch, not on the number of devices (moco issue 11).
    2. divide: batch and learning rate / divisor; all steps (milestones, length, warm-up) x divisor.
    3. accumulate: `divisor` partial batches per optimizer step; batch norm statistics are those of a partial batch.

    Raises:
        ValueError: the batch size is not divisible by `divisor`, or the rule is unknown.

    """
    cfg = cfg.clone()
    if rule not in ("same", "divide", "accumulate"):
        raise ValueError(f"batch_rule: expected same, divide or accumulate, got {rule!r}")
    if divisor < 1 or cfg.SOLVER.IMS_PER_BATCH % divisor:
        raise ValueError(
            f"divisor={divisor}: the batch of {cfg.SOLVER.IMS_PER_BATCH} images is not divisible by it; use one of "
            f"{[k for k in range(1, cfg.SOLVER.IMS_PER_BATCH + 1) if cfg.SOLVER.IMS_PER_BATCH % k == 0]}"
        )
    if rule == "divide":
        cfg.SOLVER.IMS_PER_BATCH //= divisor
        cfg.SOLVER.BASE_LR /= divisor
        cfg.SOLVER.STEPS = tuple(step * divisor for step in cfg.SOLVER.STEPS)
        cfg.SOLVER.MAX_ITER *= divisor
        cfg.SOLVER.WARMUP_ITERS *= divisor
    if rule == "accumulate":
        cfg.SOLVER.ACCUMULATE = divisor
    return cfg


def describe_rewrite(before: Any, after: Any, rule: str, divisor: int) -> str:
    """Return the changes made by `rewrite_for_fewer` in one line; an empty string if divisor is 1."""
    if divisor == 1:
        return ""
    old, new = flatten_config(before), flatten_config(after)
    changed = [f"{key} {old[key]} → {new[key]}" for key in old if old[key] != new[key]]
    same = f"no change, fewer devices share the batch of {before.SOLVER.IMS_PER_BATCH} images"
    return f"batch_rule={rule} divisor={divisor}: {', '.join(changed) or same}"


def describe_deviations(deviations: list[Deviation]) -> str:
    """Return one readable line per deviation."""
    lines = [f"  {entry.key}: expected {entry.expected!r}, got {entry.got!r}" for entry in deviations]
    return "\n".join(lines)


@cache
def _settings(name: str) -> dict[str, Any]:
    return flatten_config(read_protocol(name))


def _is_free(key: str, protocol: str) -> bool:
    if protocol in FULL_SIZE and key in DEPTH_KEYS:
        return True  # set together by match_depth
    if key in PIXEL_FORMATS["torchvision"]:
        return True  # checked together by find_pixel_format
    return any(key == free or (free.endswith(".") and key.startswith(free)) for free in FREE_KEYS)


def _plain(key: str, value: Any) -> Any:
    if key.endswith(".NORM") and value in ("SyncBN", "naiveSyncBN"):
        return "SyncBN"
    return value

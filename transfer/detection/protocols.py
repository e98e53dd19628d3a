"""Named transfer protocols, what a config changes about its protocol, and the rewrite for fewer GPUs.

A protocol is one file of configs/transfer. A config names its protocol under PROTOCOL; `lint` compares every key with
that file, so a result says which settings it changed. Sources: facebookresearch/moco detection/configs (@moco),
HobbitLong/PyContrast (@infomin).
"""

from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from transfer.detection.config import INPUT_UNITS, find_input_unit, flatten_config, read_detector_config
from transfer.detection.data.own_data import base_of, is_own
from transfer.detection.protocol_files import CONFIG_FOLDER, PROTOCOL_FILES

FULL_SIZE = {
    "voc-c4-digits@moco": "voc-c4-24k@moco",
    "coco-c4-digits@moco": "coco-c4-1x@moco",
    "coco-fpn-digits@moco": "coco-fpn-1x@moco",
    "coco-fpn-digits@infomin": "coco-fpn-1x@infomin",
}
"""The protocol that each digits protocol cuts down."""

DEPTH_KEYS = ("MODEL.RESNETS.DEPTH", "MODEL.RESNETS.RES2_OUT_CHANNELS")
"""A digits protocol takes both from the weights: it holds for every ResNet, and a result's config says for which."""

LOW_LABEL = {
    "voc-c4-10pct@moco": "voc-c4-24k@moco",
    "coco-fpn-1pct@moco": "coco-fpn-1x@moco",
    "coco-fpn-5pct@moco": "coco-fpn-1x@moco",
    "coco-fpn-10pct@moco": "coco-fpn-1x@moco",
}
"""The protocol of all labels that each protocol of a share of them is made from."""

OWN_NAMES = ("BASED_ON", "PROTOCOL")
"""What an own protocol rightly says otherwise than the one that it is based on."""

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
"""Settings that change nothing that is measured, beyond rounding and chance: any value is within the protocol."""

BatchRule = Literal["same", "divide", "accumulate"]


@dataclass(frozen=True, kw_only=True)
class Deviation:
    """One setting that differs from the protocol."""

    key: str
    expected: Any
    got: Any


def read_protocol(name: str) -> Any:
    """Return the config that defines protocol `name`.

    Raises:
        ValueError: no such protocol; the text lists them all.

    """
    if name not in PROTOCOL_FILES:
        raise ValueError(
            f"no protocol is named {name!r}; PROTOCOL in a config must be one of {', '.join(PROTOCOL_FILES)}, or say "
            "BASED_ON: one of them, for a protocol of your own"
        )
    return read_detector_config(CONFIG_FOLDER / PROTOCOL_FILES[name])


def lint(cfg: Any) -> list[Deviation]:
    """Return what `cfg` changes about the protocol it names, by key; [] means that it is the protocol.

    BN of a single process, SyncBN and naiveSyncBN compute the same and count as equal; either whole input unit is
    within every protocol. A protocol of the user's own is compared with the one that it is based on.

    Raises:
        ValueError: unknown protocol, or a mixed input unit.

    """
    expected, got = _settings(base_of(cfg)), flatten_config(cfg)
    names = OWN_NAMES if is_own(cfg) else ()
    find_input_unit(cfg)
    return [
        Deviation(key=key, expected=expected.get(key), got=got.get(key))
        for key in sorted(expected.keys() | got.keys())
        if key not in names
        and not _is_free(key, cfg.PROTOCOL)
        and _plain(key, expected.get(key)) != _plain(key, got.get(key))
    ]


def differ_from_full_size(name: str) -> list[Deviation]:
    """Return what a digits or low-label protocol changes about the one that it is made from; [] for a full-size one."""
    whole = (FULL_SIZE | LOW_LABEL).get(name)
    if whole is None:
        return []
    cfg = read_protocol(name)
    cfg.PROTOCOL = whole
    return lint(cfg)


def match_depth(cfg: Any, depth: int) -> Any:
    """Return a copy of `cfg` for a backbone of that depth; unchanged under a full-size protocol, which names its own.

    ResNet-18 and 34 have basic blocks: res2 puts out 64 channels, not 256 (He et al., arXiv 1512.03385, table 1).
    """
    cfg = cfg.clone()
    if cfg.PROTOCOL in FULL_SIZE:
        cfg.MODEL.RESNETS.DEPTH = depth
        cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64 if depth < 50 else 256
    return cfg


def rewrite_for_fewer(cfg: Any, rule: BatchRule, divisor: int) -> Any:
    """Return a copy of `cfg` for a machine `divisor` times smaller than the protocol's.

    1. same: nothing changes; the same total batch on fewer devices is the same recipe (moco issue 11).
    2. divide: batch and learning rate / divisor; all steps (milestones, length, warm-up) x divisor.
    3. accumulate: the batch in `divisor` parts, one optimizer step; batch statistics are those of a part.

    Raises:
        ValueError: the batch cannot be divided so, or the rule is unknown.

    """
    cfg = cfg.clone()
    if rule not in ("same", "divide", "accumulate"):
        raise ValueError(f"batch_rule: expected same, divide or accumulate, got {rule!r}")
    if divisor < 1 or cfg.SOLVER.IMS_PER_BATCH % divisor:
        raise ValueError(
            f"divisor={divisor}: the batch of {cfg.SOLVER.IMS_PER_BATCH} images cannot be divided by it; take one of "
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
    """Return in one line what `rewrite_for_fewer` changed; an empty text for the protocol's own machine."""
    if divisor == 1:
        return ""
    old, new = flatten_config(before), flatten_config(after)
    changed = [f"{key} {old[key]} → {new[key]}" for key in old if old[key] != new[key]]
    same = f"nothing changes, fewer devices share the batch of {before.SOLVER.IMS_PER_BATCH} images"
    return f"batch_rule={rule} divisor={divisor}: {', '.join(changed) or same}"


def describe_deviations(deviations: list[Deviation]) -> str:
    """Return one line per deviation, for people."""
    lines = [f"  {entry.key}: the protocol has {entry.expected!r}, this run {entry.got!r}" for entry in deviations]
    return "\n".join(lines)


@cache
def _settings(name: str) -> dict[str, Any]:
    return flatten_config(read_protocol(name))


def _is_free(key: str, protocol: str) -> bool:
    if protocol in FULL_SIZE and key in DEPTH_KEYS:
        return True  # set together by match_depth
    if key in INPUT_UNITS["torchvision"]:
        return True  # checked as a whole by find_input_unit
    return any(key == free or (free.endswith(".") and key.startswith(free)) for free in FREE_KEYS)


def _plain(key: str, value: Any) -> Any:
    if key.endswith(".NORM") and value in ("SyncBN", "naiveSyncBN"):
        return "SyncBN"
    return value

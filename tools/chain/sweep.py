"""Sweeps: a grid over settings makes variants of backbones and protocols; what they share runs once.

grid:
  "mochi:mixing.n": [256, 1024]          # BACKBONE:key, a setting of its pretraining
  "voc:SOLVER.BASE_LR": [0.01, 0.02]     # PROTOCOL:key, a setting of its tool
"""

import itertools
import re
from dataclasses import replace
from typing import Any

from pretrain.settings import SettingsError
from tools.chain.config import ChainConfig


def expand_grid(config: ChainConfig) -> ChainConfig:
    """Return the chain with every backbone and protocol of the grid replaced by one variant per point."""
    axes = [_split_axis(axis, config) for axis in config.grid]
    backbones, protocols = dict(config.backbones), dict(config.protocols)
    for owner in dict.fromkeys(owner for owner, _ in axes):
        keys = [key for other, key in axes if other == owner]
        values = [config.grid[f"{owner}:{key}"] for key in keys]
        for table in (backbones, protocols):
            if owner in table:
                base: Any = table.pop(owner)
                for point in itertools.product(*values):
                    words = tuple(f"{key}={value}" for key, value in zip(keys, point, strict=True))
                    table[variant_name(owner, words)] = replace(base, set=(*base.set, *words))
    return replace(config, grid={}, backbones=backbones, protocols=protocols)


def variant_name(owner: str, words: tuple[str, ...]) -> str:
    """Return e.g. "mochi_n1024_s32" for ("mixing.n=1024", "mixing.s=32")."""
    parts = []
    for word in words:
        key, _, value = word.partition("=")
        parts.append(re.sub(r"[^\w.+-]", "", key.rpartition(".")[2] + value))
    return "_".join([owner, *parts])


def _split_axis(axis: str, config: ChainConfig) -> tuple[str, str]:
    owner, sign, key = axis.partition(":")
    if not sign or not key or owner not in {**config.backbones, **config.protocols}:
        known = ", ".join([*config.backbones, *config.protocols])
        raise SettingsError(f"grid: expected BACKBONE:key or PROTOCOL:key, got {axis!r}; there are: {known}")
    if not config.grid[axis]:
        raise SettingsError(f"grid: the axis {axis!r} has no values")
    return owner, key

"""Sweeps: a grid over settings makes variants of backbones and protocols; what they share runs once.

grid:
  "mochi:mixing.n": [256, 1024]          # BACKBONE:key, a setting of its pretraining
  "voc:SOLVER.BASE_LR": [0.01, 0.02]     # PROTOCOL:key, a setting of its tool
"""

import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from pretrain.runtime.settings import SettingsError
from tools.chain.plan.config import ChainConfig


@dataclass(frozen=True)
class Point:
    """One variant of a backbone or protocol."""

    owner: str
    name: str
    words: tuple[str, ...]
    values: dict[str, Any]
    """Axis → value."""


def expand_grid(config: ChainConfig) -> ChainConfig:
    """Return the chain with every backbone and protocol of the grid replaced by one variant per point."""
    backbones, protocols = dict(config.backbones), dict(config.protocols)
    points = list_points(config)
    variants: dict[str, list[str]] = {}
    for point in points:
        variants.setdefault(point.owner, []).append(point.name)
    for table in (backbones, protocols):
        for owner in dict.fromkeys(point.owner for point in points if point.owner in table):
            base: Any = table.pop(owner)
            mine = [point for point in points if point.owner == owner]
            table.update({point.name: replace(base, set=(*base.set, *point.words)) for point in mine})
    for name, protocol in protocols.items():
        chosen = tuple(variant for owner in protocol.backbones for variant in variants.get(owner, (owner,)))
        protocols[name] = replace(protocol, backbones=chosen)
    return replace(config, grid={}, backbones=backbones, protocols=protocols)


def list_points(config: ChainConfig) -> list[Point]:
    """Return every variant that the grid asks for."""
    axes = [_split_axis(axis, config) for axis in config.grid]
    points = []
    for owner in dict.fromkeys(owner for owner, _ in axes):
        keys = [key for other, key in axes if other == owner]
        for values in itertools.product(*(config.grid[f"{owner}:{key}"] for key in keys)):
            words = tuple(f"{key}={value}" for key, value in zip(keys, values, strict=True))
            named = {f"{owner}:{key}": value for key, value in zip(keys, values, strict=True)}
            points.append(Point(owner, variant_name(owner, words), words, named))
    return points


def find_values(points: Mapping[str, Mapping[str, Any]], measured: str, backbone: str) -> dict[str, Any]:
    """Return the grid's values of a measurement: those of its backbone's variant and of its protocol's.

    Args:
        points: name of a variant → axis → value.
        measured: the stage's array or, where it has none, its name: PROTOCOL-BACKBONE.
        backbone: the name of the backbone's variant.

    """
    names = (backbone, measured.removesuffix(f"-{backbone}"))
    return {axis: value for name in names for axis, value in points.get(name, {}).items()}


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

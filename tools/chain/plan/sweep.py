"""Sweeps: a grid over settings makes variants of backbones and protocols; what they share runs once.

grid:
  "mochi:mixing.n": [256, 1024]                                     # BACKBONE:key, a setting of its pretraining
  "mochi:mixing.n,s,s_prime": [[1024, 1024, 128], [512, 1024, 0]]   # several settings that change together
  "voc:SOLVER.BASE_LR": [0.01, 0.02]                                # PROTOCOL:key, a setting of its tool
An axis of a backbone with seeds applies to all its seeds.
"""

import itertools
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from pretrain.runtime.settings import SettingsError
from tools.chain.plan.axes import find_grid_mistakes, split_axis
from tools.chain.plan.config import ChainConfig
from transfer.results.seeds import method_of


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
        chosen = tuple(variant for choice in protocol.backbones for variant in _variants_of(choice, variants))
        protocols[name] = replace(protocol, backbones=chosen)
    return replace(config, grid={}, backbones=backbones, protocols=protocols)


def list_points(config: ChainConfig) -> list[Point]:
    """Return every variant that the grid asks for.

    Raises:
        SettingsError: axes that name nothing in the chain, or whose values do not fit their keys; all at once.

    """
    if mistakes := find_grid_mistakes(config.grid, [*config.backbones, *config.protocols]):
        raise SettingsError("\n".join(mistakes))
    axes = [split_axis(axis) for axis in config.grid]
    points = []
    for owner in dict.fromkeys(owner for owner, _ in axes):
        mine = [_settings_of(axis, config) for axis in config.grid if split_axis(axis)[0] == owner]
        for chosen in itertools.product(*mine):
            pairs = [pair for pairs in chosen for pair in pairs]
            words = tuple(f"{key}={_say_value(value)}" for key, value in pairs)
            points.append(Point(owner, variant_name(owner, words), words, {f"{owner}:{k}": v for k, v in pairs}))
    return points


def list_axes(config: ChainConfig) -> list[str]:
    """Return "OWNER:key" for every single setting that the grid changes, in order."""
    return [f"{owner}:{key}" for owner, keys in map(split_axis, config.grid) for key in keys]


def find_values(points: Mapping[str, Mapping[str, Any]], measured: str, backbone: str) -> dict[str, Any]:
    """Return the grid's values of a measurement: those of its backbone's variant and of its protocol's.

    Args:
        points: name of a variant → axis → value.
        measured: the stage's array or, where it has none, its name: PROTOCOL-BACKBONE.
        backbone: the name of the backbone's variant, or of one seed of it.

    """
    names = (method_of(backbone), backbone, measured.removesuffix(f"-{backbone}"))
    return {axis: value for name in names for axis, value in points.get(name, {}).items()}


def variant_name(owner: str, words: tuple[str, ...]) -> str:
    """Return e.g. "mochi_n1024_s32" for ("mixing.n=1024", "mixing.s=32"); the @SEED of an owner stays at the end."""
    parts = []
    for word in words:
        key, _, value = word.partition("=")
        parts.append(re.sub(r"[^\w.+-]", "", key.rpartition(".")[2] + value))
    name, sign, seed = owner.partition("@")
    return "_".join([name, *parts]) + sign + seed


def _variants_of(choice: str, variants: Mapping[str, list[str]]) -> list[str]:
    """Return the variants of a backbone, or of one seed of it (NAME@SEED)."""
    if choice in variants:
        return variants[choice]
    owner, sign, seed = choice.partition("@")
    return [f"{variant}{sign}{seed}" for variant in variants[owner]] if owner in variants else [choice]


def _settings_of(axis: str, config: ChainConfig) -> list[list[tuple[str, Any]]]:
    """Return the (key, value) pairs of each value of an axis."""
    _, keys = split_axis(axis)
    return [list(zip(keys, value if len(keys) > 1 else [value], strict=True)) for value in config.grid[axis]]


def _say_value(value: Any) -> str:
    """Return a value as the settings readers take it on a command line."""
    if isinstance(value, bool):
        return str(value)
    return json.dumps(value) if isinstance(value, (list, tuple, dict)) or value is None else str(value)

"""Check that a run is resumed with the config it was started with, except for fields marked as free."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pretrain.config import FREE, PretrainConfig
from pretrain.runtime.settings import SettingsError, as_dict, from_dict


def learned_keys(schema: Any = PretrainConfig, prefix: str = "") -> tuple[str, ...]:
    """Return the config keys ("model.dim") that must not change on resume: all fields that are not marked as free."""
    keys: list[str] = []
    for field in dataclasses.fields(schema):
        if dataclasses.is_dataclass(field.type):
            keys.extend(learned_keys(field.type, f"{prefix}{field.name}."))
        elif not field.metadata.get(FREE, False):
            keys.append(prefix + field.name)
    return tuple(keys)


def check_same_recipe(stored: Mapping[str, Any], config: PretrainConfig, where: Path) -> None:
    """Raise SettingsError that lists every key in which `stored` (a checkpoint's config) differs from `config`."""
    before, now = as_dict(from_dict(PretrainConfig, stored)), as_dict(config)
    differences = []
    for key in learned_keys():
        part, name = key.split(".")
        if before[part][name] != now[part][name]:
            differences.append(f"  {key}: {before[part][name]} stored, {now[part][name]} given")
    if differences:
        raise SettingsError(
            f"{where}: was written with a different config, so this run cannot resume from it:\n"
            + "\n".join(differences)
            + "\nChoose a new run.out, or set run.resume=false to start from the beginning"
        )

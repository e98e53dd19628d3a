"""Whether a stored run and the present settings are the same recipe; what may differ between two starts."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pretrain.config import PretrainConfig
from pretrain.runtime.settings import SettingsError, as_dict, from_dict

LEARNED = {
    "model": None,
    "mixing": None,
    "optimizer": None,
    "data": ("class_list", "augmentation", "crop_px", "min_scale"),
    "run": ("epochs", "batch_size", "seed"),
}
"""The settings that change what is learned; None: all of the part. Everything else may differ after a restart."""


def check_same_recipe(stored: Mapping[str, Any], config: PretrainConfig, where: Path) -> None:
    """Raise SettingsError that names every setting in which `stored` (a checkpoint's config) differs from `config`."""
    before, now = as_dict(from_dict(PretrainConfig, stored)), as_dict(config)
    differences = [
        f"  {part}.{key}: {before[part][key]} there, {now[part][key]} asked for"
        for part, keys in LEARNED.items()
        for key in keys or now[part]
        if before[part][key] != now[part][key]
    ]
    if differences:
        raise SettingsError(
            f"{where}: was made with other settings, so this run cannot continue it:\n" + "\n".join(differences) + "\n"
            "Use another run.out, or run.resume=false to begin anew"
        )

"""Find pretrainings that are identical under several names, and points of a sweep that reduce to plain MoCo-v2."""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pretrain.config import MixingConfig, PretrainConfig
from pretrain.runtime.settings import as_dict
from tools.chain.preflight import Survey


def find_same_work(survey: Survey) -> list[str]:
    """Return a sentence per group of backbones with identical training, and one for those without mixing."""
    groups: dict[str, list[str]] = {}
    for name, config in survey.pretrainings.items():
        groups.setdefault(json.dumps(effective_settings(config), sort_keys=True), []).append(name)
    lines = [
        f"the same pretraining under {len(names)} names: {', '.join(names)}; one of them is enough"
        for names in groups.values()
        if len(names) > 1
    ]
    plain = [name for name, config in survey.pretrainings.items() if "_" in name and is_plain(config)]
    if plain:
        lines.append(f"without mixing (s = s' = 0), so plain {_method_of(survey.pretrainings)}: {', '.join(plain)}")
    return lines


def is_plain(config: PretrainConfig) -> bool:
    """Return whether a config sets mixing.n but produces no synthetic negatives of any kind."""
    mixing = config.mixing
    return bool(mixing.n) and not (mixing.s or mixing.s_prime or any(mixing.synco))


def effective_settings(config: PretrainConfig) -> dict[str, Any]:
    """Return the config values that affect training: without the output folder and values that have no effect."""
    mixing = config.mixing
    if not (mixing.s or mixing.s_prime or any(mixing.synco)):
        kept = ("oracle", "mask_same_image", "hcl_beta")
        mixing = MixingConfig(**{name: getattr(mixing, name) for name in kept})
    values = as_dict(replace(config, mixing=mixing, run=replace(config.run, out="")))
    if config.run.epochs == 0:
        return {"random": values["model"]["arch"], "head": values["model"]["head"], "seed": values["run"]["seed"]}
    return values


def _method_of(pretrainings: Mapping[str, PretrainConfig]) -> str:
    models = [config.model for config in pretrainings.values() if is_plain(config)]
    names = {"SimCLR" if model.method == "simclr" else f"MoCo-v{1 + (model.head != 'linear')}" for model in models}
    return " or ".join(sorted(names))

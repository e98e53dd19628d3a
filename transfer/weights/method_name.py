"""Describe a pretraining's method from its config, for lineage, tables and model cards alike."""

from collections.abc import Mapping
from typing import Any


def describe_method(config: Mapping[str, Any] | None, family: str) -> str:
    """Return e.g. "moco with MoCHi(1024, 512, 256)" or "moco with SynCo(256, 256, 256, 64, 64, 64) of 1024".

    Args:
        config: the pretraining's config from its checkpoint or manifest; empty or None if unknown.
        family: the checkpoint's family, returned if the config is unknown.

    """
    config = config or {}
    model, mixing = _part(config, "model"), _part(config, "mixing")
    if not model:
        return family
    return f"{model.get('method', family)}{''.join(f' with {part}' for part in _list_parts(mixing))}"


def _list_parts(mixing: Mapping[str, Any]) -> list[str]:
    parts = []
    counts = mixing.get("synco") or ()
    if mixing.get("n") and counts:
        parts.append(f"SynCo({', '.join(str(count) for count in counts)}) of {mixing['n']}")
    elif mixing.get("n"):
        parts.append(f"MoCHi({mixing['n']}, {mixing.get('s', 0)}, {mixing.get('s_prime', 0)})")
    if mixing.get("hcl_beta"):
        parts.append(f"HCL({mixing['hcl_beta']})")
    if mixing.get("oracle"):
        parts.append("class oracle")
    return parts


def _part(config: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    part = config.get(key)
    return part if isinstance(part, Mapping) else {}

"""Translate the comparisons of a chain file into options of tools.write_report."""

import json
from collections.abc import Iterator

from tools.chain.plan.config import ChainConfig


def question_words(config: ChainConfig) -> tuple[str, ...]:
    """Return key=value options for the comparisons in the chain file; defaults are left out."""
    return tuple(_list_words(config))


def _list_words(config: ChainConfig) -> Iterator[str]:
    if config.compare:
        yield f"compare={json.dumps(list(config.compare), ensure_ascii=False)}"
    for key, name in (("baseline", config.baseline), ("controls.floor", config.controls.floor)):
        if name:
            yield f"{key}={json.dumps(name, ensure_ascii=False)}"
    if config.controls.ceiling:
        yield f"controls.ceiling={json.dumps(config.controls.ceiling, ensure_ascii=False)}"
    if config.delta is not None:
        yield f"delta={config.delta}"

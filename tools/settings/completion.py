"""What a shell may offer for the word that is being typed: configs, chains, stages, settings; read from files alone."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from pretrain.config import PretrainConfig
from pretrain.runtime.setting_docs import list_settings
from tools.chain.memory import recall
from tools.chain.plan.config import ChainConfig, read_chain
from tools.chain.plan.options import TAKES
from tools.chain.record.state import read_plan
from tools.chain.submit import find_chain_folder
from tools.mochi import CONFIG_AT, CONFIGS, find_config

FOLDERS = {"pretrain": ("pretrain",), "chain": ("chains",)}
"""Command → the folders of configs/ with its configs; transfer for the others."""
STAGE_COMMANDS = ("logs", "cancel")


def complete(words: Sequence[str]) -> list[str]:
    """Return the words that may stand in place of the last of `words` (those after `mochi`)."""
    if not words:
        return []
    *before, begun = words
    offered = _offer(before)
    return sorted({word for word in offered if word.startswith(begun)})


def _offer(before: Sequence[str]) -> Iterator[str]:
    if not before:
        return
    command, *rest = before
    given = [word for word in rest if "=" not in word]
    at = CONFIG_AT.get(command)
    if at is not None and len(given) == at:
        yield from _list_configs(command)
    elif command == "chain" and len(given) >= 2:
        yield from _offer_chain(given[0], given[1])
    elif command == "pretrain" and given:
        yield from (f"{entry.key}=" for entry in list_settings(PretrainConfig))


def _list_configs(command: str) -> Iterator[str]:
    for folder in FOLDERS.get(command, ("transfer",)):
        yield from (path.stem for path in (CONFIGS / folder).glob("*.yaml"))


def _offer_chain(command: str, chain: str) -> Iterator[str]:
    yield from (f"{name}=" for name in TAKES.get(command, ()))
    if command in STAGE_COMMANDS:
        yield from _list_stages(chain)
    elif command in ("plan", "submit", "resume"):
        yield from (f"{entry.key}=" for entry in list_settings(ChainConfig) if "NAME" not in entry.key)


def _list_stages(chain: str) -> Iterator[str]:
    path = Path(chain) if Path(chain).exists() else find_config(chain) or Path(chain)
    try:
        file, words = recall(path, ())
        stages = read_plan(find_chain_folder(file, read_chain(file, words)))[1]
    except (ValueError, OSError):
        return  # nothing was submitted yet: there is nothing to offer
    yield from (stage.name for stage in stages)

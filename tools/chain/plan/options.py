"""The options of `tools.chain` itself, separated from overrides of the chain file, with their types."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields

from pretrain.runtime.command_line import UsageError
from pretrain.runtime.setting_types import find_near
from pretrain.runtime.settings import read_settings
from tools.chain.plan.config import ChainConfig

WATCH_OPTIONS = ("port", "static", "host", "names")
"""Options passed on to tools.watch."""
TAKES = {
    "plan": ("sbatch", "json"),
    "submit": ("dry_run", "retry", "changed", "sbatch"),
    "resume": ("dry_run", "retry", "changed", "sbatch"),
    "status": ("watch", "json"),
    "cancel": ("stage",),
    "logs": ("stage", "follow"),
    "report": (),
    "watch": WATCH_OPTIONS,
}
"""Command → its options."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of `tools.chain`, in addition to the keys of the chain file."""

    dry_run: bool = False
    """submit: only print what would be done."""
    retry: str = ""
    """submit: run failed and cancelled stages again: true for all, or STAGE,STAGE."""
    changed: bool = False
    """submit: also start stages that differ from the last submit."""
    sbatch: bool = False
    """plan: also print the sbatch scripts."""
    watch: bool = False
    """status: refresh until the chain has ended."""
    json: bool = False
    """plan, status: print JSON, for scripts."""
    follow: bool = False
    """logs: keep printing while the stage runs."""
    stage: str = ""
    """logs, cancel: the stage."""
    port: int | None = None
    """watch: TCP port of the page; 0 for any free one."""
    static: str = ""
    """watch: write the page into this folder instead of serving it."""
    host: str = ""
    """watch: address to listen on."""
    names: tuple[str, ...] = ()
    """watch: further host names under which the page may be requested."""


NAMES = tuple(entry.name for entry in fields(Options))


def split_options(command: str, overrides: Sequence[str], stage: str = "") -> tuple[Options, list[str]]:
    """Return the command's options and the overrides of the chain file.

    Raises:
        UsageError: an argument is neither, or an option of another command.
        SettingsError: a value has the wrong type.

    """
    mine = [word for word in overrides if _key(word) in NAMES]
    others = [word for word in overrides if _key(word) not in NAMES]
    known = [entry.name for entry in fields(ChainConfig)]
    mistakes = []
    for word in mine:
        if _key(word) not in TAKES[command]:
            takes = ", ".join(f"{name}=" for name in TAKES[command]) or "no options"
            mistakes.append(f"{command} does not take {word}; it takes {takes} and the keys of the chain file")
    for word in others:
        name = _key(word).lstrip("-").replace("-", "_")
        if _key(word) not in known and (near := name if name in NAMES else _near_option(name, known)):
            mistakes.append(f"{word}: no option has this name; did you mean {near}=?")
    if mistakes:
        raise UsageError("\n".join(mistakes))
    words = [*mine, *([f"stage={stage}"] if stage else [])]
    return read_settings(Options, None, [_as_text(word) for word in words]), others


def watch_words(options: Options) -> list[str]:
    """Return the key=value words for tools.watch; the options that were not given keep the tool's defaults."""
    given = {name: getattr(options, name) for name in WATCH_OPTIONS}
    return [f"{name}={json.dumps(value)}" for name, value in given.items() if value not in (None, "", ())]


def _near_option(name: str, known: Sequence[str]) -> str:
    """Return the closest option; "" if a key of the chain file is closer."""
    near = find_near(name, [*NAMES, *known])
    return near if near in NAMES else ""


def _key(word: str) -> str:
    return word.partition("=")[0].partition(".")[0]


def _as_text(word: str) -> str:
    """Return retry=[a,b] as retry=a,b: the option is a single string."""
    key, _, value = word.partition("=")
    return f"{key}={value.strip('[]').replace(' ', '')}" if key == "retry" else word

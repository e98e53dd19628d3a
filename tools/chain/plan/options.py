"""The options of `tools.chain` itself, told apart from the chain file's settings, with their types."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

from pretrain.runtime.command_line import UsageError
from pretrain.runtime.setting_types import find_near
from pretrain.runtime.settings import read_settings
from tools.chain.plan.config import ChainConfig

TAKES = {
    "plan": ("sbatch", "json"),
    "submit": ("dry_run", "retry", "changed", "sbatch"),
    "resume": ("dry_run", "retry", "changed", "sbatch"),
    "status": ("watch", "json"),
    "cancel": ("stage",),
    "logs": ("stage", "follow"),
    "report": (),
}
"""Command → its options."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the command line may say beside the settings of the chain file."""

    dry_run: bool = False
    """submit: only say what would be done."""
    retry: str = ""
    """submit: true, or the failed stages to try again: STAGE,STAGE."""
    changed: bool = False
    """submit: start the stages that differ from those of the last submit, too."""
    sbatch: bool = False
    """plan: also print what sbatch would be given."""
    watch: bool = False
    """status: again and again, until the chain has ended."""
    json: bool = False
    """plan, status: for scripts."""
    follow: bool = False
    """logs: go on printing while the stage runs."""
    stage: str = ""
    """logs, cancel: the stage."""


NAMES = tuple(entry.name for entry in fields(Options))


def split_options(command: str, overrides: Sequence[str], stage: str = "") -> tuple[Options, list[str]]:
    """Return the command's options and the words that are settings of the chain.

    Raises:
        UsageError: a word that is neither, or an option of another command.
        SettingsError: a value that is not of the option's type.

    """
    mine = [word for word in overrides if _key(word) in NAMES]
    others = [word for word in overrides if _key(word) not in NAMES]
    known = [entry.name for entry in fields(ChainConfig)]
    mistakes = []
    for word in mine:
        if _key(word) not in TAKES[command]:
            takes = ", ".join(f"{name}=" for name in TAKES[command]) or "no options"
            mistakes.append(f"{command} does not take {word}; it takes {takes} and the settings of the chain file")
    for word in others:
        name = _key(word).lstrip("-").replace("-", "_")
        if _key(word) not in known and (near := name if name in NAMES else _near_option(name, known)):
            mistakes.append(f"{word}: no option has this name; did you mean {near}=?")
    if mistakes:
        raise UsageError("\n".join(mistakes))
    words = [*mine, *([f"stage={stage}"] if stage else [])]
    return read_settings(Options, None, [_as_text(word) for word in words]), others


def _near_option(name: str, known: Sequence[str]) -> str:
    """Return the option that was probably meant; "" when a setting of the chain is nearer."""
    near = find_near(name, [*NAMES, *known])
    return near if near in NAMES else ""


def _key(word: str) -> str:
    return word.partition("=")[0].partition(".")[0]


def _as_text(word: str) -> str:
    """Return retry=[a,b] as retry=a,b: a list of stages is one text."""
    key, _, value = word.partition("=")
    return f"{key}={value.strip('[]').replace(' ', '')}" if key == "retry" else word

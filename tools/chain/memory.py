"""Store the overrides of a submit in the chain's folder and apply them to later commands."""

import contextlib
import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

from pretrain.runtime.storage import read_json, write_json, write_text
from tools.chain.plan.config import read_chain
from tools.chain.record.state import read_plan
from tools.chain.submit import Chain, find_chain_folder, shorten

MEMORY = "overrides.json"
"""File in the chain's folder: {chain file: [key=value, …]}."""
PATHS = ("runs", "data.root")
"""Keys whose values are folders: stored as absolute paths, so that they are valid from any folder."""
PLACES = ("runs", "name")
"""Keys that determine the chain's folder."""


def recall(path: str | Path, given: Sequence[str]) -> tuple[Path, tuple[str, ...]]:
    """Return the chain file and its overrides: those of the last submit, updated by `given`.

    Args:
        path: a chain file, or the folder of a chain that was submitted.
        given: key=value options of this command.

    Raises:
        ValueError: a folder without a submitted chain, or damaged files in it.

    """
    path = Path(path)
    if path.is_dir():
        if not (path / "chain.json").is_file():
            raise ValueError(f"{path}: neither a chain file nor the folder of a submitted chain (no chain.json in it)")
        folder, path = path.absolute(), Path(str(read_plan(path)[0].get("file")))
        words = merge_words(_read(folder).get(str(path), ()), given)
        if find_chain_folder(path, read_chain(path, words)) != folder:
            words = merge_words(words, (f"runs={folder.parent}", f"name={folder.name}"))
        return path, words
    folder = _follow(find_chain_folder(path, read_chain(path, tuple(given))))
    return path, merge_words(_read(folder).get(str(path.absolute()), ()), given)


def remember(chain: Chain) -> None:
    """Store the chain's overrides and, if they moved the chain, a pointer to it beside its default folder."""
    words = [_absolute(word) for word in chain.overrides]
    kept = _read(chain.folder)
    file = str(chain.path.absolute())
    if kept.get(file, []) != words:
        write_json(chain.folder / MEMORY, {**kept, file: words})
    plain = tuple(word for word in words if word.partition("=")[0] not in PLACES)
    named = find_chain_folder(chain.path, read_chain(chain.path, plain))
    if named != chain.folder:
        pointer = _pointer(named)
        with contextlib.suppress(OSError):  # a read-only folder: later commands need the overrides again
            write_text(pointer, f"{chain.folder}\n")


def merge_words(before: Iterable[str], given: Iterable[str]) -> tuple[str, ...]:
    """Return the options `before`, updated by `given`: these replace earlier ones for the same key or keys below it."""
    given = tuple(given)
    keys = [word.partition("=")[0] for word in given]
    kept = [word for word in before if not any(f"{word.partition('=')[0]}.".startswith(f"{key}.") for key in keys)]
    last = {word.partition("=")[0]: word for word in given}
    return (*kept, *last.values())


def say_command(chain: Chain, command: str) -> str:
    """Return the command line that runs `command` on this chain."""
    return f"mochi chain {command} {shorten(chain.folder)}"


def _follow(folder: Path) -> Path:
    """Return the folder of the last submit: `folder`, or the one that its pointer names."""
    pointer = _pointer(folder)
    if (folder / "chain.json").is_file() or not pointer.is_file():
        return folder
    return Path(pointer.read_text().strip())


def _pointer(folder: Path) -> Path:
    digest = hashlib.sha256(folder.name.encode()).hexdigest()[:12]
    return folder.parent / f".submitted-{digest}"


def _read(folder: Path) -> dict[str, list[str]]:
    if not (folder / MEMORY).is_file():
        return {}
    values = read_json(folder / MEMORY)
    if not isinstance(values, dict):
        raise ValueError(  # noqa: TRY004 (a damaged file, not a caller's mistake)
            f"{folder / MEMORY}: expected a list of key=value per chain file; delete the file to discard them"
        )
    return values


def _absolute(word: str) -> str:
    key, _, value = word.partition("=")
    return f"{key}={Path(value).absolute()}" if key in PATHS and value else word

"""What a submit was told on its command line is kept in the chain's folder and holds for the commands that follow."""

import contextlib
import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

from pretrain.runtime.storage import read_json, write_json, write_text
from tools.chain.plan.config import read_chain
from tools.chain.record.state import read_plan
from tools.chain.submit import Chain, find_chain_folder, shorten

MEMORY = "overrides.json"
"""In the chain's folder: {chain file: key=value words}."""
PATHS = ("runs", "data.root")
"""Settings that are folders: kept absolute, so that they hold from any folder."""
PLACES = ("runs", "name")
"""Settings that decide which folder is the chain's."""


def recall(path: str | Path, given: Sequence[str]) -> tuple[Path, tuple[str, ...]]:
    """Return the chain file and the words that hold for it: those of the last submit, then the `given` ones.

    Args:
        path: a chain file, or the folder of a chain that was submitted.
        given: key=value words of this command.

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
    """Keep the chain's words, and beside the folder that the file alone names, where the chain is."""
    words = [_absolute(word) for word in chain.overrides]
    kept = _read(chain.folder)
    file = str(chain.path.absolute())
    if kept.get(file, []) != words:
        write_json(chain.folder / MEMORY, {**kept, file: words})
    plain = tuple(word for word in words if word.partition("=")[0] not in PLACES)
    named = find_chain_folder(chain.path, read_chain(chain.path, plain))
    if named != chain.folder:
        pointer = _pointer(named)
        with contextlib.suppress(OSError):  # a folder that may not be written: then the words have to be given
            write_text(pointer, f"{chain.folder}\n")


def merge_words(before: Iterable[str], given: Iterable[str]) -> tuple[str, ...]:
    """Return the words, those of `given` in place of earlier ones for the same key or for what lies below it."""
    given = tuple(given)
    keys = [word.partition("=")[0] for word in given]
    kept = [word for word in before if not any(f"{word.partition('=')[0]}.".startswith(f"{key}.") for key in keys)]
    last = {word.partition("=")[0]: word for word in given}
    return (*kept, *last.values())


def say_command(chain: Chain, command: str) -> str:
    """Return the command line by which a person goes on with this chain."""
    return f"mochi chain {command} {shorten(chain.folder)}"


def _follow(folder: Path) -> Path:
    """Return where a chain of the file that names `folder` was last submitted to: `folder`, unless elsewhere."""
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
            f"{folder / MEMORY}: expected the words of each chain file; delete the file to forget them"
        )
    return values


def _absolute(word: str) -> str:
    key, _, value = word.partition("=")
    return f"{key}={Path(value).absolute()}" if key in PATHS and value else word

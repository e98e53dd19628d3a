"""Write files that appear whole or not at all, and digest them."""

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

TEMPORARY_PREFIX = ".partial-"
"""Temporary files begin so, and lie beside the file they will become; `sweep_temporary_files` removes leftovers."""

LONGEST_NAME = 200
"""Bytes of a name that data gives a file: file systems take 255, and a suffix and a temporary prefix come to it."""


@contextmanager
def open_whole(path: str | Path) -> Iterator[BinaryIO]:
    """Open a binary file that takes the name `path` only when the block ends well (written beside, fsynced, renamed).

    When the block raises, or the disk is full, an older file at `path` stays as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f"{TEMPORARY_PREFIX}{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        Path(name).chmod(0o644)
        Path(name).replace(path)
        _sync_folder(path.parent)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def write_whole(path: str | Path, write: Callable[[BinaryIO], Any]) -> None:
    """Write `path` by calling `write(stream)`; see `open_whole`."""
    with open_whole(path) as stream:
        write(stream)


def write_text(path: str | Path, text: str) -> None:
    """Write a UTF-8 text file whole."""
    write_whole(path, lambda stream: stream.write(text.encode()))


def write_json(path: str | Path, value: Any) -> None:
    """Write JSON whole: two-space indent, keys in the given order, no NaN (ValueError names the problem)."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: str | Path) -> Any:
    """Return the JSON value in `path`; ValueError with a sentence when it is none."""
    try:
        return json.loads(Path(path).read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{path}: not valid JSON ({error}); delete the file if a crash left it, then run again"
        ) from error


def append_json_line(path: str | Path, value: Any) -> None:
    """Append one JSON object and a newline in a single write (for metrics.jsonl, ledger.jsonl)."""
    line = json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n"
    with Path(path).open("ab") as stream:
        stream.write(line.encode())


def read_json_lines(path: str | Path) -> list[Any]:
    """Return the objects of a JSON-lines file; a last line cut by a crash is left out, a missing file is empty."""
    path = Path(path)
    if not path.exists():
        return []
    lines = path.read_text(errors="replace").splitlines()
    values = []
    for number, line in enumerate(lines, 1):
        try:
            values.append(json.loads(line))
        except json.JSONDecodeError as error:
            if number == len(lines):
                break
            raise ValueError(f"{path}, line {number}: not valid JSON ({error})") from error
    return values


def make_file_name(text: str) -> str:
    """Return a file name for a name that comes from data: `text` itself where it is one, else its letters and a digest.

    What names a place elsewhere (a slash, a leading dot), holds control characters or is too long is no file name.
    """
    plain = text.isprintable() and "/" not in text and not text.startswith(".")
    if plain and 0 < len(os.fsencode(text)) <= LONGEST_NAME:
        return text
    letters = re.sub(r"[^A-Za-z0-9]+", "_", text)[:60].strip("_")
    return f"{letters}-{hashlib.sha256(text.encode(errors='surrogateescape')).hexdigest()[:12]}"


def digest_file(path: str | Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sweep_temporary_files(folder: str | Path) -> int:
    """Remove what interrupted writes left in `folder` (not below it); return how many files went."""
    leftovers = list(Path(folder).glob(f"{TEMPORARY_PREFIX}*"))
    for leftover in leftovers:
        leftover.unlink(missing_ok=True)
    return len(leftovers)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

"""Write files that appear whole or not at all, read them with a sentence when they are damaged, and digest them."""

import errno
import hashlib
import json
import logging
import os
import secrets
import shutil
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

logger = logging.getLogger(__name__)
T = TypeVar("T")

TEMPORARY_PREFIX = ".partial-"
"""Temporary files and folders begin so, and lie beside what they will become; `sweep_temporary_files` removes them."""
NOT_SUPPORTED = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOTTY)
"""What file systems answer that have no fsync (of folders, or at all); a real write error has another number."""
STALE_TRIES = 5
STALE_PAUSE_S = 0.1
"""A network file system answers ESTALE when another machine has just replaced the file: the next look finds it."""
LINE_SEPARATORS: dict[str, str | int | None] = {"\u0085": "\\u0085", "\u2028": "\\u2028", "\u2029": "\\u2029"}
"""Characters that JSON allows inside a text and many readers take for the end of a line; written as escapes."""


@contextmanager
def open_whole(path: str | Path) -> Iterator[BinaryIO]:
    """Open a binary file that takes the name `path` only when the block ends well (written beside, fsynced, renamed).

    When the block raises, or the disk is full, an older file at `path` stays as it was. The file's mode follows the
    umask.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = temporary_path(path)
    handle = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        with os.fdopen(handle, "wb") as stream:
            yield stream
            stream.flush()
            _sync(stream.fileno())
        beside.replace(path)
        _sync_folder(path.parent)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def temporary_path(path: Path) -> Path:
    """Return a path beside `path` that nothing has yet; its name fits where that of `path` fits."""
    kept = os.fsdecode(os.fsencode(path.name)[:100])
    return path.with_name(f"{TEMPORARY_PREFIX}{kept}.{secrets.token_hex(6)}")


def write_whole(path: str | Path, write: Callable[[BinaryIO], Any]) -> None:
    """Write `path` by calling `write(stream)`; see `open_whole`."""
    with open_whole(path) as stream:
        write(stream)


def write_text(path: str | Path, text: str) -> None:
    """Write a UTF-8 text file whole; bytes of a file name that are not UTF-8 are written as backslash escapes."""
    write_whole(path, lambda stream: stream.write(text.encode(errors="backslashreplace")))


def write_json(path: str | Path, value: Any) -> None:
    """Write JSON whole: two-space indent, keys in the given order, no NaN (ValueError names the problem)."""
    write_text(path, _to_json(value, indent=2) + "\n")


def read_json(path: str | Path) -> Any:
    """Return the JSON value in `path`; ValueError with a sentence when it is none."""
    try:
        return json.loads(_retry_if_stale(lambda: Path(path).read_bytes()).decode())
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{path}: not valid JSON ({error}); delete the file if a crash left it, then run again"
        ) from error


def read_json_object(path: str | Path, kinds: Mapping[str, type | tuple[type, ...]] | None = None) -> dict[str, Any]:
    """Return the JSON object in `path`.

    Args:
        path: the file.
        kinds: the types of the keys that must be there.

    Raises:
        ValueError: no JSON, another value than an object, or a key that is missing or of another type.
        OSError: the file cannot be read.

    """
    value = read_json(path)
    wrong = [] if isinstance(value, dict) else [f"expected a JSON object, got {type(value).__name__}"]
    for key, kind in ({} if wrong else kinds or {}).items():
        if not isinstance(value.get(key), kind):
            expected = kind.__name__ if isinstance(kind, type) else " or ".join(entry.__name__ for entry in kind)
            wrong.append(f"expected {expected} under {key!r}, got {value.get(key)!r:.80}")
    if wrong:
        raise ValueError(f"{path}: {'; '.join(wrong)}; delete the file if a crash left it, then run again")
    return dict(value)


def append_json_line(path: str | Path, value: Any) -> None:
    """Append one JSON object and a newline in a single write (for metrics.jsonl, ledger.jsonl).

    A last line that a crash or a full disk cut is ended first, so that it does not swallow this one.
    """
    line = (_to_json(value) + "\n").encode()
    with Path(path).open("ab+") as stream:
        if stream.tell():
            stream.seek(-1, os.SEEK_END)
            line = line if stream.read(1) == b"\n" else b"\n" + line
        stream.write(line)


def read_json_lines(path: str | Path) -> list[Any]:
    """Return the values of a JSON-lines file; a missing file is empty.

    Lines that a crash or a full disk cut are left out; any but the last of the file is named in the log.
    """
    path = Path(path)
    if not is_file(path):
        return []
    lines = _retry_if_stale(path.read_bytes).split(b"\n")
    while lines and not lines[-1].strip():
        lines.pop()
    values = []
    for number, line in enumerate(lines, 1):
        try:
            values.append(json.loads(line.decode()))
        except (ValueError, RecursionError) as error:
            if number < len(lines):
                _warn_once(f"{path}, line {number}: not valid JSON ({error}); the line is left out")
    return values


def is_file(path: str | Path) -> bool:
    """Return whether `path` is a file; as Path.is_file, and it looks again where a network file system says ESTALE.

    Raises:
        OSError: nobody can say: no permission, an input/output error.

    """
    try:
        return stat.S_ISREG(_retry_if_stale(Path(path).stat).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False


def digest_file(path: str | Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def digest_path(path: Path) -> Path:
    """Return the path of the file that holds the digest of `path`: beside it, with .sha256 added."""
    return path.with_name(path.name + ".sha256")


def write_digest(path: Path) -> None:
    """Write the digest of `path` beside it, as sha256sum does."""
    write_text(digest_path(path), f"{digest_file(path)}  {path.name}\n")


def has_digest(path: Path) -> bool:
    """Return whether the bytes of `path` have the digest noted beside it; False for no note and for a damaged one."""
    try:
        noted = digest_path(path).read_bytes().split()
        return bool(noted) and noted[0].decode(errors="replace") == digest_file(path)
    except OSError:
        return False


def sweep_temporary_files(folder: str | Path) -> int:
    """Remove the files and folders that interrupted writes left in `folder` (not below it); return how many went.

    What cannot be removed is named in the log and left: it is in nobody's way.
    """
    count = 0
    for leftover in sorted(Path(folder).glob(f"{TEMPORARY_PREFIX}*")):
        try:
            if leftover.is_dir() and not leftover.is_symlink():
                shutil.rmtree(leftover)
            else:
                leftover.unlink()
            count += 1
        except FileNotFoundError:
            continue
        except OSError as error:
            logger.warning("%s: left by an interrupted write, and cannot be removed (%s)", leftover, error.strerror)
    return count


def _to_json(value: Any, indent: int | None = None) -> str:
    text = json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False)
    if any(mark in text for mark in LINE_SEPARATORS):
        text = text.translate(str.maketrans(LINE_SEPARATORS))
    try:
        text.encode()
    except UnicodeEncodeError:  # a file name that is not UTF-8: JSON's own escapes bring it back
        return json.dumps(value, indent=indent, allow_nan=False)
    return text


@lru_cache(maxsize=1024)
def _warn_once(text: str) -> None:
    logger.warning(text)


def _retry_if_stale(call: Callable[[], T]) -> T:
    for _ in range(STALE_TRIES - 1):
        try:
            return call()
        except OSError as error:
            if error.errno != errno.ESTALE:
                raise
            time.sleep(STALE_PAUSE_S)
    return call()


def _sync(handle: int) -> None:
    """Bring a file or folder to the disk, where the file system can."""
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in NOT_SUPPORTED:
            raise


def _sync_folder(folder: Path) -> None:
    try:
        handle = os.open(folder, os.O_RDONLY)
    except PermissionError:  # a folder that may be written but not listed
        return
    try:
        _sync(handle)
    finally:
        os.close(handle)

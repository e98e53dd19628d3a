"""Write files atomically, read them with clear errors if they are damaged, and compute their digests."""

import errno
import hashlib
import json
import logging
import os
import re
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
"""Prefix of temporary files and folders, which are created beside their target; see `sweep_temporary_files`."""
NOT_SUPPORTED = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOTTY)
"""Errors of file systems without fsync (for folders, or at all); real write errors have other numbers."""
STALE_TRIES = 5
STALE_PAUSE_S = 0.1
"""A network file system returns ESTALE if another host has just replaced the file; a retry finds the new one."""
LINE_SEPARATORS: dict[str, str | int | None] = {"\u0085": "\\u0085", "\u2028": "\\u2028", "\u2029": "\\u2029"}
"""Characters that JSON allows in strings but many readers treat as line ends; written as escapes."""

LONGEST_NAME = 200
"""Maximum bytes of a file name taken from data: file systems allow 255, including suffix and temporary prefix."""


@contextmanager
def open_whole(path: str | Path) -> Iterator[BinaryIO]:
    """Open a binary file that replaces `path` atomically if the block succeeds (written beside, fsynced, renamed).

    If the block raises or the disk is full, an existing file at `path` is unchanged. The file's mode follows the umask.
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
    """Return an unused path beside `path`, short enough for every file system that allows the name of `path`."""
    kept = os.fsdecode(os.fsencode(path.name)[:100])
    return path.with_name(f"{TEMPORARY_PREFIX}{kept}.{secrets.token_hex(6)}")


def write_whole(path: str | Path, write: Callable[[BinaryIO], Any]) -> None:
    """Write `path` atomically by calling `write(stream)`; see `open_whole`."""
    with open_whole(path) as stream:
        write(stream)


def write_text(path: str | Path, text: str) -> None:
    """Write a UTF-8 text file atomically; bytes of file names that are not UTF-8 become backslash escapes."""
    write_whole(path, lambda stream: stream.write(text.encode(errors="backslashreplace")))


def write_json(path: str | Path, value: Any) -> None:
    """Write JSON atomically: two-space indent, keys in the given order; ValueError for NaN."""
    write_text(path, _to_json(value, indent=2) + "\n")


def read_json(path: str | Path) -> Any:
    """Return the JSON value in `path`; ValueError if it is not valid JSON."""
    try:
        return json.loads(_retry_if_stale(lambda: Path(path).read_bytes()).decode())
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{path}: not valid JSON ({error}); if a crash left the file, delete it and run again"
        ) from error


def read_json_object(path: str | Path, kinds: Mapping[str, type | tuple[type, ...]] | None = None) -> dict[str, Any]:
    """Return the JSON object in `path`.

    Args:
        path: the file.
        kinds: required keys and their types.

    Raises:
        ValueError: invalid JSON, not an object, or a required key that is missing or of another type.
        OSError: the file cannot be read.

    """
    value = read_json(path)
    wrong = [] if isinstance(value, dict) else [f"expected a JSON object, got {type(value).__name__}"]
    for key, kind in ({} if wrong else kinds or {}).items():
        if not isinstance(value.get(key), kind):
            expected = kind.__name__ if isinstance(kind, type) else " or ".join(entry.__name__ for entry in kind)
            wrong.append(f"expected {expected} under {key!r}, got {value.get(key)!r:.80}")
    if wrong:
        raise ValueError(f"{path}: {'; '.join(wrong)}; if a crash left the file, delete it and run again")
    return dict(value)


def append_json_line(path: str | Path, value: Any) -> None:
    """Append one JSON object and a newline in a single write (for metrics.jsonl, ledger.jsonl).

    A last line left incomplete by a crash or a full disk is terminated first, so that only it is lost.
    """
    line = (_to_json(value) + "\n").encode()
    with Path(path).open("ab+") as stream:
        if stream.tell():
            stream.seek(-1, os.SEEK_END)
            line = line if stream.read(1) == b"\n" else b"\n" + line
        stream.write(line)


def read_json_lines(path: str | Path) -> list[Any]:
    """Return the values of a JSON-lines file; [] for a missing file.

    Lines left incomplete by a crash or a full disk are skipped; all except the file's last line are logged.
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
                _warn_once(f"{path}, line {number}: not valid JSON ({error}); skipping the line")
    return values


def is_file(path: str | Path) -> bool:
    """Return whether `path` is a file, like Path.is_file, but retry if a network file system returns ESTALE.

    Raises:
        OSError: the status cannot be read: no permission, an input/output error.

    """
    try:
        return stat.S_ISREG(_retry_if_stale(Path(path).stat).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False


def make_file_name(text: str) -> str:
    """Return a safe file name for a name taken from data: `text` if it is safe, else its letters and a digest.

    Names with a slash, a leading dot or control characters, and names over LONGEST_NAME bytes, are not safe.
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


def digest_path(path: Path) -> Path:
    """Return the path of the digest file of `path`: the same name with .sha256 appended."""
    return path.with_name(path.name + ".sha256")


def write_digest(path: Path) -> None:
    """Write the digest file of `path`, in the format of sha256sum."""
    write_text(digest_path(path), f"{digest_file(path)}  {path.name}\n")


def has_digest(path: Path) -> bool:
    """Return whether the bytes of `path` match its digest file; False if that is missing or damaged."""
    try:
        noted = digest_path(path).read_bytes().split()
        return bool(noted) and noted[0].decode(errors="replace") == digest_file(path)
    except OSError:
        return False


def sweep_temporary_files(folder: str | Path) -> int:
    """Remove files and folders that interrupted writes left directly in `folder`; return their number.

    Those that cannot be removed are logged and kept; they do no harm.
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
            logger.warning("%s: left by an interrupted write and cannot be removed (%s)", leftover, error.strerror)
    return count


def _to_json(value: Any, indent: int | None = None) -> str:
    text = json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False)
    if any(mark in text for mark in LINE_SEPARATORS):
        text = text.translate(str.maketrans(LINE_SEPARATORS))
    try:
        text.encode()
    except UnicodeEncodeError:  # a file name that is not UTF-8: JSON's escapes preserve it
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
    """Flush a file or folder to disk if the file system supports it."""
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in NOT_SUPPORTED:
            raise


def _sync_folder(folder: Path) -> None:
    try:
        handle = os.open(folder, os.O_RDONLY)
    except PermissionError:  # a folder that is writable but not readable
        return
    try:
        _sync(handle)
    finally:
        os.close(handle)

"""Download an archive resumably, verify it, and unpack it into a folder that may hold other archives' files."""

import hashlib
import logging
import shutil
import tarfile
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from filecmp import cmp
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from typing import IO

logger = logging.getLogger(__name__)

CHUNK_BYTES = 1 << 20
TRIES = 5
"""Consecutive connections that may fail without a new byte."""
PAUSE_S = 2.0
"""Initial pause between two tries in seconds; doubled after each failure."""
TIMEOUT_S = 60


@dataclass(frozen=True, kw_only=True)
class Archive:
    """A published tar or zip file."""

    url: str
    size_bytes: int
    digest: str
    """`md5:` or `sha256:` and the hexadecimal digest."""
    source: str
    """Public file that states URL and digest."""
    strip: str = ""
    """Leading folder to strip from the names of its members."""
    into: str = ""
    """Folder below the root to unpack into."""

    @property
    def name(self) -> str:
        """Its file name."""
        return self.url.rpartition("/")[2]


def download(archive: Archive, url: str, folder: Path) -> Path:
    """Download the archive from `url` into `folder` and return its path; resumes a partial download.

    Raises:
        ValueError: size or digest differ from the published ones; the file is removed.
        OSError: the server cannot be reached or refuses the request.

    """
    path, part = folder / archive.name, folder / f"{archive.name}.part"
    if not path.is_file():
        _fetch(archive, url, part)
        _check(archive, part, url)
        part.replace(path)
    _check(archive, path, url)
    return path


def unpack(archive: Archive, path: Path, root: Path) -> int:
    """Unpack the archive's files below `root`, keeping existing files; return their number.

    Raises:
        ValueError: a member would be written outside `root`, is not a regular file, or exists with different content.

    """
    work = root / f".partial-{archive.name}"
    shutil.rmtree(work, ignore_errors=True)
    count = 0
    for name, stream in _open_members(path):
        count += 1
        place = _find_place(archive, name)
        target = work / place
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("wb") as out:
            shutil.copyfileobj(stream, out, CHUNK_BYTES)
        final = root / place
        if final.exists() and not cmp(target, final, shallow=False):
            raise ValueError(
                f"{final}: already exists with different content than in {archive.name}; move it away, then run again"
            )
        final.parent.mkdir(parents=True, exist_ok=True)
        target.replace(final)
    shutil.rmtree(work, ignore_errors=True)
    return count


def _fetch(archive: Archive, url: str, part: Path) -> None:
    failures, pause_s = 0, PAUSE_S
    while (have := part.stat().st_size if part.exists() else 0) < archive.size_bytes:
        try:
            _append(archive, url, part, have)
        except (OSError, HTTPException) as error:
            if isinstance(error, urllib.error.HTTPError) and error.code in (401, 403, 404, 410):
                raise OSError(
                    f"{url}: {error}; download from a mirror with mirror=URL, or put the file into {part.parent}"
                ) from error
            failures = 0 if part.exists() and part.stat().st_size > have else failures + 1
            if failures >= TRIES:
                raise OSError(
                    f"{url}: {error} ({TRIES} failures in a row); run the same command again later to resume"
                ) from error
            logger.warning("%s: %s; resuming at %d bytes", url, error, have)
            time.sleep(pause_s)
            pause_s = PAUSE_S if failures == 0 else 2 * pause_s


def _append(archive: Archive, url: str, part: Path, have: int) -> None:
    """Append the content of `url` from byte `have` to `part`; restart from 0 if the server ignores ranges."""
    if not url.startswith(("http://", "https://")):
        raise ValueError(f"{url}: expected a URL that starts with http:// or https://")
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})  # noqa: S310 (checked)
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:  # noqa: S310 (checked above)
        resumed = have > 0 and answer.status == 206
        logged = time.monotonic()
        with part.open("ab" if resumed else "wb") as out:
            while chunk := answer.read(CHUNK_BYTES):
                out.write(chunk)
                if out.tell() > archive.size_bytes:
                    raise ValueError(
                        f"{url}: sends more than the published {archive.size_bytes} bytes; try another mirror=URL"
                    )
                if time.monotonic() - logged > 10:
                    logged = time.monotonic()
                    logger.info("%s: %.0f %%", archive.name, 100 * out.tell() / archive.size_bytes)
        if part.stat().st_size < archive.size_bytes:
            raise OSError("the connection closed before the end of the file")


def _check(archive: Archive, path: Path, url: str) -> None:
    algorithm, _, expected = archive.digest.partition(":")
    with path.open("rb") as stream:
        found = hashlib.file_digest(stream, algorithm).hexdigest()
    if found != expected or path.stat().st_size != archive.size_bytes:
        size = path.stat().st_size
        path.unlink()
        raise ValueError(
            f"{url}: got {size} bytes with {algorithm} {found}; expected {archive.size_bytes} bytes with {expected} "
            f"({archive.source}). The file was removed; run again, or use another mirror=URL"
        )


@contextmanager
def _refuse_damaged(path: Path) -> Iterator[None]:
    try:
        yield
    except (tarfile.TarError, zipfile.BadZipFile, EOFError) as error:
        raise ValueError(f"{path}: damaged archive ({error}); delete it and run again") from error


def _open_members(path: Path) -> Iterator[tuple[str, IO[bytes]]]:
    """Yield (name, content) of every regular file; skip folders, reject anything else."""
    with _refuse_damaged(path):
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                for entry in archive.infolist():
                    if not entry.is_dir():
                        with archive.open(entry) as stream:
                            yield entry.filename, stream
            return
        with tarfile.open(path) as tar:
            for member in tar:
                if member.isdir():
                    continue
                content = tar.extractfile(member) if member.isreg() else None
                if content is None:
                    raise ValueError(
                        f"{path}: {member.name} is a link or a device; this is not the published archive, delete it"
                    )
                with content as stream:
                    yield member.name, stream


def _find_place(archive: Archive, name: str) -> Path:
    parts = PurePosixPath(name).parts
    if archive.strip and parts[:1] == (archive.strip,):
        parts = parts[1:]
    if not parts or ".." in parts or "/" in parts or "\0" in name:
        raise ValueError(
            f"{archive.name}: the member {name!r} would be written outside; this is not the published archive"
        )
    return Path(archive.into, *parts)

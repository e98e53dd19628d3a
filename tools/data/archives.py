"""Download an archive with resume, check it, and unpack it into a folder where other archives' files lie already."""

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
"""Connections that may break one after the other without a new byte."""
PAUSE_S = 2.0
"""Between two tries; doubled each time."""
TIMEOUT_S = 60


@dataclass(frozen=True, kw_only=True)
class Archive:
    """A tar or zip file that is published somewhere."""

    url: str
    size_bytes: int
    digest: str
    """md5:… or sha256:…, hexadecimal."""
    source: str
    """The public file that confirms address and digest."""
    strip: str = ""
    """Leading folder of its members that is left out."""
    into: str = ""
    """Folder below the root that its members go into."""

    @property
    def name(self) -> str:
        """Return its file name."""
        return self.url.rpartition("/")[2]


def download(archive: Archive, url: str, folder: Path) -> Path:
    """Return the archive in `folder`, fetched from `url`; a part that an earlier call fetched is gone on with.

    Raises:
        ValueError: the bytes are not those that were published.
        OSError: the server does not answer, or says no.

    """
    path, part = folder / archive.name, folder / f"{archive.name}.part"
    if not path.is_file():
        _fetch(archive, url, part)
        _check(archive, part, url)
        part.replace(path)
    _check(archive, path, url)
    return path


def unpack(archive: Archive, path: Path, root: Path) -> int:
    """Put the archive's files below `root`, beside those that are there; return how many it has.

    Raises:
        ValueError: a member would lie outside, is no plain file, or is there already with other bytes.

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
                f"{final}: is there already with other bytes than in {archive.name}; move it away, then run again"
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
                    f"{url}: {error}; take the file from elsewhere with mirror=URL, or put it into {part.parent}"
                ) from error
            failures = 0 if part.exists() and part.stat().st_size > have else failures + 1
            if failures >= TRIES:
                raise OSError(f"{url}: {error}, {TRIES} times; run the same command again later to go on") from error
            logger.warning("%s: %s; going on at %d bytes", url, error, have)
            time.sleep(pause_s)
            pause_s = PAUSE_S if failures == 0 else 2 * pause_s


def _append(archive: Archive, url: str, part: Path, have: int) -> None:
    """Add to `part` what `url` gives from byte `have` on; begin anew with a server that knows no ranges."""
    if not url.startswith(("http://", "https://")):
        raise ValueError(f"{url}: expected an address that begins with http:// or https://")
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})  # noqa: S310 (checked)
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:  # noqa: S310 (checked above)
        resumed = have > 0 and answer.status == 206
        told = time.monotonic()
        with part.open("ab" if resumed else "wb") as out:
            while chunk := answer.read(CHUNK_BYTES):
                out.write(chunk)
                if out.tell() > archive.size_bytes:
                    raise ValueError(f"{url}: gives more than the published {archive.size_bytes} bytes")
                if time.monotonic() - told > 10:
                    told = time.monotonic()
                    logger.info("%s: %.0f %%", archive.name, 100 * out.tell() / archive.size_bytes)
        if part.stat().st_size < archive.size_bytes:
            raise OSError("the connection ended early")


def _check(archive: Archive, path: Path, url: str) -> None:
    algorithm, _, expected = archive.digest.partition(":")
    with path.open("rb") as stream:
        found = hashlib.file_digest(stream, algorithm).hexdigest()
    if found != expected or path.stat().st_size != archive.size_bytes:
        size = path.stat().st_size
        path.unlink()
        raise ValueError(
            f"{url}: {size} bytes with the {algorithm} {found}; published are {archive.size_bytes} bytes with "
            f"{expected} ({archive.source}). The file is removed; run again, or name another mirror=URL"
        )


@contextmanager
def _refuse_damaged(path: Path) -> Iterator[None]:
    try:
        yield
    except (tarfile.TarError, zipfile.BadZipFile, EOFError) as error:
        raise ValueError(f"{path}: no sound archive ({error}); delete it and run again") from error


def _open_members(path: Path) -> Iterator[tuple[str, IO[bytes]]]:
    """Yield (name, content) of every plain file; folders are left out, anything else is refused."""
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
                    raise ValueError(f"{path}: {member.name} is a link or a device; this is not the published archive")
                with content as stream:
                    yield member.name, stream


def _find_place(archive: Archive, name: str) -> Path:
    parts = PurePosixPath(name).parts
    if archive.strip and parts[:1] == (archive.strip,):
        parts = parts[1:]
    if not parts or ".." in parts or "/" in parts or "\0" in name:
        raise ValueError(f"{archive.name}: the member {name!r} would lie outside; this is not the published archive")
    return Path(archive.into, *parts)

"""Fetch a checkpoint given by address into a cache, resuming partial downloads and checking known digests.

Addresses: zoo:NAME (see zoo.py), hf://OWNER/NAME[@REVISION][/FILE] and https://…[#sha256=DIGITS]. All else is a path.
"""

import difflib
import hashlib
import os
import re
from pathlib import Path
from urllib.parse import urldefrag, urlsplit

from filelock import FileLock

from transfer.weights.sources.zoo import ZOO

CACHE_VARIABLE = "MOCHI_CACHE"
HUB_FILES = ("model.safetensors", "pytorch_model.bin")
"""File names of weights in timm and transformers repositories, in the order in which they are tried."""
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


def is_remote(source: str | Path) -> bool:
    """Return whether `source` is an address and not a path."""
    return bool(re.match(r"(zoo:|hf://|https?://)", str(source)))


def cache_folder() -> Path:
    """Return the folder for fetched checkpoints: $MOCHI_CACHE, or mochi-transfer in the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get(CACHE_VARIABLE) or Path(base) / "mochi-transfer")


def fetch_weights(source: str | Path) -> Path:
    """Return a local path for `source`; an address is fetched into the cache unless it is already there.

    Raises:
        ValueError: unknown name, no connection (the text says where to put the file), or a digest mismatch.

    """
    text = str(source)
    if not is_remote(text):
        return Path(source)
    if text.startswith("zoo:"):
        return _fetch_zoo(text.removeprefix("zoo:"))
    if text.startswith("hf://"):
        return _fetch_hub(text)
    url, fragment = urldefrag(text)
    if fragment and not re.fullmatch(r"(sha256|md5)=[0-9a-f]{8,64}", fragment):
        raise ValueError(
            f"{text}: the part after # is {fragment!r}, expected sha256= and at least 8 hexadecimal digits"
        )
    return _fetch_url(url, fragment.replace("=", ":"))


def _fetch_zoo(name: str) -> Path:
    if name not in ZOO:
        near = difflib.get_close_matches(name, ZOO, n=3)
        meant = f" (did you mean {', '.join(near)}?)" if near else ""
        raise ValueError(f"zoo:{name}: unknown{meant}; known: {', '.join(ZOO)}")
    return _fetch_url(ZOO[name].url, ZOO[name].digest)


def _fetch_url(url: str, digest: str) -> Path:
    parts = urlsplit(url)
    if parts.scheme != "https" and parts.hostname not in _LOOPBACK:
        raise ValueError(f"{url}: weights are fetched by https only, since http can be tampered with; use https")
    name = Path(parts.path).name
    if not name or not parts.hostname:
        raise ValueError(f"{url}: expected an address whose path ends in a file name")
    key = hashlib.sha256(url.encode()).hexdigest()[:12]
    path = cache_folder() / parts.hostname / f"{key}-{name}"
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f"{path.name}.lock")):
        if not path.is_file():
            _download(url, path, digest)
        _check_digest(path, url, digest)
    return path


def _download(url: str, path: Path, digest: str) -> None:
    """Download to a partial file, resuming an earlier attempt, and rename it to `path` once its digest matches."""
    from huggingface_hub.file_download import http_get  # takes a second to import

    partial = path.with_name(f"{path.name}.partial")
    try:
        _refuse_offline()
        with partial.open("ab") as stream:
            http_get(url, stream, resume_size=stream.tell(), displayed_filename=path.name)
            stream.flush()
            os.fsync(stream.fileno())
    except Exception as error:  # the downloader and its HTTP library raise many kinds
        raise ValueError(
            f"{url}: cannot be fetched ({type(error).__name__}: {str(error).partition(chr(10))[0]}). Run again to "
            f"resume, or download it on a machine with network access and put it at {path}"
        ) from error
    try:
        _check_digest(partial, url, digest)
    except ValueError:
        partial.unlink()
        raise
    partial.replace(path)


def _refuse_offline() -> None:
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        raise ConnectionError("HF_HUB_OFFLINE is set")


def _check_digest(path: Path, url: str, digest: str) -> None:
    kind, _, digits = digest.partition(":")
    if not digits:
        return
    with path.open("rb") as stream:
        found = hashlib.file_digest(stream, kind).hexdigest()
    if not found.startswith(digits):
        raise ValueError(
            f"{url}: its {kind} begins with {found[: len(digits)]}, expected {digits}: the file is damaged or differs "
            f"from the published one. It is not used; delete {path} if it exists, and run again"
        )


def _fetch_hub(text: str) -> Path:
    """Return the cached local path (below hub/) of a file in a Hugging Face Hub repository."""
    match = re.fullmatch(r"hf://([\w.-]+/[\w.-]+?)(?:@([\w./-]+?))?(?:/([\w./-]+))?", text)
    if not match:
        raise ValueError(f"{text}: expected hf://OWNER/NAME, hf://OWNER/NAME/FILE or hf://OWNER/NAME@REVISION/FILE")
    repository, revision, name = match.groups()
    from huggingface_hub import hf_hub_download  # takes a second to import
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    folder = cache_folder() / "hub"
    for file in (name,) if name else HUB_FILES:
        try:
            path = Path(hf_hub_download(repository, file, revision=revision, cache_dir=folder))
            _fetch_config(repository, revision, folder)
        except LocalEntryNotFoundError as error:
            raise ValueError(
                f"{text}: cannot be reached, and {file} is not in the cache. Download it on a machine with network "
                f"access (`hf download {repository} {file}`) and give the file's path instead"
            ) from error
        except EntryNotFoundError:
            continue
        except Exception as error:  # missing or gated repository, no permission, …
            raise ValueError(f"{text}: {type(error).__name__}: {str(error).strip().partition(chr(10))[0]}") from error
        return path
    raise ValueError(
        f"{text}: holds no {' and no '.join((name,) if name else HUB_FILES)}; give the file: hf://OWNER/NAME/FILE"
    )


def _fetch_config(repository: str, revision: str | None, folder: Path) -> None:
    """Fetch config.json beside the weights if it exists; it records the architecture and pixel statistics."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    try:
        hf_hub_download(repository, "config.json", revision=revision, cache_dir=folder)
    except EntryNotFoundError:
        return

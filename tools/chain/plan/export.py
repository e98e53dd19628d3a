"""Freeze what stages run: a copy of the source under its digest, and the names and versions of the packages."""

import hashlib
import os
import platform
import shutil
import sys
import tempfile
from functools import cache
from pathlib import Path

from pretrain.runtime.machine import PROJECT_ROOT
from pretrain.runtime.storage import TEMPORARY_PREFIX
from tools.chain.plan.source import PACKAGES

FOLDERS = (*PACKAGES, "configs")
LEFT_OUT = {"__pycache__", "detectron2_build", "setup"}


def export_code(chain: Path, root: Path = PROJECT_ROOT) -> str:
    """Copy the source tree atomically to CHAIN/code/<digest>, unless it exists, and return the digest."""
    digest = digest_tree(root)
    target = chain / "code" / digest
    if target.is_dir():
        return digest
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=TEMPORARY_PREFIX, dir=target.parent))
    for path in _list_files(root):
        copy = beside / path.relative_to(root)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
    beside.chmod(0o755)
    if digest_tree(beside) != digest:
        shutil.rmtree(beside)
        raise ValueError(f"{root}: the source changed while it was copied; submit again")
    try:
        beside.rename(target)
    except OSError:  # another submit was faster
        shutil.rmtree(beside)
    return digest


def digest_tree(root: Path) -> str:
    """Return a short digest over the paths and bytes of all files that an export holds."""
    whole = hashlib.sha256()
    for path in _list_files(root):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        whole.update(f"{path.relative_to(root).as_posix()}\0{content}\n".encode())
    return whole.hexdigest()[:16]


@cache
def digest_environment() -> str:
    """Return a short digest over the Python version and all installed packages.

    Installers name a package's folder NAME-VERSION.dist-info, so listing the folders suffices; every stage does it.
    """
    names = {name.lower() for folder in sys.path if folder for name in _list_names(Path(folder))}
    packages = sorted(name for name in names if name.endswith((".dist-info", ".egg-info")))
    return hashlib.sha256("\n".join([platform.python_version(), *packages]).encode()).hexdigest()[:16]


def _list_names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)  # noqa: PTH208 (names alone)
    except OSError:
        return []


def _list_files(root: Path) -> list[Path]:
    found = []
    for name in FOLDERS:
        for folder, inner, files in os.walk(root / name):
            inner[:] = sorted(set(inner) - LEFT_OUT)
            found += [Path(folder) / file for file in sorted(files) if not file.startswith((".", "__pycache__"))]
    return found

"""Prepare a submit, for either backend: plan, export the code, write chain.json and the specs."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from filelock import Timeout

from pretrain.runtime.machine import PROJECT_ROOT, read_commit
from pretrain.runtime.settings import as_dict
from pretrain.runtime.storage import read_json, write_json
from tools.chain.plan.config import ChainConfig, read_chain
from tools.chain.plan.export import digest_environment, export_code
from tools.chain.plan.make_plan import Stage, folder_name, make_plan
from tools.chain.plan.source import forget_digests
from tools.chain.record.attempts import read_attempts
from tools.chain.record.lock import ChainLock
from tools.chain.record.state import read_plan, read_spec, stage_as_dict, stage_folder

LOCK_WAIT_S = 120


@dataclass(frozen=True)
class Chain:
    """A chain file, read and planned."""

    path: Path
    config: ChainConfig
    folder: Path
    """Absolute: RUNS/NAME."""
    stages: list[Stage]
    overrides: tuple[str, ...] = ()
    """The key=value options applied to the file."""


def open_chain(path: str | Path, overrides: Sequence[str] = (), *, submitted: bool = False) -> Chain:
    """Read and plan a chain file; nothing is written.

    Relative names in it are resolved against the current folder, the chain file's folder, then the project.

    Args:
        path: the chain file.
        overrides: key=value options.
        submitted: use the stages of the last submit instead of planning again; their files may have changed.

    Raises:
        ValueError: mistakes in the file, missing files, or nothing was submitted yet.

    """
    path = Path(path)
    config = read_chain(path, tuple(overrides))
    forget_digests()
    folder = find_chain_folder(path, config)
    if submitted:
        return Chain(path, config, folder, read_plan(folder)[1], tuple(overrides))
    stages = make_plan(config, list_places(path))
    return Chain(path, config, folder, stages, tuple(overrides))


def list_places(path: Path) -> list[Path]:
    """Return the folders in which the relative file names of the chain file at `path` are looked up."""
    return [Path.cwd(), path.parent.absolute(), PROJECT_ROOT]


def find_chain_folder(path: Path, config: ChainConfig) -> Path:
    """Return the folder of a chain, RUNS/NAME, absolute."""
    name = config.name or path.stem
    safe = name if folder_name(name, "").removesuffix("-") == name else folder_name(name, _short_digest(name))
    return (Path(config.runs) / safe).absolute()


def submit_lock(chain: Chain) -> ChainLock:
    """Return the lock under which one process at a time writes specs and submits jobs.

    Raises:
        ValueError: the folder cannot be written.

    """
    try:
        chain.folder.mkdir(parents=True, exist_ok=True)
        (chain.folder / ".writable").touch()
    except OSError as error:
        raise ValueError(
            f"{chain.folder}: cannot be written ({error.strerror}): another user's chain, or a read-only disk; "
            "`plan` and `status` still work; give runs=FOLDER to start a chain of your own"
        ) from error
    return ChainLock(chain.folder / ".submit.lock", timeout=LOCK_WAIT_S)


def freeze(chain: Chain) -> dict[str, Any]:
    """Write the exported code, the specs and chain.json; return chain.json's values. Call it under the lock."""
    code = export_code(chain.folder)
    values = {
        "name": chain.config.name or chain.path.stem,
        "file": str(chain.path.absolute()),
        "cwd": str(Path.cwd()),
        "code": code,
        "commit": read_commit(),
        "environment": digest_environment(),
        "config": as_dict(chain.config),
    }
    for stage in chain.stages:
        _write_spec(chain, stage, values)
    entries = [{**stage_as_dict(stage), "folder": stage.folder} for stage in chain.stages]
    new = {**values, "stages": entries}
    path = chain.folder / "chain.json"
    if _read_if_sound(path) != json.loads(json.dumps(new)):
        write_json(path, new)
    return new


def shorten(path: Path) -> Path:
    """Return a path relative to the current folder if it lies below it."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


@contextmanager
def hold(lock: ChainLock) -> Iterator[None]:
    """Hold the lock for a block; raise ValueError if another submit holds it for longer than LOCK_WAIT_S."""
    try:
        lock.acquire()
    except Timeout as error:
        raise ValueError(f"{lock.path}: another submit of this chain has held it for {LOCK_WAIT_S} s") from error
    try:
        yield
    finally:
        lock.release()


def _write_spec(chain: Chain, stage: Stage, values: dict[str, Any]) -> None:
    """Write spec.json; a stage that has started keeps its code and commit, and takes new resources and budgets."""
    folder = stage_folder(chain.folder, stage.folder)
    path = folder / "spec.json"
    old = read_spec(folder)
    begun = old and (read_attempts(folder) or (folder / "DONE.json").exists())
    source = old if begun and (chain.folder / "code" / old["code"]).is_dir() else values
    spec = {
        **stage_as_dict(stage),
        "code": source["code"],
        "commit": source["commit"],
        "environment": values["environment"],
        "budgets": asdict(chain.config.budgets),
        "slurm": asdict(chain.config.slurm),
    }
    if json.loads(json.dumps(spec)) != old:
        write_json(path, spec)


def _read_if_sound(path: Path) -> Any:
    """Return the JSON in a file; None if it is missing or damaged, in which case it is rewritten."""
    try:
        return read_json(path) if path.is_file() else None
    except ValueError:
        return None


def _short_digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:6]

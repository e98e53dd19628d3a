"""What every submit does first, whichever the backend: plan, freeze the code, write chain.json and the specs."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from pretrain.runtime.machine import PROJECT_ROOT, read_commit
from pretrain.runtime.settings import as_dict
from pretrain.runtime.storage import read_json, write_json
from tools.chain.plan.config import ChainConfig, read_chain
from tools.chain.plan.export import digest_environment, export_code
from tools.chain.plan.make_plan import Stage, folder_name, make_plan
from tools.chain.plan.source import forget_digests
from tools.chain.record.attempts import read_attempts
from tools.chain.record.state import read_plan, stage_as_dict, stage_folder

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
    """The key=value words that were laid over the file."""


def open_chain(path: str | Path, overrides: Sequence[str] = (), *, submitted: bool = False) -> Chain:
    """Read and plan a chain file; nothing is written.

    Relative names in it are looked up from the current folder, from the chain file's, and in the project.

    Args:
        path: the chain file.
        overrides: key=value words.
        submitted: take the stages of the last submit instead of planning anew, whatever became of their files.

    Raises:
        ValueError: mistakes in the file, files that are not there; or nothing was submitted yet.

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


def submit_lock(chain: Chain) -> FileLock:
    """Return the lock under which one process at a time writes specs and submits jobs.

    Raises:
        ValueError: the folder cannot be written.

    """
    try:
        chain.folder.mkdir(parents=True, exist_ok=True)
        (chain.folder / ".writable").touch()
    except OSError as error:
        raise ValueError(
            f"{chain.folder}: this chain belongs to someone else or lies on a read-only disk ({error.strerror}); "
            "`plan` and `status` work without writing; give runs=FOLDER to start a chain of your own"
        ) from error
    return FileLock(chain.folder / ".submit.lock", timeout=LOCK_WAIT_S)


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
    if not path.is_file() or read_json(path) != json.loads(json.dumps(new)):
        write_json(path, new)
    return new


def shorten(path: Path) -> Path:
    """Return a path as a person at this folder would write it."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


@contextmanager
def hold(lock: FileLock) -> Iterator[None]:
    """Hold the lock for a block; ValueError when another submit holds it for too long."""
    try:
        lock.acquire()
    except Timeout as error:
        raise ValueError(f"{lock.lock_file}: another submit of this chain has held it for {LOCK_WAIT_S} s") from error
    try:
        yield
    finally:
        lock.release()


def _write_spec(chain: Chain, stage: Stage, values: dict[str, Any]) -> None:
    """Write spec.json; a stage that has begun keeps its code and commit, and takes new resources and budgets."""
    folder = stage_folder(chain.folder, stage.folder)
    path = folder / "spec.json"
    old = read_json(path) if path.is_file() else {}
    begun = old and (read_attempts(folder) or (folder / "DONE.json").exists())
    kept = begun and (chain.folder / "code" / old["code"]).is_dir()
    source = old if kept else values
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


def _short_digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:6]

"""Check before a stage starts that its inputs are intact, its code is as submitted, and the disk has space."""

import hashlib
import shutil
from pathlib import Path
from typing import Any

from pretrain.runtime.storage import TEMPORARY_PREFIX, digest_file
from tools.chain.plan.export import digest_tree
from tools.chain.plan.make_plan import Stage
from tools.chain.plan.source import digest_config
from tools.chain.record.state import read_done

OWN_FILES = {"spec.json", "ledger.jsonl", "progress.json", "DONE.json", "FAILED.json", "STOP"}
OWN_FOLDERS = {"attempts", "checkpoints", "tensorboard", "slurm"}


def find_closed(chain: Path, stage: Stage, code: str) -> list[str]:
    """Return one sentence per reason why the stage must not start; none when the gate is open."""
    problems = []
    if code and digest_tree(chain / "code" / code) != code:
        problems.append(f"{chain / 'code' / code}: the exported code was changed; delete that folder and submit again")
    for word, digest in stage.configs.items():
        path = Path(word)
        if not path.is_file():
            problems.append(f"{path}: this input no longer exists")
        elif (digest_config(path) if path.suffix in (".yaml", ".yml") else digest_file(path)) != digest:
            problems.append(f"{path}: changed since the submit; submit again")
    if not stage.always:
        for name, folder in stage.upstream.items():
            problems += _check_upstream(name, chain / "stages" / folder)
    return problems


def list_outputs(folder: Path) -> dict[str, dict[str, Any]]:
    """Return {path: size and SHA-256} of a stage's outputs: all files except the runner's, logs and checkpoints."""
    found = {}
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        own = relative.parts[0] in OWN_FOLDERS or relative.as_posix() in OWN_FILES
        unfinished = any(part.startswith(TEMPORARY_PREFIX) for part in relative.parts)
        if own or unfinished or not path.is_file() or path.name.startswith((".", "log.", "failed-")):
            continue
        found[relative.as_posix()] = {"size": path.stat().st_size, "sha256": digest_file(path)}
    return found


def digest_inputs(chain: Path, stage: Stage) -> dict[str, str]:
    """Return {upstream name: digest over its outputs} for those that are done."""
    found = {}
    for name, folder in stage.upstream.items():
        if done := read_done(chain / "stages" / folder):
            lines = [f"{key} {_digest_of(value)}" for key, value in sorted(done["outputs"].items())]
            found[name] = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    return found


def lack_of_space(folder: Path, min_free_gb: float) -> str:
    """Return a sentence if the disk has less space than `min_free_gb` or twice the largest checkpoint; else ""."""
    sizes = [path.stat().st_size for path in (folder / "checkpoints").glob("*") if path.is_file()]
    needed = max(min_free_gb * 1e9, 2 * max(sizes, default=0))
    free = shutil.disk_usage(folder).free
    if free >= needed:
        return ""
    return (
        f"{folder}: {free / 1e9:.1f} GB free, the stage needs {needed / 1e9:.1f} GB; make room, then resume the chain"
    )


def _check_upstream(name: str, folder: Path) -> list[str]:
    path, done = folder / "DONE.json", read_done(folder)
    if done is None:
        return [f"stage {name} is not done ({path} is {'damaged' if path.exists() else 'missing'})"]
    return [
        f"{folder / relative}: differs from what stage {name} wrote; delete {path} and submit again to make it again"
        for relative, expected in done["outputs"].items()
        if not _is_as_left(folder / relative, expected)
    ]


def _is_as_left(path: Path, expected: Any) -> bool:
    size = expected.get("size") if isinstance(expected, dict) else None
    return path.is_file() and path.stat().st_size == size and digest_file(path) == _digest_of(expected)


def _digest_of(expected: Any) -> str:
    return str(expected.get("sha256", "")) if isinstance(expected, dict) else ""

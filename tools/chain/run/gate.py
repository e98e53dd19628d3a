"""Before a stage starts: are its inputs there and intact, is the code as submitted, is there room on the disk."""

import hashlib
import shutil
from pathlib import Path
from typing import Any

from pretrain.runtime.storage import digest_file, read_json
from tools.chain.plan.export import digest_tree
from tools.chain.plan.make_plan import Stage
from tools.chain.plan.source import digest_config

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
            problems.append(f"{path}: this input is gone")
        elif (digest_config(path) if path.suffix in (".yaml", ".yml") else digest_file(path)) != digest:
            problems.append(f"{path}: changed since the submit; submit again")
    if not stage.always:
        for name, folder in stage.upstream.items():
            problems += _check_upstream(name, chain / "stages" / folder)
    return problems


def list_outputs(folder: Path) -> dict[str, dict[str, Any]]:
    """Return {path: size and SHA-256} of what a stage made: all its files but the runner's, logs and checkpoints."""
    found = {}
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        own = relative.parts[0] in OWN_FOLDERS or relative.as_posix() in OWN_FILES
        if own or not path.is_file() or path.name.startswith((".", "log.", "failed-")):
            continue
        found[relative.as_posix()] = {"size": path.stat().st_size, "sha256": digest_file(path)}
    return found


def digest_inputs(chain: Path, stage: Stage) -> dict[str, str]:
    """Return {upstream name: digest over its outputs} for those that are done."""
    found = {}
    for name, folder in stage.upstream.items():
        path = chain / "stages" / folder / "DONE.json"
        if path.is_file():
            outputs = read_json(path)["outputs"]
            lines = [f"{key} {value['sha256']}" for key, value in sorted(outputs.items())]
            found[name] = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    return found


def lack_of_space(folder: Path, min_free_gb: float) -> str:
    """Return a sentence when the disk has less room than `min_free_gb` or twice the newest checkpoint; else ""."""
    sizes = [path.stat().st_size for path in (folder / "checkpoints").glob("*") if path.is_file()]
    needed = max(min_free_gb * 1e9, 2 * max(sizes, default=0))
    free = shutil.disk_usage(folder).free
    if free >= needed:
        return ""
    return (
        f"{folder}: {free / 1e9:.1f} GB free, the stage needs {needed / 1e9:.1f} GB; make room, then resume the chain"
    )


def _check_upstream(name: str, folder: Path) -> list[str]:
    done = folder / "DONE.json"
    if not done.is_file():
        return [f"stage {name} is not done ({done} is missing)"]
    problems = []
    for relative, expected in read_json(done)["outputs"].items():
        path = folder / relative
        if not path.is_file() or path.stat().st_size != expected["size"] or digest_file(path) != expected["sha256"]:
            problems.append(
                f"{path}: not as stage {name} left it; delete {done} and submit again, which makes it once more"
            )
    return problems

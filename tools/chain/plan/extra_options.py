"""Additional sbatch options of a chain file: accepted unless they conflict with those that the chain sets."""

import re
from collections.abc import Mapping
from typing import Any

SETTINGS = {
    "nodes": "nodes", "ntasks": "gpus (one task a GPU)", "ntasks-per-node": "gpus (one task a GPU)",
    "cpus-per-task": "cpus", "time": "time_min", "partition": "partition", "account": "account", "qos": "qos",
    "constraint": "constraint", "exclude": "exclude", "mail-user": "mail_user", "mail-type": "mail_type",
    "mem": "mem_gb", "gpus": "gpus", "gpus-per-task": "gpus", "gpus-per-socket": "gpus",
    "ntasks-per-gpu": "gpus (one task a GPU)",
}  # fmt: skip
"""sbatch's long name → the equivalent key of resources."""
OWN = (
    "job-name", "output", "error", "open-mode", "array", "dependency", "signal", "wrap", "parsable", "test-only",
    "kill-on-invalid-dep", "wait",
)  # fmt: skip
"""Options that the chain sets itself."""
GPU_OPTIONS = ("gpus-per-node", "gres")
"""Options that may name the GPU type; their count must equal resources.gpus."""
REQUEUE = ("requeue", "no-requeue")


def find_conflicts(extra: Mapping[str, Any], gpus: int, mem_gb: float) -> list[str]:
    """Return a sentence for each option of `extra` that is refused."""
    found = []
    for word, value in extra.items():
        name = word.replace("_", "-").removeprefix("--")
        if not isinstance(value, str | int | float):
            found.append(f"{word}: expected a text, a number, true or false, got {value!r}")
        elif not re.fullmatch(r"[a-z][a-z0-9-]+", name):
            found.append(f"{word}: expected the long name of an sbatch option, such as reservation")
        elif name == "clusters":
            found.append(f"{word}: set SLURM_CLUSTERS={value} in the environment, so that squeue asks that cluster too")
        elif name == "no-kill-on-invalid-dep" or "kill-on-invalid-dep".startswith(name):
            found.append(f"{word}: set slurm.kill_on_invalid_dep")
        elif name in GPU_OPTIONS:
            count = _count_gpus(name, str(value))
            found += [] if count in (gpus, None) else [f"{word} requests {count} GPUs, gpus is {gpus}; make them equal"]
        elif name.startswith("mem-per-"):
            found += [f"{word}: goes with mem_gb=0 alone, mem_gb is {mem_gb:g}"] if mem_gb else []
        else:
            found += [f"{word}: {reason}" for reason in _find_own(name)]
    return found


def list_options(extra: Mapping[str, Any]) -> dict[str, Any]:
    """Return {long name: value} for sbatch, without false values and `requeue` (see `may_requeue`)."""
    named = {word.replace("_", "-").removeprefix("--"): value for word, value in extra.items()}
    return {name: value for name, value in named.items() if value is not False and name not in REQUEUE}


def may_requeue(extra: Mapping[str, Any]) -> bool:
    """Return whether jobs may be requeued; `no-requeue: true` and `requeue: false` both forbid it."""
    named = {word.replace("_", "-").removeprefix("--"): value for word, value in extra.items()}
    return named.get("requeue", True) is not False and named.get("no-requeue", False) is False


def _find_own(name: str) -> list[str]:
    """Return why an option's name, or an abbreviation that sbatch accepts, is reserved."""
    if name in REQUEUE:
        return []
    full = [setting for setting in (*SETTINGS, *OWN) if setting == name]
    full = full or [setting for setting in (*SETTINGS, *OWN) if setting.startswith(name)]
    if not full:
        return []
    return [f"set {SETTINGS[full[0]]} instead" if full[0] in SETTINGS else "the chain sets this itself"]


def _count_gpus(name: str, text: str) -> int | None:
    """Return how many GPUs per node "4", "a100:4", "gpu:a100:4,tmpdisk:9" requests; None if it names no GPU."""
    if name == "gres":
        parts = [part for part in text.split(",") if part.split(":")[0] == "gpu"]
        return sum(_last_number(part) for part in parts) if parts else None
    return sum(_last_number(part) for part in text.split(","))


def _last_number(text: str) -> int:
    last = text.partition("(")[0].rpartition(":")[2]
    return int(last) if last.isdecimal() else 1

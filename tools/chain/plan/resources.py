"""What one stage's job asks of the cluster."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from pretrain.runtime.settings import SettingsError, from_dict
from tools.chain.plan.extra_options import find_conflicts

BUILT_IN: dict[str, dict[str, Any]] = {
    "pretrain": {"gpus": 1, "time_min": 1440},
    "detector": {"gpus": 1, "time_min": 720},
    "linear": {"gpus": 1, "time_min": 480},
    "knn": {"gpus": 1, "time_min": 120},
    "analyse": {"gpus": 1, "time_min": 120},
}
"""Kinds that use a GPU where there is one; a chain's own `resources` go over these."""
LEAST: dict[str, int] = {"nodes": 1, "gpus": 0, "cpus": 1, "mem_gb": 0, "time_min": 1, "hours": 0}
"""Smallest value of each count."""
SHORTEST_MIN = 1
"""Least time limit of a job."""


@dataclass(frozen=True, kw_only=True)
class Resources:
    """One job; empty and 0 mean the site's default."""

    partition: str = ""
    account: str = ""
    qos: str = ""
    nodes: int = 1
    gpus: int = 0
    """GPUs per node; one task runs on each."""
    gpu_option: str = "gpus"
    """gpus (--gpus-per-node) or gres (--gres=gpu:N), whichever the site knows."""
    cpus: int = 4
    """CPUs per task, and OMP_NUM_THREADS of each."""
    mem_gb: float = 0.0
    """Memory per node."""
    time_min: int = 60
    constraint: str = ""
    exclude: str = ""
    mail_user: str = ""
    mail_type: str = ""
    extra: dict[str, Any] = field(default_factory=dict)
    """Further sbatch options by their long name: {"reservation": "x"}."""
    setup: tuple[str, ...] = ()
    """Lines of bash before the stage starts, run under set -e: module load …"""
    srun: tuple[str, ...] = ()
    """Further words for srun."""
    hours: float = 0.0
    """Your estimate for the whole stage, for the plan's GPU-hours until a rate has been measured."""


def look_up_resources(table: Mapping[str, Mapping[str, Any]], labels: Sequence[str]) -> Resources:
    """Return the resources of a stage: those of its kind, "default", then each of `labels` in order."""
    merged = dict(BUILT_IN.get(labels[0], {}))
    for label in ("default", *labels):
        merged |= _checked(label, table.get(label) or {})
    if isinstance(merged.get("exclude"), list):
        merged["exclude"] = ",".join(merged["exclude"])
    resources = from_dict(Resources, merged)
    if resources.time_min < SHORTEST_MIN:
        raise SettingsError(
            f"resources of {labels[-1]}: time_min is {resources.time_min}; expected at least {SHORTEST_MIN} (minutes)"
        )
    if conflicts := find_conflicts(resources.extra, resources.gpus, resources.mem_gb):
        raise SettingsError("\n".join(f"resources of {labels[-1]}: extra.{text}" for text in conflicts))
    return resources


def resources_as_dict(resources: Resources) -> dict[str, Any]:
    """Return plain values for spec.json."""
    return asdict(resources)


def _texts_in(value: Any) -> list[str]:
    """Return the texts of a setting that may be a text, a list or a dictionary."""
    parts = [*value, *value.values()] if isinstance(value, Mapping) else value if isinstance(value, list) else [value]
    return [str(part) for part in parts]


def _checked(label: str, values: Mapping[str, Any]) -> dict[str, Any]:
    kinds = {entry.name: type(getattr(Resources(), entry.name)) for entry in fields(Resources)}
    for key, value in values.items():
        if key not in kinds:
            raise SettingsError(f"resources.{label}: unknown setting {key}; allowed are: {', '.join(kinds)}")
        good: Any = (int, float) if kinds[key] in (int, float) else (list, tuple) if kinds[key] is tuple else kinds[key]
        if key == "exclude":
            good = (str, list)
        if not isinstance(value, good) or (isinstance(value, bool) and key in LEAST):
            raise SettingsError(f"resources.{label}.{key}: expected {kinds[key].__name__}, got {value!r}")
        if key in LEAST and not LEAST[key] <= value < math.inf:
            raise SettingsError(f"resources.{label}.{key}: {key} is {value!r}; expected at least {LEAST[key]}")
        if key == "gpu_option" and value not in ("gpus", "gres"):
            raise SettingsError(f"resources.{label}.gpu_option: expected gpus or gres, got {value!r}")
        if key != "setup" and any(set(text) & set("\n\r") for text in _texts_in(value)):
            raise SettingsError(f"resources.{label}.{key}: {value!r} has a line break, which no sbatch option may hold")
    return dict(values)

"""Resources that a stage's job requests from the cluster."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pretrain.runtime.setting_types import find_near
from pretrain.runtime.settings import SettingsError, from_dict
from tools.chain.plan.extra_options import find_conflicts

BUILT_IN: dict[str, dict[str, Any]] = {
    "pretrain": {"gpus": 1, "time_min": 1440},
    "detector": {"gpus": 1, "time_min": 720},
    "linear": {"gpus": 1, "time_min": 480},
    "knn": {"gpus": 1, "time_min": 120},
    "analyse": {"gpus": 1, "time_min": 120},
}
"""Defaults of the kinds that use a GPU where there is one; a chain's `resources` override them."""
LIGHT: dict[str, Any] = {"gpus": 0, "time_min": 30}
"""Resources of random initialisation, conversion, kNN on the digits and the report: minutes on a CPU."""
SIZES = ("gpus", "nodes", "time_min", "hours")
KINDS = (
    "data",
    "initialise",
    "pretrain",
    "convert",
    "detector",
    "linear",
    "knn",
    "command",
    "analyse",
    "report",
    "notify",
)
"""Labels valid in every chain, in addition to "default"."""


@dataclass(frozen=True, kw_only=True)
class Resources:
    """One job; empty and 0 mean the site's default."""

    partition: str = ""
    """Slurm's partition."""
    account: str = ""
    """Slurm's account."""
    qos: str = ""
    """Slurm's quality of service."""
    nodes: int = field(default=1, metadata={"least": 1})
    """Machines."""
    gpus: int = field(default=0, metadata={"least": 0})
    """GPUs per node; one task runs on each."""
    gpu_option: str = field(default="gpus", metadata={"choices": ("gpus", "gres")})
    """gpus (--gpus-per-node) or gres (--gres=gpu:N), whichever the site supports."""
    cpus: int = field(default=4, metadata={"least": 1})
    """CPUs per task, and OMP_NUM_THREADS of each."""
    mem_gb: float = field(default=0.0, metadata={"least": 0})
    """Memory per node."""
    time_min: int = field(default=60, metadata={"least": 1})
    """Time limit of the job; a stage that needs longer is resumed by the next job."""
    constraint: str = ""
    """Node features, as sbatch accepts them."""
    exclude: str = field(default="", metadata={"join": ","})
    """Hosts to exclude: a string as sbatch accepts it, or a list."""
    mail_user: str = ""
    """Address for Slurm's mail."""
    mail_type: str = ""
    """When Slurm sends mail: END,FAIL."""
    extra: dict[str, Any] = field(default_factory=dict)
    """Further sbatch options by their long name: {"reservation": "x"}."""
    setup: tuple[str, ...] = field(default=(), metadata={"shell": True})
    """Lines of bash before the stage starts, run under set -e: module load …"""
    srun: tuple[str, ...] = ()
    """Further arguments of srun."""
    hours: float = field(default=0.0, metadata={"least": 0})
    """Your estimate of the complete stage's duration, for the plan's GPU-hours until a rate has been measured."""


def look_up_resources(
    table: Mapping[str, Mapping[str, Any]], labels: Sequence[str], *, is_light: bool = False
) -> Resources:
    """Return the resources of a stage: those of its kind, "default", then each of `labels` in order.

    A light stage (minutes on a CPU) takes no size from "default", so that it never queues for GPUs.
    """
    merged = dict(BUILT_IN.get(labels[0], {}))
    merged |= table.get("default") or {}
    if is_light:
        merged = {key: value for key, value in merged.items() if key not in SIZES} | LIGHT
    for label in labels:
        merged |= table.get(label) or {}
    if isinstance(merged.get("exclude"), (list, tuple)):  # in a chain.json of an earlier version
        merged["exclude"] = ",".join(merged["exclude"])
    resources = from_dict(Resources, merged)
    if conflicts := find_conflicts(resources.extra, resources.gpus, resources.mem_gb):
        raise SettingsError("\n".join(f"resources of {labels[-1]}: extra.{text}" for text in conflicts))
    return resources


def find_line_breaks(label: str, values: Mapping[str, Any]) -> list[str]:
    """Return a sentence for every value with a line break, which sbatch would read as another option."""
    return [
        f"resources.{label}.{key}: {value!r} has a line break, which is not allowed in an sbatch option"
        for key, value in values.items()
        if key != "setup" and any(set(text) & set("\n\r") for text in _texts_in(value))
    ]


def find_unknown_labels(table: Mapping[str, Any], labels: Iterable[str]) -> list[str]:
    """Return a sentence for every key of `table` that is not the label of a stage."""
    known = list(dict.fromkeys(("default", *KINDS, *labels)))
    found = []
    for label in table:
        if label not in known:
            near = find_near(label, known)
            hint = f"did you mean {near}?" if near else f"expected one of {', '.join(known[:40])}"
            found.append(f"resources.{label}: no kind, protocol or stage of this chain has this name; {hint}")
    return found


def find_odd_labels(table: Mapping[str, Any], names: Iterable[str]) -> list[str]:
    """Return the keys that cannot be labels, whatever stages the chain has: they begin with none of `names`.

    Args:
        table: resources by label.
        names: the chain's protocols and own stages.

    """
    known = ["default", *KINDS, *names]
    return [
        label
        for label in table
        if label not in known and not any(label.startswith((f"{name}-", f"{name}_")) for name in known)
    ]


def _texts_in(value: Any) -> list[str]:
    """Return the strings in a value that may be a scalar, a list or a dictionary."""
    if isinstance(value, Mapping):
        parts = [*value, *value.values()]
    else:
        parts = list(value) if isinstance(value, (list, tuple)) else [value]
    return [str(part) for part in parts]

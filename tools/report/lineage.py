"""Describe the origin and the cost of backbones, results and stages."""

from collections.abc import Sequence
from typing import Any

from pretrain.runtime.storage import read_json
from tools.report.stage_record import Stage
from transfer.weights.manifest import manifest_path
from transfer.weights.method_name import describe_method as name_method

WEIGHTS = "backbone.pkl"
"""The output of a convert stage; its manifest is in the same folder."""


def describe_backbones(stages: Sequence[Stage]) -> list[dict[str, Any]]:
    """Return one row per converted backbone: method, digests, config, commit, machines and hours."""
    pretrainings = {stage.name.removeprefix("pretrain-"): stage for stage in stages if stage.kind == "pretrain"}
    rows = []
    for stage in stages:
        manifest = manifest_path(stage.folder / WEIGHTS)
        if stage.kind != "convert" or not manifest.is_file():
            continue
        found, name = read_json(manifest), stage.name.removeprefix("convert-")
        origin = pretrainings.get(name, stage)
        rows.append(
            {
                "backbone": name,
                "method": describe_method(found),
                "epochs": found["source"].get("epoch"),
                "weights": found["output"]["sha256"][:12],
                "source": found["source"]["sha256"][:12],
                "matched": f"{found['matched']} of {found['expected']}",
                "config": origin.config or found["source"]["path"],
                "commit": str(origin.done.get("commit") or found.get("commit") or "")[:12],
                "jobs": origin.names_of("job_id") or "–",
                "hosts": origin.names_of("host"),
                "gpus": ", ".join(origin.gpus) or "none",
                "hours": origin.seconds / 3600,
            }
        )
    return rows


def describe_method(manifest: dict[str, Any]) -> str:
    """Return the method's name as in the model card; see `transfer.weights.method_name`."""
    return name_method(manifest.get("config"), str(manifest["source"]["family"]))


def describe_lineage(stage: Stage) -> dict[str, Any]:
    """Return the origin of a stage's result: weights, config, commit, jobs, hosts, GPUs, deviations.

    Raises:
        ValueError: the stage has no result.

    """
    result = stage.result
    if result is None:
        raise ValueError(f"{stage.folder}: the stage has no result, so it has no lineage")
    return {
        "backbone": result.backbone,
        "protocol": result.protocol,
        "seed": result.seed,
        "weights": result.weights_sha256[:12],
        "config": stage.config,
        "commit": result.commit[:12],
        "jobs": stage.names_of("job_id") or "–",
        "hosts": stage.names_of("host"),
        "gpus": ", ".join(stage.gpus),
        "deviations": "; ".join(f"{entry['key']} = {entry['got']}" for entry in result.deviations) or "none",
    }


def describe_cost(stage: Stage) -> dict[str, Any]:
    """Return the cost of a stage: hours, GPU-hours, attempts, faults survived, and its error if it failed."""
    return {
        "name": stage.name,
        "state": stage.state,
        "hours": stage.seconds / 3600,
        "gpu_hours": stage.gpu_seconds / 3600,
        "attempts": len(stage.attempts),
        "survived": ", ".join(stage.survived()) or "none",
        "error": str(stage.failed.get("message") or stage.failed.get("kind") or ""),
    }


def sum_costs(stages: Sequence[Stage]) -> list[dict[str, Any]]:
    """Return one row per kind of stage and a total: stages, hours, GPU-hours, retries, faults survived."""
    kinds = {kind: [stage for stage in stages if stage.kind == kind] for kind in dict.fromkeys(s.kind for s in stages)}
    return [
        {
            "kind": kind,
            "stages": len(mine),
            "hours": sum(stage.seconds for stage in mine) / 3600,
            "gpu_hours": sum(stage.gpu_seconds for stage in mine) / 3600,
            "retries": sum(max(0, len(stage.attempts) - 1) for stage in mine),
            "survived": sum(len(list(stage.survived())) for stage in mine if stage.state == "done"),
        }
        for kind, mine in [*kinds.items(), ("all", list(stages))]
    ]

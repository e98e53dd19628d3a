"""Say a plan in words: the stages, what is done, why the rest runs, and what it costs."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean

from pretrain.runtime.storage import read_json
from tools.chain.plan.make_plan import Stage
from tools.chain.plan.plan_table import Row, say_longest_path, say_total, write_plan_table
from tools.chain.preflight import Survey
from tools.chain.record.attempts import read_attempts
from tools.chain.record.state import find_states, read_spec, stage_folder
from tools.chain.same_work import find_same_work
from tools.chain.status import read_progress
from tools.chain.submit import Chain, shorten

NO_PROTOCOL = ("data", "pretrain", "convert", "analyse", "report", "notify")
"""Kinds of stages that measure nothing."""
Work = tuple[str, ...]
"""What a stage does, whoever it does it to."""


def explain_plan(chain: Chain, survey: Survey | None = None) -> str:
    """Return the plan as text of one screen: a table of the stages, the longest path, and the GPU-hours left."""
    rows = list_rows(chain, survey)
    title = f"chain {shorten(chain.folder)}, backend {chain.config.backend}: {len(chain.stages)} stages"
    texts = [title, write_plan_table(rows), say_longest_path(rows, chain.stages), say_total(rows)]
    return "\n".join([*filter(None, texts), *(find_same_work(survey) if survey else [])])


def list_rows(chain: Chain, survey: Survey | None = None) -> list[Row]:
    """Return what a plan says of each stage."""
    states = find_states(chain.folder, chain.stages)
    measured = measure_gpu_hours(chain.folder)
    notes = {} if survey is None else survey.notes
    again = _reasons_again(chain, states)
    longest_first = sorted(chain.config.protocols, key=len, reverse=True)
    rows = []
    for stage in chain.stages:
        begins = (name for name in longest_first if stage.name.startswith((f"{name}-", f"{name}_")))
        protocol = "" if stage.kind in NO_PROTOCOL else next(begins, "")
        hours = estimate_gpu_hours(chain.folder, stage, measured)
        note = again.get(stage.name) or notes.get(stage.name, "")
        rows.append(Row.of(stage, protocol, states[stage.name], hours, note))
    return rows


def estimate_gpu_hours(chain: Path, stage: Stage, measured: Mapping[Work, float]) -> float | None:
    """Return GPUs x hours that are left: from the stage's own rate, else its like, else its estimate; None: unknown."""
    gpus = stage.resources.gpus * stage.resources.nodes
    if not gpus:
        return 0.0
    progress = read_progress(stage_folder(chain, stage.folder))
    if progress.get("rate_per_s"):
        return float(gpus * (progress["total"] - progress["step"]) / progress["rate_per_s"] / 3600)
    return whole_gpu_hours(stage, measured)


def whole_gpu_hours(stage: Stage, measured: Mapping[Work, float]) -> float | None:
    """Return GPUs x hours of a stage from its start to its end: as its like took, else by its estimate."""
    gpus = stage.resources.gpus * stage.resources.nodes
    return measured.get(_work_of(stage.kind, stage.command), gpus * stage.resources.hours or None)


def measure_gpu_hours(chain: Path) -> dict[Work, float]:
    """Return the mean GPU-hours of the stages done on GPUs, by what they do: another seed costs the same."""
    found: dict[Work, list[float]] = {}
    for path in (chain / "stages").glob("*/DONE.json"):
        attempts = read_attempts(path.parent)
        if any(attempt.get("gpu") for attempt in attempts):
            spec = read_spec(path.parent)
            if not spec:
                continue
            seconds = sum(attempt.get("seconds") or 0 for attempt in attempts)
            gpus = spec["resources"]["gpus"] * spec["resources"]["nodes"]
            found.setdefault(_work_of(spec["kind"], spec["command"]), []).append(gpus * seconds / 3600)
    return {work: mean(hours) for work, hours in found.items()}


def _work_of(kind: str, command: Sequence[str]) -> Work:
    """Return the kind, the module and its config: what names, seeds and settings leave alone."""
    return (kind, *command[:4])


def _reasons_again(chain: Chain, states: Mapping[str, str]) -> dict[str, str]:
    """Return {stage: why a stage of this name that is done under another key does not count}."""
    done: dict[str, list[Path]] = {}
    folder = chain.folder / "stages"
    for entry in os.scandir(folder) if folder.is_dir() else ():
        done.setdefault(entry.name.rpartition("-")[0], []).append(Path(entry.path))
    found = {}
    for stage in chain.stages:
        others = [path for path in done.get(stage.folder.rpartition("-")[0], ()) if path.name != stage.folder]
        if states[stage.name] != "done" and others and (text := _why_again(stage, others)):
            found[stage.name] = text
    return found


def _why_again(stage: Stage, others: Sequence[Path]) -> str:
    before: list[Mapping[str, object]] = []
    for path in others:
        if (path / "DONE.json").exists() and (path / "spec.json").exists():
            spec = read_json(path / "spec.json")
            if spec["name"] == stage.name:
                before.append(spec["why"])
    changes: list[list[str]] = [
        sorted(part for part in {**why, **stage.why} if why.get(part) != stage.why.get(part)) for why in before
    ]
    fewest = min((len(parts) for parts in changes), default=0)
    parts = next((parts for parts in changes if len(parts) == fewest), [])
    return f"again, for what changed: {', '.join(parts)}" if parts else ""

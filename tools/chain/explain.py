"""Say a plan in words: the stages, what is done, why the rest runs, and what it costs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean

from tools.chain.plan.make_plan import KEY_LENGTH, Stage
from tools.chain.record.attempts import read_attempts
from tools.chain.record.state import find_states, read_spec, stage_folder
from tools.chain.status import read_progress
from tools.chain.submit import Chain, shorten

Work = tuple[str, ...]
"""What a stage does, whoever it does it to."""


def explain_plan(chain: Chain) -> str:
    """Return the plan as text: one line per stage and the GPU-hours of what is not done."""
    states = find_states(chain.folder, chain.stages)
    width = max(len(stage.name) for stage in chain.stages)
    lines = [f"chain {shorten(chain.folder)}, backend {chain.config.backend}: {len(chain.stages)} stages"]
    hours = 0.0
    measured = measure_gpu_hours(chain.folder)
    earlier = _index_done(chain.folder)
    for stage in chain.stages:
        reason = "" if states[stage.name] == "done" else _why_again(stage, earlier)
        after = ", ".join(stage.upstream) if stage.kind != "report" else "all"
        lines.append(f"  {states[stage.name]:8} {stage.name:{width}}  after {after or 'nothing'}{reason}")
        if states[stage.name] != "done":
            hours += estimate_gpu_hours(chain.folder, stage, measured)
    left = sum(state != "done" for state in states.values())
    lines.append(f"{len(states) - left} done, {left} to run; about {hours:.1f} GPU-hours")
    return "\n".join(lines)


def estimate_gpu_hours(chain: Path, stage: Stage, measured: Mapping[Work, float]) -> float:
    """Return GPUs x hours that are left: from the stage's own rate, else from its like, else its estimate, else 0."""
    gpus = stage.resources.gpus * stage.resources.nodes
    progress = read_progress(stage_folder(chain, stage.folder))
    if progress.get("rate_per_s"):
        return float(gpus * (progress["total"] - progress["step"]) / progress["rate_per_s"] / 3600)
    return measured.get(_work_of(stage.kind, stage.command), gpus * stage.resources.hours)


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


def _index_done(chain: Path) -> dict[str, list[Path]]:
    """Return {folder's name without its key: folders} of all stages that are done."""
    found: dict[str, list[Path]] = {}
    for path in sorted((chain / "stages").glob("*/DONE.json")):
        found.setdefault(path.parent.name[:-KEY_LENGTH], []).append(path.parent)
    return found


def _why_again(stage: Stage, earlier: Mapping[str, Sequence[Path]]) -> str:
    """Return why a stage of this name that is done under another key does not count; "" when there is none."""
    folders = (path for path in earlier.get(stage.folder[:-KEY_LENGTH], ()) if path.name != stage.folder)
    specs = (spec for spec in map(read_spec, folders) if spec.get("name") == stage.name)
    before: list[Mapping[str, object]] = [spec["why"] for spec in specs if isinstance(spec.get("why"), dict)]
    if not before:
        return ""
    changes = [sorted(part for part in {**why, **stage.why} if why.get(part) != stage.why.get(part)) for why in before]
    fewest = min(len(parts) for parts in changes)
    parts = next(parts for parts in changes if len(parts) == fewest)
    return f"   again, for what changed: {', '.join(parts)}"

"""Format the table of a chain's stages: state, attempt, step, rate, ETA, host, GPU, last error line."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import NoneType
from typing import Any

from pretrain.runtime.command_line import show
from pretrain.runtime.storage import read_json_object
from tools.chain.plan.make_plan import Stage
from tools.chain.record.attempt_reasons import queue_wait_s, say_attempts, say_outcome
from tools.chain.record.attempts import read_attempts, read_ledger
from tools.chain.record.state import find_reason, find_states, is_cancelled, read_failed, stage_folder

NUMBER = (int, float)
PROGRESS_KINDS: dict[str, tuple[type, ...]] = {
    "rate_per_s": (*NUMBER, NoneType),
    "eta_s": (*NUMBER, NoneType),
    "time": NUMBER,
    "phase": (str, NoneType),
}
COLUMNS = ("stage", "state", "attempt", "step", "rate", "eta", "host", "gpu", "waited", "earlier", "note")


def describe_stages(
    chain: Path, stages: Sequence[Stage], jobs: Mapping[str, Mapping[str, str]] | None = None
) -> list[dict[str, Any]]:
    """Return one JSON-serialisable dictionary per stage.

    Args:
        chain: the chain's folder.
        stages: its plan.
        jobs: {stage folder: {"job_id", "state", "reason"}} from the queue; None if there is none or it did not answer.

    """
    states = find_states(chain, stages)
    return [_describe(chain, stage, states[stage.name], (jobs or {}).get(stage.folder)) for stage in stages]


def read_progress(folder: Path) -> dict[str, Any]:
    """Return progress.json, {} when there is none yet or it is damaged."""
    try:
        values = read_json_object(folder / "progress.json", {"step": NUMBER, "total": NUMBER})
    except (OSError, ValueError):
        return {}
    return values if all(isinstance(values[key], kind) for key, kind in PROGRESS_KINDS.items() if key in values) else {}


def say_progress(progress: Mapping[str, Any]) -> str:
    """Return e.g. "step 120/2000 (6 %), 3.1/s, 10:06 to go"; "" before the first heartbeat."""
    if not progress:
        return ""
    step, total, unit = progress.get("step", 0), progress.get("total") or 0, progress.get("unit") or "steps"
    parts = [f"{unit} {step}/{total} ({100 * step // total if total else 0} %)"]
    if progress.get("rate_per_s"):
        parts.append(say_rate(progress["rate_per_s"]))
    if progress.get("eta_s") is not None:
        parts.append(f"{say_duration(progress['eta_s'])} to go")
    if progress.get("phase"):
        parts.append(str(progress["phase"]))
    return ", ".join(parts)


def say_rate(rate_per_s: float) -> str:
    """Return "3.1/s", or "4.2 s each" for slow steps."""
    return f"{rate_per_s:.3g}/s" if rate_per_s >= 1 else f"{1 / rate_per_s:.3g} s each"


def say_duration(seconds: float) -> str:
    """Return "0:42", "12:05" or "3:04:05"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def write_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the rows as text, without columns that are empty in every row."""
    columns = [name for name in COLUMNS if any(row.get(name) for row in rows)]
    cells = [columns, *([show(str(row.get(name) or "")) for name in columns] for row in rows)]
    widths = [max(len(line[index]) for line in cells) for index in range(len(columns))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells
    )


def _describe(chain: Path, stage: Stage, state: str, job: Mapping[str, str] | None) -> dict[str, Any]:
    folder = stage_folder(chain, stage.folder)
    attempts = read_attempts(folder)
    last = attempts[-1] if attempts else {}
    progress = read_progress(folder)
    running = state == "running"
    fresh = running and progress and progress.get("time", 0) >= last.get("began", 0)
    reasons = [say_outcome(entry, running and entry is last) for entry in attempts]
    waited_s = queue_wait_s(read_ledger(folder), attempts, time.time())
    seconds = sum(float(entry.get("seconds") or 0) for entry in attempts)
    return {
        "stage": stage.name,
        "state": state,
        "attempt": len(attempts) or None,
        "step": f"{progress['step']}/{progress['total']}" if "step" in progress and state != "done" else None,
        "rate": say_rate(progress["rate_per_s"]) if fresh and progress.get("rate_per_s") else None,
        "eta": say_duration(progress["eta_s"]) if fresh and progress.get("eta_s") is not None else None,
        "host": last.get("host"),
        "gpu": ", ".join(map(str, last.get("gpu") or [])) or None,
        "job": job["job_id"] if job else last.get("job_id") or None,
        "note": (progress.get("phase") if fresh else None) or _note(folder, stage, state, last, job),
        "folder": str(folder),
        "waited": None if waited_s is None else say_duration(waited_s),
        "earlier": say_attempts(reasons) or None,
        "reasons": reasons,
        "seconds": seconds,
        "gpu_hours": seconds / 3600 * (stage.resources.gpus * stage.resources.nodes if _had_gpu(attempts) else 0),
        "outcomes": [entry.get("outcome") for entry in attempts],
        "silent_s": round(time.time() - progress["time"]) if running and "time" in progress else None,
    }


def _had_gpu(attempts: Sequence[Mapping[str, Any]]) -> bool:
    return any(entry.get("gpu") for entry in attempts)


def _note(folder: Path, stage: Stage, state: str, last: Mapping[str, Any], job: Mapping[str, str] | None) -> str | None:
    if state == "failed":
        failed = read_failed(folder) or {}
        return f"{failed.get('kind')}: {find_reason(failed)}"[:160]
    if state in ("pending", "lost") and is_cancelled(folder):
        return "cancelled; resume runs it again"
    if state in ("pending", "lost") and job:
        return f"job {job['job_id']} {job['state'].lower()} ({job['reason']})"
    if state == "pending" and last.get("outcome"):
        return f"{last['outcome']}: {last.get('reason') or ''}".strip(" :")
    if state == "blocked":
        return f"waits for {', '.join(stage.upstream)}"
    return None

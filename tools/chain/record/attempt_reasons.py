"""Describe why each attempt of a stage ended, and how long its job was queued."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

WORDS = {
    "done": "done",
    "stopped": "stopped by the user",
    "superseded": "node lost",
    "gate": "inputs changed",
    "quota": "disk full",
    "oom": "out of memory",
    "budget": "budget used up",
}
"""Outcome → description, where the recorded reason adds nothing."""
SIGNALS = {"SIGTERM": "preempted or asked to end (SIGTERM)", "SIGUSR2": "near the job's time limit (SIGUSR2)"}


def say_outcome(attempt: Mapping[str, Any], is_running: bool) -> str:
    """Return why an attempt ended, e.g. "time limit" or "node lost"; "running" while it does."""
    outcome, reason = str(attempt.get("outcome") or ""), str(attempt.get("reason") or "")
    if is_running:
        return "running"
    if not outcome:
        return "node lost" if attempt.get("job_id") else "process lost"
    if outcome in WORDS:
        return WORDS[outcome]
    if outcome == "yield":
        return SIGNALS.get(reason, reason or "asked to end")
    return f"killed ({reason.removeprefix('signal ')})" if outcome == "killed" else reason or outcome


def say_attempts(reasons: Sequence[str]) -> str:
    """Return the distinct reasons in order, with counts: "time limit ×2, node lost"; "done" is left out."""
    counts = Counter(reason for reason in reasons if reason not in ("done", "running"))
    return ", ".join(f"{reason} ×{count}" if count > 1 else reason for reason, count in counts.items())


def queue_wait_s(
    ledger: Sequence[Mapping[str, Any]], attempts: Sequence[Mapping[str, Any]], now: float
) -> float | None:
    """Return the seconds that the newest job was queued, so far if it has not started; None without a job.

    Measured from the submit to the first start; the waits of a requeued job are not recorded.
    """
    submitted = [entry for entry in ledger if entry.get("event") == "submitted" and entry.get("job_id")]
    if not submitted:
        return None
    job, since = str(submitted[-1]["job_id"]), float(submitted[-1].get("time") or now)
    began = [float(entry["began"]) for entry in attempts if str(entry.get("job_id")) == job and "began" in entry]
    return max(0.0, min(began, default=now) - since)

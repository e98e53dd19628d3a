"""Query Slurm for a chain's jobs in the queue; no answer means "unknown", never "finished"."""

import hashlib
import subprocess
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pretrain.runtime.storage import append_json_line
from tools.chain.record.attempts import read_ledger

ATTEMPTS = 4
PAUSE_S = 2.0
LIVE = {
    "PENDING", "RUNNING", "CONFIGURING", "COMPLETING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SUSPENDED",
    "RESV_DEL_HOLD", "SIGNALING", "SPECIAL_EXIT", "STAGE_OUT", "STOPPED", "RESIZING",
}  # fmt: skip
"""States of squeue (squeue(1), JOB STATE CODES) in which a job may still do its work."""
LAUNCH_FAILED = "launch failed requeued held"
"""Reason of a job that a node could not start (seen on Slurm 22.05 after "Duplicate jobid"): it has to be released."""
NEVER = "DependencyNeverSatisfied"


class QueueUnknownError(ValueError):
    """The queue did not answer, so its content is unknown."""


def list_queue() -> list[dict[str, Any]]:
    """Return the jobs in the queue of this user: job_id ("12" or "12_3"), index, state, reason, name.

    Raises:
        QueueUnknownError: squeue is not installed or failed repeatedly.

    """
    words = ["squeue", "--noheader", "--array", "--me", "--states=all", "--format=%i|%K|%T|%r|%j"]
    text = run_slurm(words)
    jobs = []
    for line in text.split("\n"):
        if line.count("|") < 4:
            continue  # the last one, or "CLUSTER: name", which squeue prints if SLURM_CLUSTERS is set
        job_id, index, state, reason, name = line.split("|", 4)
        if state in LIVE:
            jobs.append({"job_id": job_id, "index": _int(index), "state": state, "reason": reason, "name": name})
    return jobs


def run_slurm(words: Sequence[str]) -> str:
    """Return the output of a Slurm command; retries while the controller is busy or restarting.

    Raises:
        QueueUnknownError: it failed every time; the text holds its last error.

    """
    error = ""
    for attempt in range(ATTEMPTS):
        time.sleep(PAUSE_S if attempt else 0)
        try:
            answer = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
        except FileNotFoundError as missing:
            raise QueueUnknownError(
                f"{words[0]} is not on this machine; submit from a login node of the cluster"
            ) from missing
        except subprocess.TimeoutExpired:
            error = "no answer in 60 s"
            continue
        if answer.returncode == 0:
            return answer.stdout
        error = answer.stderr.strip()
    raise QueueUnknownError(f"{words[0]} failed {ATTEMPTS} times ({error}); nothing was changed, try again later")


def job_name(chain: Path, text: str) -> str:
    """Return a job name that begins with `text`, is unique to the chain folder, and needs no shell quoting."""
    return f"{text}-mochi-{hashlib.sha256(str(chain).encode()).hexdigest()[:6]}"


def find_jobs(chain: Path) -> dict[str, dict[str, Any]]:
    """Return {stage folder: its live job}, matched by the job names in the ledgers; {} if the queue does not answer."""
    try:
        return match_jobs(chain, list_queue()) if was_submitted(chain) else {}
    except QueueUnknownError:
        return {}


def was_submitted(chain: Path) -> bool:
    """Return whether any stage of the chain was ever submitted to Slurm; a local chain's ledgers hold only retries."""
    ledgers = (chain / "stages").glob("*/ledger.jsonl")
    return any(line.get("event") == "intent" for path in ledgers for line in read_ledger(path.parent))


def refuse_other_cluster(chain: Path, folders: Sequence[str], states: Iterable[str], cluster: str) -> None:
    """Raise ValueError if an unfinished stage was submitted to a cluster other than the one queried now.

    Args:
        chain: the chain's folder.
        folders: of its stages.
        states: of the same stages.
        cluster: the one that Slurm's commands address now; "" for the default one.

    """
    for folder, state in zip(folders, states, strict=True):
        if state in ("done", "failed"):
            continue
        lines = [
            line for line in read_ledger(chain / "stages" / folder) if line.get("event") in ("intent", "cancelled")
        ]
        if lines and lines[-1]["event"] == "intent" and (before := lines[-1].get("cluster", "")) != cluster:
            raise ValueError(
                f"{folder} was submitted to {f'cluster {before}' if before else 'the default cluster'}, and Slurm's "
                f"commands ask {f'cluster {cluster}' if cluster else 'the default one'} now, which does not know that "
                f"job; {f'set SLURM_CLUSTERS={before}' if before else 'unset SLURM_CLUSTERS'}, `cancel` "
                "there, then `resume` here to move the chain"
            )


def match_jobs(chain: Path, queue: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return {stage folder: its live job}, and record in the ledgers job ids that a killed submit could not record."""
    by_name = {(job["name"], job["index"]): job for job in queue}
    found = {}
    for path in (chain / "stages").glob("*/ledger.jsonl"):
        lines = read_ledger(path.parent)
        noted = {line.get("job_id") for line in lines}
        for line in lines:
            job = by_name.get((line.get("job_name"), line.get("index"))) if line.get("event") == "intent" else None
            if job is None:
                continue
            found[path.parent.name] = job
            if job["job_id"] not in noted:
                append_json_line(path, {"event": "found", "job_id": job["job_id"], "time": time.time()})
    return found


def cancel(job_ids: Sequence[str]) -> None:
    """Cancel jobs."""
    if job_ids:
        run_slurm(["scancel", *job_ids])


def _int(text: str) -> int | None:
    return int(text) if text.isdigit() else None

"""Run one task of a Slurm job; called from the chain's sbatch scripts, not by hand.

  srun python -m tools.chain.slurm.job STAGE_FOLDER [STAGE_FOLDER …]

Given several folders (a job array), the task uses the one at its index. Rank 0 runs the stage; the other ranks run only
its command. A yield exits with 75, and the batch script then requeues the job in place.
"""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pretrain.runtime.command_line import run_command
from pretrain.runtime.stopping import EXIT_DONE, EXIT_YIELD
from pretrain.runtime.storage import read_json
from tools.chain.record.attempts import read_attempts
from tools.chain.record.stop_request import StopRequest
from tools.chain.run.launch import list_gpu_names, start_ranks, wait_for_ranks
from tools.chain.run.run_stage import fill_command, run_stage
from tools.chain.run.verdict import LOG
from tools.chain.slurm.hosts import must_leave_host

LEADER_WAIT_S = 120.0


def main(arguments: Sequence[str]) -> int:
    """Run this task's share of the stage."""
    stop = StopRequest().install()
    index = int(os.environ.get("SLURM_ARRAY_TASK_ID", "0"))
    folder = Path(arguments[index])
    spec = read_json(folder / "spec.json")
    left = find_seconds_left(os.environ["SLURM_JOB_ID"])
    if left is not None:
        stop.deadline = time.monotonic() + left - min(spec["slurm"]["margin_s"], left / 4)
    restart = int(os.environ.get("SLURM_RESTART_COUNT", "0"))
    job = {"backend": "slurm", "job_id": _job_id(), "restart": restart, "gpu": list_gpu_names()}
    environment = rendezvous(os.environ, restart)
    if int(os.environ.get("SLURM_PROCID", "0")) == 0:
        if must_leave_host(folder, spec, job, node := os.environ.get("SLURMD_NODENAME", "")):
            print(f"{folder.name}: earlier attempts died on {node} without a step; the job is requeued on another host")
            return EXIT_YIELD
        return run_stage(folder, job, stop, [environment])
    return _follow(folder, job, stop, environment)


def find_seconds_left(job_id: str) -> float | None:
    """Return the job's remaining time in seconds, from squeue; None if unknown or unlimited."""
    words = ["squeue", "--noheader", f"--job={job_id}", "--format=%L"]
    for _ in range(3):
        try:
            answer = subprocess.run(words, capture_output=True, text=True, timeout=30, check=False)
        except (OSError, subprocess.TimeoutExpired):
            continue
        if answer.returncode == 0:
            return parse_duration(answer.stdout.strip())
        time.sleep(1)
    return None


def parse_duration(text: str) -> float | None:
    """Return the seconds of Slurm's "1-02:03:04", "2:03:04" or "3:04"; None for UNLIMITED, INVALID and the like."""
    days, _, rest = text.rpartition("-")
    parts = rest.split(":")
    if not all(part.isdigit() for part in parts) or (days and not days.isdigit()) or not 1 < len(parts) <= 3:
        return None
    seconds = 0
    for part in parts:
        seconds = 60 * seconds + int(part)
    return 86400.0 * int(days or 0) + seconds


def rendezvous(environment: Mapping[str, str], restart: int) -> dict[str, str]:
    """Return RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT of this task; {} for a single task.

    The port lies below Linux's ephemeral range and changes with each restart; the address falls back to the launch
    node's IP address if the node's name does not resolve.
    """
    if int(environment.get("SLURM_NTASKS", 1)) <= 1:
        return {}
    return {
        "RANK": environment["SLURM_PROCID"],
        "WORLD_SIZE": environment["SLURM_NTASKS"],
        "LOCAL_RANK": environment["SLURM_LOCALID"],
        "MASTER_ADDR": _find_master(environment),
        "MASTER_PORT": str(20000 + (int(environment["SLURM_JOB_ID"]) + restart) % 10000),
    }


def _find_master(environment: Mapping[str, str]) -> str:
    fallback = environment.get("SLURM_LAUNCH_NODE_IPADDR", "127.0.0.1")
    try:
        words = ["scontrol", "show", "hostnames", environment["SLURM_JOB_NODELIST"]]
        name = subprocess.run(words, capture_output=True, text=True, timeout=30, check=True).stdout.split()[0]
        socket.getaddrinfo(name, None)
    except (OSError, IndexError, KeyError, subprocess.SubprocessError):
        return fallback
    return name


def _follow(folder: Path, job: Mapping[str, Any], stop: StopRequest, environment: Mapping[str, str]) -> int:
    """Run the command of a rank other than 0 once rank 0 has opened its attempt."""
    until = time.monotonic() + LEADER_WAIT_S
    while not any(_is_ours(attempt, job) for attempt in read_attempts(folder)):
        if time.monotonic() > until or stop.ask():
            return EXIT_DONE  # rank 0 found the gate closed or the stage done: its exit code counts
        time.sleep(0.2)
    code = wait_for_ranks(start_ranks(fill_command(folder), [environment], folder / LOG), stop.ask)
    return EXIT_DONE if code == EXIT_YIELD else abs(code)  # rank 0 returns 75; here it would make srun kill rank 0


def _is_ours(attempt: Mapping[str, Any], job: Mapping[str, Any]) -> bool:
    same = all(attempt.get(key) == job[key] for key in ("job_id", "restart"))
    return same and not attempt.get("outcome")


def _job_id() -> str:
    if array := os.environ.get("SLURM_ARRAY_JOB_ID"):
        return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    return os.environ["SLURM_JOB_ID"]


if __name__ == "__main__":
    sys.exit(run_command(main, __doc__))

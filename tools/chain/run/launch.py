"""Run a stage's command: one process per rank, output to log files, stop signals handed on, all ended together."""

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from pretrain.runtime.stopping import EXIT_YIELD

PR_SET_PDEATHSIG = 1
"""prctl(2): the signal a process gets when its parent dies."""
GRACE_S = 300.0
"""How long a command may take to save its work after a stop request."""
POLL_S = 0.1
SUPERSEDED = "superseded"
"""The stop reason upon which nothing may be saved any more."""


def die_with_parent(number: int) -> None:
    """Ask the kernel to send this process `number` when its parent dies (Linux; elsewhere nothing happens)."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number)


def stage_environment(code: Path, commit: str) -> dict[str, str]:
    """Return the variables by which a stage runs the exported code and nothing of the current folder."""
    return {
        "PYTHONPATH": str(code),
        "PYTHONSAFEPATH": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUNBUFFERED": "1",
        "MOCHI_COMMIT": commit,
    }


def _die_by_kill() -> None:
    die_with_parent(signal.SIGKILL)


def start_ranks(
    words: Sequence[str], environments: Sequence[Mapping[str, str]], log: Path
) -> list[subprocess.Popen[bytes]]:
    """Start the command once per environment; rank 0 writes to `log`, the others beside it as log.rankN.txt.

    A stage runner that is killed takes the command along: two runs of one stage never overlap.
    """
    ranks = []
    for rank, environment in enumerate(environments):
        number = int(environment.get("RANK", rank))
        path = log if number == 0 else log.with_name(f"{log.stem}.rank{number}{log.suffix}")
        with path.open("ab") as stream:
            ranks.append(
                subprocess.Popen(
                    words,
                    stdin=subprocess.DEVNULL,
                    stdout=stream,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, **environment},
                    preexec_fn=_die_by_kill,  # noqa: PLW1509 (this process has no lock that a fork could copy)
                )
            )
    return ranks


def wait_for_ranks(ranks: Sequence[subprocess.Popen[bytes]], stop_reason: Callable[[], str]) -> int:
    """Wait until all ranks have ended; return 0, EXIT_YIELD or the first bad exit code (negative: a signal).

    Args:
        ranks: the running processes.
        stop_reason: asked all along; once it returns a text, the ranks are sent SIGTERM, and SIGKILL after GRACE_S;
            for SUPERSEDED they are killed at once.

    """
    asked: float | None = None
    while True:
        codes = [rank.poll() for rank in ranks]
        bad = [code for code in codes if code not in (None, 0, EXIT_YIELD)]
        if None not in codes:
            return bad[0] or 0 if bad else max(code or 0 for code in codes)
        if stop_reason() == SUPERSEDED:
            _send(ranks, signal.SIGKILL)
        elif asked is None and (stop_reason() or bad):
            asked = time.monotonic()
            _send(ranks, signal.SIGTERM)
        elif asked is not None and time.monotonic() - asked > (30.0 if bad else GRACE_S):
            _send(ranks, signal.SIGKILL)
        time.sleep(POLL_S)


def _send(ranks: Sequence[subprocess.Popen[bytes]], number: int) -> None:
    for rank in ranks:
        if rank.poll() is None:
            rank.send_signal(number)


def local_environments(count: int, port: int) -> list[dict[str, str]]:
    """Return the rendezvous variables of `count` ranks on this machine; none for a single one."""
    if count <= 1:
        return [{}]
    shared = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return [{**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(count)]


def list_gpu_names() -> list[str]:
    """Return the names of the GPUs this process may use, none without a driver: a requeue may change them."""
    if shutil.which("nvidia-smi") is None or os.environ.get("CUDA_VISIBLE_DEVICES") == "":
        return []
    words = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    if visible := os.environ.get("CUDA_VISIBLE_DEVICES"):
        words.append(f"--id={visible}")
    answer = subprocess.run(words, capture_output=True, text=True, check=False)
    return answer.stdout.strip().splitlines() if answer.returncode == 0 else []

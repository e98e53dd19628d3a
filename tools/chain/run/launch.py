"""Run a stage's command: one process per rank, output to log files, stop signals forwarded, all ended together."""

import contextlib
import ctypes
import multiprocessing.connection
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from pretrain.runtime.stopping import EXIT_YIELD
from tools.chain.record.stop_request import SUPERSEDED

PR_SET_PDEATHSIG = 1
"""prctl(2): the signal a process gets when its parent dies."""
GRACE_S = 300.0
"""How long a command may take to save its work after a stop request."""
POLL_S = 0.1
EXIT_NOT_FOUND = 127
"""What a shell returns for a command that does not exist, and so does `DIE_WITH_PARENT`."""
DIE_WITH_PARENT = f"""
import ctypes, os, sys
try:
    ctypes.CDLL(None).prctl({PR_SET_PDEATHSIG}, {int(signal.SIGKILL)})
except (OSError, AttributeError):
    pass
if os.getppid() != int(sys.argv[1]):
    os._exit({EXIT_YIELD})
try:
    os.execvp(sys.argv[2], sys.argv[2:])
except OSError as error:
    print(f"{{sys.argv[2]}}: cannot be started ({{error.strerror}})", file=sys.stderr)
    sys.exit({EXIT_NOT_FOUND})
"""
"""Requests the parent-death signal, then execs the command: argv is the parent's pid and the command.

A separate process, because Python code between fork and exec (preexec_fn) can deadlock if other threads run.
"""


def die_with_parent(number: int) -> None:
    """Request from the kernel the signal `number` when the parent dies (Linux; a no-op elsewhere)."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number)


def stage_environment(code: Path, commit: str) -> dict[str, str]:
    """Return the variables with which a stage imports the exported code and nothing from the current folder."""
    return {
        "PYTHONPATH": str(code),
        "PYTHONSAFEPATH": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUNBUFFERED": "1",
        "MOCHI_COMMIT": commit,
    }


def start_ranks(
    words: Sequence[str], environments: Sequence[Mapping[str, str]], log: Path
) -> list[subprocess.Popen[bytes]]:
    """Start the command once per environment; rank 0 writes to `log`, the others beside it as log.rankN.txt.

    The ranks die with the stage runner, so that two runs of one stage never overlap.
    """
    launcher = [sys.executable, "-I", "-S", "-c", DIE_WITH_PARENT, str(os.getpid())]
    ranks = []
    for rank, environment in enumerate(environments):
        number = int(environment.get("RANK", rank))
        path = log if number == 0 else log.with_name(f"{log.stem}.rank{number}{log.suffix}")
        with path.open("ab") as stream:
            ranks.append(
                subprocess.Popen(
                    [*launcher, *words],
                    stdin=subprocess.DEVNULL,
                    stdout=stream,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, **environment},
                )
            )
    return ranks


def wait_for_ranks(ranks: Sequence[subprocess.Popen[bytes]], stop_reason: Callable[[], str]) -> int:
    """Wait until all ranks have ended; return 0, EXIT_YIELD or the exit code of the rank that failed first.

    Negative codes are signals. When one rank is killed the others fail soon after because of it: so among the first
    failures a signal takes precedence over an exit code, and failures after our own signals are ignored.

    Args:
        ranks: the running processes.
        stop_reason: polled; once it returns a reason, the ranks are sent SIGTERM, and SIGKILL after GRACE_S; for
            SUPERSEDED they are killed at once.

    """
    asked: float | None = None
    first_bad: int | None = None
    while True:
        codes = [rank.poll() for rank in ranks]
        bad = [code for code in codes if code not in (None, 0, EXIT_YIELD)]
        first_bad = min((code or 0 for code in bad), default=None) if first_bad is None else first_bad
        if None not in codes:
            return max(code or 0 for code in codes) if first_bad is None else first_bad
        if stop_reason() == SUPERSEDED:
            _send(ranks, signal.SIGKILL)
        elif asked is None and (stop_reason() or bad):
            asked = time.monotonic()
            _send(ranks, signal.SIGTERM)
        elif asked is not None and time.monotonic() - asked > (30.0 if bad else GRACE_S):
            _send(ranks, signal.SIGKILL)
        wait_for_any(ranks, POLL_S)


def wait_for_any(processes: Sequence[subprocess.Popen[bytes]], seconds: float) -> None:
    """Wait until one of these processes ends, a signal arrives, or `seconds` have passed."""
    handles: list[int] = []
    try:
        handles.extend(os.pidfd_open(process.pid) for process in processes if process.returncode is None)
        if handles:
            multiprocessing.connection.wait(handles, seconds)
        else:
            time.sleep(seconds)
    except (OSError, AttributeError):  # no pidfd_open on this kernel (before Linux 5.3), or no handle left
        time.sleep(min(seconds, POLL_S))
    finally:
        for handle in handles:
            os.close(handle)


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

"""The starts of one stage: attempts/0001.json, … A live one is also the lease that keeps a second run away.

A number is taken by an exclusive link, so of two that start at once one wins. While it runs its file is touched: that
is the heartbeat by which another machine sees that it lives.
"""

import os
import platform
import re
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pretrain.runtime.storage import TEMPORARY_PREFIX, read_json, read_json_lines, write_json

HEARTBEAT_S = 5.0
QUIET_BEATS = 3
DEAD_AFTER_S = 60.0
"""A heartbeat older than this, seen from another machine, means that the attempt is dead."""


def read_attempts(folder: Path) -> list[dict[str, Any]]:
    """Return all attempts of the stage in `folder`, oldest first, each with its "path"."""
    found = []
    for path in sorted((folder / "attempts").glob("[0-9]*.json")):
        try:
            found.append({**read_json(path), "path": path})
        except (OSError, ValueError):
            continue  # being replaced, or cut by a full disk: the next read has it
    return found


def claim_attempt(folder: Path, values: Mapping[str, Any]) -> Path | None:
    """Write the next attempt's file and return its path; None when another attempt lives."""
    (folder / "attempts").mkdir(parents=True, exist_ok=True)
    attempts = read_attempts(folder)
    if any(is_alive(attempt, values) for attempt in attempts):
        return None
    number = 1 + max((attempt["number"] for attempt in attempts), default=0)
    path = folder / "attempts" / f"{number:04d}.json"
    own = {
        "number": number,
        **values,
        "node": os.environ.get("SLURMD_NODENAME", ""),
        "host": platform.node(),
        "pid": os.getpid(),
        "born": _born(os.getpid()),
    }
    handle, beside = tempfile.mkstemp(prefix=TEMPORARY_PREFIX, dir=path.parent)
    os.close(handle)
    try:
        write_json(beside, {**own, "began": time.time(), "outcome": None})
        os.link(beside, path)
    except FileExistsError:
        return None
    finally:
        Path(beside).unlink(missing_ok=True)
    return path


def wait_for_predecessor(path: Path, own: Mapping[str, Any]) -> None:
    """Wait until the attempt before `path` has surely ended.

    A scheduler restarts a job whose node it lost, though its processes may still run there: they see the new attempt
    within a heartbeat and end. That one is over when it says so, its process is gone, or its heartbeat stands still.
    """
    before = [entry for entry in read_attempts(path.parent.parent) if entry["number"] < int(path.stem)]
    if not before or before[-1].get("outcome") or before[-1].get("restart") == own["restart"]:
        return
    still = 0.0
    last = _touched(before[-1]["path"])
    while still < QUIET_BEATS * HEARTBEAT_S:
        entry = next(entry for entry in read_attempts(path.parent.parent) if entry["number"] == before[-1]["number"])
        if entry.get("outcome") or (entry["host"] == platform.node() and _born(entry["pid"]) != entry["born"]):
            return
        time.sleep(0.5)
        touched = _touched(entry["path"])
        still, last = (still + 0.5 if touched == last else 0.0), touched


def end_attempt(path: Path, **values: Any) -> None:
    """Add the outcome and more to an attempt's file."""
    write_json(path, {**read_json(path), **values, "ended": time.time()})


def is_alive(attempt: Mapping[str, Any], own: Mapping[str, Any] | None = None) -> bool:
    """Return whether an attempt still runs, as seen from the process that asks.

    Args:
        attempt: from `read_attempts`.
        own: "job_id" and "restart" of the asker: an earlier run of the same job is over.

    """
    if attempt.get("outcome"):
        return False
    if own and attempt.get("job_id") and attempt.get("job_id") == own.get("job_id"):
        return False
    if attempt["host"] == platform.node():
        return bool(attempt["born"]) and _born(attempt["pid"]) == attempt["born"]
    return _age_s(attempt["path"]) < DEAD_AFTER_S


def is_known_dead(attempt: Mapping[str, Any]) -> bool:
    """Return whether an attempt ended without saying how."""
    return not attempt.get("outcome") and not is_alive(attempt)


def count_against_budget(folder: Path) -> list[dict[str, Any]]:
    """Return the attempts since the last retry that count: not those that a person stopped."""
    base = max(
        (entry["attempts"] for entry in read_json_lines(folder / "ledger.jsonl") if "attempts" in entry), default=0
    )
    return [entry for entry in read_attempts(folder) if entry["number"] > base and entry.get("outcome") != "stopped"]


def find_checkpoint_step(folder: Path) -> int:
    """Return the step in the name of the newest checkpoint, 0 when there is none."""
    steps = [
        int(match[1])
        for path in (folder / "checkpoints").glob("*")
        if not path.name.startswith(".") and (match := re.search(r"(\d+)\.(?:pt|pth|json)$", path.name))
    ]
    return max(steps, default=0)


class Heartbeat(threading.Thread):
    """Touch the attempt's file until told to stop, and look whether the stage was cancelled or taken over."""

    def __init__(self, path: Path, supersede: Callable[[], None], cancel: Callable[[], None]) -> None:
        super().__init__(daemon=True)
        self._path, self._ended, self._supersede, self._cancel = path, threading.Event(), supersede, cancel
        self._newer = path.with_name(f"{int(path.stem) + 1:04d}.json")
        self._stop_file = path.parent.parent / "STOP"

    def run(self) -> None:
        """Touch, wait, again; a full disk or a hanging file server is no reason to die.

        A newer attempt means that the scheduler took this one for dead (a lost node): it calls `supersede` and ends.
        STOP, written by `cancel` on whatever machine, is handed on by `cancel`.
        """
        while not self._ended.wait(HEARTBEAT_S):
            if self._newer.exists():
                self._supersede()
                return
            if self._stop_file.exists():
                self._cancel()
            try:
                os.utime(self._path)
            except OSError:
                continue

    def stop(self) -> None:
        """End the thread."""
        self._ended.set()
        self.join()


def _born(pid: int) -> int:
    """Return when a process began, in clock ticks since boot: with the pid it names one process for good."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0
    state, *rest = text.rpartition(")")[2].split()
    return 0 if state in "ZX" else int(rest[18])


def _touched(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _age_s(path: Path) -> float:
    """Return the age of the last touch by the clock of the file server, which both machines share.

    Who may only read, or a full disk, has this machine's clock alone.
    """
    try:
        handle, probe = tempfile.mkstemp(prefix=TEMPORARY_PREFIX, dir=path.parent)
    except OSError:
        return time.time() - _touched(path)
    os.close(handle)
    try:
        return Path(probe).stat().st_mtime - path.stat().st_mtime
    except OSError:
        return 0.0
    finally:
        Path(probe).unlink(missing_ok=True)

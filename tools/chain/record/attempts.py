"""The starts of one stage: attempts/0001.json, … A live one is also the lease that keeps a second run away.

A number is taken by an exclusive link, so of two that start at once one wins. While it runs its file is touched: that
is the heartbeat by which another machine sees that it lives.
"""

import contextlib
import errno
import os
import platform
import re
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import NoneType
from typing import Any

from pretrain.runtime.storage import TEMPORARY_PREFIX, read_json_lines, read_json_object, write_json

HEARTBEAT_S = 5.0
QUIET_BEATS = 3
DEAD_AFTER_S = 60.0
"""A heartbeat older than this, seen from another machine, means that the attempt is dead."""
NO_LINKS = (errno.EPERM, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL, errno.EMLINK, errno.EXDEV)
"""What file systems answer that have no hard links (SMB, some FUSE and object stores)."""
KINDS: dict[str, type | tuple[type, ...]] = {
    "outcome": (str, NoneType), "host": str, "node": str, "pid": int, "born": int, "job_id": str, "restart": int,
    "from_step": int, "to_step": int, "seconds": (int, float), "began": (int, float), "gpu": (list, str),
}  # fmt: skip
"""Types of what an attempt's file holds, where it holds it."""


def read_attempts(folder: Path) -> list[dict[str, Any]]:
    """Return all attempts of the stage in `folder`, oldest first, each with its "number" and "path".

    A damaged file is an attempt too, with "damaged": its number is taken, and it lives while it is touched.
    """
    place = folder / "attempts"
    try:
        names = os.listdir(place)  # noqa: PTH208 (a chain of 10,000 stages asks as often)
    except (FileNotFoundError, NotADirectoryError):
        return []
    numbers = sorted((int(match[1]), name) for name in names if (match := re.fullmatch(r"(\d+)\.json", name)))
    return [_read_attempt(place / name) for _, name in numbers]


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
        "born": find_birth(os.getpid()),
    }
    handle, name = tempfile.mkstemp(prefix=TEMPORARY_PREFIX, dir=path.parent)
    os.close(handle)
    beside = Path(name)
    try:
        write_json(beside, {**own, "began": time.time(), "outcome": None})
        return path if _take_name(beside, path) else None
    finally:
        beside.unlink(missing_ok=True)


def wait_and_claim(folder: Path, values: Mapping[str, Any], give_up: Callable[[], object]) -> Path | None:
    """Claim the next attempt as `claim_attempt` does, but outwait attempts whose file is damaged.

    Such a file does not say whose it was: only that nobody touches it any more proves that its run is over. That may
    be this very job's run before a crash, so an answer of None would end the job for nothing.
    """
    until = time.monotonic() + DEAD_AFTER_S + QUIET_BEATS * HEARTBEAT_S
    while (path := claim_attempt(folder, values)) is None:
        live = [attempt for attempt in read_attempts(folder) if is_alive(attempt, values)]
        if give_up() or time.monotonic() > until or not all(attempt.get("damaged") for attempt in live):
            return None
        time.sleep(min(1.0, DEAD_AFTER_S / 10))
    return path


def wait_for_predecessor(path: Path, own: Mapping[str, Any]) -> None:
    """Wait until the attempt before `path` has surely ended.

    A scheduler restarts a job whose node it lost, though its processes may still run there: they see the new attempt
    within a heartbeat and end. That one is over when it says so, its process is gone, its heartbeat stands still, or
    its file is gone.
    """
    before = [entry for entry in read_attempts(path.parent.parent) if entry["number"] < int(path.stem)]
    if not before or before[-1].get("outcome") or before[-1].get("restart") == own["restart"]:
        return
    still = 0.0
    last = _touched(before[-1]["path"])
    while still < QUIET_BEATS * HEARTBEAT_S:
        entry = _read_attempt(before[-1]["path"])
        if entry.get("outcome") or (entry["host"] == platform.node() and find_birth(entry["pid"]) != entry["born"]):
            return
        time.sleep(0.5)
        touched = _touched(entry["path"])
        still, last = (still + 0.5 if touched == last else 0.0), touched


def end_attempt(path: Path, **values: Any) -> None:
    """Add the outcome and more to an attempt's file; a damaged one is written anew."""
    entry = _read_attempt(path)
    known = {key: value for key, value in entry.items() if key not in ("path", "damaged")}
    write_json(path, {**known, **values, "ended": time.time()})


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
        return bool(attempt["born"]) and find_birth(attempt["pid"]) == attempt["born"]
    return _age_s(attempt["path"]) < DEAD_AFTER_S


def is_known_dead(attempt: Mapping[str, Any]) -> bool:
    """Return whether an attempt ended without saying how."""
    return not attempt.get("outcome") and not is_alive(attempt)


def count_against_budget(folder: Path) -> list[dict[str, Any]]:
    """Return the attempts since the last retry that count: not those that a person stopped."""
    counts = [entry.get("attempts") for entry in read_ledger(folder)]
    base = max((count for count in counts if isinstance(count, int)), default=0)
    return [entry for entry in read_attempts(folder) if entry["number"] > base and entry.get("outcome") != "stopped"]


def read_ledger(folder: Path) -> list[dict[str, Any]]:
    """Return the entries of a stage's ledger.jsonl; whatever is no entry is left out."""
    return [entry for entry in read_json_lines(folder / "ledger.jsonl") if isinstance(entry, dict)]


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
        """Touch, wait, again; a full disk or a hanging or stale file server is no reason to end.

        A newer attempt means that the scheduler took this one for dead (a lost node): it calls `supersede` and ends.
        STOP, written by `cancel` on whatever machine, is handed on by `cancel`.
        """
        while not self._ended.wait(HEARTBEAT_S):
            if os.path.exists(self._newer):  # noqa: PTH110 (Path.exists raises on a stale handle)
                self._supersede()
                return
            if os.path.exists(self._stop_file):  # noqa: PTH110 (as above)
                self._cancel()
            with contextlib.suppress(OSError):
                os.utime(self._path)

    def stop(self) -> None:
        """End the thread."""
        self._ended.set()
        self.join()


def _read_attempt(path: Path) -> dict[str, Any]:
    try:
        values = {"outcome": None} | {key: value for key, value in read_json_object(path).items() if value is not None}
        sound = all(isinstance(values.get(key), kind) for key, kind in KINDS.items() if key in values)
        if sound and (values.get("outcome") or values.get("host")):
            return {"from_step": 0, "host": "", "pid": 0, "born": 0, **values, "number": int(path.stem), "path": path}
    except (OSError, ValueError):
        pass
    known = {"outcome": None, "host": "", "pid": 0, "born": 0, "from_step": 0, "damaged": True}
    return {**known, "number": int(path.stem), "path": path}


def _take_name(beside: Path, path: Path) -> bool:
    """Give the file `beside` the name `path` unless that is taken; return whether it was free."""
    try:
        os.link(beside, path)
    except FileExistsError:
        return os.path.exists(path) and beside.samefile(path)  # noqa: PTH110 (NFS may repeat a call that was answered)
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        except FileExistsError:
            return False
        beside.replace(path)  # until here the file is empty, and others take it for a live attempt
    return True


def find_birth(pid: int) -> int:
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

"""Exclude other processes by flock or, on file systems without it (some Lustre and NFS), by an exclusive file."""

import errno
import fcntl
import os
import platform
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from filelock import FileLock, Timeout

from pretrain.runtime.storage import read_json_object, write_json
from tools.chain.record.attempts import find_birth

NO_FLOCK = (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL)
"""Errors of flock on file systems without it."""
POLL_S = 0.2


class ChainLock:
    """A lock of a chain's folder; use it in a with statement, or by `acquire` and `release`."""

    def __init__(self, path: Path, timeout: float) -> None:
        self.path, self.timeout = path, timeout
        self._flock: FileLock | None = None
        self._holder = path.with_name(f"{path.name}.holder.json")

    def acquire(self) -> None:
        """Take the lock.

        Raises:
            Timeout: another process holds it for longer than `timeout` seconds.
            ValueError: a process on another machine holds it, and whether that is alive cannot be determined.

        """
        if has_flock(self.path):
            self._flock = FileLock(self.path, timeout=self.timeout)
            self._flock.acquire()
            return
        until = time.monotonic() + self.timeout
        while not self._take_name():
            if time.monotonic() >= until:
                self._refuse()
            time.sleep(POLL_S)

    def release(self) -> None:
        """Release the lock."""
        if self._flock is not None:
            self._flock.release()
            self._flock = None
        else:
            self._holder.unlink(missing_ok=True)

    def __enter__(self) -> "ChainLock":
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()

    def _take_name(self) -> bool:
        try:
            os.close(os.open(self._holder, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        except FileExistsError:
            if self._is_left_behind():
                self._holder.unlink(missing_ok=True)
            return False
        write_json(self._holder, {"host": platform.node(), "pid": os.getpid(), "born": find_birth(os.getpid())})
        return True

    def _is_left_behind(self) -> bool:
        holder = self._read_holder()
        return holder.get("host") == platform.node() and find_birth(holder["pid"]) != holder["born"]

    def _refuse(self) -> None:
        holder = self._read_holder()
        if holder.get("host") == platform.node():
            raise Timeout(str(self.path))
        raise ValueError(
            f"{self._holder}: held by process {holder.get('pid', 'unknown')} on "
            f"{holder.get('host', 'another machine')}, and this file system has no flock to check whether it is "
            "alive; if it is not, delete this file"
        )

    def _read_holder(self) -> dict[str, Any]:
        try:
            return read_json_object(self._holder, {"host": str, "pid": int, "born": int})
        except (OSError, ValueError):  # being written, or damaged
            return {}


def has_flock(path: Path) -> bool:
    """Return whether the file system of `path` has flock; the file is created."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in NO_FLOCK
    finally:
        os.close(handle)
    return True

"""Write progress.json, the heartbeat of a run, which chains and the watch page read."""

import logging
import time
from pathlib import Path

from pretrain.runtime.storage import write_json

logger = logging.getLogger(__name__)


class Heartbeat:
    """Write `progress.json` atomically, at most once per second and at the last step.

    The file contains {"step", "total", "unit", "rate_per_s", "eta_s", "time", "phase"}; step counts from 0 to total,
    rate_per_s is the mean since this process started, time is in seconds since 1970. Write errors (a full disk, a file
    server that hangs) do not end the run; the first one is logged.
    """

    def __init__(
        self, folder: str | Path, total: int, *, first_step: int = 0, unit: str = "steps", writes: bool = True
    ) -> None:
        """Start the clock; `writes` says whether this process writes the file (True on the main rank only)."""
        self._path = Path(folder) / "progress.json"
        self._writes = writes
        self._total, self._first, self._unit = total, first_step, unit
        self._began = time.monotonic()
        self._written = float("-inf")
        self._has_failed = False

    def beat(self, step: int, phase: str = "", *, now: bool = False) -> None:
        """Record that `step` of `total` is done; `now` writes even if the last write is less than a second old."""
        seconds = time.monotonic()
        if not self._writes or (not now and seconds - self._written < 1 and step < self._total):
            return
        self._written = seconds
        rate = (step - self._first) / max(seconds - self._began, 1e-9)
        content = {
            "step": step,
            "total": self._total,
            "unit": self._unit,
            "rate_per_s": round(rate, 4),
            "eta_s": round((self._total - step) / rate) if rate > 0 else None,
            "time": round(time.time(), 1),
            "phase": phase,
        }
        try:
            write_json(self._path, content)
        except OSError as error:
            if not self._has_failed:
                logger.warning("%s: progress cannot be written (%s); the run continues", self._path, error.strerror)
            self._has_failed = True

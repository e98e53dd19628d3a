"""Say how far a run is: progress.json, the heartbeat that chains and people read."""

import logging
import time
from pathlib import Path

from pretrain.runtime.storage import write_json

logger = logging.getLogger(__name__)


class Heartbeat:
    """Write `progress.json` whole, at most once a second and at the last step.

    The file holds {"step", "total", "unit", "rate_per_s", "eta_s", "time", "phase"}; step counts from 0 to total,
    rate_per_s is the mean since this process began, time is seconds since 1970. A full disk or a file server that
    hangs ends no run: the first failure is named in the log.
    """

    def __init__(
        self, folder: str | Path, total: int, *, first_step: int = 0, unit: str = "steps", writes: bool = True
    ) -> None:
        """Take `writes`, whether this process writes the file: of several ranks only the main one does."""
        self._path = Path(folder) / "progress.json"
        self._writes = writes
        self._total, self._first, self._unit = total, first_step, unit
        self._began = time.monotonic()
        self._written = float("-inf")
        self._has_failed = False

    def beat(self, step: int, phase: str = "", *, now: bool = False) -> None:
        """Note that `step` of `total` is done; `now` writes even when the last beat is under a second old."""
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
                logger.warning("%s: progress cannot be written (%s); the run goes on", self._path, error.strerror)
            self._has_failed = True

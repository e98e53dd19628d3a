"""Read what a stage has written so far: curves, attempts and the end of its log.

Every reader accepts missing, stale, damaged and partially written files and returns what can be read.
"""

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tools.chain.record.attempts import is_alive, read_attempts

LOG_NAMES = ("log.txt", "log.runner.txt")
MAX_LOG_BYTES = 256 * 1024
"""Only this many bytes at the end of a log are read, shown and searched."""
MAX_POINTS = 400
"""Curves are thinned to about this many points."""
MAX_CURVES = 24
CURVES = (
    "loss", "total_loss", "accuracy", "knn_top1", "AP", "box/AP", "mask/AP", "images_per_s", "data_wait", "data_time",
    "lr", "top1", "loss_cls", "loss_box_reg", "loss_mask", "loss_rpn_cls", "loss_rpn_loc",
)  # fmt: skip
"""Drawn first, in this order; other metrics follow by name."""


class CurveFile:
    """The metrics of a growing metrics.jsonl, read incrementally: metric → [(step, value), …]."""

    def __init__(self, path: Path) -> None:
        self._path, self._offset, self._inode = path, 0, 0
        self.points: dict[str, list[tuple[float, float]]] = {}

    def update(self) -> None:
        """Read the complete lines added since the last call; a truncated or replaced file is read from the start."""
        try:
            about = self._path.stat()
            if about.st_ino != self._inode or about.st_size < self._offset:
                self._offset, self._inode, self.points = 0, about.st_ino, {}
            if about.st_size == self._offset:
                return
            with self._path.open("rb") as stream:
                stream.seek(self._offset)
                added = stream.read()
        except OSError:
            return
        end = added.rfind(b"\n") + 1
        self._offset += end
        for line in added[:end].split(b"\n"):
            self._take(line)

    def latest(self, key: str) -> float | None:
        """Return the latest value of `key`, or None."""
        points = self.points.get(key)
        return points[-1][1] if points else None

    def thinned(self) -> list[dict[str, Any]]:
        """Return [{"name", "x", "y"}, …]: at most MAX_CURVES curves of about MAX_POINTS points each."""
        ranks = {name: rank for rank, name in enumerate(CURVES)}
        names = sorted(self.points, key=lambda name: (ranks.get(name, len(ranks)), name))
        curves = []
        for name in names[:MAX_CURVES]:
            points = self.points[name]
            kept = points[:: -(-len(points) // MAX_POINTS)]
            kept = kept if kept[-1] == points[-1] else [*kept, points[-1]]
            curves.append({"name": name, "x": [x for x, _ in kept], "y": [y for _, y in kept]})
        return curves

    def _take(self, line: bytes) -> None:
        try:
            values = json.loads(line)
        except ValueError:
            return
        if not isinstance(values, dict):
            return
        step = _number(values.get("step", values.get("iteration")))
        for key, value in values.items() if step is not None else ():
            number = _number(value)
            if number is not None and key not in ("step", "iteration", "epoch"):
                assert step is not None
                self.points.setdefault(key, []).append((step, number))


def describe_attempts(folder: Path) -> list[dict[str, Any]]:
    """Return one row per start of the stage, oldest first: number, host, job, GPUs, outcome, reason, seconds."""
    rows = []
    for attempt in _read_attempts(folder):
        ended = attempt.get("outcome")
        row = {
            key: attempt.get(key) for key in ("number", "host", "node", "job_id", "gpu", "reason", "began", "seconds")
        }
        rows.append({**row, "outcome": ended or ("running" if is_alive(attempt) else "lost")})
    return rows


def read_log_end(folder: Path, search: str = "", lines: int = 400) -> dict[str, Any]:
    """Return {"name", "lines"}: the last lines of the stage's log, or the last of those that contain `search`.

    Only the last MAX_LOG_BYTES are read. Invalid UTF-8 is replaced; control characters are removed.
    """
    for name in LOG_NAMES:
        path = folder / name
        try:
            with path.open("rb") as stream:
                stream.seek(0, 2)
                stream.seek(max(0, stream.tell() - MAX_LOG_BYTES))
                text = stream.read().decode(errors="replace")
        except OSError:
            continue
        found = [_printable(line) for line in text.replace("\r", "\n").split("\n")]
        if search:
            found = [line for line in found if search.lower() in line.lower()]
        return {"name": name, "lines": [line for line in found if line.strip()][-lines:]}
    return {"name": "", "lines": []}


def finite_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values with NaN and infinities replaced by None: browsers reject these in JSON."""
    return {str(key): _finite(value) for key, value in values.items()}


def _read_attempts(folder: Path) -> Iterator[dict[str, Any]]:
    for attempt in read_attempts(folder):
        if {"host", "pid", "born", "path"} <= attempt.keys():
            yield attempt


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return finite_values(value)
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _number(value: Any) -> float | None:
    usable = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if usable else None


def _printable(line: str) -> str:
    return "".join(character for character in line if character.isprintable() or character == "\t")

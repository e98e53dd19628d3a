"""Read the state of a chain from its files, as JSON values for the page.

A stage that is done or failed is read once; the others are read at every refresh, so a refresh of a chain of 10,000
stages takes little longer than one of its running stages.
"""

import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pretrain.runtime.storage import read_json_object
from tools.chain.plan.make_plan import Stage
from tools.chain.record.state import find_states, read_done, read_failed, read_plan, stage_folder
from tools.chain.status import read_progress
from tools.watch.stage_files import CurveFile, describe_attempts, finite_values, read_log_end

COLUMNS = ("data", "pretrain", "convert")
"""Kinds of stage that have a column each; the column of a measurement is its protocol."""
SUMMARY_VERSION = 2
"""The version of report/summary.json that the verdict is read from."""
MAX_COMPARISONS = 200
"""Comparisons shown, the first of the report."""
NOW = ("data_wait", "images_per_s", "loss", "total_loss", "accuracy", "knn_top1")
"""Metrics whose latest value is shown for a running stage."""


class ChainWatcher:
    """Read a chain's folder repeatedly; stages that ended are cached."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._plan: tuple[float, dict[str, Any], list[Stage]] = (-1.0, {}, [])
        self._ended: dict[str, tuple[tuple[float, ...], dict[str, Any]]] = {}
        self._curves: dict[str, CurveFile] = {}

    @property
    def stages(self) -> list[Stage]:
        """The stages of the newest plan."""
        return self._plan[2]

    def refresh(self) -> dict[str, Any]:
        """Return the snapshot: stages, sums, verdict; JSON values only.

        Raises:
            ValueError: the folder holds no submitted chain.

        """
        chain = self._read_plan()
        states = find_states(self.folder, self.stages)
        rows = [self._describe(stage, states[stage.name], chain) for stage in self.stages]
        return finite_values(
            {
                "name": str(chain.get("name", self.folder.name)),
                "file": Path(str(chain.get("file", ""))).name,
                "backend": str((chain.get("config") or {}).get("backend", "")),
                "time": time.time(),
                "stages": rows,
                "sums": sum_up(rows),
                "verdict": read_verdict(self.folder),
            }
        )

    def describe_stage(self, index: int, search: str = "") -> dict[str, Any]:
        """Return attempts, curves, metrics and the end of the log of the stage at `index` of the plan.

        Raises:
            IndexError: the plan has no stage at `index`.

        """
        if not 0 <= index < len(self.stages):
            raise IndexError(index)
        stage = self.stages[index]
        folder = stage_folder(self.folder, stage.folder)
        curves = self._curve_file(stage)
        curves.update()
        failed = read_failed(folder)
        return finite_values(
            {
                "name": stage.name,
                "command": " ".join(stage.command),
                "after": list(stage.upstream),
                "attempts": describe_attempts(folder),
                "curves": curves.thinned(),
                "log": read_log_end(folder, search),
                "failed": f"{failed['kind']}: {failed['message']}" if failed else "",
                "metrics": (read_done(folder) or {}).get("metrics") or {},
            }
        )

    def _read_plan(self) -> dict[str, Any]:
        path = self.folder / "chain.json"
        changed = path.stat().st_mtime if path.is_file() else -2.0
        if changed != self._plan[0] or not self._plan[2]:
            values, stages = read_plan(self.folder)
            self._plan = (changed, values, stages)
        return self._plan[1]

    def _describe(self, stage: Stage, state: str, chain: Mapping[str, Any]) -> dict[str, Any]:
        folder = stage_folder(self.folder, stage.folder)
        if state in ("done", "failed"):
            mark = tuple(_changed(folder / name) for name in ("DONE.json", "FAILED.json"))
            kept = self._ended.get(stage.folder)
            if kept and kept[0] == mark and kept[1]["state"] == state:
                return kept[1]
        row = self._read_row(stage, state, folder, chain)
        if state in ("done", "failed"):
            self._ended[stage.folder] = (mark, row)
            self._curves.pop(stage.folder, None)
        return row

    def _read_row(self, stage: Stage, state: str, folder: Path, chain: Mapping[str, Any]) -> dict[str, Any]:
        attempts = describe_attempts(folder) if state != "blocked" else []
        progress = read_progress(folder)
        last = attempts[-1] if attempts else {}
        place = find_place(stage, chain)
        row = {
            "name": stage.name,
            "kind": stage.kind,
            "column": place[0],
            "row": place[1],
            "state": state,
            "attempts": len(attempts),
            "lost": sum(attempt["outcome"] not in ("done", "running") for attempt in attempts),
            "host": last.get("host"),
            "reason": next((attempt["reason"] for attempt in reversed(attempts) if attempt.get("reason")), None),
            "seconds": _sum_seconds(attempts),
            "gpu_seconds": sum(_seconds(attempt) * _count_gpus(attempt) for attempt in attempts),
            "step": progress.get("step"),
            "total": progress.get("total"),
            "unit": progress.get("unit"),
            "phase": progress.get("phase"),
        }
        if state == "running":
            row |= self._read_running(stage, progress, last)
        return row

    def _read_running(self, stage: Stage, progress: Mapping[str, Any], last: Mapping[str, Any]) -> dict[str, Any]:
        curves = self._curve_file(stage)
        curves.update()
        fresh = _as_number(progress.get("time")) >= _as_number(last.get("began"))
        return {
            "eta_s": progress.get("eta_s") if fresh else None,
            "rate_per_s": progress.get("rate_per_s") if fresh else None,
            "silent_s": round(time.time() - _as_number(progress.get("time"))) if fresh else None,
            "now": {key: value for key in NOW if (value := curves.latest(key)) is not None},
        }

    def _curve_file(self, stage: Stage) -> CurveFile:
        path = stage_folder(self.folder, stage.folder) / "metrics.jsonl"
        return self._curves.setdefault(stage.folder, CurveFile(path))


def find_place(stage: Stage, chain: Mapping[str, Any]) -> tuple[str, str]:
    """Return (column, row) of a stage in the table: its kind or protocol, and its backbone ("" if it has none)."""
    config = chain.get("config") or {}
    if stage.kind in COLUMNS:
        return stage.kind, stage.name.partition("-")[2]
    name = re.sub(r"-seed-?\d+$", "", stage.name)
    protocols = sorted(map(str, config.get("protocols") or {}), key=len, reverse=True)
    for protocol in protocols:
        if name.startswith(f"{protocol}-") and stage.kind not in ("report", "analyse"):
            return protocol, name.removeprefix(f"{protocol}-")
    return name, ""


def sum_up(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return counts by state, hours used and seconds left.

    The time of a stage that is not done is its own estimate or the mean of the finished stages of its column;
    `left_unknown` counts the stages that have neither.
    """
    counts: dict[str, int] = {}
    known: dict[str, list[float]] = {}
    for row in rows:
        counts[row["state"]] = counts.get(row["state"], 0) + 1
        if row["state"] == "done" and row["seconds"]:
            known.setdefault(row["column"], []).append(row["seconds"])
    means = {column: sum(values) / len(values) for column, values in known.items()}
    left, unknown = 0.0, 0
    for row in rows:
        if row["state"] in ("running", "pending", "lost"):
            estimate = row.get("eta_s") if row["state"] == "running" else None
            estimate = means.get(row["column"]) if estimate is None else estimate
            left, unknown = left + (estimate or 0.0), unknown + (estimate is None)
    side_by_side = max(1, counts.get("running", 0))
    return {
        "states": counts,
        "stage_hours": sum(row["seconds"] for row in rows) / 3600,
        "gpu_hours": sum(row["gpu_seconds"] for row in rows) / 3600,
        "left_s": left / side_by_side,
        "left_unknown": unknown,
    }


def read_verdict(folder: Path) -> dict[str, Any]:
    """Return the verdict of the latest report, or {}.

    Reads version 2 of summary.json (docs/summary.md); a report of another version counts as none.

    Returns:
        {"control": a sentence, "passed": true, false or null, "headline": a sentence, "comparisons": rows, "time"}.

    """
    path = folder / "report" / "summary.json"
    try:
        summary = read_json_object(path)
    except (OSError, ValueError):
        return {}
    comparisons = summary.get("comparisons")
    if summary.get("version") != SUMMARY_VERSION or not isinstance(comparisons, list):
        return {}
    control = summary.get("control")
    return {
        "control": str(summary.get("control_sentence") or ""),
        "passed": control.get("passed") if isinstance(control, dict) else None,
        "headline": str(summary.get("headline") or ""),
        "comparisons": [
            _describe_comparison(entry) for entry in comparisons[:MAX_COMPARISONS] if isinstance(entry, dict)
        ],
        "time": _changed(path),
    }


def _describe_comparison(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return one row of the verdict: the outcome in words, and "better" or "worse" as its mark unless withheld."""
    outcome = str(entry.get("outcome") or "")
    words = {
        "too_few_runs": "not enough runs to tell",
        "equivalent": f"equivalent within ±{_as_number(entry.get('delta')):g}",
    }
    text, withheld = words.get(outcome, outcome), bool(entry.get("withheld"))
    return {key: entry.get(key) for key in ("first", "second", "protocol", "metric", "difference", "low", "high")} | {
        "outcome": f"no verdict ({text})" if withheld else text,
        "mark": outcome if outcome in ("better", "worse") and not withheld else "",
    }


def _seconds(attempt: Mapping[str, Any]) -> float:
    if attempt["outcome"] == "running":
        return max(0.0, time.time() - _as_number(attempt.get("began")))
    return _as_number(attempt.get("seconds"))


def _sum_seconds(attempts: Sequence[Mapping[str, Any]]) -> float:
    return sum(map(_seconds, attempts))


def _count_gpus(attempt: Mapping[str, Any]) -> int:
    gpus = attempt.get("gpu")
    return len(gpus) if isinstance(gpus, list) else int(bool(gpus))


def _as_number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else 0.0


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0

"""Read and write metrics.json, the result of one run: a backbone measured under a protocol with a seed."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from pretrain.runtime.machine import describe_machine, read_commit
from pretrain.runtime.storage import read_json, write_json

RESULT_NAME = "metrics.json"
"""The file that a finished run leaves in its folder."""


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """Result of one run of one protocol; the content of its metrics.json."""

    backbone: str
    """The name given on the command line, e.g. "mochi"."""
    protocol: str
    """A protocol's full name, e.g. "voc-c4-24k@moco"."""
    seed: int
    metrics: Mapping[str, float | None]
    """Percent. VOC: AP, AP50, AP75; COCO: box/AP, …, mask/AP, …; linear: top1, top1_best; kNN: top1."""
    deviations: Sequence[Mapping[str, Any]] = ()
    """Settings that differ from the protocol: {"key", "expected", "got"} each."""
    weights_sha256: str = ""
    commit: str = field(default_factory=read_commit)
    machine: Mapping[str, Any] = field(default_factory=describe_machine)
    seconds: float = 0.0
    details: Mapping[str, Any] = field(default_factory=dict)
    """Free-form: per-class tables, curves, the resolved config."""


def write_result(folder: str | Path, result: RunResult) -> Path:
    """Atomically write `result` as metrics.json in `folder` and return its path; NaN and infinity become null."""
    path = Path(folder) / RESULT_NAME
    write_json(path, _finite(asdict(result)))
    return path


def read_result(path: str | Path) -> RunResult:
    """Return the result in a metrics.json, or in the folder that holds one.

    Raises:
        ValueError: the file is missing or not a result of this project.

    """
    path = Path(path)
    path = path / RESULT_NAME if path.is_dir() else path
    if not path.is_file():
        raise ValueError(
            f"{path}: no such result; a run writes {RESULT_NAME} last, so it may not be finished: start it again to "
            "resume it"
        )
    values = read_json(path)
    known = {entry.name for entry in fields(RunResult)}
    needed = known - {"deviations", "details", "seconds"}
    sound = isinstance(values, dict) and needed <= values.keys() <= known and isinstance(values["metrics"], dict)
    if not sound:
        got = sorted(values) if isinstance(values, dict) else type(values).__name__
        raise ValueError(
            f"{path}: expected a run's result with the keys {sorted(needed)}, where metrics is a mapping; got {got}"
        )
    return RunResult(**values)


def read_finished(
    folder: str | Path, wanted: Mapping[str, Any], settings: Mapping[str, Any] | None = None
) -> RunResult | None:
    """Return the result of a finished run; None if the run is not finished.

    Args:
        folder: folder of the run.
        wanted: required fields of the result, such as backbone, protocol, seed, weights_sha256.
        settings: required entries of "config" in its details.

    Raises:
        ValueError: the result is another run's; the text lists every difference.

    """
    folder = Path(folder)
    if not (folder / RESULT_NAME).exists():
        return None
    result = read_result(folder)
    config = result.details.get("config", {})
    asked = json.loads(json.dumps(_finite(settings or {})))  # as read back from JSON: lists for tuples
    pairs = [(key, getattr(result, key), value) for key, value in wanted.items()]
    pairs += [(key, config.get(key), value) for key, value in asked.items() if key not in wanted]
    if changed := [f"{key} was {before!r}, is {now!r}" for key, before, now in pairs if before != now]:
        raise ValueError(
            f"{folder}: holds the result of another run; choose a new out= or delete the folder. {'; '.join(changed)}"
        )
    return result


def read_results(paths: str | Path | Iterable[str | Path]) -> list[RunResult]:
    """Return the results in `paths`: files, or folders searched recursively for metrics.json, sorted by path.

    Raises:
        ValueError: a path does not exist or holds an invalid result.

    """
    roots = [paths] if isinstance(paths, str | Path) else list(paths)
    files = []
    for root in map(Path, roots):
        if not root.exists():
            raise ValueError(f"{root}: no such file or folder of results")
        files.extend(sorted(root.rglob(RESULT_NAME)) if root.is_dir() else [root])
    return [read_result(path) for path in dict.fromkeys(files)]


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value

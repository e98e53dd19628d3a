"""Read one stage from its folder: state, attempts, machines and result."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pretrain.runtime.storage import read_json_object
from tools.chain.plan.sweep import find_values
from tools.chain.record.attempts import read_attempts
from tools.chain.record.sound_results import read_sound_result
from tools.chain.record.state import BLOCKING, find_state_alone, read_done, read_failed
from transfer.results.run_result import RunResult
from transfer.results.seeds import method_of


@dataclass(frozen=True, kw_only=True)
class Stage:
    """The record of one stage."""

    name: str
    kind: str
    folder: Path
    state: str
    """One of tools.chain.record.state.STATES."""
    spec: Mapping[str, Any]
    attempts: Sequence[Mapping[str, Any]] = ()
    done: Mapping[str, Any] = field(default_factory=dict)
    failed: Mapping[str, Any] = field(default_factory=dict)
    result: RunResult | None = None
    point: Mapping[str, Any] = field(default_factory=dict)
    """Its point in a sweep: axis → value; empty without a sweep."""

    @property
    def seconds(self) -> float:
        """Wall-clock seconds over all attempts."""
        return sum(float(attempt.get("seconds") or 0.0) for attempt in self.attempts)

    @property
    def gpu_seconds(self) -> float:
        """GPU-seconds over all attempts; an attempt without a GPU counts 0.

        On several nodes an attempt records the GPUs of its first task only, so the requested number counts if larger.
        """
        resources = self.spec.get("resources") or {}
        asked = int(resources.get("nodes", 1)) * int(resources.get("gpus", 0))
        counts = [(attempt, len(_as_list(attempt.get("gpu")))) for attempt in self.attempts]
        return sum(float(attempt.get("seconds") or 0.0) * max(seen, asked) for attempt, seen in counts if seen)

    @property
    def gpus(self) -> list[str]:
        """The distinct names of the GPUs of all attempts; the CPU of the result if there were none."""
        names = list(dict.fromkeys(str(gpu) for attempt in self.attempts for gpu in _as_list(attempt.get("gpu"))))
        if self.result is None or (names and not all(name.isdigit() for name in names)):
            return names
        machine = self.result.machine
        return list(dict.fromkeys(machine.get("gpus") or [])) or [str(machine.get("cpu", ""))]

    @property
    def config(self) -> str:
        """The config file of its command; empty if it has none."""
        words = [str(word) for word in self.spec.get("command") or []]
        return next((word.removeprefix("{code}/") for word in words if word.endswith(".yaml")), "")

    def names_of(self, key: str) -> str:
        """Return the distinct values of `key` ("job_id" or "host") in the attempts, comma-separated."""
        return ", ".join(dict.fromkeys(str(attempt[key]) for attempt in self.attempts if attempt.get(key)))

    def survived(self) -> Iterator[str]:
        """Yield the outcome of each attempt but the last: the faults that the stage survived."""
        for attempt in self.attempts[:-1]:
            outcome = str(attempt.get("outcome") or "lost")
            if outcome != "done":
                yield f"{outcome} ({attempt['reason']})" if attempt.get("reason") else outcome


def read_stage(folder: Path, points: Mapping[str, Mapping[str, Any]]) -> Stage:
    """Return the record of the stage in `folder`; `points`: variant of a backbone or protocol → axis → value."""
    spec = _read_spec(folder)
    name, kind = str(spec.get("name", folder.name)), str(spec.get("kind", ""))
    result = read_sound_result(folder, kind, strict=True)
    return Stage(
        name=name,
        kind=kind,
        folder=folder,
        state=_find_state(folder),
        spec=spec,
        attempts=read_attempts(folder),
        done=read_done(folder) or {},
        failed=read_failed(folder) or {},
        result=result,
        point={} if result is None else _find_point(points, str(spec.get("array") or name), result.backbone),
    )


def _find_point(points: Mapping[str, Mapping[str, Any]], measured: str, backbone: str) -> dict[str, Any]:
    """Return the point in a sweep; the pretraining seeds of one variant share it."""
    return {**points.get(method_of(backbone), {}), **find_values(points, measured, backbone)}


def _find_state(folder: Path) -> str:
    """Return the state recorded in the stage's files, or "blocked" if a stage that it depends on failed."""
    state, spec = find_state_alone(folder), _read_spec(folder)
    upstream = spec.get("upstream")
    if state not in ("lost", "pending") or spec.get("always") or not isinstance(upstream, dict):
        return state
    return "blocked" if any(_find_state(folder.parent / str(name)) in BLOCKING for name in upstream.values()) else state


def _read_spec(folder: Path) -> dict[str, Any]:
    """Return spec.json; {} if it is missing or damaged (the report then names the stage after its folder)."""
    try:
        return read_json_object(folder / "spec.json") if folder.is_dir() else {}
    except (OSError, ValueError):
        return {}


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value in (None, "") else [value]

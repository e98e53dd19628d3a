"""One stage as its folder tells it: where it ran, how often, how it ended, what it measured."""

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
    """What one stage left: where it ran, how often, how it ended."""

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
    """Its place in a sweep: axis → value; empty without one."""

    @property
    def seconds(self) -> float:
        """Wall-clock seconds over all attempts."""
        return sum(float(attempt.get("seconds") or 0.0) for attempt in self.attempts)

    @property
    def gpu_seconds(self) -> float:
        """Seconds times GPUs over all attempts; an attempt that saw no GPU counts none.

        On several nodes an attempt names the GPUs of its first task only, so the job's own request counts when larger.
        """
        resources = self.spec.get("resources") or {}
        asked = int(resources.get("nodes", 1)) * int(resources.get("gpus", 0))
        counts = [(attempt, len(_as_list(attempt.get("gpu")))) for attempt in self.attempts]
        return sum(float(attempt.get("seconds") or 0.0) * max(seen, asked) for attempt, seen in counts if seen)

    @property
    def gpus(self) -> list[str]:
        """The GPUs of all attempts by name, each named once; the CPU of the result where there was none."""
        names = list(dict.fromkeys(str(gpu) for attempt in self.attempts for gpu in _as_list(attempt.get("gpu"))))
        if self.result is None or (names and not all(name.isdigit() for name in names)):
            return names
        machine = self.result.machine
        return list(dict.fromkeys(machine.get("gpus") or [])) or [str(machine.get("cpu", ""))]

    @property
    def config(self) -> str:
        """The config file of its command; empty when it names none."""
        words = [str(word) for word in self.spec.get("command") or []]
        return next((word.removeprefix("{code}/") for word in words if word.endswith(".yaml")), "")

    def names_of(self, key: str) -> str:
        """Return what the attempts say under `key` ("job_id", "host"), each once."""
        return ", ".join(dict.fromkeys(str(attempt[key]) for attempt in self.attempts if attempt.get(key)))

    def survived(self) -> Iterator[str]:
        """Yield how each attempt but the last ended: the faults that the stage survived."""
        for attempt in self.attempts[:-1]:
            outcome = str(attempt.get("outcome") or "lost")
            if outcome != "done":
                yield f"{outcome} ({attempt['reason']})" if attempt.get("reason") else outcome


def read_stage(folder: Path, points: Mapping[str, Mapping[str, Any]]) -> Stage:
    """Return the stage in `folder`; `points` are the variants of a sweep by the name of backbone or protocol."""
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
    """Return the place in a sweep; the pretraining seeds of one variant share it."""
    return {**points.get(method_of(backbone), {}), **find_values(points, measured, backbone)}


def _find_state(folder: Path) -> str:
    """Return the stage's state: its files' own, or "blocked" when a stage that it builds on failed."""
    state, spec = find_state_alone(folder), _read_spec(folder)
    upstream = spec.get("upstream")
    if state not in ("lost", "pending") or spec.get("always") or not isinstance(upstream, dict):
        return state
    return "blocked" if any(_find_state(folder.parent / str(name)) in BLOCKING for name in upstream.values()) else state


def _read_spec(folder: Path) -> dict[str, Any]:
    """Return spec.json; {} when there is none or it is damaged: the report shows the stage by its folder's name."""
    try:
        return read_json_object(folder / "spec.json") if folder.is_dir() else {}
    except (OSError, ValueError):
        return {}


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value in (None, "") else [value]

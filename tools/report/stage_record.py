"""One stage as its folder tells it: where it ran, how often, how it ended, what it measured."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pretrain.runtime.storage import read_json
from tools.chain.plan.sweep import find_values
from tools.chain.record.attempts import read_attempts
from transfer.results.run_result import RESULT_NAME, RunResult, read_result
from transfer.results.seeds import method_of


@dataclass(frozen=True, kw_only=True)
class Stage:
    """What one stage left: where it ran, how often, how it ended."""

    name: str
    kind: str
    folder: Path
    state: str
    """done, failed, running, or pending."""
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
    spec = _read_if_there(folder / "spec.json")
    done, failed = _read_if_there(folder / "DONE.json"), _read_if_there(folder / "FAILED.json")
    attempts = read_attempts(folder)
    state = "done" if done else "failed" if failed else "running" if attempts else "pending"
    name, kind = str(spec.get("name", folder.name)), str(spec.get("kind", ""))
    result = _read_result(folder, kind) if (folder / RESULT_NAME).is_file() else None
    return Stage(
        name=name,
        kind=kind,
        folder=folder,
        state=state,
        spec=spec,
        attempts=attempts,
        done=done,
        failed=failed,
        result=result,
        point={} if result is None else _find_point(points, str(spec.get("array") or name), result.backbone),
    )


def _find_point(points: Mapping[str, Mapping[str, Any]], measured: str, backbone: str) -> dict[str, Any]:
    """Return the place in a sweep; the pretraining seeds of one variant share it."""
    return {**points.get(method_of(backbone), {}), **find_values(points, measured, backbone)}


def _read_result(folder: Path, kind: str) -> RunResult | None:
    try:
        return read_result(folder)
    except ValueError:
        if kind == "command":  # a user's own program may call a file of its own metrics.json
            return None
        raise


def _read_if_there(path: Path) -> dict[str, Any]:
    return dict(read_json(path)) if path.is_file() else {}


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value in (None, "") else [value]

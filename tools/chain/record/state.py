"""A stage's state is a function of its files: done, failed, blocked, running, pending or lost."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

from pretrain.runtime.storage import append_json_line, is_file, read_json_object
from tools.chain.plan.make_plan import Stage
from tools.chain.plan.resources import Resources
from tools.chain.record.attempts import is_alive, is_known_dead, read_attempts

logger = logging.getLogger(__name__)

STATES = ("done", "failed", "blocked", "running", "pending", "lost")
ENDED = ("done", "failed", "blocked")
BLOCKING = ("failed", "blocked")


def stage_folder(chain: Path, folder: str) -> Path:
    """Return the folder of a stage."""
    return chain / "stages" / folder


def read_plan(chain: Path) -> tuple[dict[str, Any], list[Stage]]:
    """Return chain.json and its stages; ValueError when nothing was submitted yet, or the file is damaged."""
    path = chain / "chain.json"
    if not is_file(path):
        raise ValueError(
            f"{chain}: no chain.json, so nothing was submitted here; run `python -m tools.chain submit` first"
        )
    try:
        values = read_json_object(path, {"stages": list})
        return values, [stage_from_dict(entry) for entry in values["stages"]]
    except ValueError as error:
        raise ValueError(
            f"{path}: damaged ({error}); `python -m tools.chain submit` rewrites it and loses nothing"
        ) from error


def read_spec(folder: Path) -> dict[str, Any]:
    """Return spec.json of a stage; {} when there is none or it is damaged: the next submit rewrites it."""
    try:
        return read_json_object(folder / "spec.json", {"code": str, "commit": str}) if folder.is_dir() else {}
    except (OSError, ValueError):
        return {}


def read_done(folder: Path) -> dict[str, Any] | None:
    """Return DONE.json of a stage; None if it is missing or damaged."""
    path = folder / "DONE.json"
    try:
        about = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return _read_done(path, (about.st_mtime_ns, about.st_size, about.st_ino))


def read_failed(folder: Path) -> dict[str, Any] | None:
    """Return FAILED.json of a stage ("kind", "message", "tail"), also if it is damaged; None if there is none."""
    path = folder / "FAILED.json"
    if not is_file(path):
        return None
    try:
        values = read_json_object(path)
    except (OSError, ValueError):
        values = {"message": "FAILED.json is damaged, so the reason is lost; `resume` runs the stage again"}
    texts = {key: value for key, value in values.items() if isinstance(value, str)}
    return {**values, "kind": "error", "message": "", "tail": "", **texts}


def find_reason(failed: Mapping[str, Any]) -> str:
    """Return why a stage failed: the last line of its log, else the runner's message."""
    lines = [line.strip() for line in str(failed.get("tail", "")).split("\n") if line.strip()]
    message = str(failed.get("message", ""))
    return lines[-1].removeprefix("error: ") if lines and failed.get("kind") == "error" else message


def stage_as_dict(stage: Stage) -> dict[str, Any]:
    """Return a stage as JSON values."""
    return asdict(stage)


def stage_from_dict(values: Mapping[str, Any]) -> Stage:
    """Return the stage stored by `stage_as_dict`; unknown keys are ignored, missing ones take their defaults.

    Raises:
        ValueError: a key without a default is missing, or one has another type.

    """
    try:
        known = {entry.name: values[entry.name] for entry in fields(Stage) if entry.name in values}
        names = {entry.name for entry in fields(Resources)}
        resources = {key: value for key, value in known["resources"].items() if key in names}
        resources |= {key: tuple(resources[key]) for key in ("setup", "srun") if key in resources}
        known |= {key: tuple(known[key]) for key in ("command", "outputs")}
        known |= {key: dict(known[key]) for key in ("upstream", "configs", "why")}
        return Stage(**{**known, "resources": Resources(**resources)})
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"a stage's description is incomplete: {error}; submit the chain again") from error


def find_states(chain: Path, stages: Sequence[Stage]) -> dict[str, str]:
    """Return {stage name: state}; the stages must be in order, as the plan gives them."""
    states: dict[str, str] = {}
    for stage in stages:
        states[stage.name] = find_state(chain, stage, {name: states[name] for name in stage.upstream})
    return states


def is_ready(stage: Stage, states: Mapping[str, str]) -> bool:
    """Return whether an unfinished stage may start now."""
    before = [states[name] for name in stage.upstream]
    if states[stage.name] not in ("pending", "lost"):
        return False
    return all(state in ENDED for state in before) if stage.always else all(state == "done" for state in before)


def upstream_states(chain: Path, stage: Stage) -> dict[str, str]:
    """Return the states of the stages before one that runs always, including "blocked"."""
    _, stages = read_plan(chain)
    states = find_states(chain, stages)
    return {name: states.get(name, "pending") for name in stage.upstream}


def clear_for_run(chain: Path, stage: Stage, retry: bool) -> None:
    """With `retry`, remove STOP, move FAILED.json to failed-NNNN.json, and count the budgets from here."""
    if not retry:
        return
    folder = stage_folder(chain, stage.folder)
    (folder / "STOP").unlink(missing_ok=True)
    failed = folder / "FAILED.json"
    if is_file(failed):
        newest = max((attempt["number"] for attempt in read_attempts(folder)), default=0)
        append_json_line(folder / "ledger.jsonl", {"event": "retry", "attempts": newest})
        failed.rename(folder / f"failed-{newest:04d}.json")


def is_cancelled(folder: Path) -> bool:
    """Return whether `cancel` stopped a stage; only `resume` and retry= remove the mark."""
    return is_file(folder / "STOP")


def list_cancelled(chain: Path, stages: Sequence[Stage]) -> list[str]:
    """Return the names of the cancelled stages that have not ended."""
    states = find_states(chain, stages)
    folders = {stage.name: stage_folder(chain, stage.folder) for stage in stages if states[stage.name] not in ENDED}
    return [name for name, folder in folders.items() if is_cancelled(folder)]


def find_state_alone(folder: Path) -> str:
    """Return a stage's state from its own files alone: done, failed, running, lost or pending."""
    return "done" if read_done(folder) is not None else _find_unfinished(folder)


def find_state(chain: Path, stage: Stage, before: Mapping[str, str]) -> str:
    """Return the state of one stage, given those of the stages before it."""
    folder = stage_folder(chain, stage.folder)
    if read_done(folder) is not None and (not stage.always or _still_holds(folder, stage, before)):
        return "done"
    state = _find_unfinished(folder)
    if state in ("lost", "pending") and not stage.always and any(name in BLOCKING for name in before.values()):
        return "blocked"
    return state


def _find_unfinished(folder: Path) -> str:
    if is_file(folder / "FAILED.json"):
        return "failed"
    attempts = read_attempts(folder)
    if any(is_alive(attempt) for attempt in attempts):
        return "running"
    return "lost" if attempts and is_known_dead(attempts[-1]) else "pending"


@lru_cache(maxsize=65536)
def _read_done(path: Path, _about: tuple[int, int, int]) -> dict[str, Any] | None:
    try:
        return read_json_object(path, {"outputs": dict})
    except (OSError, ValueError) as error:
        logger.warning("%s; until then the stage counts as not done", error)
        return None


def _still_holds(folder: Path, stage: Stage, before: Mapping[str, str]) -> bool:
    """Return whether a finished stage that runs always saw the current states, and its outputs still exist."""
    if any(not (folder / name).exists() for name in stage.outputs):
        return False
    recorded: object = (read_done(folder) or {}).get("upstream_states", {})
    return recorded == dict(before)

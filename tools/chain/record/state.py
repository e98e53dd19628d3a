"""A stage's state is a function of its files: done, failed, blocked, running, pending or lost."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from pretrain.runtime.storage import append_json_line, read_json
from tools.chain.plan.make_plan import Stage
from tools.chain.plan.resources import Resources
from tools.chain.record.attempts import is_alive, is_known_dead, read_attempts

STATES = ("done", "failed", "blocked", "running", "pending", "lost")
ENDED = ("done", "failed", "blocked")


def stage_folder(chain: Path, folder: str) -> Path:
    """Return the folder of a stage."""
    return chain / "stages" / folder


def read_plan(chain: Path) -> tuple[dict[str, Any], list[Stage]]:
    """Return chain.json and its stages; ValueError when nothing was submitted yet."""
    path = chain / "chain.json"
    if not path.is_file():
        raise ValueError(
            f"{chain}: no chain.json, so nothing was submitted here; run `python -m tools.chain submit` first"
        )
    values = read_json(path)
    return values, [stage_from_dict(entry) for entry in values["stages"]]


def stage_as_dict(stage: Stage) -> dict[str, Any]:
    """Return a stage as JSON values."""
    return asdict(stage)


def stage_from_dict(values: Mapping[str, Any]) -> Stage:
    """Return the stage that `stage_as_dict` took apart; further keys are left out."""
    known = {entry.name: values[entry.name] for entry in fields(Stage)}
    resources = {**known["resources"]}
    resources |= {key: tuple(resources[key]) for key in ("setup", "srun")}
    known |= {key: tuple(known[key]) for key in ("command", "outputs")}
    return Stage(**{**known, "resources": Resources(**resources)})


def find_states(chain: Path, stages: Sequence[Stage]) -> dict[str, str]:
    """Return {stage name: state}; the stages must be in order, as the plan gives them."""
    states: dict[str, str] = {}
    for stage in stages:
        states[stage.name] = _find_state(chain, stage, {name: states[name] for name in stage.upstream})
    return states


def is_ready(stage: Stage, states: Mapping[str, str]) -> bool:
    """Return whether a stage that has to run may start now."""
    before = [states[name] for name in stage.upstream]
    if states[stage.name] not in ("pending", "lost"):
        return False
    return all(state in ENDED for state in before) if stage.always else all(state == "done" for state in before)


def upstream_states(chain: Path, stage: Stage) -> dict[str, str]:
    """Return the states of the stages before a stage that runs always; of their folders alone, so "blocked" too."""
    _, stages = read_plan(chain)
    states = find_states(chain, stages)
    return {name: states.get(name, "pending") for name in stage.upstream}


def clear_for_run(chain: Path, stage: Stage, retry: bool) -> None:
    """Take away STOP; with `retry` also FAILED.json (kept under its number), and count the budgets from here."""
    folder = stage_folder(chain, stage.folder)
    (folder / "STOP").unlink(missing_ok=True)
    failed = folder / "FAILED.json"
    if retry and failed.exists():
        attempts = len(read_attempts(folder))
        append_json_line(folder / "ledger.jsonl", {"event": "retry", "attempts": attempts})
        failed.rename(folder / f"failed-{attempts:04d}.json")


def _find_state(chain: Path, stage: Stage, before: Mapping[str, str]) -> str:
    folder = stage_folder(chain, stage.folder)
    if (folder / "DONE.json").is_file() and (not stage.always or _still_holds(folder, stage, before)):
        return "done"
    if (folder / "FAILED.json").is_file():
        return "failed"
    attempts = read_attempts(folder)
    if any(is_alive(attempt) for attempt in attempts):
        return "running"
    if not stage.always and any(state in ("failed", "blocked") for state in before.values()):
        return "blocked"
    return "lost" if attempts and is_known_dead(attempts[-1]) else "pending"


def _still_holds(folder: Path, stage: Stage, before: Mapping[str, str]) -> bool:
    """Return whether a stage that runs always saw the present states, and its outputs are still there."""
    if any(not (folder / name).exists() for name in stage.outputs):
        return False
    recorded: Mapping[str, str] = read_json(folder / "DONE.json").get("upstream_states", {})
    return dict(recorded) == dict(before)

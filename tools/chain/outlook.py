"""Summarise a chain in one line: progress, cost so far, earliest end."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from tools.chain.plan.make_plan import Stage
from tools.chain.record.state import ENDED, STATES, stage_folder
from tools.chain.status import read_progress, say_duration

Work = tuple[str, ...]


def say_outlook(chain: Path, stages: Sequence[Stage], rows: Sequence[Mapping[str, Any]], now: float) -> str:
    """Return e.g. "3 of 21 done, 2 running, 16 pending; 12.3 GPU-hours used; done Wed 14:05 at the earliest"."""
    states = {str(row["stage"]): str(row["state"]) for row in rows}
    counts = Counter(states.values())
    others = [f"{counts[state]} {state}" for state in STATES if state != "done" and counts[state]]
    parts = [", ".join([f"{counts['done']} of {len(states)} done", *others])]
    used = sum(float(row["gpu_hours"]) for row in rows)
    parts.append(f"{used:.1f} GPU-hours used" if used else "no GPU-hours used")
    if all(state in ENDED for state in states.values()):
        return "; ".join(parts)
    left_s, unknown = _find_time_left(chain, stages, states, {str(row["stage"]): row for row in rows})
    if unknown:
        parts.append(f"end unknown: no stage like {unknown[0]} has finished yet")
    else:
        clock = time.strftime("%a %H:%M", time.localtime(now + left_s))
        parts.append(f"done {clock} at the earliest (in {say_duration(left_s)})")
    return "; ".join(parts)


def _find_time_left(
    chain: Path, stages: Sequence[Stage], states: Mapping[str, str], rows: Mapping[str, Mapping[str, Any]]
) -> tuple[float, list[str]]:
    """Return the remaining seconds along the longest path, and the stages without an estimate."""
    took: dict[Work, list[float]] = {}
    for stage in stages:
        if states[stage.name] == "done":
            took.setdefault(_work_of(stage), []).append(float(rows[stage.name]["seconds"]))
    unknown: list[str] = []
    ends: dict[str, float] = {}
    for stage in stages:
        own = 0.0
        if states[stage.name] not in ENDED:
            eta = read_progress(stage_folder(chain, stage.folder)).get("eta_s")
            known = took.get(_work_of(stage))
            if states[stage.name] == "running" and eta is not None:
                own = float(eta)
            elif known:
                own = mean(known)
            elif stage.kind not in ("report", "notify"):
                unknown.append(stage.name)
        ends[stage.name] = own + max((ends[name] for name in stage.upstream if name in ends), default=0.0)
    return max(ends.values(), default=0.0), unknown


def _work_of(stage: Stage) -> Work:
    """Return the kind, module and config of a stage, which do not depend on backbone and seed."""
    return (stage.kind, *stage.command[:4])

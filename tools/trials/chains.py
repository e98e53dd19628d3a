"""The chains that a fault campaign hits: what they hold, how they stand, and what they must end with."""

import contextlib
import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.chain.plan.make_plan import Stage
from tools.chain.record.attempts import is_alive, read_attempts
from tools.chain.record.state import find_states, read_plan, stage_folder
from tools.trials.counting import expect

STAGES: dict[str, tuple[int, tuple[str, ...]]] = {
    "pretrain": (200, ()),
    "convert": (5, ("pretrain",)),
    "voc": (80, ("convert",)),
    "linear": (60, ("pretrain",)),
}
"""Name → steps, and the stages whose results it takes in."""


@dataclass
class TrialChain:
    """One chain under fire."""

    path: Path
    ended: bool = False

    @property
    def folder(self) -> Path:
        """Return the chain's folder."""
        return self.path.parent / "runs" / "chain"

    def stages(self) -> list[Stage]:
        """Return its plan; none when the first submit was killed before it wrote one."""
        return read_plan(self.folder)[1] if (self.folder / "chain.json").is_file() else []

    def states(self) -> dict[str, str]:
        """Return the state of every stage."""
        return find_states(self.folder, self.stages())

    def running(self) -> list[tuple[Path, dict[str, Any]]]:
        """Return the folder and the live attempt of every stage that runs now."""
        folders = [stage_folder(self.folder, stage.folder) for stage in self.stages()]
        return [(folder, entry) for folder in folders for entry in read_attempts(folder)[-1:] if is_alive(entry)]


def describe_chain(folder: Path) -> dict[str, Any]:
    """Return the chain file of a trial."""
    stages = {}
    for name, (steps, before) in STAGES.items():
        words = ["{python}", "-m", "tools.trials.counting", "{out}", f"name={name}", f"steps={steps}", "sleep=0.05"]
        words += [f"input={{stage:{other}}}/result.txt" for other in before]
        stages[name] = {"command": words, "outputs": ["result.txt"]}
    return {
        "runs": str(folder / "runs"),
        "backend": "slurm",
        "report": False,
        "stages": stages,
        "budgets": {"min_free_gb": 0.001, "attempts": 1000, "same_step": 12},
        "resources": {"default": {"cpus": 1, "time_min": 30, "partition": "low"}, "voc": {"partition": "blunt"}},
        "slurm": {"max_bad_hosts": 0},
    }


def read_weights(chain: TrialChain) -> list[tuple[str, str]]:
    """Return (result, the undisturbed run's) of every stage."""
    wanted: dict[str, str] = {}
    found = []
    for stage in chain.stages():
        steps, before = STAGES[stage.name]
        wanted[stage.name] = expect(steps, *(wanted[name] for name in before))
        found.append(((stage_folder(chain.folder, stage.folder) / "result.txt").read_text(), wanted[stage.name]))
    return found


def kill(pid: int) -> bool:
    """Kill a process; return whether it was there."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
        return True
    return False


def kill_children(pid: int) -> bool:
    """Kill the children of a process; return whether there were any."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return False
    return sum(kill(int(child)) for child in children) > 0

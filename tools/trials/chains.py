"""The chains of a fault campaign: their stages, state and expected results."""

import contextlib
import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pretrain.runtime.storage import TEMPORARY_PREFIX
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
FURTHER_WORDS = {"convert": ("folder_s=1.5",), "linear": ("worker=true",)}
"""Further options of these stages."""


@dataclass
class TrialChain:
    """One chain of a campaign."""

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
        return [(folder, entry) for folder in folders for entry in read_attempts(folder)[-1:] if _is_sound(entry)]


def _is_sound(attempt: dict[str, Any]) -> bool:
    return is_alive(attempt) and not attempt.get("damaged")


def describe_chain(folder: Path) -> dict[str, Any]:
    """Return the chain file of a trial."""
    stages = {}
    for name, (steps, before) in STAGES.items():
        words = ["{python}", "-m", "tools.trials.counting", "{out}", f"name={name}", f"steps={steps}", "sleep=0.05"]
        words += FURTHER_WORDS.get(name, ())
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
    """Return (result, expected result of an uninterrupted run) of every stage."""
    wanted: dict[str, str] = {}
    found = []
    for stage in chain.stages():
        steps, before = STAGES[stage.name]
        wanted[stage.name] = expect(steps, *(wanted[name] for name in before))
        found.append(((stage_folder(chain.folder, stage.folder) / "result.txt").read_text(), wanted[stage.name]))
    return found


def kill(pid: int) -> bool:
    """Kill a process; return whether it existed."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
        return True
    return False


def kill_children(pid: int) -> bool:
    """Kill the children of a process; return whether there were any."""
    return sum(kill(child) for child in list_children(pid)) > 0


def kill_workers(pid: int) -> bool:
    """Kill the children of a process's children; return whether there were any."""
    return sum(kill_children(child) for child in list_children(pid)) > 0


def list_children(pid: int) -> list[int]:
    """Return the children of a process."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def kill_while_writing(running: Sequence[tuple[TrialChain, Path, dict[str, Any]]]) -> bool:
    """Kill the command of a stage whose temporary folder exists now; return whether there was one."""
    for _, folder, attempt in running:
        if any(path.is_dir() for path in folder.glob(f"{TEMPORARY_PREFIX}*")):
            return kill_children(attempt["pid"])
    return False


def cut_state(folder: Path, attempt: dict[str, Any], cut: float) -> bool:
    """Kill a stage's runner and truncate its state, as a disk does that loses what was being written.

    Args:
        folder: of the stage.
        attempt: its live one.
        cut: share of the attempt's file that is kept, 0 to 1.

    """
    if not kill(attempt["pid"]):
        return False
    content = attempt["path"].read_bytes()
    with contextlib.suppress(OSError):  # a full disk
        attempt["path"].write_bytes(content[: int(cut * len(content))])
        (folder / "progress.json").write_bytes(b"\0" * 64)
        (folder / "attempts" / f"{TEMPORARY_PREFIX}{attempt['path'].name}.cut").write_bytes(content[:9])
        with (folder / "ledger.jsonl").open("ab") as ledger:
            ledger.write(b'{"event": "inte')
    return True

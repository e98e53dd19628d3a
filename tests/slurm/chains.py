"""Small chains of counting stages for a real Slurm, and how to wait for them and judge them."""

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from pretrain.runtime.storage import read_json
from tools.chain.__main__ import main as run_chain
from tools.chain.record.attempts import is_alive, read_attempts
from tools.chain.record.state import find_states, read_plan, stage_folder
from tools.trials.cluster import Cluster
from tools.trials.counting import count_lost_steps

PATIENCE = 3.0
"""All waits are this much longer than an idle machine needs: they end as soon as what they wait for is there."""


def counting(
    steps: int = 20, *more: str, sleep: float = 0.05, after: tuple[str, ...] = (), **values: Any
) -> dict[str, Any]:
    """A stage that counts; `after` are the stages whose results go into its own."""
    words = ["{python}", "-m", "tools.trials.counting", "{out}", f"steps={steps}", f"sleep={sleep}", *more]
    words += [f"input={{stage:{name}}}/result.txt" for name in after]
    return {"command": words, "outputs": ["result.txt"], **values}


def standard_stages(steps: int = 60, sleep: float = 0.05) -> dict[str, Any]:
    """pretrain → convert → {voc, coco, linear}, and a report that runs always."""
    return {
        "pretrain": counting(steps, sleep=sleep),
        "convert": counting(5, after=("pretrain",)),
        "voc": counting(20, after=("convert",)),
        "coco": counting(20, "name=coco", after=("convert",)),
        "linear": counting(10, "name=linear", after=("pretrain",)),
        "final": counting(3, always=True) | {"after": ["voc", "coco", "linear"]},
    }


def wait_until(ready: Callable[[], bool], seconds: float = 40) -> None:
    """Wait until `ready()`; AssertionError when it takes too long."""
    until = time.monotonic() + PATIENCE * seconds
    while not ready():
        assert time.monotonic() < until, f"waited {PATIENCE * seconds} s in vain"
        time.sleep(0.3)


class ChainOnSlurm:
    """A chain file in a folder of its own, submitted to the cluster that runs."""

    def __init__(self, folder: Path, stages: Mapping[str, Any], **values: Any) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "chain.yaml"
        self.values: dict[str, Any] = {
            "runs": str(folder / "runs"),
            "backend": "slurm",
            "report": False,
            "stages": dict(stages),
            "budgets": {"min_free_gb": 0.001},
            "resources": {"default": {"cpus": 1, "time_min": 30, "partition": "low"}},
            **values,
        }
        self.write()
        self.folder = folder / "runs" / "chain"

    def write(self) -> None:
        self.path.write_text(yaml.safe_dump(self.values, sort_keys=False))

    def submit(self, *words: str) -> int:
        return run_chain(["submit", str(self.path), *words]) or 0

    def states(self) -> dict[str, str]:
        return find_states(self.folder, read_plan(self.folder)[1])

    def stage(self, name: str) -> Path:
        return next(
            stage_folder(self.folder, entry.folder) for entry in read_plan(self.folder)[1] if entry.name == name
        )

    def attempts(self, name: str) -> list[dict[str, Any]]:
        return [read_json(path) for path in sorted((self.stage(name) / "attempts").glob("*.json"))]

    def job(self, name: str) -> str:
        lines = (self.stage(name) / "ledger.jsonl").read_text().splitlines()
        return [json.loads(line)["job_id"] for line in lines if '"job_id"' in line][-1]

    def result(self, name: str) -> str:
        return (self.stage(name) / "result.txt").read_text()

    def lost_steps(self, name: str) -> int:
        return count_lost_steps(self.stage(name) / "steps.txt")

    def wait(
        self, ready: Callable[[dict[str, str]], bool], seconds: float = 60, cluster: Cluster | None = None
    ) -> dict[str, str]:
        """Wait until `ready(states)`; on a time-out the error shows states and queue."""
        until = time.monotonic() + PATIENCE * seconds
        while not ready(states := self.states()):
            if time.monotonic() > until:
                queue = cluster.ask("squeue", "-a", check=False) if cluster else ""
                logs = "\n".join(
                    f"{path}:\n{path.read_text()[-800:]}" for path in self.folder.glob("stages/*/slurm/*log*")
                )
                raise AssertionError(f"after {PATIENCE * seconds} s: {states}\n{queue}\n{logs}")
            time.sleep(0.3)
        return states

    def wait_for_end(self, seconds: float = 60, cluster: Cluster | None = None) -> dict[str, str]:
        """Wait for every stage's verdict, and for the runners that note it in their attempt after they wrote it."""
        return self.wait(
            lambda states: all(s in ("done", "failed", "blocked") for s in states.values()) and not self.lives(),
            seconds,
            cluster,
        )

    def lives(self) -> bool:
        """Whether a runner of any stage still runs."""
        folders = (self.folder / "stages").iterdir()
        return any(is_alive(entry) for folder in folders for entry in read_attempts(folder)[-1:])

    def wait_for_step(self, name: str, step: int, seconds: float = 40) -> None:
        until = time.monotonic() + PATIENCE * seconds
        while time.monotonic() < until:
            try:
                if read_json(self.stage(name) / "progress.json")["step"] >= step:
                    return
            except (OSError, ValueError, StopIteration):
                pass
            time.sleep(0.1)
        raise AssertionError(f"{name} did not reach step {step} in {PATIENCE * seconds} s: {self.states()}")

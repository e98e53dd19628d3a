"""Inject random faults into running chains on a real Slurm, and count what was lost.

  python -m tools.fault_campaign n=40 json=/tmp/faults.json

Starts Slurm on this machine's loopback device (root, packages slurm-wlm and munge), submits chains of counting stages
with real checkpoints and digests, and injects n faults while they run: stop signals, kills of the runner, of its
command (also while it writes a folder) and of the command's workers, truncated state files, preemption, lost nodes,
restarts of slurmctld, a full disk, duplicate and killed submits; all kinds in every 29 faults. Afterwards all chains
must finish, each stage's result equal to the uninterrupted run's. Prints and writes: faults, chains, finished,
steps_lost_beyond_checkpoint, wrong_verdicts, identical_weights. Exit code 1 if one of them is wrong.
"""

import contextlib
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from pretrain.runtime.command_line import run_command
from pretrain.runtime.machine import describe_machine, read_commit
from pretrain.runtime.settings import read_settings
from pretrain.runtime.storage import read_json, write_text
from tools.chain.record.state import stage_folder
from tools.chain.slurm.squeue import LAUNCH_FAILED, find_jobs
from tools.trials import chains as hits
from tools.trials.chains import TrialChain, describe_chain, read_weights
from tools.trials.cluster import Cluster, find_missing
from tools.trials.counting import count_lost_steps

DISK_MB = 256
NODE_DOWN_S = 22.0
"""Slurm considers a node lost after SlurmdTimeout = 10 s and a round of pings."""

ROUND = {
    "stop signal": 6, "runner killed": 5, "command killed": 5, "preemption": 3, "node lost": 1,
    "slurmctld restarted": 1, "disk full": 1, "two submits at once": 1, "submit killed": 1, "convert killed": 2,
    "worker killed": 2, "state cut": 1,
}  # fmt: skip
"""Faults of each kind in a round."""
START_BYTES = 2**20
"""Free space that starting a chain takes."""
ONE_AT_A_TIME = ("node lost", "slurmctld restarted", "disk full")


@dataclass(frozen=True, kw_only=True)
class CampaignSettings:
    """Options of the campaign."""

    n: int = 40
    """Faults."""
    seed: int = 0
    parallel: int = 3
    """Chains at a time."""
    json: str = ""
    """Where to write the figures."""
    limit_min: float = 60.0
    """Give up after this time."""


@dataclass
class Campaign:
    """The state of a running campaign."""

    cluster: Cluster
    root: Path
    """Folder of the chains; a small tmpfs if one could be mounted."""
    settings: CampaignSettings
    chance: random.Random
    chains: list[TrialChain] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)
    deck: list[str] = field(default_factory=list)
    """The kinds of this round that have not been injected yet."""
    later: list[tuple[float, Callable[[], None]]] = field(default_factory=list)
    """When a fault is undone, and how."""
    submits: list["subprocess.Popen[bytes]"] = field(default_factory=list)
    """Submits that are still running."""
    wrong: list[str] = field(default_factory=list)
    controller_is_down: bool = False

    def run(self) -> dict[str, Any]:
        """Inject all faults, wait for all chains, and return the figures."""
        began = time.monotonic()
        until = began + 60 * self.settings.limit_min
        wait_until = 0.0
        while time.monotonic() < until:
            self._undo_faults()
            self.submits = [process for process in self.submits if process.poll() is None]
            if self.controller_is_down:  # queries would only time out
                time.sleep(0.1)
                continue
            self._resume_nodes()
            self._look_after_chains()
            done = sum(self.faults.values()) >= self.settings.n
            if done and not self.later and not self.submits and all(chain.ended for chain in self.chains):
                break
            if not done and time.monotonic() > wait_until and self._inject():
                wait_until = time.monotonic() + self.chance.uniform(0.2, 1.2)
            time.sleep(0.2)
        for process in self.submits:
            process.kill()
            process.wait()
        return self._judge() | {"seconds": round(time.monotonic() - began)}

    def submit(self, chain: TrialChain, *words: str) -> "subprocess.Popen[bytes]":
        """Start a submit of the chain."""
        command = [sys.executable, "-m", "tools.chain", *(words or ("submit",)), str(chain.path)]
        with (chain.path.parent / "submits.log").open("ab") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        self.submits.append(process)
        return process

    def _look_after_chains(self) -> None:
        """Start chains while faults remain; resume those that a full disk or a killed submit stopped."""
        active = [chain for chain in self.chains if not chain.ended]
        wanted = len(active) < self.settings.parallel and sum(self.faults.values()) < self.settings.n
        if wanted and shutil.disk_usage(self.root).free > START_BYTES:  # else a disk is full by design: start later
            folder = self.root / f"chain{len(self.chains)}"
            folder.mkdir()
            chain = TrialChain(folder / "chain.yaml")
            write_text(chain.path, yaml.safe_dump(describe_chain(folder), sort_keys=False))
            self.chains.append(chain)
            self.submit(chain).wait()
        for chain in active:
            states = chain.states()
            if states and all(state == "done" for state in states.values()):
                chain.ended = True
                continue
            self._note_wrong_failures(chain)
            jobs = find_jobs(chain.folder)
            held = any(job["reason"] == LAUNCH_FAILED for job in jobs.values())
            if not self.later and ("failed" in states.values() or not jobs or held):
                self.submit(chain, "resume").wait()

    def _note_wrong_failures(self, chain: TrialChain) -> None:
        for stage in chain.stages():
            path = stage_folder(chain.folder, stage.folder) / "FAILED.json"
            with contextlib.suppress(OSError, ValueError):
                failed = read_json(path)
                text = f"{chain.path.parent.name}/{stage.name}: {failed['kind']}: {failed['message']} {failed['tail']}"
                if failed["kind"] != "quota" and "[Errno 28]" not in text and text not in self.wrong:
                    self.wrong.append(text)

    def _undo_faults(self) -> None:
        for entry in [entry for entry in self.later if entry[0] <= time.monotonic()]:
            self.later.remove(entry)
            entry[1]()

    def _resume_nodes(self) -> None:
        """Resume nodes that Slurm drained, as an administrator would."""
        if "drain" in self.cluster.ask("sinfo", "-h", "-o", "%T", check=False):
            self.cluster.ask("scontrol", "update", "nodename=node[1-2]", "state=resume", check=False)

    def _inject(self) -> bool:
        """Inject one fault into a running stage; return whether there was one."""
        running = [(chain, *entry) for chain in self.chains if not chain.ended for entry in chain.running()]
        if not running:
            return False
        chain, folder, attempt = self.chance.choice(running)
        kinds: dict[str, Callable[[], bool]] = {
            "stop signal": lambda: self._signal(attempt, self.chance.choice(["TERM", "USR2"])),
            "runner killed": lambda: hits.kill(attempt["pid"]),
            "command killed": lambda: hits.kill_children(attempt["pid"]),
            "preemption": lambda: self._preempt(attempt["node"]),
            "node lost": lambda: self._lose_node(attempt["node"]),
            "slurmctld restarted": self._restart_controller,
            "disk full": lambda: self._fill_disk(folder),
            "two submits at once": lambda: bool([self.submit(chain), self.submit(chain)]),
            "submit killed": lambda: self._kill_submit(chain),
            "convert killed": lambda: hits.kill_while_writing(running),
            "worker killed": lambda: any(hits.kill_workers(entry["pid"]) for _, _, entry in running),
            "state cut": lambda: hits.cut_state(folder, attempt, self.chance.random()),
        }
        passed: set[str] = set()
        while (name := self._draw(passed)) and not kinds[name]():
            passed.add(name)
        if not name:
            return False
        self.deck.remove(name)
        self.faults[name] += 1
        where = "" if name in ("convert killed", "worker killed") else f": {folder.name}"
        print(f"{time.strftime('%H:%M:%S')} {sum(self.faults.values())}/{self.settings.n} {name}{where}", flush=True)
        return True

    def _draw(self, passed: Set[str] = frozenset()) -> str:
        """Return the next kind that can be injected now, "" if none can; every round contains every kind.

        Args:
            passed: kinds without a target now.

        """
        if not self.deck:
            self.deck = [name for name, count in ROUND.items() for _ in range(count)]
            if not self.root.is_mount():
                self.deck.remove("disk full")
            self.chance.shuffle(self.deck)
        free = (name for name in self.deck if name not in passed and (name not in ONE_AT_A_TIME or not self.later))
        return next(free, "")

    def _signal(self, attempt: dict[str, Any], name: str) -> bool:
        words = ["scancel", f"--signal={name}", attempt["job_id"]]
        with contextlib.suppress(subprocess.TimeoutExpired):  # it retries endlessly on a job that is being requeued
            subprocess.run(words, capture_output=True, timeout=5, check=False)
        return True

    def _preempt(self, node: str) -> bool:
        words = ["-p", "high", "-w", node, "-n", "1", "-c", "4", "-t", "5", "-o", "/dev/null", "--wrap", "sleep 1"]
        self.cluster.ask("sbatch", *words, check=False)
        return True

    def _lose_node(self, node: str) -> bool:
        self.cluster.kill_daemon(f"slurmd-{node}")
        self.later.append((time.monotonic() + NODE_DOWN_S, lambda: self.cluster.start_node(node)))
        return True

    def _restart_controller(self) -> bool:
        self.cluster.kill_daemon("slurmctld")
        self.controller_is_down = True
        self.later.append((time.monotonic() + self.chance.uniform(0.5, 4.0), self._start_controller))
        return True

    def _start_controller(self) -> None:
        self.cluster.start_controller()
        self.controller_is_down = False

    def _fill_disk(self, folder: Path) -> bool:
        filler = self.root / "filler"
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as stream:
            while stream.write(b"\0" * 65536):
                pass
        self.later.append((time.monotonic() + self.chance.uniform(0.5, 3.0), lambda: filler.unlink(missing_ok=True)))
        return folder.exists()

    def _kill_submit(self, chain: TrialChain) -> bool:
        process = self.submit(chain)
        time.sleep(self.chance.uniform(0.3, 2.0))
        process.kill()
        process.wait()
        return True

    def _judge(self) -> dict[str, Any]:
        finished = [chain for chain in self.chains if chain.ended]
        identical = [all(result == expected for result, expected in read_weights(chain)) for chain in finished]
        traces = [path for chain in self.chains for path in chain.folder.glob("stages/*/steps.txt")]
        return {
            "faults": sum(self.faults.values()),
            "chains": len(self.chains),
            "finished": len(finished),
            "steps_lost_beyond_checkpoint": sum(map(count_lost_steps, traces)),
            "wrong_verdicts": len(self.wrong) + identical.count(False),
            "identical_weights": all(identical) and len(finished) == len(self.chains),
            "attempts": sum(1 for chain in self.chains for _ in chain.folder.glob("stages/*/attempts/0*.json")),
            "by_kind": dict(self.faults),
            "wrong": self.wrong,
        }


def main(arguments: Sequence[str]) -> int:
    """Run the campaign on its own cluster."""
    settings = read_settings(CampaignSettings, None, arguments)
    if missing := find_missing():
        raise ValueError(f"needs {', '.join(missing)}; run tools/setup/system_packages.sh as root on Debian or Ubuntu")
    with tempfile.TemporaryDirectory(prefix="faults-") as name:
        cluster_folder, root = Path(name, "cluster"), Path(name, "chains")
        for folder in (cluster_folder, root):
            folder.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "tmpfs", str(root)]
        if subprocess.run(mount, capture_output=True, check=False).returncode:
            print("no tmpfs could be mounted, so no disk will be full")
        cluster = Cluster(cluster_folder)
        try:
            cluster.start()
            figures = Campaign(cluster, root, settings, random.Random(settings.seed)).run()  # noqa: S311 (no secret)
            figures |= {"seed": settings.seed, "commit": read_commit(), "machine": describe_machine()}
        finally:
            cluster.stop()
            if root.is_mount():
                subprocess.run(["umount", "--lazy", str(root)], check=False)
    text = json.dumps(figures, indent=2)
    print(text)
    if settings.json:
        write_text(settings.json, text + "\n")
    good = figures["finished"] == figures["chains"] and figures["faults"] >= settings.n and figures["identical_weights"]
    return 0 if good and not figures["steps_lost_beyond_checkpoint"] and not figures["wrong_verdicts"] else 1


if __name__ == "__main__":
    sys.exit(run_command(main, __doc__))

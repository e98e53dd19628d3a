"""Run a chain on this machine: each stage a subprocess, as many at a time as GPUs or CPUs allow, until all have ended.

With GPUs, stages share them by the `gpus` they ask for; without any, they share the CPUs by their `cpus`.
The driver holds no state: killed at any moment, a new one goes on from the files.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from filelock import FileLock, Timeout

from pretrain.runtime.stopping import EXIT_GATE, EXIT_YIELD
from pretrain.runtime.storage import read_json
from tools.chain.logs import RUNNER_LOG
from tools.chain.plan.make_plan import Stage
from tools.chain.record.state import ENDED, find_states, is_ready, stage_folder
from tools.chain.run.launch import stage_environment
from tools.chain.status import read_progress, say_duration, say_progress
from tools.chain.submit import Chain

POLL_S = 0.2
TERMINAL_EVERY_S = 1.0
LOG_EVERY_S = 15.0
"""Between two progress lines on a terminal (rewritten in place) and in a log file."""


@dataclass
class Running:
    """A stage that runs as a child of this driver."""

    stage: Stage
    process: subprocess.Popen[bytes]
    gpus: list[str]
    cpus: int
    began: float = field(default_factory=time.monotonic)


class LocalDriver:
    """Start what is ready, wait, say how far it is."""

    def __init__(self, chain: Chain) -> None:
        self.chain = chain
        self.gpus = list_gpus()
        self.cpus = len(os.sched_getaffinity(0))
        self.slots = chain.config.local.slots or len(self.gpus) or self.cpus
        self.running: list[Running] = []
        self.given_up: set[str] = set()
        """Stages whose gate was closed, or that were cancelled: not tried again by this driver."""
        self.stops = 0
        self._line_at = 0.0
        self._line = ""

    def run(self) -> int:
        """Run until nothing is left to do; return 0, 1 (a stage failed), 75 (stopped) or 78 (a gate was closed)."""
        lock = FileLock(self.chain.folder / ".driver.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise ValueError(
                f"{self.chain.folder}: a driver runs this chain already; watch it with `status`"
            ) from error
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # nohup means: stay
                signal.signal(number, self._stop)
        with lock:
            return self._loop()

    def _loop(self) -> int:
        stages = self.chain.stages
        while True:
            self._collect()
            states = find_states(self.chain.folder, stages)
            if not self.stops:
                self._start_ready(states)
            foreign = "running" in states.values()
            if not self.running and (self.stops or not foreign):
                break
            self._show(states)
            time.sleep(POLL_S)
        self._clear_line()
        if self.stops:
            print("stopped; the same command goes on from here")
            return EXIT_YIELD
        states = find_states(self.chain.folder, stages)
        if self.given_up:
            return EXIT_GATE
        return 0 if all(state == "done" for state in states.values()) else 1

    def _start_ready(self, states: dict[str, str]) -> None:
        mine = {entry.stage.name for entry in self.running}
        for stage in self.chain.stages:
            if stage.name in mine or stage.name in self.given_up or not is_ready(stage, states):
                continue
            if stage.always and any(name in self.given_up or name in mine for name in stage.upstream):
                continue
            gpus = self._free_gpus()
            wanted = min(stage.resources.gpus * stage.resources.nodes, len(self.gpus))
            if len(self.running) == self.slots or wanted > len(gpus) or not self._has_cpus_for(stage):
                return  # in order: a stage that needs more waits, and nothing overtakes it
            self._start(stage, gpus[:wanted])

    def _free_gpus(self) -> list[str]:
        taken = {gpu for entry in self.running for gpu in entry.gpus}
        return [gpu for gpu in self.gpus if gpu not in taken]

    def _has_cpus_for(self, stage: Stage) -> bool:
        """Return whether the CPUs suffice; where there are GPUs, these alone decide: CPUs are shared."""
        return bool(self.gpus) or self._cpus_of(stage) <= self.cpus - sum(entry.cpus for entry in self.running)

    def _cpus_of(self, stage: Stage) -> int:
        return min(stage.resources.cpus, self.cpus)

    def _start(self, stage: Stage, gpus: list[str]) -> None:
        folder = stage_folder(self.chain.folder, stage.folder)
        code = self.chain.folder / "code" / read_json(folder / "spec.json")["code"]
        words = [sys.executable, "-m", "tools.chain.run.run_stage", str(folder), f"driver={os.getpid()}"]
        words += [f"slice_min={self.chain.config.local.slice_min}", f"gpus={','.join(gpus)}", f"ranks={len(gpus) or 1}"]
        environment = {**os.environ, **stage_environment(code, read_json(folder / "spec.json")["commit"])}
        environment["OMP_NUM_THREADS"] = str(self._cpus_of(stage))
        if self.gpus:
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
        with (folder / RUNNER_LOG).open("ab") as log:
            process = subprocess.Popen(
                words, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        self.running.append(Running(stage, process, gpus, self._cpus_of(stage)))
        self._say(f"{stage.name}: starts" + (f" on GPU {','.join(gpus)}" if gpus else ""))

    def _collect(self) -> None:
        for entry in list(self.running):
            code = entry.process.poll()
            if code is None:
                continue
            self.running.remove(entry)
            folder = stage_folder(self.chain.folder, entry.stage.folder)
            took = say_duration(time.monotonic() - entry.began)
            if code == 0 and not (folder / "DONE.json").exists():
                self._say(f"{entry.stage.name}: runs elsewhere; waiting for it")
            elif code == 0:
                self._say(f"{entry.stage.name}: done in {took}{_say_metrics(folder)}")
            elif (folder / "FAILED.json").exists():
                failed = read_json(folder / "FAILED.json")
                tail = "\n".join(failed["tail"].splitlines()[-12:])
                self._say(f"{entry.stage.name}: failed after {took} ({failed['kind']}): {failed['message']}\n{tail}")
                self._say(f"  whole log: {folder / 'log.txt'}")
            elif code < 0 or code == EXIT_YIELD:
                self._say(f"{entry.stage.name}: interrupted after {took}, its work is saved")
            else:
                self.given_up.add(entry.stage.name)
                self._say(f"{entry.stage.name}: not started\n{_read_end(folder / RUNNER_LOG)}")

    def _show(self, states: dict[str, str]) -> None:
        now, terminal = time.monotonic(), sys.stdout.isatty()
        if now - self._line_at < (TERMINAL_EVERY_S if terminal else LOG_EVERY_S):
            return
        first, self._line_at = self._line_at == 0.0, now
        if first and not terminal:
            return
        texts = []
        for entry in self.running:
            folder = stage_folder(self.chain.folder, entry.stage.folder)
            progress = say_progress(read_progress(folder)) or say_duration(now - entry.began)
            texts.append(f"{entry.stage.name}: {progress}")
        if terminal and texts:
            width = shutil.get_terminal_size().columns - 1
            self._line = f"{self._count(states)} {' | '.join(texts)}"[:width]
            print(f"\r\033[K{self._line}", end="", flush=True)
        elif texts:
            prefix = f"{time.strftime('%H:%M:%S')} {self._count(states)}"
            print("\n".join(f"{prefix} {text}" for text in texts), flush=True)

    def _count(self, states: dict[str, str]) -> str:
        ended = sum(state in ENDED for state in states.values())
        return f"[{ended}/{len(states)}]"

    def _say(self, text: str) -> None:
        self._clear_line()
        states = find_states(self.chain.folder, self.chain.stages)
        print(f"{time.strftime('%H:%M:%S')} {self._count(states)} {text}", flush=True)
        self._line_at = time.monotonic()

    def _clear_line(self) -> None:
        if self._line:
            print("\r\033[K", end="", flush=True)
            self._line = ""

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        self.stops += 1
        for entry in self.running:
            if entry.process.poll() is None:
                entry.process.send_signal(signal.SIGTERM if self.stops == 1 else signal.SIGKILL)
        if self.stops == 1:
            text = "stopping: the running stages save their work (again to end them at once)"
            os.write(1, f"\n{text}\n".encode())


def list_gpus() -> list[str]:
    """Return the GPUs this process may use, as CUDA_VISIBLE_DEVICES names them; none without a driver."""
    if (visible := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [name for name in visible.split(",") if name and name != "-1"]
    if shutil.which("nvidia-smi") is None:
        return []
    listing = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False).stdout
    return [str(index) for index, _ in enumerate(line for line in listing.splitlines() if line.startswith("GPU "))]


def _say_metrics(folder: Path) -> str:
    done: dict[str, Any] = read_json(folder / "DONE.json") if (folder / "DONE.json").exists() else {}
    metrics = [f"{name} {value:.1f}" for name, value in (done.get("metrics") or {}).items() if isinstance(value, float)]
    return f" ({', '.join(metrics[:4])})" if metrics else ""


def _read_end(path: Path) -> str:
    return "\n".join(path.read_text(errors="replace").splitlines()[-8:])

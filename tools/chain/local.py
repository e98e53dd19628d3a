"""Run a chain on this machine: each stage a subprocess, as many at a time as GPUs or CPUs allow, until all have ended.

With GPUs, stages share them by the `gpus` they ask for; without any, they share the CPUs by their `cpus`.
The driver holds no state: killed at any moment, a new one goes on from the files.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from filelock import Timeout

from pretrain.runtime.stopping import EXIT_GATE, EXIT_YIELD
from tools.chain.logs import RUNNER_LOG
from tools.chain.plan.make_plan import Stage
from tools.chain.record.attempts import read_attempts
from tools.chain.record.lock import ChainLock
from tools.chain.record.state import read_done, read_failed, read_spec, stage_folder
from tools.chain.record.watch import StateWatch
from tools.chain.run.launch import stage_environment, wait_for_any
from tools.chain.run.spare import RunnerStarter
from tools.chain.status import read_progress, say_duration, say_progress
from tools.chain.submit import Chain

POLL_S = 0.5
"""Between two looks at what runs elsewhere; the end of a stage of this driver's is seen at once."""
FUTILE_STARTS = 5
"""Starts of one stage in a row that never got as far as an attempt, after which it is given up."""
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
    newest: int
    """Number of the newest attempt before this start."""
    began: float = field(default_factory=time.monotonic)


class LocalDriver:
    """Start what is ready, wait, say how far it is."""

    def __init__(self, chain: Chain) -> None:
        self.chain = chain
        self.gpus = list_gpus()
        self.cpus = len(os.sched_getaffinity(0))
        self.slots = chain.config.local.slots or len(self.gpus) or self.cpus
        self.running: list[Running] = []
        self.starter = RunnerStarter()
        self.given_up: set[str] = set()
        """Stages whose gate was closed, or that were cancelled: not tried again by this driver."""
        self.futile: dict[str, int] = {}
        """Starts in a row that left no attempt."""
        self.delayed: dict[str, float] = {}
        """When such stages are tried again, by time.monotonic()."""
        self.stops = 0
        self._line_at = 0.0
        self._line = ""

    def run(self) -> int:
        """Run until nothing is left to do; return 0, 1 (a stage failed), 75 (stopped) or 78 (a gate was closed)."""
        lock = ChainLock(self.chain.folder / ".driver.lock", timeout=0)
        try:
            lock.acquire()
        except Timeout as error:
            raise ValueError(
                f"{self.chain.folder}: a driver runs this chain already; watch it with `status`"
            ) from error
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # nohup means: stay
                signal.signal(number, self._stop)
        try:
            return self._loop()
        finally:
            self.starter.close()
            lock.release()

    def _loop(self) -> int:
        self.watch = StateWatch(self.chain.folder, self.chain.stages)
        while True:
            self._collect()
            self._look_elsewhere()
            if not self.stops:
                self._start_ready()
            if not self.running and (self.stops or not (self.delayed or self._find_foreign())):
                break
            self._show()
            wait_for_any([entry.process for entry in self.running], POLL_S)
        self._clear_line()
        if self.stops:
            print("stopped; the same command goes on from here")
            return EXIT_YIELD
        if self.given_up:
            return EXIT_GATE
        return 0 if self.watch.counts["done"] == len(self.chain.stages) else 1

    def _look_elsewhere(self) -> None:
        """Take in what other processes changed: runs of theirs that end, stages that are tried again."""
        for name in self._find_foreign():
            self.watch.update(name)
        for name in [name for name, until in self.delayed.items() if until <= time.monotonic()]:
            del self.delayed[name]
            self.watch.put_back(name)
        if time.monotonic() >= self.watch.next_look:
            self.watch.look_again()

    def _find_foreign(self) -> set[str]:
        return self.watch.running - {entry.stage.name for entry in self.running}

    def _start_ready(self) -> None:
        mine = {entry.stage.name for entry in self.running}
        later: list[str] = []
        while len(self.running) < self.slots and (stage := self.watch.take_ready()) is not None:
            if stage.name in mine or stage.name in self.given_up or stage.name in self.delayed:
                continue
            if stage.always and any(name in self.given_up or name in mine for name in stage.upstream):
                later.append(stage.name)
                continue
            gpus = self._free_gpus()
            wanted = min(stage.resources.gpus * stage.resources.nodes, len(self.gpus))
            if wanted > len(gpus) or not self._has_cpus_for(stage):
                later.append(stage.name)
                break  # in order: a stage that needs more waits, and nothing overtakes it
            self._start(stage, gpus[:wanted])
            mine.add(stage.name)
        for name in later:
            self.watch.put_back(name)

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
        spec = read_spec(folder)
        code = self.chain.folder / "code" / spec.get("code", "")
        words = [str(folder), f"driver={os.getpid()}", f"slice_min={self.chain.config.local.slice_min}"]
        words += [f"gpus={','.join(gpus)}", f"ranks={len(gpus) or 1}"]
        own = {"OMP_NUM_THREADS": str(self._cpus_of(stage))}
        if self.gpus:
            own["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
        environment = stage_environment(code, spec.get("commit", ""))
        process = self.starter.start(words, environment, own, folder / RUNNER_LOG)
        self.starter.prepare(environment)
        self.running.append(Running(stage, process, gpus, self._cpus_of(stage), _newest_attempt(folder)))
        self._say(f"{stage.name}: starts" + (f" on GPU {','.join(gpus)}" if gpus else ""))

    def _collect(self) -> None:
        for entry in list(self.running):
            code = entry.process.poll()
            if code is not None:
                self.running.remove(entry)
                self.watch.update(entry.stage.name)
                self._conclude(entry, code)

    def _conclude(self, entry: Running, code: int) -> None:
        """Say what became of a start, and whether the stage is tried again."""
        folder, name = stage_folder(self.chain.folder, entry.stage.folder), entry.stage.name
        took = say_duration(time.monotonic() - entry.began)
        newest = _newest_attempt(folder)
        self.futile[name] = 0 if newest > entry.newest else self.futile.get(name, 0) + 1
        if self.watch.states[name] == "done":
            self._say(f"{name}: done in {took}{_say_metrics(folder)}")
        elif (failed := read_failed(folder)) is not None:
            tail = "\n".join(failed["tail"].splitlines()[-12:])
            self._say(f"{name}: failed after {took} ({failed['kind']}): {failed['message']}\n{tail}".rstrip())
            self._say(f"  whole log: {folder / 'log.txt'}")
        elif self.watch.states[name] == "running":
            self.futile[name] = 0
            self._say(f"{name}: runs elsewhere; waiting for it")
        elif (code not in (0, EXIT_YIELD) and code > 0) or self.futile[name] > FUTILE_STARTS:
            self.given_up.add(name)
            self._say(f"{name}: not started\n{_read_end(folder / RUNNER_LOG)}")
        else:
            if self.futile[name]:
                self.delayed[name] = time.monotonic() + 2.0 ** (self.futile[name] - 1)
            self._say(f"{name}: interrupted after {took}, its work is saved{_say_reason(folder, newest)}")

    def _show(self) -> None:
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
            self._line = f"{self._count()} {' | '.join(texts)}"[:width]
            print(f"\r\033[K{self._line}", end="", flush=True)
        elif texts:
            prefix = f"{time.strftime('%H:%M:%S')} {self._count()}"
            print("\n".join(f"{prefix} {text}" for text in texts), flush=True)

    def _count(self) -> str:
        return f"[{self.watch.ended}/{len(self.chain.stages)}]"

    def _say(self, text: str) -> None:
        self._clear_line()
        print(f"{time.strftime('%H:%M:%S')} {self._count()} {text}", flush=True)
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
            with contextlib.suppress(OSError):  # nobody may read it any more
                os.write(1, f"\n{text}\n".encode())


def list_gpus() -> list[str]:
    """Return the GPUs this process may use, as CUDA_VISIBLE_DEVICES names them; none without a driver."""
    if (visible := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [name for name in visible.split(",") if name and name != "-1"]
    if shutil.which("nvidia-smi") is None:
        return []
    listing = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False).stdout
    return [str(index) for index, _ in enumerate(line for line in listing.splitlines() if line.startswith("GPU "))]


def _newest_attempt(folder: Path) -> int:
    return max((attempt["number"] for attempt in read_attempts(folder)), default=0)


def _say_reason(folder: Path, newest: int) -> str:
    reasons = [attempt.get("reason") for attempt in read_attempts(folder) if attempt["number"] == newest]
    return f" ({reasons[0]})" if reasons and reasons[0] else ""


def _say_metrics(folder: Path) -> str:
    metrics = (read_done(folder) or {}).get("metrics")
    values = metrics.items() if isinstance(metrics, dict) else ()
    texts = [f"{name} {value:.1f}" for name, value in values if isinstance(value, float)]
    return f" ({', '.join(texts[:4])})" if texts else ""


def _read_end(path: Path) -> str:
    try:
        return "\n".join(path.read_text(errors="replace").splitlines()[-8:])
    except OSError as error:
        return f"{path}: cannot be read ({error})"

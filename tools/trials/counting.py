"""A minimal stage with real checkpoints: it folds numbers into a digest, step by step, and resumes from a checkpoint.

  python -m tools.trials.counting OUT steps=40 every=5 sleep=0.05 name=a [input=FILE …] [die=SIGKILL@12] [needs=FILE]

die=SIGNAL@STEP kills the process there once, dies=SIGNAL@STEP every time; needs=FILE fails while FILE does not exist.
worker=true counts in a worker process, as data loaders do; folder_s=SECONDS takes this long to write the result in a
temporary folder, as the conversion of a checkpoint does.

The final OUT/result.txt depends on every step and input, so a lost, repeated or partial step changes it.
"""

import dataclasses
import hashlib
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pretrain.runtime.command_line import run_command
from pretrain.runtime.progress import Heartbeat
from pretrain.runtime.settings import read_settings
from pretrain.runtime.stopping import EXIT_YIELD, StopFlag, ignore_stop_signals
from pretrain.runtime.storage import TEMPORARY_PREFIX, has_digest, read_json, write_digest, write_json, write_text
from tools.chain.run.launch import die_with_parent


def read_newest(folder: Path) -> tuple[int, str]:
    """Return step and digest of the newest checkpoint whose file is intact, (0, "") when there is none."""
    for path in sorted(folder.glob("checkpoint_*.json"), reverse=True):
        if has_digest(path):
            return read_json(path)["step"], read_json(path)["digest"]
    return 0, ""


def save(folder: Path, step: int, digest: str) -> None:
    """Write a checkpoint with its digest beside it; keep the newest two."""
    path = folder / f"checkpoint_{step:08d}.json"
    write_json(path, {"step": step, "digest": digest})
    write_digest(path)
    for old in sorted(folder.glob("checkpoint_*.json"))[:-2]:
        old.unlink()
        old.with_name(old.name + ".sha256").unlink(missing_ok=True)


def fold(base: str, digest: str, step: int) -> str:
    """Return the digest after one more step."""
    return hashlib.sha256(f"{base} {digest} {step}".encode()).hexdigest()


def expect(steps: int, *inputs: str) -> str:
    """Return the result.txt of an uninterrupted run over these inputs' texts."""
    base, digest = hashlib.sha256("".join(inputs).encode()).hexdigest(), ""
    for step in range(steps):
        digest = fold(base, digest, step)
    return digest + "\n"


def count_lost_steps(trace: Path) -> int:
    """Return how many steps were done again although a checkpoint held them, from a stage's steps.txt."""
    lost, saved = 0, 0
    for line in trace.read_text().splitlines():
        word, step = line.split()
        if word == "start":
            lost += max(0, saved - int(step))
        saved = int(step)
    return lost


@dataclass(frozen=True, kw_only=True)
class CountingSettings:
    """Options of the counting stage."""

    steps: int = 40
    every: int = 5
    """Steps between two checkpoints."""
    sleep: float = 0.0
    """Seconds a step takes."""
    name: str = ""
    input: tuple[str, ...] = ()
    """Files whose texts go into the digest."""
    die: str = ""
    """SIGNAL@STEP: kill the process there, the first time."""
    dies: str = ""
    """SIGNAL@STEP: kill the process there, every time."""
    needs: str = ""
    """Fail while this file does not exist."""
    worker: bool = False
    """Count in a worker process."""
    folder_s: float = 0.0
    """Seconds to write the result in a temporary folder; 0: write it directly."""


def main(arguments: Sequence[str]) -> int:
    """Count, from the newest checkpoint to the end."""
    (out,), words = [word for word in arguments if "=" not in word], [word for word in arguments if "=" in word]
    inputs = tuple(word.removeprefix("input=") for word in words if word.startswith("input="))
    others = [word for word in words if not word.startswith("input=")]
    settings = dataclasses.replace(read_settings(CountingSettings, None, others), input=inputs)
    return count(Path(out), settings)


def count(out: Path, settings: CountingSettings) -> int:
    """Run all steps; OUT/steps.txt traces every start, save and yield."""
    flag = StopFlag().install()
    step, digest = read_newest(out / "checkpoints")
    _trace(out, "start", step)
    if settings.needs and not Path(settings.needs).exists():
        raise ValueError(f"{settings.needs} does not exist")
    heartbeat = Heartbeat(out, settings.steps, first_step=step)
    base = hashlib.sha256("".join(Path(path).read_text() for path in settings.input).encode()).hexdigest()
    with _open_worker(settings.worker) as take_step:
        while step < settings.steps:
            digest = take_step(base, digest, step)
            step += 1
            time.sleep(settings.sleep)
            heartbeat.beat(step)
            _die_if_asked(out, settings, step)
            if step % settings.every == 0 or flag.is_set:
                save(out / "checkpoints", step, digest)
                _trace(out, "save", step)
            if flag.is_set:
                return EXIT_YIELD
    _write_result(out, digest, settings.folder_s)
    return 0


@contextmanager
def _open_worker(wanted: bool) -> Iterator[Callable[[str, str, int], str]]:
    """Yield `fold`, or the same in a worker process; if that is killed, the step raises BrokenProcessPool."""
    if not wanted:
        yield fold
        return
    with ProcessPoolExecutor(1, initializer=_begin_worker) as pool:
        yield lambda base, digest, step: pool.submit(fold, base, digest, step).result()


def _begin_worker() -> None:
    ignore_stop_signals()
    die_with_parent(signal.SIGKILL)


def _write_result(out: Path, digest: str, folder_s: float) -> None:
    """Write result.txt; with `folder_s`, part by part in a temporary folder, as transfer/weights/convert.py does."""
    if not folder_s:
        write_text(out / "result.txt", digest + "\n")
        return
    with tempfile.TemporaryDirectory(prefix=TEMPORARY_PREFIX, dir=out) as folder:
        path = Path(folder, "result.txt")
        for end in range(0, len(digest), 8):
            path.write_text(digest[:end])
            time.sleep(folder_s * 8 / len(digest))
        write_text(path, digest + "\n")
        path.replace(out / "result.txt")


def _die_if_asked(out: Path, settings: CountingSettings, step: int) -> None:
    name, _, at = (settings.dies or settings.die).partition("@")
    if name and step == int(at) and (settings.dies or not (out / ".died").exists()):
        (out / ".died").touch()
        os.kill(os.getpid(), signal.Signals[name])


def _trace(out: Path, word: str, step: int) -> None:
    with (out / "steps.txt").open("a") as trace:
        trace.write(f"{word} {step}\n")


if __name__ == "__main__":
    sys.exit(run_command(main, __doc__))

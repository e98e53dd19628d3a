"""A tiny stage with real checkpoints: it folds numbers into a digest, step by step, and resumes where it was.

  python tests/chain_stages/count.py OUT steps=40 every=5 sleep=0.05 name=a [input=FILE …] [die=SIGKILL@12] [needs=FILE]

die=SIGNAL@STEP kills itself there once, dies=SIGNAL@STEP every time; needs=FILE fails while FILE is not there.

The final OUT/result.txt depends on every step and input, so a step lost, doubled or half done shows in it.
"""

import hashlib
import os
import signal
import sys
import time
from pathlib import Path

from pretrain.progress import Heartbeat
from pretrain.stopping import EXIT_YIELD, StopFlag
from pretrain.storage import digest_file, read_json, write_json, write_text


def read_newest(folder: Path) -> tuple[int, str]:
    """The newest checkpoint whose digest holds."""
    for path in sorted(folder.glob("checkpoint_*.json"), reverse=True):
        mark = path.with_name(path.name + ".sha256")
        if mark.exists() and mark.read_text() == digest_file(path):
            return read_json(path)["step"], read_json(path)["digest"]
    return 0, ""


def save(folder: Path, step: int, digest: str) -> None:
    path = folder / f"checkpoint_{step:08d}.json"
    write_json(path, {"step": step, "digest": digest})
    write_text(path.with_name(path.name + ".sha256"), digest_file(path))
    for old in sorted(folder.glob("checkpoint_*.json"))[:-2]:
        old.unlink()
        old.with_name(old.name + ".sha256").unlink(missing_ok=True)


def fold(base: str, digest: str, step: int) -> str:
    return hashlib.sha256(f"{base} {digest} {step}".encode()).hexdigest()


def expect(steps: int, *inputs: str) -> str:
    """The result.txt of an undisturbed run over these inputs' texts."""
    base, digest = hashlib.sha256("".join(inputs).encode()).hexdigest(), ""
    for step in range(steps):
        digest = fold(base, digest, step)
    return digest + "\n"


def main() -> int:
    out = Path(sys.argv[1])
    options = [word.split("=", 1) for word in sys.argv[2:]]
    inputs = [Path(value) for key, value in options if key == "input"]
    values = dict(options)
    flag = StopFlag().install()
    steps, every = int(values.get("steps", 40)), int(values.get("every", 5))
    step, digest = read_newest(out / "checkpoints")
    print(f"from step {step}", flush=True)
    with (out / "steps.txt").open("a") as trace:
        trace.write(f"start {step}\n")
    if "needs" in values and not Path(values["needs"]).exists():
        print(f"ValueError: {values['needs']} is not there")
        return 1
    heartbeat = Heartbeat(out, steps, first_step=step)
    base = hashlib.sha256("".join(path.read_text() for path in inputs).encode()).hexdigest()
    while step < steps:
        digest = fold(base, digest, step)
        step += 1
        time.sleep(float(values.get("sleep", 0)))
        heartbeat.beat(step)
        die, _, at = values.get("die", values.get("dies", "@")).partition("@")
        if die and step == int(at) and ("dies" in values or not (out / ".died").exists()):
            (out / ".died").touch()
            os.kill(os.getpid(), getattr(signal, die))
        if step % every == 0 or flag.is_set:
            save(out / "checkpoints", step, digest)
        if flag.is_set:
            with (out / "steps.txt").open("a") as trace:
                trace.write(f"yield {step}\n")
            return EXIT_YIELD
    write_text(out / "result.txt", digest + "\n")
    if "metric" in values:
        write_json(out / "metrics.json", {"metrics": {"score": int(digest[:4], 16) / 655.36}})
    return 0


if __name__ == "__main__":
    sys.exit(main())

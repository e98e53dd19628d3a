"""Decide the outcome of a stage's command: DONE.json, FAILED.json, or another attempt."""

import errno
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pretrain.runtime.stopping import EXIT_DONE, EXIT_GATE, EXIT_YIELD
from pretrain.runtime.storage import read_json_object, write_json
from tools.chain.plan.export import digest_environment
from tools.chain.plan.make_plan import Stage
from tools.chain.plan.stage_commands import RESULT
from tools.chain.record import attempts, state
from tools.chain.record.stop_request import TIME_LIMIT, StopRequest
from tools.chain.run import gate
from tools.chain.run.exhaustion import advise, count_kernel_kills, find_exhausted, find_retry_words

EXIT_FAILED = 1
EXIT_CHILD_KILLED = 128 + signal.SIGKILL
"""What a shell returns if its command was killed."""
FULL = (errno.ENOSPC, errno.EDQUOT)
LOG = "log.txt"
TAIL_LINES = 40


@dataclass(frozen=True)
class Run:
    """One start of one stage."""

    chain: Path
    folder: Path
    stage: Stage
    spec: Mapping[str, Any]
    """spec.json: the stage, and the code, commit and budgets of the submit that froze it."""
    job: Mapping[str, Any]
    """About this start: backend, job id, restart count, GPUs."""
    stop: StopRequest
    began: float = field(default_factory=time.time)
    kernel_kills: int = field(default_factory=count_kernel_kills)
    """Processes that the kernel had killed for lack of memory when this start began."""


def judge(run: Run, attempt: Path, code: int, began_at: int) -> int:
    """Record the outcome of a command that ended with `code` (negative: a signal); return the runner's exit code.

    Args:
        run: the stage.
        attempt: its file.
        code: as `launch.wait_for_ranks` returns it.
        began_at: size of the log when the command began, in bytes.

    """
    if run.stop.superseded:
        return end(run, attempt, "superseded", EXIT_DONE)
    killed = code < 0 or code == EXIT_CHILD_KILLED
    if code == EXIT_YIELD or (killed and run.stop.reason):
        outcome = "stopped" if run.stop.by_person and run.stop.reason not in ("", TIME_LIMIT) else "yield"
        return end(run, attempt, outcome, EXIT_YIELD, reason=run.stop.reason)
    if killed:
        return _end_killed(run, attempt, signal.SIGKILL if code > 0 else -code)
    tail = read_tail(run.folder / LOG, began_at)
    if code != EXIT_DONE:
        return _judge_error(run, attempt, code, tail)
    if missing := [name for name in run.stage.outputs if not (run.folder / name).exists()]:
        return fail(run, attempt, "error", f"exit code 0, but there is no {', '.join(missing)}", tail)
    _write_done(run)
    return end(run, attempt, "done", EXIT_DONE)


def fail(run: Run, attempt: Path, kind: str, text: str, tail: str = "", **about: Any) -> int:
    """Write FAILED.json and end the attempt; return the exit code."""
    write_json(run.folder / "FAILED.json", {"kind": kind, "message": text, "tail": tail, "time": time.time()})
    print(f"{run.folder.name}: failed ({kind}): {text}\n{tail}", file=sys.stderr)
    return end(run, attempt, kind, EXIT_FAILED, reason=text, **about)


def fail_for_full_disk(run: Run, attempt: Path, error: OSError) -> int:
    """Fail with the verdict "quota" if the disk is full; any other error is raised again."""
    if error.errno not in FULL:
        raise error
    return fail(run, attempt, "quota", f"{error.strerror}: {error.filename}; make room, then resume the chain")


def end(run: Run, attempt: Path, outcome: str, code: int, reason: str = "", **about: Any) -> int:
    """Record the outcome in the attempt's file and return `code`; a verdict is valid even if this write fails."""
    to_step = attempts.find_checkpoint_step(run.folder)
    seconds = round(time.time() - run.began, 1)
    try:
        attempts.end_attempt(attempt, outcome=outcome, to_step=to_step, reason=reason, seconds=seconds, **about)
    except OSError as error:
        print(f"{attempt}: the outcome {outcome} could not be recorded ({error})", file=sys.stderr)
    return code


def read_tail(log: Path, began_at: int) -> str:
    """Return the last lines that were written after the byte `began_at`."""
    try:
        with log.open("rb") as stream:
            stream.seek(max(began_at, log.stat().st_size - 20_000))
            return "\n".join(stream.read().decode(errors="replace").splitlines()[-TAIL_LINES:])
    except OSError as error:
        return f"{log}: cannot be read ({error})"


def read_metrics(folder: Path) -> dict[str, float] | None:
    """Return the numbers under "metrics" in the stage's metrics.json; None if it is another file of that name."""
    try:
        values = read_json_object(folder / RESULT, {"metrics": dict})["metrics"]
    except (OSError, ValueError):
        return None
    numbers = {key: value for key, value in values.items() if isinstance(value, int | float) and abs(value) < 1e300}
    return numbers or None


def _end_killed(run: Run, attempt: Path, number: int) -> int:
    reason = f"signal {signal.Signals(number).name}"
    if number == signal.SIGKILL and count_kernel_kills() > run.kernel_kills:
        reason += "; the kernel killed a process for lack of memory meanwhile"
        return end(run, attempt, "killed", EXIT_YIELD, reason=reason, oom="host")
    return end(run, attempt, "killed", EXIT_YIELD, reason=reason)


def _judge_error(run: Run, attempt: Path, code: int, tail: str) -> int:
    if code == EXIT_GATE:
        return end(run, attempt, "gate", EXIT_GATE, reason=tail.splitlines()[-1] if tail else "")
    exhausted = find_exhausted(tail) or _find_exhausted_elsewhere(run)
    if exhausted == "worker":
        reason = "a data loader's worker was killed, most often for lack of memory"
        return end(run, attempt, "killed", EXIT_YIELD, reason=reason, oom=exhausted)
    if exhausted:
        words = find_retry_words(run.spec) if exhausted == "gpu" else ()
        tried = any(entry.get("outcome") == "oom" for entry in attempts.count_against_budget(run.folder))
        if words and not tried:
            reason = f"the GPU's memory ran out; retried with {' '.join(words)}"
            return end(run, attempt, "oom", EXIT_YIELD, reason=reason, oom=exhausted)
        text = f"exit code {code}: {advise(run.stage.kind, exhausted, run.stage.name)}"
        return fail(run, attempt, "oom", text, tail, oom=exhausted)
    kind = "quota" if "[Errno 28]" in tail or "[Errno 122]" in tail else "error"
    return fail(run, attempt, kind, f"exit code {code}", tail)


def _find_exhausted_elsewhere(run: Run) -> str:
    """Return what ran out according to the other ranks' logs; rank 0 itself only reports a lost connection."""
    logs = [path for path in run.folder.glob("log.rank*.txt") if path.stat().st_mtime >= run.began - 1]
    return next(filter(None, (find_exhausted(read_tail(path, 0)) for path in sorted(logs))), "")


def _write_done(run: Run) -> None:
    write_json(
        run.folder / "DONE.json",
        {
            "outputs": gate.list_outputs(run.folder),
            "metrics": read_metrics(run.folder),
            "inputs": gate.digest_inputs(run.chain, run.stage),
            "upstream_states": state.upstream_states(run.chain, run.stage) if run.stage.always else {},
            "code": run.spec["code"],
            "commit": run.spec["commit"],
            "environment": digest_environment(),
            "time": time.time(),
        },
    )

"""Run one stage of a chain to its verdict; what the local backend and every Slurm job call.

  python -m tools.chain.run.run_stage runs/digits/stages/knn-mochi-0123456789ab

In order: gate (inputs there and intact?), attempt (the lease), budgets, the command, then DONE.json, FAILED.json or a
yield. Exit codes: 0 done, or another run of this stage lives; 75 run me again; 78 the gate is closed; 1 failed.
"""

import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from pretrain.runtime.command_line import run_command, split_arguments
from pretrain.runtime.stopping import EXIT_DONE, EXIT_GATE, EXIT_YIELD
from pretrain.runtime.storage import read_json, sweep_temporary_files, write_json
from tools.chain.plan.export import digest_environment
from tools.chain.plan.make_plan import Stage
from tools.chain.plan.stage_commands import RESULT, fill_in
from tools.chain.record import attempts, state
from tools.chain.run import gate
from tools.chain.run.launch import SUPERSEDED, die_with_parent, local_environments, start_ranks, wait_for_ranks

EXIT_FAILED = 1
LOG = "log.txt"
TAIL_LINES = 40
TIME_LIMIT = "time limit"


@dataclass
class StopRequest:
    """Why the command has to stop: a signal, or a deadline."""

    deadline: float | None = None
    """By time.monotonic()."""
    reason: str = ""
    superseded: bool = False
    """A newer attempt has begun elsewhere, so this one must not touch the stage any more."""
    by_person: bool = False
    """Signals come from the driver, so a person stopped it: that does not count against the budgets."""

    def install(self) -> "StopRequest":
        """Catch SIGTERM and SIGUSR2; Ctrl-C is the driver's business."""
        for number in (signal.SIGTERM, signal.SIGUSR2):
            signal.signal(number, self._remember)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        return self

    def ask(self) -> str:
        """Return the reason, "" while there is none."""
        if not self.reason and self.deadline is not None and time.monotonic() >= self.deadline:
            self.reason = TIME_LIMIT
        return self.reason

    def supersede(self) -> None:
        """End without saving: the stage belongs to a newer attempt."""
        self.superseded, self.reason = True, SUPERSEDED

    def cancel(self) -> None:
        """Save and end, for a person asked for it."""
        self.reason, self.by_person = self.reason or "cancelled", True

    def _remember(self, number: int, _frame: FrameType | None) -> None:
        self.reason = self.reason or signal.Signals(number).name


@dataclass(frozen=True)
class Run:
    """One start of one stage."""

    chain: Path
    folder: Path
    stage: Stage
    spec: Mapping[str, Any]
    """spec.json: the stage, and the code, commit and budgets of the submit that froze it."""
    job: Mapping[str, Any]
    """Of this start: backend, job id, restart count, GPUs."""
    stop: StopRequest


def run_stage(folder: Path, job: Mapping[str, Any], stop: StopRequest, ranks: Sequence[Mapping[str, str]]) -> int:
    """Run the stage in `folder` once; return the exit code.

    Args:
        folder: CHAIN/stages/NAME-KEY, an absolute path.
        job: what the attempt records of the machine: "backend", "job_id", "restart", "gpu".
        stop: signals are already caught.
        ranks: the environment of each process to start here.

    """
    spec = read_json(folder / "spec.json")
    run = Run(folder.parent.parent, folder, state.stage_from_dict(spec), spec, job, stop)
    if (folder / "STOP").exists():
        print(f"{folder.name}: stopped by the user (remove STOP or resume the chain)")
        return EXIT_FAILED
    if state.find_states(run.chain, [*_upstream_of(run), run.stage])[run.stage.name] in ("done", "failed"):
        return EXIT_FAILED if (folder / "FAILED.json").exists() else EXIT_DONE
    if problems := gate.find_closed(run.chain, run.stage, spec["code"]):
        print(f"{folder.name}: the gate is closed", *problems, sep="\n  ", file=sys.stderr)
        return EXIT_GATE
    environment = digest_environment()
    if environment != spec["environment"]:
        print(f"{folder.name}: the installed packages are not those of the submit; the attempt records it")
    values = {**job, "environment": environment, "from_step": attempts.find_checkpoint_step(folder)}
    attempt = attempts.claim_attempt(folder, values)
    if attempt is None:
        print(f"{folder.name}: another run of this stage lives")
        return EXIT_DONE
    heartbeat = attempts.Heartbeat(attempt, stop.supersede, stop.cancel)
    heartbeat.start()
    attempts.wait_for_predecessor(attempt, job)
    try:
        return _check_budgets(run, attempt) or _run_command(run, attempt, ranks)
    finally:
        heartbeat.stop()


def _upstream_of(run: Run) -> list[Stage]:
    """Return the stages before a stage that runs always, to compare their states; else none."""
    if not run.stage.always:
        return [_without_upstream(run.chain, folder) for folder in run.stage.upstream.values()]
    stages = state.read_plan(run.chain)[1]
    return [stage for stage in stages if stage.name != run.stage.name]


def _without_upstream(chain: Path, folder: str) -> Stage:
    values = read_json(chain / "stages" / folder / "spec.json")
    return state.stage_from_dict({**values, "upstream": {}})


def _check_budgets(run: Run, attempt: Path) -> int:
    """Return 0, or write FAILED.json and return the exit code when the stage does not get on or the disk is full."""
    budgets = run.spec["budgets"]
    counted = attempts.count_against_budget(run.folder)
    last = [entry["from_step"] for entry in counted[-budgets["same_step"] - 1 :]]
    if text := gate.lack_of_space(run.folder, budgets["min_free_gb"]):
        return _fail(run, attempt, "quota", text)
    if len(counted) > budgets["attempts"]:
        return _fail(run, attempt, "budget", f"{len(counted) - 1} attempts, the budget is {budgets['attempts']}")
    if len(last) > budgets["same_step"] and len(set(last)) == 1:
        text = f"{budgets['same_step']} attempts began at step {last[0]} and none got further; see {LOG}"
        return _fail(run, attempt, "budget", text)
    return 0


def _run_command(run: Run, attempt: Path, ranks: Sequence[Mapping[str, str]]) -> int:
    for name in (".", "checkpoints"):
        sweep_temporary_files(run.folder / name)
    (run.folder / "DONE.json").unlink(missing_ok=True)
    log = run.folder / LOG
    began_at = log.stat().st_size if log.exists() else 0
    code = wait_for_ranks(start_ranks(fill_command(run.folder), ranks, log), run.stop.ask)
    if run.stop.superseded:
        return _end(run, attempt, "superseded", EXIT_DONE)
    if code == EXIT_YIELD or (code < 0 and run.stop.reason):
        outcome = "stopped" if run.stop.by_person and run.stop.reason not in ("", TIME_LIMIT) else "yield"
        return _end(run, attempt, outcome, EXIT_YIELD, reason=run.stop.reason)
    if code < 0:
        return _end(run, attempt, "killed", EXIT_YIELD, reason=f"signal {signal.Signals(-code).name}")
    return _judge(run, attempt, code, _read_tail(log, began_at))


def _judge(run: Run, attempt: Path, code: int, tail: str) -> int:
    """Bring a command's own exit to a verdict."""
    missing = [name for name in run.stage.outputs if not (run.folder / name).exists()]
    if code == EXIT_GATE:
        return _end(run, attempt, "gate", EXIT_GATE, reason=tail.splitlines()[-1] if tail else "")
    if code != EXIT_DONE:
        kind = "quota" if "[Errno 28]" in tail or "[Errno 122]" in tail else "error"
        return _fail(run, attempt, kind, f"exit code {code}", tail)
    if missing:
        return _fail(run, attempt, "error", f"exit code 0, but there is no {', '.join(missing)}", tail)
    _write_done(run)
    return _end(run, attempt, "done", EXIT_DONE)


def fill_command(folder: Path) -> list[str]:
    """Return the words of the stage's command with every placeholder filled in."""
    spec, chain = read_json(folder / "spec.json"), folder.parent.parent
    values = {"out": folder, "chain": chain, "code": chain / "code" / spec["code"]}
    values |= {f"stage:{name}": chain / "stages" / upstream for name, upstream in spec["upstream"].items()}
    texts = {key: str(path) for key, path in values.items()}
    return fill_in(spec["command"], {"python": sys.executable, **texts})


def _write_done(run: Run) -> None:
    result = run.folder / RESULT
    write_json(
        run.folder / "DONE.json",
        {
            "outputs": gate.list_outputs(run.folder),
            "metrics": read_json(result).get("metrics") if result.exists() else None,
            "inputs": gate.digest_inputs(run.chain, run.stage),
            "upstream_states": state.upstream_states(run.chain, run.stage) if run.stage.always else {},
            "code": run.spec["code"],
            "commit": run.spec["commit"],
            "environment": digest_environment(),
            "time": time.time(),
        },
    )


def _fail(run: Run, attempt: Path, kind: str, text: str, tail: str = "") -> int:
    write_json(run.folder / "FAILED.json", {"kind": kind, "message": text, "tail": tail, "time": time.time()})
    print(f"{run.folder.name}: failed ({kind}): {text}\n{tail}", file=sys.stderr)
    return _end(run, attempt, "error" if kind == "error" else kind, EXIT_FAILED, reason=text)


def _end(run: Run, attempt: Path, outcome: str, code: int, reason: str = "") -> int:
    to_step = attempts.find_checkpoint_step(run.folder)
    seconds = time.time() - read_json(attempt)["began"]
    attempts.end_attempt(attempt, outcome=outcome, to_step=to_step, reason=reason, seconds=round(seconds, 1))
    return code


def _read_tail(log: Path, began_at: int) -> str:
    """Return the last lines that this attempt wrote."""
    with log.open("rb") as stream:
        stream.seek(max(began_at, log.stat().st_size - 20_000))
        return "\n".join(stream.read().decode(errors="replace").splitlines()[-TAIL_LINES:])


def main(arguments: Sequence[str]) -> int:
    """Run a stage on this machine, as the local driver's child."""
    stop = StopRequest(by_person=True).install()
    words, options = split_arguments(arguments, ["STAGE_FOLDER"])
    values = dict(option.split("=", 1) for option in options)
    die_with_parent(signal.SIGTERM)
    if values.get("driver") and int(values["driver"]) != os.getppid():
        return EXIT_YIELD  # the driver died before the line above
    if slice_min := float(values.get("slice_min", 0)):
        stop.deadline = time.monotonic() + 60 * slice_min
    gpus = [word for word in values.get("gpus", "").split(",") if word]
    port = 20000 + os.getpid() % 10000  # below Linux's ephemeral range
    job = {"backend": "local", "job_id": "", "restart": 0, "gpu": gpus}
    return run_stage(Path(words[0]).resolve(), job, stop, local_environments(int(values.get("ranks", 1)), port))


if __name__ == "__main__":
    sys.exit(run_command(main, __doc__))

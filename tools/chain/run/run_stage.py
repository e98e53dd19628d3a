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
from pathlib import Path
from typing import Any

from pretrain.runtime.command_line import run_command, split_arguments
from pretrain.runtime.stopping import EXIT_DONE, EXIT_GATE, EXIT_YIELD
from pretrain.runtime.storage import read_json_object, sweep_temporary_files
from tools.chain.plan.export import digest_environment
from tools.chain.plan.stage_commands import fill_in
from tools.chain.record import attempts, state
from tools.chain.record.stop_request import StopRequest
from tools.chain.run import gate
from tools.chain.run.exhaustion import find_retry_words
from tools.chain.run.launch import die_with_parent, local_environments, start_ranks, wait_for_ranks
from tools.chain.run.spare import take_words
from tools.chain.run.verdict import EXIT_FAILED, LOG, Run, fail, fail_for_full_disk, judge

SPEC_KINDS = {"code": str, "commit": str, "environment": str, "budgets": dict, "command": list, "upstream": dict}


def run_stage(folder: Path, job: Mapping[str, Any], stop: StopRequest, ranks: Sequence[Mapping[str, str]]) -> int:
    """Run the stage in `folder` once; return the exit code.

    Args:
        folder: CHAIN/stages/NAME-KEY, an absolute path.
        job: what the attempt records of the machine: "backend", "job_id", "restart", "gpu".
        stop: signals are already caught.
        ranks: the environment of each process to start here.

    """
    spec = read_json_object(folder / "spec.json", SPEC_KINDS)
    run = Run(folder.parent.parent, folder, state.stage_from_dict(spec), spec, job, stop)
    if (folder / "STOP").exists():
        print(f"{folder.name}: stopped by the user (remove STOP or resume the chain)")
        return EXIT_FAILED
    if _find_state(run) in ("done", "failed"):
        return EXIT_FAILED if (folder / "FAILED.json").exists() else EXIT_DONE
    if problems := gate.find_closed(run.chain, run.stage, spec["code"]):
        print(f"{folder.name}: the gate is closed", *problems, sep="\n  ", file=sys.stderr)
        return EXIT_GATE
    environment = digest_environment()
    if environment != spec["environment"]:
        print(f"{folder.name}: the installed packages are not those of the submit; the attempt records it")
    values = {**job, "environment": environment, "from_step": attempts.find_checkpoint_step(folder)}
    attempt = attempts.wait_and_claim(folder, values, stop.ask)
    if attempt is None:
        print(f"{folder.name}: another run of this stage lives")
        return EXIT_DONE
    heartbeat = attempts.Heartbeat(attempt, stop.supersede, stop.cancel)
    heartbeat.start()
    try:
        attempts.wait_for_predecessor(attempt, job)
        return _check_budgets(run, attempt) or _run_command(run, attempt, ranks)
    except OSError as error:
        return fail_for_full_disk(run, attempt, error)
    finally:
        heartbeat.stop()


def _find_state(run: Run) -> str:
    """Return the state of the stage to run; what runs always needs the states of the whole chain."""
    if run.stage.always:
        return state.find_states(run.chain, state.read_plan(run.chain)[1])[run.stage.name]
    folders = {name: state.stage_folder(run.chain, folder) for name, folder in run.stage.upstream.items()}
    before = {name: state.find_state_alone(folder) for name, folder in folders.items()}
    return state.find_state(run.chain, run.stage, before)


def _check_budgets(run: Run, attempt: Path) -> int:
    """Return 0, or write FAILED.json and return the exit code when the stage does not get on or the disk is full."""
    budgets = run.spec["budgets"]
    counted = attempts.count_against_budget(run.folder)
    sound = [entry["from_step"] for entry in counted if not entry.get("damaged")]
    last = sound[-budgets["same_step"] - 1 :]
    if text := gate.lack_of_space(run.folder, budgets["min_free_gb"]):
        return fail(run, attempt, "quota", text)
    if len(counted) > budgets["attempts"]:
        return fail(run, attempt, "budget", f"{len(counted) - 1} attempts, the budget is {budgets['attempts']}")
    if len(last) > budgets["same_step"] and len(set(last)) == 1:
        text = f"{budgets['same_step']} attempts began at step {last[0]} and none got further; see {LOG}"
        return fail(run, attempt, "budget", text)
    return 0


def _run_command(run: Run, attempt: Path, ranks: Sequence[Mapping[str, str]]) -> int:
    for name in (".", "checkpoints"):
        sweep_temporary_files(run.folder / name)
    (run.folder / "DONE.json").unlink(missing_ok=True)
    log = run.folder / LOG
    began_at = log.stat().st_size if log.exists() else 0
    code = wait_for_ranks(start_ranks(fill_command(run.folder), ranks, log), run.stop.ask)
    return judge(run, attempt, code, began_at)


def fill_command(folder: Path) -> list[str]:
    """Return the words of the stage's command with every placeholder filled in.

    After an attempt that ran out of the GPU's memory, and where the chain asks for it, with the words for less.
    """
    spec, chain = read_json_object(folder / "spec.json", SPEC_KINDS), folder.parent.parent
    values = {"out": folder, "chain": chain, "code": chain / "code" / spec["code"]}
    values |= {f"stage:{name}": chain / "stages" / upstream for name, upstream in spec["upstream"].items()}
    texts = {key: str(path) for key, path in values.items()}
    words = fill_in(spec["command"], {"python": sys.executable, **texts})
    ran_out = any(entry.get("outcome") == "oom" for entry in attempts.count_against_budget(folder))
    return [*words, *(find_retry_words(spec) if ran_out else ())]


def main(arguments: Sequence[str]) -> int:
    """Run a stage on this machine, as the local driver's child."""
    die_with_parent(signal.SIGTERM)
    if not (arguments := take_words(arguments)):
        return EXIT_YIELD
    stop = StopRequest(by_person=True).install()
    words, options = split_arguments(arguments, ["STAGE_FOLDER"])
    values = dict(option.split("=", 1) for option in options)
    if values.get("driver") and int(values["driver"]) != os.getppid():
        return EXIT_YIELD  # the driver died before the first line
    if slice_min := float(values.get("slice_min", 0)):
        stop.deadline = time.monotonic() + 60 * slice_min
    gpus = [word for word in values.get("gpus", "").split(",") if word]
    port = 20000 + os.getpid() % 10000  # below Linux's ephemeral range
    job = {"backend": "local", "job_id": "", "restart": 0, "gpu": gpus}
    return run_stage(Path(words[0]).resolve(), job, stop, local_environments(int(values.get("ranks", 1)), port))


if __name__ == "__main__":
    sys.exit(run_command(main, __doc__))

"""Run a chain of stages: pretrain, convert, detectors, linear, kNN, analysis, report; here or on Slurm.

  python -m tools.chain init   [weights=FILE] [data=ROOT] [slurm=PARTITION:ACCOUNT:GPUS] [seeds=3] [out=chain.yaml]
  python -m tools.chain keys   [WORD] [schema=true]
  python -m tools.chain plan   configs/chains/digits.yaml [sbatch=true] [json=true] [key=value …]
  python -m tools.chain submit configs/chains/digits.yaml [dry_run=true] [retry=true|STAGE,STAGE] [key=value …]
  python -m tools.chain status configs/chains/digits.yaml [watch=true] [json=true]
  python -m tools.chain resume configs/chains/digits.yaml
  python -m tools.chain cancel configs/chains/digits.yaml [stage=NAME]
  python -m tools.chain logs   configs/chains/digits.yaml STAGE [follow=true]
  python -m tools.chain report configs/chains/digits.yaml

init    writes a commented chain file for what you have; it plans as it stands
keys    lists every setting of a chain file: type, unit, default, meaning; schema=true prints the schema for editors
plan    reads every config, key and weights file of every stage, names all mistakes at once, and shows what would run,
        what is done, why something runs again and what it costs; writes nothing
submit  runs what is not done: with backend=local here until the end, with backend=slurm by sbatch, and returns
status  shows every stage from its files (and from squeue, where there is one)
resume  submit with retry=true: failed stages run again, cancelled ones go on
cancel  stops the chain, or one stage, and keeps its work
logs    prints the end of a stage's log
report  writes the report from what is there now

All are safe to repeat. Every key of the chain file may be given: backend=slurm seeds=[0,1,2] runs=/data/runs. A submit
remembers these words for all that follow, by chain file or by the chain's folder; what would start other work than the
last submit is listed and needs changed=true.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace

from pretrain.runtime.command_line import UsageError, run_command, split_arguments
from pretrain.runtime.stopping import EXIT_YIELD
from pretrain.runtime.yaml_nodes import FALSE, TRUE
from tools.chain import status
from tools.chain.difference import refuse_other_work
from tools.chain.doctor import run_doctor
from tools.chain.ending import print_ending
from tools.chain.explain import explain_plan, list_rows
from tools.chain.local import LocalDriver
from tools.chain.logs import find_logs
from tools.chain.memory import recall, remember
from tools.chain.outlook import say_outlook
from tools.chain.plan.beginning import begin, show_keys
from tools.chain.plan.options import TAKES, Options, split_options
from tools.chain.plan.question_words import question_words
from tools.chain.preflight import Survey, open_checked
from tools.chain.record import state
from tools.chain.record.attempts import is_alive, read_attempts
from tools.chain.submit import Chain, freeze, hold, open_chain, shorten, submit_lock

WATCH_S = 3.0
LOG_LINES = 60


def main(arguments: Sequence[str]) -> int:
    """Do what the first word says with the chain file that is the second."""
    if arguments and arguments[0] in WITHOUT_CHAIN:
        return WITHOUT_CHAIN[arguments[0]](arguments[1:])
    words, overrides = split_arguments(arguments, ["COMMAND", "CHAIN"], ["STAGE"])
    if words[0] not in COMMANDS:
        raise UsageError(
            f"expected one of {', '.join([*COMMANDS, *WITHOUT_CHAIN])}; got {words[0]!r}. Add --help for what they do."
        )
    if len(words) == 3 and "stage" not in TAKES[words[0]]:
        raise UsageError(f"{words[0]} takes one chain; got {words[2]!r} beside it. Options are written key=value.")
    options, given = split_options(words[0], overrides, words[2] if len(words) == 3 else "")
    path, settings = recall(words[1], given)
    if words[0] not in PLANNING:
        return COMMANDS[words[0]](open_chain(path, settings, submitted=True), options)
    chain, survey = open_checked(path, settings)
    if words[0] == "plan" or options.dry_run:
        return plan(chain, options, survey)
    return COMMANDS[words[0]](chain, options)


def plan(chain: Chain, options: Options, survey: Survey | None = None) -> int:
    """Print the table of stages, what is done, why the rest runs, and the GPU-hours."""
    if options.json:
        print(json.dumps([asdict(row) for row in list_rows(chain, survey)], indent=2, ensure_ascii=False))
        return 0
    print(explain_plan(chain, survey))
    if len(chain.config.backbones) > 1:
        from tools.chain.power import say_power  # heavy: scipy

        print("\n".join(say_power(chain)))
    if options.sbatch and chain.config.backend == "slurm":
        from tools.chain.slurm.submit import explain_jobs  # heavy: submitit

        print(explain_jobs(chain))
    return 0


def submit(chain: Chain, options: Options) -> int:
    """Freeze the plan and run or submit it."""
    retry = _read_retry(chain, options.retry)
    if not options.changed:
        refuse_other_work(chain)
    lock = submit_lock(chain)
    run_doctor(chain)
    with hold(lock):
        freeze(chain)
        remember(chain)
        for stage in chain.stages:
            state.clear_for_run(chain.folder, stage, stage.name in retry)
        if chain.config.backend == "slurm":
            from tools.chain.slurm.submit import submit_chain  # heavy: submitit

            return submit_chain(chain)
    print(f"chain {shorten(chain.folder)}: {len(chain.stages)} stages on this machine")
    code = LocalDriver(chain).run()
    if code != EXIT_YIELD:
        print_ending(chain)
    return code


def resume(chain: Chain, options: Options) -> int:
    """Submit with every failed stage tried again."""
    return submit(chain, replace(options, retry=options.retry or "true"))


def show_status(chain: Chain, options: Options) -> int:
    """Print the table, once or until the chain has ended."""
    while True:
        stages = state.read_plan(chain.folder)[1]  # anew each time: another submit may change it
        rows = status.describe_stages(chain.folder, stages, _ask_queue(chain))
        if options.json:
            print(json.dumps(rows, indent=2, ensure_ascii=False))
            return 0
        if options.watch:
            print("\033[H\033[2J", end="")
        print(status.write_table(rows))
        print(say_outlook(chain.folder, stages, rows, time.time()), flush=True)
        if not options.watch or all(row["state"] in state.ENDED for row in rows):
            return 0
        time.sleep(WATCH_S)


def cancel(chain: Chain, options: Options) -> int:
    """Write STOP into the stages that have not ended, upon which they save and end; cancel their jobs.

    The whole chain includes what an earlier submit with other settings left in the queue.
    """
    states = state.find_states(chain.folder, chain.stages)
    chosen = {entry.folder: entry.name for entry in chain.stages if options.stage in ("", entry.name)}
    if not chosen:
        raise _unknown_stage(chain, options.stage)
    ended = {entry.folder for entry in chain.stages if states[entry.name] in state.ENDED}
    if not options.stage:
        chosen |= {path.name: path.name for path in (chain.folder / "stages").iterdir() if path.name not in chosen}
        ended |= {name for name in chosen if (state.stage_folder(chain.folder, name) / "DONE.json").exists()}
    for name in chosen:
        if name not in ended:
            (state.stage_folder(chain.folder, name) / "STOP").touch()
            print(f"{chosen[name]}: will stop; its work is kept")
    if any((state.stage_folder(chain.folder, name) / "ledger.jsonl").exists() for name in chosen):
        from tools.chain.slurm.submit import cancel_jobs  # heavy: submitit

        cancel_jobs(chain.folder, chosen)
    return 0


def logs(chain: Chain, options: Options) -> int:
    """Print the end of a stage's log, and what comes after while it runs."""
    stages = {entry.name: entry for entry in chain.stages}
    if options.stage not in stages:
        raise _unknown_stage(chain, options.stage)
    stage = stages[options.stage]
    folder = state.stage_folder(chain.folder, stage.folder)
    paths = find_logs(chain.folder, stage.folder, state.find_states(chain.folder, chain.stages)[stage.name])
    if not paths:
        raise ValueError(f"{folder}: no log; the stage has not started yet")
    with paths[0].open(errors="replace") as stream:
        texts = [stream.read(), *(path.read_text(errors="replace") for path in paths[1:])]
        for path, text in zip(paths, texts, strict=True):
            print("\n".join([f"==> {path}", *text.splitlines()[-LOG_LINES:]]), flush=True)
        while options.follow and any(is_alive(entry) for entry in read_attempts(folder)):
            print(stream.read(), end="", flush=True)
            time.sleep(0.5)
        print(stream.read(), end="", flush=True)
    return 0


def report(chain: Chain, _options: Options) -> int:
    """Write the report from what is there."""
    words = [sys.executable, "-m", "tools.write_report", str(chain.folder), f"out={chain.folder / 'report'}"]
    words += question_words(chain.config)  # the chain file's as it is now
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.run(words, check=False, env=environment).returncode


def _ask_queue(chain: Chain) -> dict[str, dict[str, str]] | None:
    if not any((chain.folder / "stages").glob("*/ledger.jsonl")):
        return None
    from tools.chain.slurm.squeue import find_jobs  # only where jobs were submitted

    return find_jobs(chain.folder)


def _read_retry(chain: Chain, text: str) -> set[str]:
    """Return the stages to try again: all for true, none for false or nothing, else those named."""
    names = {stage.name for stage in chain.stages}
    if text.lower() in ("", *TRUE, *FALSE):
        return names if text.lower() in TRUE else set()
    wanted = set(filter(None, text.split(",")))
    if wanted - names:
        raise _unknown_stage(chain, ", ".join(sorted(wanted - names)))
    return wanted


def _unknown_stage(chain: Chain, name: str) -> ValueError:
    names = ", ".join(stage.name for stage in chain.stages)
    return ValueError(f"{chain.path}: no stage {name!r}; the stages are: {names}")


PLANNING = ("plan", "submit", "resume")
"""Commands that look at the chain's files as they are now; the others go by the last submit."""
WITHOUT_CHAIN: dict[str, Callable[[Sequence[str]], int]] = {"init": begin, "keys": show_keys}
COMMANDS: dict[str, Callable[[Chain, Options], int]] = {
    "plan": plan,
    "submit": submit,
    "status": show_status,
    "resume": resume,
    "cancel": cancel,
    "logs": logs,
    "report": report,
}


if __name__ == "__main__":
    sys.exit(run_command(main, __doc__))

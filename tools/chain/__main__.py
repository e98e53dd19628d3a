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
  python -m tools.chain watch  configs/chains/digits.yaml [port=8765] [static=OUT] [host=…] [names=[…]]

init    writes a commented chain file for your checkpoints, data and cluster; it is valid as written
keys    lists every key of a chain file: type, unit, default, meaning; schema=true prints the schema for editors
plan    checks every config, key and weights file of every stage, lists all mistakes at once, and shows what would run,
        what is done, why a stage runs again and what it costs; writes nothing
submit  runs the stages that are not done: backend=local runs them here until they end, backend=slurm submits them
        by sbatch and returns
status  shows the state of every stage, from its files and, where available, from squeue
resume  submit with retry=true: failed and cancelled stages run again, from their checkpoints
cancel  stops the chain or one stage and keeps its checkpoints
logs    prints the end of a stage's log
report  writes the report from the results available now
watch   serves the chain's page in the browser while it runs; static=OUT writes it once

Every command is safe to repeat. Any key of the chain file can be overridden: backend=slurm seeds=[0,1,2]. A submit
stores its overrides, and later commands reuse them, given the chain file or the chain's folder. If a submit would run
other work than the last one, it lists the differences and requires changed=true.
"""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace

from pretrain.runtime.command_line import UsageError, run_command, say_count, split_arguments
from pretrain.runtime.stopping import EXIT_YIELD
from pretrain.runtime.yaml_nodes import FALSE, TRUE
from tools.chain import status
from tools.chain.difference import refuse_other_work
from tools.chain.doctor import run_doctor
from tools.chain.ending import print_ending
from tools.chain.explain import explain_plan, list_rows
from tools.chain.local import LocalDriver
from tools.chain.logs import find_logs
from tools.chain.memory import recall, remember, say_command
from tools.chain.outlook import say_outlook
from tools.chain.plan.beginning import begin, show_keys
from tools.chain.plan.options import TAKES, Options, split_options, watch_words
from tools.chain.plan.question_words import question_words
from tools.chain.preflight import Survey, open_checked
from tools.chain.record import state
from tools.chain.record.attempts import is_alive, read_attempts
from tools.chain.submit import Chain, freeze, hold, open_chain, shorten, submit_lock

WATCH_S = 3.0
LOG_LINES = 60


def main(arguments: Sequence[str]) -> int:
    """Run the command named by the first argument on the chain named by the second."""
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
        if cancelled := state.list_cancelled(chain.folder, chain.stages):
            print(f"cancelled, not started: {', '.join(cancelled)}; {say_command(chain, 'resume')} runs them")
        if chain.config.backend == "slurm":
            from tools.chain.slurm.submit import submit_chain  # heavy: submitit

            return submit_chain(chain)
    print(f"chain {shorten(chain.folder)}: {say_count(len(chain.stages), 'stage')} on this machine")
    code = LocalDriver(chain).run()
    if code != EXIT_YIELD:
        print_ending(chain)
    return code


def resume(chain: Chain, options: Options) -> int:
    """Submit, and run failed and cancelled stages again."""
    return submit(chain, replace(options, retry=options.retry or "true"))


def show_status(chain: Chain, options: Options) -> int:
    """Print the table, once or until the chain has ended."""
    while True:
        stages = state.read_plan(chain.folder)[1]  # read again each time: another submit may change it
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
    """Write STOP into the folders of unfinished stages, which makes them save and exit, and cancel their jobs.

    Without stage=, this includes stages that an earlier submit with another config left in the queue.
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
            print(f"{chosen[name]}: stopping; its checkpoints are kept")
    if any((state.stage_folder(chain.folder, name) / "ledger.jsonl").exists() for name in chosen):
        from tools.chain.slurm.submit import cancel_jobs  # heavy: submitit

        cancel_jobs(chain.folder, chosen)
    return 0


def logs(chain: Chain, options: Options) -> int:
    """Print the end of a stage's log; with follow=true, keep printing while the stage runs."""
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
    """Write the report from the results available now."""
    out = f"out={chain.folder / 'report'}"
    return _run_tool("tools.write_report", str(chain.folder), out, *question_words(chain.config))


def watch(chain: Chain, options: Options) -> int:
    """Serve the chain's page until Ctrl-C, or write it once."""
    with contextlib.suppress(KeyboardInterrupt):
        return _run_tool("tools.watch", str(chain.folder), *watch_words(options))
    return 0


def _run_tool(module: str, *words: str) -> int:
    """Run another tool as a command of its own, which a chain must not import; return its exit code."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.run([sys.executable, "-m", module, *words], check=False, env=environment).returncode


def _ask_queue(chain: Chain) -> dict[str, dict[str, str]] | None:
    if not any((chain.folder / "stages").glob("*/ledger.jsonl")):
        return None
    from tools.chain.slurm.squeue import find_jobs  # only where jobs were submitted

    return find_jobs(chain.folder)


def _read_retry(chain: Chain, text: str) -> set[str]:
    """Return the names of the stages to run again: all for "true", none for "false" or "", else those listed."""
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
"""Commands that plan from the current files; the others use the plan of the last submit."""
WITHOUT_CHAIN: dict[str, Callable[[Sequence[str]], int]] = {"init": begin, "keys": show_keys}
COMMANDS: dict[str, Callable[[Chain, Options], int]] = {
    "plan": plan,
    "submit": submit,
    "status": show_status,
    "resume": resume,
    "cancel": cancel,
    "logs": logs,
    "report": report,
    "watch": watch,
}


if __name__ == "__main__":
    sys.exit(run_command(main, __doc__))

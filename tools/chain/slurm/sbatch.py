"""The sbatch text of one job or job array, written by submitit from a stage's resources."""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from submitit.slurm.slurm import _make_sbatch_string

from tools.chain.plan.config import SlurmBackend
from tools.chain.plan.extra_options import list_options, may_requeue
from tools.chain.plan.make_plan import Stage
from tools.chain.run.launch import stage_environment
from tools.chain.slurm.hosts import BAD_HOSTS
from tools.chain.slurm.slurm_environment import find_settings

SHORT_MIN = 12
"""Below this limit Slurm's warning comes too soon: up to 60 s early."""
FREE_RESTARTS = 5
"""Restarts allowed beyond twice the attempts: a job that never reaches an attempt is given up."""


def describe_job(
    folders: Sequence[Path], stage: Stage, code: Path, commit: str, site: SlurmBackend
) -> tuple[dict[str, Any], str]:
    """Return submitit's parameters, without name and dependency, and the command of a job.

    Args:
        folders: one stage folder, or those of an array, whose stages differ by the seed alone.
        stage: any of these stages.
        code: the exported source.
        commit: recorded in the results.
        site: kill_on_invalid_dep and signal_delay_s.

    """
    for text in (*map(str, folders), str(code)):
        if set(text) & set("\n\r%\\\"'"):
            raise ValueError(
                f"{text!r}: Slurm's option files cannot hold a path with a quote, a backslash, a percent sign or a "
                "line break; give runs=FOLDER with a plainer name"
            )
    asked = stage.resources
    parameters: dict[str, Any] = {
        "time": asked.time_min,
        "nodes": asked.nodes,
        "ntasks_per_node": max(1, asked.gpus),
        "cpus_per_task": asked.cpus,
        "signal_delay_s": site.signal_delay_s,
        "setup": _setup(folders, stage, code, commit),
        "teardown": teardown(may_requeue(asked.extra)),
        "srun_args": ["--kill-on-bad-exit=1", f"--cpus-per-task={asked.cpus}", *asked.srun],
        "stderr_to_stdout": True,
        "additional_parameters": _options(stage, site),
    }
    named = {"gpus-per-node", "gres"} & parameters["additional_parameters"].keys()
    if asked.gpus and not named and asked.gpu_option == "gpus":
        parameters["gpus_per_node"] = asked.gpus
    elif asked.gpus and not named:
        parameters["gres"] = f"gpu:{asked.gpus}"
    if asked.mem_gb:
        parameters["mem"] = f"{round(asked.mem_gb * 1024)}MB"
    names = ("partition", "account", "qos", "constraint", "exclude", "mail_user", "mail_type")
    parameters |= {name: getattr(asked, name) for name in names if getattr(asked, name)}
    known = {**parameters, **parameters["additional_parameters"]}
    parameters["additional_parameters"] |= find_settings(known)
    command = shlex.join([sys.executable, "-m", "tools.chain.slurm.job", *map(str, folders)])
    return parameters, command


def write_text(folder: Path, command: str, parameters: dict[str, Any], count: int = 1) -> str:
    """Return the sbatch text; `count` > 1 makes it an array."""
    arrays = {"map_count": count} if count > 1 else {}
    return str(_make_sbatch_string(command=command, folder=folder, **parameters, **arrays))


def teardown(requeue: bool = True) -> list[str]:
    """Return the lines after srun: requeue in place if the stage has no verdict, and return the exit code.

    Where jobs may not be requeued, the next submit resumes the stage.

    Covers a yield as well as failures that no process survives to report: OOM kills, segfaults, failed launches. The
    requeue runs, with retries, in a child that ignores preemption signals. A job that is pending again was requeued by
    Slurm; a script that kept running would be a second copy, for which Slurm holds the job and drains the node. Hosts
    that the job recorded as bad are excluded from then on.
    """
    if not requeue:
        return ["rc=$?", 'exit "$rc"', ""]
    return [
        "rc=$?",
        'attempts=$(ls "$folder/attempts" 2>/dev/null | wc -l)',
        f"limit=$(({FREE_RESTARTS} + 2 * attempts))",
        'if [ "$rc" -ne 0 ] && [ "$rc" -ne 78 ] && [ ! -e "$folder/DONE.json" ] && [ ! -e "$folder/FAILED.json" ] \\',
        '  && [ ! -e "$folder/STOP" ] && [ "${SLURM_RESTART_COUNT:-0}" -lt "$limit" ]; then',
        "  (",
        "    trap '' TERM USR2",
        "    for try in 1 2 3 4 5 6 7 8 9 10; do",
        '      answer=$(scontrol requeue "$SLURM_JOB_ID" 2>&1) && break',
        '      case "$answer" in *"pending execution"*) break ;; esac',
        "      sleep 2",
        "    done",
        f'    hosts=$(cat "$folder/{BAD_HOSTS}" 2>/dev/null) \\',
        '      && scontrol update JobId="$SLURM_JOB_ID" ExcNodeList="$hosts"',
        "  )",
        "fi",
        'exit "$rc"',
        "",
    ]


def _setup(folders: Sequence[Path], stage: Stage, code: Path, commit: str) -> list[str]:
    exports = [f"export {key}={shlex.quote(value)}" for key, value in stage_environment(code, commit).items()]
    return [
        "set -e",
        f"export OMP_NUM_THREADS={stage.resources.cpus}",  # before the user's lines, which may override it
        *stage.resources.setup,
        *exports,
        f"folders=({' '.join(shlex.quote(str(folder)) for folder in folders)})",
        "folder=${folders[${SLURM_ARRAY_TASK_ID:-0}]}",
        "trap : TERM USR2",
        "unset SLURM_CLUSTERS",  # the job's own cluster is the default here
        "set +e",
    ]


def _options(stage: Stage, site: SlurmBackend) -> dict[str, Any]:
    options: dict[str, Any] = {"requeue" if may_requeue(stage.resources.extra) else "no-requeue": True}
    if site.kill_on_invalid_dep:
        options["kill-on-invalid-dep"] = "yes"
    if stage.resources.time_min < SHORT_MIN:
        options["signal"] = "CONT@1"  # a harmless signal instead of submitit's: the stage has its own deadline
    return options | list_options(stage.resources.extra)

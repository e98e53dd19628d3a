"""Submit a chain to Slurm through submitit: every job by its own sbatch, tied by dependencies on live jobs only."""

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from submitit.core.utils import FailedJobError, FailedSubmissionError
from submitit.helpers import clean_env
from submitit.slurm.slurm import SlurmExecutor

from pretrain.runtime.storage import append_json_line
from tools.chain.plan.make_plan import Stage
from tools.chain.record.state import ENDED, find_states, read_spec, stage_folder
from tools.chain.slurm import sbatch, squeue
from tools.chain.slurm.hosts import find_bad_hosts
from tools.chain.submit import Chain, shorten

DEPENDENCY = {True: "afterany", False: "afterok"}
LIMIT_WORDS = (
    "QOSMaxSubmit",
    "AssocMaxSubmit",
    "AssocMaxJobs",
    "job submit limit",
    "Job violates accounting/QOS policy",
)


@dataclass(frozen=True)
class Job:
    """What one sbatch call would submit."""

    stages: tuple[Stage, ...]
    """One, or those of an array."""
    name: str
    parameters: dict[str, Any]
    command: str
    folder: Path
    """Of logs and of submitit's files; never read for control."""


def submit_chain(chain: Chain) -> int:
    """Submit every stage that has to run and is not in the queue; safe to repeat, and to be killed at any moment."""
    queue = squeue.list_queue()
    jobs = squeue.match_jobs(chain.folder, queue)
    jobs = _release_held(_drop_never_satisfied(jobs))
    states = find_states(chain.folder, chain.stages)
    live = {stage.name: jobs[stage.folder]["job_id"] for stage in chain.stages if stage.folder in jobs}
    bad = _find_bad_hosts(chain)
    new = 0
    for group in group_stages(chain, states, live):
        job = describe(chain, group, bad[group[0].resources.partition])
        if (reason := _why_wait(group, states, live)) or len(live) + len(group) > chain.config.slurm.max_jobs:
            print(f"{_names(group)}: not yet ({reason or 'max_jobs reached'}); submit again later")
            continue
        try:
            live |= _sbatch(chain, job, live)
        except (FailedJobError, FailedSubmissionError) as error:
            if not any(word in str(error) for word in LIMIT_WORDS):
                raise ValueError(f"{_names(group)}: sbatch refused the job: {error}") from error
            print(f"{_names(group)}: the site's limit is reached; submit again later for the rest")
            break
        new += len(group)
        time.sleep(chain.config.slurm.pause_s)
    print(f"chain {shorten(chain.folder)}: {new} stages submitted, {len(live) - new} were in the queue")
    if others := sorted(set(jobs) - {stage.folder for stage in chain.stages}):
        print(f"still in the queue from a submit with other settings: {', '.join(others)}; `cancel` ends these too")
    return 0


def group_stages(chain: Chain, states: dict[str, str], live: dict[str, str]) -> Iterator[tuple[Stage, ...]]:
    """Return the stages to submit, in order, those that may share a job array together."""
    wanted = [stage for stage in chain.stages if states[stage.name] in ("pending", "lost") and stage.name not in live]
    used: set[str] = set()
    for stage in wanted:
        if stage.name in used:
            continue
        alike = [other for other in wanted if stage.array and _is_alike(stage, other)]
        group = tuple(alike) if chain.config.slurm.arrays and len(alike) > 1 else (stage,)
        used |= {entry.name for entry in group}
        yield group


def describe(chain: Chain, group: Sequence[Stage], excluded: Sequence[str] = ()) -> Job:
    """Return the job of a stage or of an array, ready for sbatch but for its dependency."""
    stage = group[0]
    if excluded:
        hosts = [name for name in (stage.resources.exclude, *excluded) if name]
        stage = replace(stage, resources=replace(stage.resources, exclude=",".join(hosts)))
    folders = [stage_folder(chain.folder, entry.folder) for entry in group]
    spec = read_spec(folders[0]) or {"code": "CODE", "commit": ""}
    code = chain.folder / "code" / spec["code"]
    parameters, command = sbatch.describe_job(folders, stage, code, spec["commit"], chain.config.slurm)
    label = stage.folder if len(group) == 1 else f"{stage.folder}-and-{len(group) - 1}"
    name = squeue.job_name(chain.folder, label)
    return Job(tuple(group), name, {"job_name": name, **parameters}, command, folders[0] / "slurm")


def explain_jobs(chain: Chain) -> str:
    """Return the sbatch texts that a submit would send now, dependencies by stage name; asks and changes nothing."""
    states = find_states(chain.folder, chain.stages)
    texts = []
    names: dict[str, str] = {}
    for group in group_stages(chain, states, names):
        dependency = find_dependency(group[0], names)
        texts.append(f"==> {_names(group)}\n{write_sbatch(describe(chain, group), dependency)}")
        names |= {stage.name: f"<{stage.name}>" for stage in group}
    return "\n".join(texts)


def write_sbatch(job: Job, dependency: str = "") -> str:
    """Return the text that sbatch would get."""
    parameters = job.parameters | ({"dependency": dependency} if dependency else {})
    return sbatch.write_text(job.folder, job.command, parameters, len(job.stages))


def find_dependency(stage: Stage, live: dict[str, str]) -> str:
    """Return "afterok:12:13" over the live jobs of the stages before; "" when there are none."""
    ids = [live[name] for name in stage.upstream if name in live]
    return ":".join([DEPENDENCY[stage.always], *ids]) if ids else ""


def cancel_jobs(chain: Path, folders: Iterable[str]) -> None:
    """Cancel the live jobs of these stage folders; call it when their STOP files are written."""
    jobs = squeue.match_jobs(chain, squeue.list_queue())
    squeue.cancel([jobs[name]["job_id"] for name in folders if name in jobs])


def _find_bad_hosts(chain: Chain) -> dict[str, list[str]]:
    """Return {partition: hosts to leave out} by the attempts of all stages."""
    folders = [stage_folder(chain.folder, stage.folder) for stage in chain.stages]
    partitions = {stage.resources.partition for stage in chain.stages}
    return {name: find_bad_hosts(folders, chain.config.slurm.max_bad_hosts, name) for name in partitions}


def _why_wait(group: Sequence[Stage], states: dict[str, str], live: dict[str, str]) -> str:
    """Return why a stage cannot be tied to what it builds on yet; "" when it can."""
    for stage in group:
        for name in stage.upstream:
            if states[name] not in ENDED and name not in live:
                return f"{name} runs elsewhere" if states[name] == "running" else f"{name} is not submitted"
    return ""


def _sbatch(chain: Chain, job: Job, live: dict[str, str]) -> dict[str, str]:
    """Submit one job; note the intent before and the id after, so that a killed submit is found again by its name."""
    dependency = find_dependency(job.stages[0], live)
    ledgers = [stage_folder(chain.folder, stage.folder) / "ledger.jsonl" for stage in job.stages]
    is_array = len(job.stages) > 1
    for index, path in enumerate(ledgers):
        values = {"job_name": job.name, "index": index if is_array else None, "dependency": dependency}
        append_json_line(path, {"event": "intent", **values, "time": time.time()})
    job.folder.mkdir(parents=True, exist_ok=True)
    with _clean_environment():
        executor = SlurmExecutor(job.folder)
        executor.update_parameters(**job.parameters, **({"dependency": dependency} if dependency else {}))
        if is_array:
            executor.parameters["map_count"] = len(job.stages)
        number = executor._submit_command(job.command).job_id
    ids = {}
    for index, (stage, path) in enumerate(zip(job.stages, ledgers, strict=True)):
        ids[stage.name] = f"{number}_{index}" if is_array else number
        append_json_line(path, {"event": "submitted", "job_id": ids[stage.name], "time": time.time()})
    print(f"{_names(job.stages)}: job {number}" + (f", {dependency}" if dependency else ""), flush=True)
    return ids


@contextmanager
def _clean_environment() -> Iterator[None]:
    """Hide what a surrounding job left in the environment, but not where Slurm's configuration is."""
    kept = {key: os.environ[key] for key in ("SLURM_CONF",) if key in os.environ}
    with clean_env():
        os.environ.update(kept)
        yield


def _drop_never_satisfied(jobs: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Cancel leftovers whose dependency can never be met; return the jobs that are left."""
    stuck = [job["job_id"] for job in jobs.values() if job["reason"] == squeue.NEVER]
    squeue.cancel(stuck)
    return {folder: job for folder, job in jobs.items() if job["reason"] != squeue.NEVER}


def _release_held(jobs: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Let go of jobs that Slurm held because a node could not launch them; return all jobs."""
    for job in jobs.values():
        if job["reason"] == squeue.LAUNCH_FAILED:
            squeue.run_slurm(["scontrol", "release", job["job_id"]])
            print(f"job {job['job_id']}: released, Slurm held it after a failed launch")
    return jobs


def _is_alike(stage: Stage, other: Stage) -> bool:
    return (stage.array, stage.upstream, stage.resources) == (other.array, other.upstream, other.resources)


def _names(stages: Sequence[Stage]) -> str:
    return ", ".join(stage.name for stage in stages)

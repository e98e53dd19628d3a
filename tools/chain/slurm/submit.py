"""Submit a chain to Slurm through submitit: one sbatch per job, with dependencies on live jobs only."""

import re
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from submitit.core.utils import FailedJobError, FailedSubmissionError
from submitit.slurm.slurm import SlurmExecutor

from pretrain.runtime.command_line import say_count
from pretrain.runtime.storage import append_json_line
from tools.chain.plan.make_plan import Stage
from tools.chain.record.state import ENDED, find_states, is_cancelled, read_spec, stage_folder
from tools.chain.slurm import sbatch, squeue
from tools.chain.slurm.hosts import find_bad_hosts
from tools.chain.slurm.slurm_environment import clean_environment, find_cluster, list_ignored
from tools.chain.submit import Chain, shorten

DEPENDENCY = {True: "afterany", False: "afterok"}
LIMIT_REASON = re.compile(r"\b(?:QOS|Assoc)\w+")
"""Names of limits in sbatch's errors and squeue's reasons (slurm/slurm.h, enum job_state_reason)."""
PASSING = re.compile(r"Submit|MaxJobs|GrpJobs")
"""Limits that no longer apply once other jobs have ended."""
NEVER_ADMITTED = re.compile(
    r"^(?:QOS|Assoc)\w*(?:PerJob|PerNode|MinutesPerJob|WallDurationPerJob|MinCpu|MinGRES|MinMemory|MinNode|MinTRES)\w*$"
    r"|^(?:PartitionTimeLimit|PartitionNodeLimit|BadConstraints|InvalidQOS|InvalidAccount|QOSNotAllowed"
    r"|AccountNotAllowed|InactiveLimit)$"
)
"""Reasons for which a job never starts: it requests more, or less, than it may have."""
GENERAL_LIMIT = "Job violates accounting/QOS policy"
"""sbatch's message for every limit, temporary or permanent."""


@dataclass(frozen=True)
class Job:
    """What one sbatch call would submit."""

    stages: tuple[Stage, ...]
    """One, or those of an array."""
    name: str
    parameters: dict[str, Any]
    command: str
    folder: Path
    """Folder of logs and of submitit's files; never read to determine state."""


def submit_chain(chain: Chain) -> int:
    """Submit every stage that has to run and is not in the queue; safe to repeat, and to kill at any moment."""
    cluster = find_cluster()
    queue = squeue.list_queue()
    jobs = squeue.match_jobs(chain.folder, queue)
    jobs = _release_held(_drop_never_satisfied(jobs))
    states = find_states(chain.folder, chain.stages)
    live = {stage.name: jobs[stage.folder]["job_id"] for stage in chain.stages if stage.folder in jobs}
    squeue.refuse_other_cluster(chain.folder, [stage.folder for stage in chain.stages], states.values(), cluster)
    bad = _find_bad_hosts(chain)
    _name_ignored(chain)
    new = 0
    for group in group_stages(chain, states, live):
        job = describe(chain, group, bad[group[0].resources.partition])
        if (reason := _why_wait(group, states, live)) or len(live) + len(group) > chain.config.slurm.max_jobs:
            print(f"{_names(group)}: not yet ({reason or 'max_jobs reached'}); submit again later")
            continue
        try:
            live |= _sbatch(chain, job, live)
        except (FailedJobError, FailedSubmissionError) as error:
            if not is_passing_limit(str(error), bool(live)):
                raise ValueError(f"{_names(group)}: sbatch refused the job: {error}") from error
            print(f"{_names(group)}: the site's limit has been reached; submit again later for the rest")
            break
        new += len(group)
        time.sleep(chain.config.slurm.pause_s)
    submitted = say_count(new, "stage")
    print(f"chain {shorten(chain.folder)}: {submitted} submitted, {len(live) - new} were in the queue")
    if others := sorted(set(jobs) - {stage.folder for stage in chain.stages}):
        print(f"still in the queue from a submit with another config: {', '.join(others)}; `cancel` ends these too")
    return 1 if _name_never_admitted(jobs) else 0


def is_passing_limit(error: str, has_jobs: bool) -> bool:
    """Return whether sbatch refused a job for a temporary limit, so that a later submit may succeed.

    Args:
        error: sbatch's error output.
        has_jobs: whether the chain has jobs in the queue; if the error names no limit, they may be the reason.

    """
    names = LIMIT_REASON.findall(error)
    if names:
        return any(PASSING.search(name) for name in names)
    return GENERAL_LIMIT in error and has_jobs


def group_stages(chain: Chain, states: dict[str, str], live: dict[str, str]) -> Iterator[tuple[Stage, ...]]:
    """Yield the stages to submit, in order, grouped by job array; cancelled stages are left out."""
    wanted = [
        stage
        for stage in chain.stages
        if states[stage.name] in ("pending", "lost")
        and stage.name not in live
        and not is_cancelled(stage_folder(chain.folder, stage.folder))
    ]
    groups: dict[Any, list[Stage]] = {}
    for stage in wanted:
        alone = not (chain.config.slurm.arrays and stage.array)
        groups.setdefault(stage.name if alone else _likeness(stage), []).append(stage)
    yield from (tuple(group) for group in groups.values())


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
    """Return the sbatch scripts that a submit would send now, with dependencies by stage name; without any query."""
    states = find_states(chain.folder, chain.stages)
    texts = []
    names: dict[str, str] = {}
    for group in group_stages(chain, states, names):
        dependency = find_dependency(group[0], names)
        texts.append(f"==> {_names(group)}\n{write_sbatch(describe(chain, group), dependency)}")
        names |= {stage.name: f"<{stage.name}>" for stage in group}
    return "\n".join(texts)


def write_sbatch(job: Job, dependency: str = "") -> str:
    """Return the sbatch script of a job."""
    parameters = job.parameters | ({"dependency": dependency} if dependency else {})
    return sbatch.write_text(job.folder, job.command, parameters, len(job.stages))


def find_dependency(stage: Stage, live: dict[str, str]) -> str:
    """Return "afterok:12:13" over the live jobs of the stages before; "" when there are none."""
    ids = [live[name] for name in stage.upstream if name in live]
    return ":".join([DEPENDENCY[stage.always], *ids]) if ids else ""


def cancel_jobs(chain: Path, folders: Collection[str]) -> None:
    """Cancel the live jobs of these stage folders; call it after writing their STOP files."""
    if not squeue.was_submitted(chain):
        return
    jobs = squeue.match_jobs(chain, squeue.list_queue())
    squeue.cancel([jobs[name]["job_id"] for name in folders if name in jobs])
    for ledger in (stage_folder(chain, name) / "ledger.jsonl" for name in folders):
        if ledger.is_file():
            append_json_line(ledger, {"event": "cancelled", "time": time.time()})


def _find_bad_hosts(chain: Chain) -> dict[str, list[str]]:
    """Return {partition: hosts to exclude}, from the attempts of all stages."""
    folders = [stage_folder(chain.folder, stage.folder) for stage in chain.stages]
    partitions = {stage.resources.partition for stage in chain.stages}
    return {name: find_bad_hosts(folders, chain.config.slurm.max_bad_hosts, name) for name in partitions}


def _why_wait(group: Sequence[Stage], states: dict[str, str], live: dict[str, str]) -> str:
    """Return why a stage's dependencies cannot be given to Slurm yet; "" if they can."""
    for stage in group:
        for name in stage.upstream:
            if states[name] not in ENDED and name not in live:
                return f"{name} runs elsewhere" if states[name] == "running" else f"{name} is not submitted"
    return ""


def _sbatch(chain: Chain, job: Job, live: dict[str, str]) -> dict[str, str]:
    """Submit one job; record the intent before and the id after, so that a killed submit's job is found by its name."""
    dependency = find_dependency(job.stages[0], live)
    ledgers = [stage_folder(chain.folder, stage.folder) / "ledger.jsonl" for stage in job.stages]
    is_array = len(job.stages) > 1
    for index, path in enumerate(ledgers):
        values = {"job_name": job.name, "index": index if is_array else None, "dependency": dependency}
        values |= {"cluster": cluster} if (cluster := find_cluster()) else {}
        append_json_line(path, {"event": "intent", **values, "time": time.time()})
    job.folder.mkdir(parents=True, exist_ok=True)
    with clean_environment():
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


def _name_ignored(chain: Chain) -> None:
    """Print which of the user's SBATCH_ variables the jobs do not use."""
    job = describe(chain, chain.stages[:1])
    for sentence in list_ignored({**job.parameters, **job.parameters["additional_parameters"]}):
        print(sentence)


def _name_never_admitted(jobs: dict[str, dict[str, Any]]) -> bool:
    """Print the jobs that can never start, with the reason; return whether there are any."""
    stuck = {folder: job for folder, job in jobs.items() if NEVER_ADMITTED.search(job["reason"])}
    for folder, job in stuck.items():
        print(
            f"{folder}: job {job['job_id']} can never start ({job['reason']}): it requests what it may not have; "
            "`cancel` it, change the chain's resources, then `resume`"
        )
    return bool(stuck)


def _drop_never_satisfied(jobs: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Cancel jobs whose dependency can never be satisfied; return the others."""
    stuck = [job["job_id"] for job in jobs.values() if job["reason"] == squeue.NEVER]
    squeue.cancel(stuck)
    return {folder: job for folder, job in jobs.items() if job["reason"] != squeue.NEVER}


def _release_held(jobs: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Release jobs that Slurm holds after a failed launch; return all jobs."""
    for job in jobs.values():
        if job["reason"] == squeue.LAUNCH_FAILED:
            squeue.run_slurm(["scontrol", "release", job["job_id"]])
            print(f"job {job['job_id']}: released, Slurm held it after a failed launch")
    return jobs


def _likeness(stage: Stage) -> tuple[str, str, str]:
    """Return what stages of one job array have in common."""
    return (stage.array, repr(sorted(stage.upstream.items())), repr(stage.resources))


def _names(stages: Sequence[Stage]) -> str:
    return ", ".join(stage.name for stage in stages)

"""What sbatch gets, to the letter, and what comes back from Slurm's commands."""

import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from pretrain.runtime.machine import PROJECT_ROOT
from pretrain.runtime.storage import append_json_line
from tools.chain.plan.config import Budgets, ChainConfig, OwnStage, SlurmBackend, read_chain
from tools.chain.plan.make_plan import make_plan
from tools.chain.slurm import squeue
from tools.chain.slurm.job import parse_duration, rendezvous
from tools.chain.slurm.slurm_environment import clean_environment, find_cluster, list_ignored
from tools.chain.slurm.submit import NEVER_ADMITTED, Job, describe, find_dependency, is_passing_limit, write_sbatch
from tools.chain.submit import Chain

GOLDEN = PROJECT_ROOT / "tests" / "golden" / "chain"
SPECIAL = {
    "partition": "gpu", "account": "vision", "qos": "long", "nodes": 2, "gpus": 8, "cpus": 10, "mem_gb": 480,
    "time_min": 1440, "constraint": "a100", "exclude": ["bad1", "bad2"], "mail_user": "a@b.org", "mail_type": "FAIL",
    "extra": {"reservation": "mine"}, "setup": ["module load cuda", "source ~/env.sh"],
}  # fmt: skip


def make_job(site: SlurmBackend, resources: dict[str, Any], seeds: tuple[int, ...] = ()) -> Job:
    command = ("{python}", "-c", "pass", "{out}")
    config = ChainConfig(
        report=False, stages={"train": OwnStage(command=command, seeds=seeds)}, budgets=Budgets(), slurm=site,
        resources={"default": resources},
    )  # fmt: skip
    chain = Chain(Path("chain.yaml"), config, Path("/data/runs/c"), make_plan(config, [Path("/data")]))
    return describe(chain, chain.stages)


CASES = {
    "plain": make_job(SlurmBackend(), {}),
    "special": make_job(SlurmBackend(), SPECIAL),
    "gres": make_job(SlurmBackend(kill_on_invalid_dep=False), {"gpus": 4, "gpu_option": "gres", "time_min": 5}),
    "array": make_job(SlurmBackend(), {}, seeds=(0, 1, 2)),
}


@pytest.mark.parametrize("name", CASES)
def test_sbatch_text_is_the_golden_one(name: str) -> None:
    text = write_sbatch(CASES[name], "afterok:12:13").replace(sys.executable, "PYTHON")
    path = GOLDEN / f"{name}.sh"
    if os.environ.get("WRITE_GOLDEN"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert text == path.read_text(), f"if the change is meant: WRITE_GOLDEN=1 pytest {Path(__file__).name}"
    subprocess.run(["bash", "-n"], input=text, text=True, check=True)


def test_path_that_sbatch_cannot_hold_is_refused() -> None:
    config = ChainConfig(report=False, stages={"a": OwnStage(command=("x",))})
    chain = Chain(Path("c.yaml"), config, Path("/data/two\nlines"), make_plan(config, [Path("/data")]))
    with pytest.raises(ValueError, match="a quote, a backslash, a percent sign or a line break; give runs=FOLDER"):
        describe(chain, chain.stages)


def test_dependencies_name_live_jobs_only_and_the_report_waits_for_any_end() -> None:
    stage = replace(CASES["plain"].stages[0], upstream={"a": "a-1", "b": "b-2", "c": "c-3"})
    assert find_dependency(stage, {"a": "7", "c": "9_1"}) == "afterok:7:9_1"
    assert find_dependency(stage, {}) == ""
    assert find_dependency(replace(stage, always=True), {"b": "8"}) == "afterany:8"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1-02:03:04", 93784),
        ("2:03:04", 7384),
        ("3:04", 184),
        ("UNLIMITED", None),
        ("INVALID", None),
        ("", None),
        ("x-1:2", None),
    ],
)
def test_time_left_is_read_as_slurm_writes_it(text: str, seconds: float | None) -> None:
    assert parse_duration(text) == seconds


def test_rendezvous_falls_back_to_the_launch_address_and_moves_its_port() -> None:
    environment = {
        "SLURM_NTASKS": "16", "SLURM_PROCID": "9", "SLURM_LOCALID": "1", "SLURM_JOB_ID": "45678",
        "SLURM_JOB_NODELIST": "no-such-node.invalid", "SLURM_LAUNCH_NODE_IPADDR": "10.0.0.7",
    }  # fmt: skip
    assert rendezvous(environment, 2) == {
        "RANK": "9", "WORLD_SIZE": "16", "LOCAL_RANK": "1", "MASTER_ADDR": "10.0.0.7", "MASTER_PORT": "25680",
    }  # fmt: skip
    assert rendezvous({"SLURM_NTASKS": "1"}, 0) == {}


def test_missing_or_failing_slurm_is_unknown_never_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(squeue, "PAUSE_S", 0.0)
    with pytest.raises(squeue.QueueUnknownError, match="submit from a login node"):
        squeue.run_slurm([str(tmp_path / "squeue")])
    with pytest.raises(squeue.QueueUnknownError, match="failed 4 times"):
        squeue.run_slurm([sys.executable, "-c", "raise SystemExit('slurm_load_jobs error')"])


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        (name, value)
        for name in ("nodes", "gpus", "cpus", "mem_gb", "time_min", "hours")
        for value in (-1, True, False, "four", float("nan"), float("inf"))
    ]
    + [("nodes", 0), ("cpus", 0), ("time_min", 0), ("gpu_option", "gpu")],
)
def test_count_that_no_job_can_have_is_refused_by_name(tmp_path: Path, setting: str, value: object) -> None:
    stages = {"train": {"command": ["true"]}}
    chain = tmp_path / "chain.yaml"
    chain.write_text(yaml.safe_dump({"stages": stages, "resources": {"default": {setting: value}}}))
    with pytest.raises(ValueError, match=f"resources.default.{setting}"):
        read_chain(chain)


REFUSED = {
    "time": "set time_min", "nodes": "set nodes", "ntasks": "set gpus", "cpus_per_task": "set cpus",
    "mem": "set mem_gb", "gpus": "set gpus", "partition": "set partition", "part": "set partition",
    "mail-type": "set mail_type",
    "job-name": "the chain sets this itself", "output": "the chain sets", "array": "the chain", "depend": "the chain",
    "signal": "the chain", "clusters": "SLURM_CLUSTERS", "kill-on-invalid-dep": "slurm.kill_on_invalid_dep",
    "p": "long name", "A": "long name", "x=1 --wrap": "long name",
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_extra_option_that_ours_would_override_is_refused_with_its_remedy(name: str) -> None:
    with pytest.raises(ValueError, match=rf"extra\.{re.escape(name)}: .*{re.escape(REFUSED[name])}"):
        make_job(SlurmBackend(), {"extra": {name: "3"}})


def test_all_conflicts_are_named_at_once() -> None:
    with pytest.raises(
        ValueError, match=r"(?s)extra\.time.*extra\.gpus-per-node asks for 2 GPUs, gpus is 4.*extra\.list"
    ):
        make_job(SlurmBackend(), {"gpus": 4, "extra": {"time": 3, "gpus-per-node": "a100:2", "list": [1]}})


@pytest.mark.parametrize(
    ("extra", "line"),
    [
        ({"gpus-per-node": "a100:4"}, "--gpus-per-node=a100:4"),
        ({"gpus_per_node": 4}, "--gpus-per-node=4"),
        ({"gres": "gpu:a100:4,tmpdisk:50"}, "--gres=gpu:a100:4,tmpdisk:50"),
        ({"gres": "gpu:a100:4(S:0)"}, "--gres='gpu:a100:4(S:0)'"),
    ],
)
def test_kind_of_gpu_is_taken_from_extra_when_its_count_agrees(extra: dict[str, Any], line: str) -> None:
    text = write_sbatch(make_job(SlurmBackend(), {"gpus": 4, "extra": extra}))
    assert [found for found in text.splitlines() if "gpus-per-node" in found or "gres" in found] == [f"#SBATCH {line}"]


@pytest.mark.parametrize("extra", [{"no-requeue": True}, {"requeue": False}, {"no_requeue": True}])
def test_job_that_may_not_be_requeued_says_so_once_and_does_not_try(extra: dict[str, Any]) -> None:
    text = write_sbatch(make_job(SlurmBackend(), {"extra": extra}))
    assert [line for line in text.splitlines() if "requeue" in line] == ["#SBATCH --no-requeue"]
    subprocess.run(["bash", "-n"], input=text, text=True, check=True)


@pytest.mark.parametrize("extra", [{}, {"requeue": True}, {"no-requeue": False}])
def test_job_is_requeued_unless_the_chain_says_no(extra: dict[str, Any]) -> None:
    text = write_sbatch(make_job(SlurmBackend(), {"extra": extra}))
    assert [line for line in text.splitlines() if line.startswith("#SBATCH") and "requeue" in line] == [
        "#SBATCH --requeue"
    ]


def test_users_own_settings_fill_in_what_the_chain_leaves_open_and_the_rest_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in (("ACCOUNT", "mine"), ("PARTITION", "fast"), ("RESERVATION", "r"), ("TIMELIMIT", "9")):
        monkeypatch.setenv(f"SBATCH_{name}", value)
    job = make_job(SlurmBackend(), {"partition": "slow"})
    text = write_sbatch(job)
    assert "--account=mine" in text
    assert "--partition=slow" in text
    assert "--reservation=r" in text
    assert list_ignored({**job.parameters, **job.parameters["additional_parameters"]}) == [
        "SBATCH_PARTITION=fast is not used: the chain's resources say partition=slow",
        "SBATCH_TIMELIMIT=9 is not used: set it under resources",
    ]


def test_sbatch_asks_the_cluster_that_squeue_asks_and_sees_no_surrounding_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_CLUSTERS", "east")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SBATCH_TIMELIMIT", "1")
    with clean_environment():
        assert {key: value for key, value in os.environ.items() if key.startswith(("SLURM_", "SBATCH_"))} == {
            "SLURM_CLUSTERS": "east"
        }
    assert (os.environ["SLURM_CLUSTERS"], os.environ["SLURM_JOB_ID"]) == ("east", "7")


@pytest.mark.parametrize("value", ["east,west", "all", "east,all"])
def test_several_clusters_are_refused(value: str) -> None:
    with pytest.raises(ValueError, match="a chain needs one cluster"):
        find_cluster({"SLURM_CLUSTERS": value})


def test_submit_to_another_cluster_than_before_is_refused_until_a_cancel_there(tmp_path: Path) -> None:
    ledger = tmp_path / "stages" / "a-1" / "ledger.jsonl"
    ledger.parent.mkdir(parents=True)
    append_json_line(ledger, {"event": "intent", "job_name": "x", "cluster": "east"})
    squeue.refuse_other_cluster(tmp_path, ["a-1"], ["pending"], "east")
    squeue.refuse_other_cluster(tmp_path, ["a-1"], ["done"], "west")
    for other in ("", "west"):
        with pytest.raises(ValueError, match="set SLURM_CLUSTERS=east"):
            squeue.refuse_other_cluster(tmp_path, ["a-1"], ["pending"], other)
    append_json_line(ledger, {"event": "cancelled"})
    squeue.refuse_other_cluster(tmp_path, ["a-1"], ["pending"], "west")


GENERAL = (
    "sbatch: error: Batch job submission failed: Job violates accounting/QOS policy (job submit limit, user's ...)"
)


@pytest.mark.parametrize("name", ["QOSMaxSubmitJobPerUserLimit", "AssocMaxSubmitJobLimit", "AssocGrpSubmitJobsLimit"])
@pytest.mark.parametrize("has_jobs", [True, False])
def test_limit_on_the_number_of_jobs_passes(name: str, has_jobs: bool) -> None:
    assert is_passing_limit(f"sbatch: error: {name}\n{GENERAL}", has_jobs)


@pytest.mark.parametrize(
    "name",
    ["QOSMaxWallDurationPerJobLimit", "QOSMaxGRESPerJob", "QOSMinGRES", "AssocMaxCpuPerJobLimit", "QOSMaxNodePerJob"],
)
def test_limit_on_one_job_never_passes_and_its_job_never_starts(name: str) -> None:
    assert not is_passing_limit(f"sbatch: error: {name}\n{GENERAL}", has_jobs=True)
    assert NEVER_ADMITTED.search(name)


@pytest.mark.parametrize(
    "reason", ["Priority", "Resources", "QOSMaxJobsPerUserLimit", "AssocGrpCpuLimit", "Dependency"]
)
def test_reason_that_passes_is_no_reason_to_give_up(reason: str) -> None:
    assert not NEVER_ADMITTED.search(reason)


def test_limit_without_a_name_passes_only_where_jobs_of_ours_may_be_what_fills_it() -> None:
    assert is_passing_limit(GENERAL, has_jobs=True)
    assert not is_passing_limit(GENERAL, has_jobs=False)

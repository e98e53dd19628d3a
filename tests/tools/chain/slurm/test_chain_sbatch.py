"""What sbatch gets, to the letter, and what comes back from Slurm's commands."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pretrain.runtime.machine import PROJECT_ROOT
from tools.chain.plan.config import Budgets, ChainConfig, OwnStage, SlurmBackend
from tools.chain.plan.make_plan import make_plan
from tools.chain.slurm import squeue
from tools.chain.slurm.job import parse_duration, rendezvous
from tools.chain.slurm.submit import Job, describe, find_dependency, write_sbatch
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

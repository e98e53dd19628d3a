"""A chain on a real Slurm survives time limits, preemption, lost nodes and mistakes without supervision."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pretrain.runtime.machine import PROJECT_ROOT
from pretrain.runtime.storage import read_json
from tests.slurm.chains import PATIENCE, ChainOnSlurm, counting, standard_stages
from tools.trials.cluster import Cluster
from tools.trials.counting import expect

pytestmark = [pytest.mark.slurm, pytest.mark.slow, pytest.mark.xdist_group("slurm")]
DONE = {"done"}


@pytest.fixture(scope="module")
def short_limit(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> ChainOnSlurm:
    """Submitted before the other scenarios and checked after them: it takes more than a minute."""
    stages = {"train": counting(600, "every=50", sleep=0.1)}
    resources = {"default": {"cpus": 1, "time_min": 1, "partition": "high"}}
    chain = ChainOnSlurm(tmp_path_factory.mktemp("short"), stages, resources=resources)
    chain.submit()
    return chain


def test_chain_hit_twice_by_signals_ends_as_if_undisturbed(
    cluster: Cluster, short_limit: ChainOnSlurm, tmp_path: Path
) -> None:
    chain = ChainOnSlurm(tmp_path, standard_stages(steps=80, sleep=0.1))
    chain.submit()
    chain.wait_for_step("pretrain", 7)
    before = cluster.ask("squeue", "-h", "-S", "i", "-o", "%i")
    cluster.ask("scancel", "--signal=TERM", chain.job("pretrain"))
    cluster.ask("scancel", "--signal=USR2", chain.job("pretrain"), check=False)
    chain.submit()
    assert cluster.ask("squeue", "-h", "-S", "i", "-o", "%i") == before, "a second submit starts nothing"
    chain.wait_for_step("pretrain", 30)
    cluster.ask("scancel", "--signal=USR2", chain.job("pretrain"))
    assert set(chain.wait_for_end(90, cluster).values()) == DONE
    assert [entry["outcome"] for entry in chain.attempts("pretrain")] == ["yield", "yield", "done"]
    assert chain.lost_steps("pretrain") == 0
    pretrained = expect(80)
    assert chain.result("pretrain") == pretrained
    assert chain.result("voc") == expect(20, expect(5, pretrained))


def test_bug_in_convert_blocks_only_what_hangs_on_it_and_retry_mends_it(cluster: Cluster, tmp_path: Path) -> None:
    stages = standard_stages(steps=10)
    stages["convert"]["command"].append(f"needs={tmp_path / 'mended'}")
    chain = ChainOnSlurm(tmp_path, stages)
    chain.submit()
    states = chain.wait(lambda now: now["final"] == "done", 60, cluster)
    assert states == {
        "pretrain": "done", "convert": "failed", "voc": "blocked", "coco": "blocked", "linear": "done", "final": "done",
    }  # fmt: skip
    failed = read_json(chain.stage("convert") / "FAILED.json")
    assert failed["kind"] == "error"
    assert "does not exist" in failed["tail"]
    chain.submit()
    assert chain.states()["convert"] == "failed", "a failed stage is left alone"
    (tmp_path / "mended").touch()
    chain.submit("retry=convert")
    chain.wait(lambda now: set(now.values()) == DONE, 60, cluster)
    assert [len(chain.attempts(name)) for name in ("pretrain", "linear", "convert", "final")] == [1, 1, 2, 2]


def test_killed_job_process_is_healed_by_the_batch_script(cluster: Cluster, tmp_path: Path) -> None:
    chain = ChainOnSlurm(tmp_path, {"train": counting(60, sleep=0.1), "after": counting(3, after=("train",))})
    chain.submit()
    chain.wait_for_step("train", 12)
    os.kill(chain.attempts("train")[-1]["pid"], signal.SIGKILL)
    assert set(chain.wait_for_end(60, cluster).values()) == DONE
    starts = (chain.stage("train") / "steps.txt").read_text().splitlines()
    assert [line for line in starts if line.startswith("start")][-1] != "start 0", "it resumes from its checkpoint"
    assert chain.result("train") == expect(60)


def test_job_of_a_lost_node_is_requeued_and_resumes(cluster: Cluster, tmp_path: Path) -> None:
    chain = ChainOnSlurm(tmp_path, {"train": counting(450, sleep=0.1), "after": counting(3, after=("train",))})
    chain.submit()
    chain.wait_for_step("train", 12)
    node = chain.attempts("train")[-1]["node"]
    cluster.kill_daemon(f"slurmd-{node}")
    try:
        assert set(chain.wait_for_end(110, cluster).values()) == DONE
    finally:
        cluster.start_node(node)
        cluster.wait_for_nodes()
    attempts = chain.attempts("train")
    assert [entry["outcome"] for entry in attempts] == ["superseded", "done"]
    assert attempts[-1]["node"] != node
    assert chain.result("train") == expect(450)


@pytest.mark.parametrize("partition", ["low", "blunt"], ids=["with user signal", "without notice"])
def test_preempted_chain_resumes(cluster: Cluster, tmp_path: Path, partition: str) -> None:
    resources = {"default": {"cpus": 1, "time_min": 30, "partition": partition}}
    chain = ChainOnSlurm(tmp_path, {"train": counting(60, sleep=0.1)}, resources=resources)
    chain.submit()
    chain.wait_for_step("train", 12)
    node = chain.attempts("train")[-1]["node"]
    whole_node = ["-w", node, "-n", "1", "-c", "4", "-t", "5", "-o", "/dev/null", "--wrap", "sleep 2"]
    cluster.ask("sbatch", "-p", "high", *whole_node)
    assert set(chain.wait_for_end(80, cluster).values()) == DONE
    assert len(chain.attempts("train")) > 1
    assert chain.result("train") == expect(60)
    assert chain.lost_steps("train") == 0


def test_gate_stays_closed_when_an_input_was_changed(cluster: Cluster, tmp_path: Path) -> None:
    stages = {"train": counting(3), "after": counting(3, after=("train",))}
    chain = ChainOnSlurm(tmp_path, {"train": stages["train"]})
    chain.submit()
    chain.wait_for_end(40, cluster)
    (chain.stage("train") / "result.txt").write_text("another\n")
    chain.values["stages"] = stages
    chain.write()
    chain.submit()
    job = chain.job("after")
    until = time.monotonic() + PATIENCE * 40
    while "JobState=FAILED" not in (text := cluster.ask("scontrol", "show", "job", job)) and time.monotonic() < until:
        time.sleep(0.3)
    assert "ExitCode=78:0" in text
    assert chain.states()["after"] == "pending"
    assert not chain.attempts("after")


def test_crash_loop_is_stopped_by_the_budget(cluster: Cluster, tmp_path: Path) -> None:
    stages = {"train": counting(20, "dies=SIGKILL@3"), "after": counting(3, after=("train",))}
    chain = ChainOnSlurm(tmp_path, stages, budgets={"min_free_gb": 0.001, "same_step": 2})
    chain.submit()
    states = chain.wait(lambda now: now["train"] == "failed", 60, cluster)
    assert states["after"] == "blocked"
    assert read_json(chain.stage("train") / "FAILED.json")["kind"] == "budget"
    assert [entry["outcome"] for entry in chain.attempts("train")] == ["killed", "killed", "budget"]


def test_job_leaves_a_host_on_which_it_keeps_dying(cluster: Cluster, tmp_path: Path) -> None:
    code = (
        "import os, pathlib, signal, sys; out, node = pathlib.Path(sys.argv[1]), os.environ['SLURMD_NODENAME']\n"
        "bad = out / 'bad'; bad.exists() or bad.write_text(node)\n"
        "node == bad.read_text() and os.kill(os.getpid(), signal.SIGKILL); (out / 'result.txt').write_text(node)"
    )
    chain = ChainOnSlurm(tmp_path, {"train": {"command": ["{python}", "-c", code, "{out}"], "outputs": ["result.txt"]}})
    chain.submit()
    assert chain.wait_for_end(90, cluster) == {"train": "done"}
    attempts = chain.attempts("train")
    assert [entry["outcome"] for entry in attempts] == ["killed", "killed", "done"]
    assert {entry["job_id"] for entry in attempts} == {chain.job("train")}, "in place"
    assert f"ExcNodeList={attempts[0]['node']}" in cluster.ask("scontrol", "show", "job", chain.job("train"))


def test_seeds_are_one_job_array_and_each_resumes_alone(cluster: Cluster, tmp_path: Path) -> None:
    stages = {
        "train": counting(3),
        "voc": counting(40, "name={seed}", sleep=0.1, after=("train",), seeds=[0, 1, 2]),
        "final": counting(2, always=True) | {"after": ["voc-seed0", "voc-seed1", "voc-seed2"]},
    }
    chain = ChainOnSlurm(tmp_path, stages)
    chain.submit()
    jobs = [chain.job(f"voc-seed{seed}") for seed in range(3)]
    assert [job.partition("_")[2] for job in jobs] == ["0", "1", "2"]
    assert len({job.partition("_")[0] for job in jobs}) == 1
    chain.wait_for_step("voc-seed1", 8)
    cluster.ask("scancel", "--signal=TERM", jobs[1])
    assert set(chain.wait_for_end(80, cluster).values()) == DONE
    assert [len(chain.attempts(f"voc-seed{seed}")) for seed in range(3)] == [1, 2, 1]


def test_ranks_on_two_nodes_meet(cluster: Cluster, tmp_path: Path) -> None:
    words = ["{python}", str(PROJECT_ROOT / "tests/slurm/chain_stages/rendezvous.py"), "{out}"]
    resources = {"default": {"cpus": 1, "time_min": 30, "nodes": 2}}
    chain = ChainOnSlurm(tmp_path, {"meet": {"command": words, "outputs": ["result.txt"]}}, resources=resources)
    chain.submit()
    assert chain.wait_for_end(60, cluster) == {"meet": "done"}
    assert chain.result("meet") == "3 of 2\n"


def test_submit_from_inside_a_job_leaks_nothing_and_cancel_keeps_the_work(cluster: Cluster, tmp_path: Path) -> None:
    chain = ChainOnSlurm(tmp_path, {"train": counting(400, sleep=0.1)})
    command = f"cd {PROJECT_ROOT} && {sys.executable} -m tools.chain submit {chain.path}"
    cluster.ask("sbatch", "-n", "1", "-c", "2", "--mem=100", "-t", "5", "-o", "/dev/null", "--wrap", command)
    until = time.monotonic() + PATIENCE * 30
    while not (chain.folder / "chain.json").exists() and time.monotonic() < until:
        time.sleep(0.3)
    chain.wait_for_step("train", 6)
    assert "MinMemoryNode=0" in cluster.ask("scontrol", "show", "job", chain.job("train"))
    words = [sys.executable, "-m", "tools.chain", "cancel", str(chain.path)]
    subprocess.run(words, cwd=PROJECT_ROOT, check=True, capture_output=True)
    until = time.monotonic() + PATIENCE * 20
    while chain.states()["train"] == "running" and time.monotonic() < until:
        time.sleep(0.2)
    assert chain.states() == {"train": "pending"}
    assert list((chain.stage("train") / "checkpoints").glob("*.json"))


def test_training_longer_than_the_time_limit_goes_on_in_place(cluster: Cluster, short_limit: ChainOnSlurm) -> None:
    assert short_limit.wait_for_end(120, cluster) == {"train": "done"}
    attempts = short_limit.attempts("train")
    *before, last = (entry["outcome"] for entry in attempts)
    assert (set(before), last) == ({"yield"}, "done"), "a busy machine may need more than one restart"
    assert {entry["job_id"] for entry in attempts} == {short_limit.job("train")}
    assert attempts[0]["reason"] == "time limit"
    assert short_limit.lost_steps("train") == 0
    assert short_limit.result("train") == expect(600)

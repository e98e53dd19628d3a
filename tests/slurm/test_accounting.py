"""A chain on a Slurm with accounting, at a site that limits the number of queued jobs."""

from pathlib import Path

import pytest

from tests.slurm.chains import ChainOnSlurm, counting, standard_stages
from tools.trials.cluster import Cluster

pytestmark = [pytest.mark.slurm, pytest.mark.slow, pytest.mark.xdist_group("slurm")]


def test_site_limit_stops_the_submit_and_later_submits_go_on(
    accounting_cluster: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster = accounting_cluster
    cluster.ask("sacctmgr", "-i", "modify", "user", "root", "set", "maxsubmitjobs=3")
    chain = ChainOnSlurm(tmp_path, standard_stages(steps=20, sleep=0.1))
    assert chain.submit() == 0
    assert "the site's limit has been reached; submit again later" in capsys.readouterr().out
    assert len(cluster.ask("squeue", "-h").splitlines()) == 3
    chain.wait_for_step("pretrain", 5)
    cluster.ask("scancel", "--signal=TERM", chain.job("pretrain"))
    chain.wait(lambda states: states["convert"] == "done", 60, cluster)
    cluster.ask("sacctmgr", "-i", "modify", "user", "root", "set", "maxsubmitjobs=-1")
    assert chain.submit() == 0
    assert set(chain.wait_for_end(60, cluster).values()) == {"done"}
    assert len(chain.attempts("pretrain")) == 2
    assert "COMPLETED" in cluster.ask("sacct", "-n", "-X", "-o", "state")


def test_job_that_no_limit_will_ever_admit_is_an_error_and_not_for_later(
    accounting_cluster: Cluster, tmp_path: Path
) -> None:
    cluster = accounting_cluster
    cluster.ask("sacctmgr", "-i", "add", "qos", "tiny")
    cluster.ask("sacctmgr", "-i", "modify", "qos", "tiny", "set", "MaxWall=00:01:00", "Flags=DenyOnLimit")
    cluster.ask("sacctmgr", "-i", "modify", "user", "root", "set", "qos+=tiny")
    chain = ChainOnSlurm(
        tmp_path, {"train": counting(3)}, resources={"default": {"cpus": 1, "time_min": 30, "qos": "tiny"}}
    )
    with pytest.raises(ValueError, match="sbatch refused the job"):
        chain.submit()
    assert not cluster.ask("squeue", "-h").strip()


def test_second_submit_on_a_named_cluster_finds_the_jobs_of_the_first(
    accounting_cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """SLURM_CLUSTERS names the cluster itself, so Slurm's commands query accounting; SBATCH_ACCOUNT is set."""
    cluster = accounting_cluster
    chain = ChainOnSlurm(tmp_path, {"train": counting(100, sleep=0.1), "after": counting(3, after=("train",))})
    monkeypatch.setenv("SLURM_CLUSTERS", "loopback")
    monkeypatch.setenv("SBATCH_ACCOUNT", "trials")
    monkeypatch.setenv("SBATCH_TIMELIMIT", "1")
    assert chain.submit() == 0
    assert "SBATCH_TIMELIMIT=1 is not used" in capsys.readouterr().out
    assert chain.submit() == 0
    assert "0 stages submitted, 2 were in the queue" in capsys.readouterr().out
    monkeypatch.delenv("SLURM_CLUSTERS")
    with pytest.raises(ValueError, match="set SLURM_CLUSTERS=loopback"):
        chain.submit()
    assert "Account=trials" in cluster.ask("scontrol", "show", "job", chain.job("train"))
    assert set(chain.wait_for_end(60, cluster).values()) == {"done"}

"""The same chain with accounting, and a site that limits how many jobs may be queued."""

from pathlib import Path

import pytest

from tests.slurm.chains import ChainOnSlurm, standard_stages
from tools.trials.cluster import Cluster

pytestmark = [pytest.mark.slurm, pytest.mark.slow, pytest.mark.xdist_group("slurm")]


def test_site_limit_stops_the_submit_and_later_submits_go_on(
    accounting_cluster: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster = accounting_cluster
    cluster.ask("sacctmgr", "-i", "modify", "user", "root", "set", "maxsubmitjobs=3")
    chain = ChainOnSlurm(tmp_path, standard_stages(steps=20, sleep=0.1))
    assert chain.submit() == 0
    assert "the site's limit is reached; submit again later" in capsys.readouterr().out
    assert len(cluster.ask("squeue", "-h").splitlines()) == 3
    chain.wait_for_step("pretrain", 5)
    cluster.ask("scancel", "--signal=TERM", chain.job("pretrain"))
    chain.wait(lambda states: states["convert"] == "done", 60, cluster)
    cluster.ask("sacctmgr", "-i", "modify", "user", "root", "set", "maxsubmitjobs=-1")
    assert chain.submit() == 0
    assert set(chain.wait_for_end(60, cluster).values()) == {"done"}
    assert len(chain.attempts("pretrain")) == 2
    assert "COMPLETED" in cluster.ask("sacct", "-n", "-X", "-o", "state")

"""Random faults on a real Slurm lose nothing."""

from pathlib import Path

import pytest

from pretrain.runtime.storage import read_json
from tools.trials.cluster import Cluster
from tools.trials.fault_campaign import main

pytestmark = [pytest.mark.slurm, pytest.mark.slow, pytest.mark.xdist_group("slurm")]


def test_campaign_ends_with_every_chain_finished_and_nothing_lost(cluster: Cluster, tmp_path: Path) -> None:
    """The shared cluster's fixture only skips the test, or fails it in CI, if Slurm is missing."""
    cluster.stop()
    assert main(["n=12", "seed=3", f"json={tmp_path / 'faults.json'}", "limit_min=20"]) == 0
    figures = read_json(tmp_path / "faults.json")
    assert figures["faults"] >= 12
    assert figures["chains"] == figures["finished"] > 0
    assert (figures["steps_lost_beyond_checkpoint"], figures["wrong_verdicts"]) == (0, 0)
    assert figures["identical_weights"] is True

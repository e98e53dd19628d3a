"""Every round of the campaign holds every kind of fault, and the recorded campaign lost nothing."""

import random
from collections import Counter
from pathlib import Path

from pretrain.runtime.machine import PROJECT_ROOT
from pretrain.runtime.storage import read_json
from tools.trials.cluster import Cluster
from tools.trials.fault_campaign import ONE_AT_A_TIME, ROUND, Campaign, CampaignSettings

RECORD = PROJECT_ROOT / "tools" / "benchmarks" / "records" / "faults_epyc.json"


def test_every_round_draws_every_kind_and_one_slow_fault_at_a_time(tmp_path: Path) -> None:
    campaign = Campaign(Cluster(tmp_path), Path("/proc"), CampaignSettings(), random.Random(0))  # /proc: a mount
    drawn = []
    for _ in range(sum(ROUND.values())):
        drawn.append(campaign._draw())
        campaign.deck.remove(drawn[-1])
    assert Counter(drawn) == Counter(ROUND)
    campaign.later.append((0.0, lambda: None))
    campaign.deck = list(ONE_AT_A_TIME)
    assert campaign._draw() == "", "the last slow fault is not mended yet"


def test_without_a_disk_of_its_own_the_campaign_fills_none(tmp_path: Path) -> None:
    campaign = Campaign(Cluster(tmp_path), tmp_path, CampaignSettings(), random.Random(0))
    campaign._draw()
    assert set(campaign.deck) == set(ROUND) - {"disk full"}


def test_recorded_campaign_finished_every_chain_and_lost_nothing() -> None:
    record = read_json(RECORD)
    assert sum(record["by_kind"].values()) == record["faults"] >= 200
    assert set(record["by_kind"]) <= set(ROUND)
    assert record["chains"] == record["finished"] > 0
    assert (record["steps_lost_beyond_checkpoint"], record["wrong_verdicts"], record["wrong"]) == (0, 0, [])
    assert record["identical_weights"] is True

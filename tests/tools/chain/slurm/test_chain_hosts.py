"""A host is bad if starts die there without a step; at most half of a partition is excluded."""

from pathlib import Path
from typing import Any

import pytest

from pretrain.runtime.storage import read_json, write_json
from tools.chain.slurm import hosts
from tools.chain.slurm.hosts import BAD_HOSTS, find_bad_hosts, must_leave_host

SPEC: dict[str, Any] = {"slurm": {"max_bad_hosts": 4}, "resources": {"partition": "gpu", "exclude": "old"}}
OWN = {"job_id": "7", "restart": 3}


@pytest.fixture(autouse=True)
def cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight nodes, as sinfo would list them; tests/slurm uses the real sinfo."""
    monkeypatch.setattr(hosts, "list_nodes", lambda _partition: {f"n{number}" for number in range(8)})


def add(folder: Path, node: str, outcome: str | None, from_step: int = 0, **values: Any) -> None:
    number = 1 + len(list(folder.glob("attempts/*.json")))
    about = {"number": number, "node": node, "outcome": outcome, "from_step": from_step, "job_id": "7"}
    write_json(folder / "attempts" / f"{number:04d}.json", {"host": "elsewhere", **about, **values})


def find(folder: Path, most: int = 4) -> list[str]:
    return find_bad_hosts([folder], most, "gpu", OWN)


def test_two_deaths_without_a_step_make_a_host_bad_and_verdicts_do_not(tmp_path: Path) -> None:
    for node in ("n1", "n2", "n2", "n3", "n3"):
        outcome = {"n1": "killed", "n2": "killed", "n3": "error"}[node]
        add(tmp_path, node, outcome, to_step=0)
    assert find(tmp_path) == ["n2"], "once is chance, and an error is the code's"
    add(tmp_path, "n1", "killed", to_step=5)
    assert find(tmp_path) == ["n2"], "it got on there"


def test_attempt_lost_with_its_node_counts_by_where_the_next_one_began(tmp_path: Path) -> None:
    for from_step in (0, 0, 9, 9):
        add(tmp_path, "n1", None, from_step)
    assert find(tmp_path) == ["n1"], "0 → 0 and 9 → 9, but 0 → 9 got on"


def test_no_more_hosts_than_allowed_and_never_most_of_a_partition(tmp_path: Path) -> None:
    for node in ["n0", "n1", "n2", "n3", "n4", "n5"] * 2:
        add(tmp_path, node, "killed", to_step=0)
    assert len(find(tmp_path, most=2)) == 2
    assert len(find(tmp_path, most=9)) == 4
    assert find(tmp_path, most=0) == []


def test_job_on_a_bad_host_notes_it_beside_those_excluded_by_the_chain(tmp_path: Path) -> None:
    assert not must_leave_host(tmp_path, SPEC, OWN, "n1")
    assert not (tmp_path / BAD_HOSTS).exists()
    for _ in range(2):
        add(tmp_path, "n1", "killed", to_step=0)
    assert must_leave_host(tmp_path, SPEC, OWN, "n1")
    assert not must_leave_host(tmp_path, SPEC, OWN, "n2")
    assert (tmp_path / BAD_HOSTS).read_text() == "old,n1"
    assert read_json(tmp_path / "attempts" / "0001.json")["outcome"] == "killed"

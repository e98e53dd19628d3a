"""One run of a stage at a time: the attempt's file is the lease, its touch the heartbeat."""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from pretrain.runtime.storage import append_json_line, read_json, write_json
from tools.chain.record import attempts
from tools.chain.record.attempts import claim_attempt, count_against_budget, end_attempt, is_alive, read_attempts
from tools.chain.run.run_stage import StopRequest

JOB: dict[str, Any] = {"backend": "local", "job_id": "", "restart": 0, "gpu": [], "from_step": 0}


def claim_as(folder: Path, **values: Any) -> Path | None:
    return claim_attempt(folder, {**JOB, **values})


def rewrite(path: Path, **values: Any) -> None:
    write_json(path, {**read_json(path), **values})


def test_second_run_finds_the_stage_taken_until_the_first_ends(tmp_path: Path) -> None:
    first = claim_as(tmp_path)
    assert first is not None
    assert first.name == "0001.json"
    assert claim_as(tmp_path) is None
    end_attempt(first, outcome="yield", to_step=7)
    second = claim_as(tmp_path)
    assert second is not None
    assert [entry.get("outcome") for entry in read_attempts(tmp_path)] == ["yield", None]


def test_of_many_that_start_at_once_one_wins(tmp_path: Path) -> None:
    barrier, wins = threading.Barrier(8), []

    def start() -> None:
        barrier.wait()
        wins.append(claim_as(tmp_path))

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len([path for path in wins if path]) == 1
    assert [path.name for path in (tmp_path / "attempts").iterdir()] == ["0001.json"]


def test_attempt_of_a_killed_process_is_dead_even_when_its_number_lives_again(tmp_path: Path) -> None:
    path = claim_as(tmp_path)
    assert path is not None
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    rewrite(path, pid=child.pid)
    assert not is_alive(read_attempts(tmp_path)[0])
    rewrite(path, pid=os.getpid(), born=1)
    assert not is_alive(read_attempts(tmp_path)[0]), "another process has the number now"


def test_attempt_on_another_host_lives_by_its_heartbeat(tmp_path: Path) -> None:
    path = claim_as(tmp_path)
    assert path is not None
    rewrite(path, host="elsewhere")
    assert claim_as(tmp_path) is None
    os.utime(path, (time.time() - 100, time.time() - 100))
    assert claim_as(tmp_path) is not None


def test_restart_of_a_job_takes_over_from_its_earlier_run(tmp_path: Path) -> None:
    assert claim_as(tmp_path, job_id="7")
    assert claim_as(tmp_path, job_id="8", restart=0) is None
    assert claim_as(tmp_path, job_id="7", restart=1)


def test_taken_over_attempt_learns_of_it_and_the_new_one_waits_for_its_end(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(attempts, "HEARTBEAT_S", 0.2)
    old = claim_as(tmp_path, job_id="7")
    assert old is not None
    ended = threading.Event()

    def supersede() -> None:
        end_attempt(old, outcome="superseded")
        ended.set()

    heartbeat = attempts.Heartbeat(old, supersede, cancel=pytest.fail)
    heartbeat.start()
    new = claim_as(tmp_path, job_id="7", restart=1)
    assert new is not None
    attempts.wait_for_predecessor(new, {"restart": 1})
    assert ended.is_set()
    heartbeat.stop()


def test_cancelled_attempt_learns_of_it_on_whatever_machine_it_runs(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(attempts, "HEARTBEAT_S", 0.05)
    path = claim_as(tmp_path)
    assert path is not None
    stop = StopRequest()
    heartbeat = attempts.Heartbeat(path, stop.supersede, stop.cancel)
    heartbeat.start()
    assert stop.ask() == ""
    (tmp_path / "STOP").touch()
    until = time.monotonic() + 20
    while not stop.ask() and time.monotonic() < until:
        time.sleep(0.05)
    heartbeat.stop()
    assert (stop.ask(), stop.by_person, stop.superseded) == ("cancelled", True, False)


def test_reader_without_write_access_sees_which_attempts_live(tmp_path: Path, monkeypatch: Any) -> None:
    """A folder in place of the temporary one: mkstemp fails there for root as it does elsewhere for others."""
    path = claim_as(tmp_path)
    assert path is not None
    rewrite(path, host="elsewhere")
    monkeypatch.setattr(attempts, "TEMPORARY_PREFIX", "missing/")
    assert is_alive(read_attempts(tmp_path)[0])
    os.utime(path, (time.time() - 100, time.time() - 100))
    assert not is_alive(read_attempts(tmp_path)[0])


def test_budget_counts_no_stops_by_a_person_and_begins_anew_at_a_retry(tmp_path: Path) -> None:
    for outcome in ("stopped", "killed", "yield"):
        path = claim_as(tmp_path)
        assert path is not None
        end_attempt(path, outcome=outcome)
    assert [entry["outcome"] for entry in count_against_budget(tmp_path)] == ["killed", "yield"]
    append_json_line(tmp_path / "ledger.jsonl", {"event": "retry", "attempts": 3})
    assert count_against_budget(tmp_path) == []


def test_unreadable_attempt_is_left_out(tmp_path: Path) -> None:
    assert claim_as(tmp_path)
    (tmp_path / "attempts" / "0002.json").write_text(json.dumps({})[:1])
    assert len(read_attempts(tmp_path)) == 1


def test_checkpoint_step_is_read_from_the_newest_name(tmp_path: Path) -> None:
    assert attempts.find_checkpoint_step(tmp_path) == 0
    (tmp_path / "checkpoints").mkdir()
    for name in ("checkpoint_00000120.pt", "checkpoint_00000120.pt.sha256", "model_0000099.pth", ".partial-x.999.pt"):
        (tmp_path / "checkpoints" / name).touch()
    assert attempts.find_checkpoint_step(tmp_path) == 120

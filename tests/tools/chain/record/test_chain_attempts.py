"""A stage runs once at a time: the attempt's file is the lease, and touching it the heartbeat."""

import errno
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
from tools.chain.record.stop_request import StopRequest

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
    """mkstemp fails in this folder, also for root."""
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


DAMAGED = [
    b"",
    b"{",
    b"[]",
    b"null",
    b"\0\0\0",
    b"\xff\xfe",
    b"{}",
    b'{"outcome": 3}',
    b'{"host": 1, "pid": "x"}',
    b"3",
]


@pytest.mark.parametrize("content", DAMAGED)
def test_damaged_attempt_lives_while_it_is_touched_and_then_the_next_number_is_taken(
    tmp_path: Path, content: bytes
) -> None:
    first = claim_as(tmp_path)
    assert first is not None
    end_attempt(first, outcome="yield")
    damaged = tmp_path / "attempts" / "0002.json"
    damaged.write_bytes(content)
    assert claim_as(tmp_path) is None, "it may be a live run whose file was damaged"
    os.utime(damaged, (time.time() - 100, time.time() - 100))
    entries = read_attempts(tmp_path)
    assert [entry["number"] for entry in entries] == [1, 2]
    assert attempts.is_known_dead(entries[1])
    third = claim_as(tmp_path)
    assert third is not None
    assert third.name == "0003.json"


def test_start_outwaits_a_damaged_attempt_and_takes_the_next_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempts, "DEAD_AFTER_S", 0.5)
    (tmp_path / "attempts").mkdir()
    (tmp_path / "attempts" / "0001.json").write_bytes(b"")
    path = attempts.wait_and_claim(tmp_path, JOB, lambda: "")
    assert path is not None
    assert path.name == "0002.json"
    assert attempts.wait_and_claim(tmp_path, JOB, lambda: "") is None, "a sound one that lives is not waited for"


def test_damaged_attempt_can_be_ended(tmp_path: Path) -> None:
    path = claim_as(tmp_path)
    assert path is not None
    path.write_bytes(b"\xff")
    end_attempt(path, outcome="done", to_step=3)
    assert [(entry["outcome"], entry["to_step"]) for entry in read_attempts(tmp_path)] == [("done", 3)]


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOTSUP, errno.ENOSYS])
def test_of_many_that_start_at_once_one_wins_without_hard_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", refuse)
    test_of_many_that_start_at_once_one_wins(tmp_path)
    assert read_attempts(tmp_path)[0]["pid"] == os.getpid()


def test_link_that_the_file_server_made_twice_counts_as_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.link

    def link(source: Path, target: Path) -> None:
        real(source, target)
        raise FileExistsError(errno.EEXIST, "File exists")

    monkeypatch.setattr(os, "link", link)
    assert claim_as(tmp_path)


def test_heartbeat_outlives_a_stale_file_handle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts, "HEARTBEAT_S", 0.02)
    path = claim_as(tmp_path)
    assert path is not None
    real, left = os.stat, [errno.ESTALE, errno.EIO, errno.EACCES]

    def stat(*words: Any, **more: Any) -> os.stat_result:
        if left and threading.current_thread() is heartbeat:
            raise OSError(left.pop(), "Stale file handle")
        return real(*words, **more)

    stop = StopRequest()
    heartbeat = attempts.Heartbeat(path, stop.supersede, stop.cancel)
    monkeypatch.setattr(os, "stat", stat)
    heartbeat.start()
    until = time.monotonic() + 20
    while left and time.monotonic() < until:
        time.sleep(0.02)
    (tmp_path / "STOP").touch()
    while not stop.ask() and time.monotonic() < until:
        time.sleep(0.02)
    heartbeat.stop()
    assert (left, stop.ask()) == ([], "cancelled")


@pytest.mark.parametrize("left_behind", [None, b"", b"{}"])
def test_wait_for_a_predecessor_whose_file_is_gone_or_damaged_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left_behind: bytes | None
) -> None:
    monkeypatch.setattr(attempts, "HEARTBEAT_S", 0.2)
    old = claim_as(tmp_path, job_id="7")
    assert old is not None
    rewrite(old, host="elsewhere")
    new = claim_as(tmp_path, job_id="7", restart=1)
    assert new is not None
    waiting = threading.Thread(target=attempts.wait_for_predecessor, args=(new, {"restart": 1}))
    waiting.start()
    time.sleep(0.1)
    old.unlink() if left_behind is None else old.write_bytes(left_behind)
    waiting.join(20)
    assert not waiting.is_alive()


def test_checkpoint_step_is_read_from_the_newest_name(tmp_path: Path) -> None:
    assert attempts.find_checkpoint_step(tmp_path) == 0
    (tmp_path / "checkpoints").mkdir()
    for name in ("checkpoint_00000120.pt", "checkpoint_00000120.pt.sha256", "model_0000099.pth", ".partial-x.999.pt"):
        (tmp_path / "checkpoints" / name).touch()
    assert attempts.find_checkpoint_step(tmp_path) == 120

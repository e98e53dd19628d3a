"""The heartbeat reports the progress of a run."""

import time
from pathlib import Path

import pytest

from pretrain.runtime.progress import Heartbeat
from pretrain.runtime.storage import read_json


def test_first_and_last_beats_are_written_and_the_rate_counts_this_process_only(tmp_path: Path) -> None:
    heartbeat = Heartbeat(tmp_path, 10, first_step=4)
    heartbeat.beat(5)
    assert read_json(tmp_path / "progress.json")["step"] == 5
    heartbeat.beat(6)
    assert read_json(tmp_path / "progress.json")["step"] == 5, (
        "a beat less than a second after the last write is not written"
    )
    time.sleep(0.05)
    heartbeat.beat(10, "evaluating")
    last = read_json(tmp_path / "progress.json")
    assert (last["step"], last["total"], last["phase"], last["eta_s"]) == (10, 10, "evaluating", 0)
    assert 0 < last["rate_per_s"] <= 6 / 0.05


def test_beat_before_the_first_step_has_no_eta(tmp_path: Path) -> None:
    Heartbeat(tmp_path, 10).beat(0)
    assert read_json(tmp_path / "progress.json")["eta_s"] is None


def test_failed_progress_writes_do_not_end_the_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    heartbeat = Heartbeat(tmp_path / "file" / "below", total=3)
    (tmp_path / "file").touch()
    for step in range(1, 4):
        heartbeat.beat(step, now=True)
    assert caplog.text.count("progress cannot be written") == 1
    (tmp_path / "file").unlink()
    heartbeat.beat(3)
    assert read_json(tmp_path / "file" / "below" / "progress.json")["step"] == 3

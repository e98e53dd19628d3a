"""The status shows why each attempt ended, how long jobs were queued, and the earliest end; the end is notified."""

import http.server
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml

from pretrain.runtime.machine import PROJECT_ROOT
from pretrain.runtime.storage import append_json_line, write_json
from tools.chain.outlook import say_outlook
from tools.chain.record.attempt_reasons import queue_wait_s, say_attempts, say_outcome
from tools.chain.record.state import stage_folder
from tools.chain.status import describe_stages, write_table
from tools.chain.submit import Chain, freeze, open_chain

NOW = 1_700_000_000.0
CHAIN: dict[str, Any] = {
    "report": False,
    "stages": {
        "train": {"command": ["{python}", "-m", "my.training", "x"], "seeds": [0, 1]},
        "last": {"command": ["true"], "after": ["train-seed0", "train-seed1"]},
    },
    "resources": {"default": {"gpus": 2}},
}


@pytest.fixture
def chain(tmp_path: Path) -> Chain:
    (tmp_path / "chain.yaml").write_text(yaml.safe_dump(CHAIN))
    chain = open_chain(tmp_path / "chain.yaml", [f"runs={tmp_path}"])
    freeze(chain)
    return chain


def folder_of(chain: Chain, name: str) -> Path:
    return next(stage_folder(chain.folder, stage.folder) for stage in chain.stages if stage.name == name)


def add_attempt(folder: Path, number: int, **values: Any) -> None:
    common = {"number": number, "host": "n1", "pid": 1, "born": 0, "job_id": "7", "began": NOW, "from_step": 0}
    write_json(folder / "attempts" / f"{number:04d}.json", common | values)


@pytest.mark.parametrize(
    ("attempt", "words"),
    [
        ({"outcome": "yield", "reason": "time limit"}, "time limit"),
        ({"outcome": "yield", "reason": "SIGTERM"}, "preempted or asked to end (SIGTERM)"),
        ({"outcome": "killed", "reason": "signal SIGKILL"}, "killed (SIGKILL)"),
        ({"outcome": "superseded", "reason": "superseded"}, "node lost"),
        ({"outcome": None, "job_id": "3"}, "node lost"),
        ({"outcome": None, "job_id": ""}, "process lost"),
        ({"outcome": "quota", "reason": "x"}, "disk full"),
        ({"outcome": "error", "reason": "exit code 1"}, "exit code 1"),
    ],
)
def test_reason_of_an_attempt_is_said_in_words(attempt: dict[str, Any], words: str) -> None:
    assert say_outcome(attempt, is_running=False) == words
    assert say_outcome(attempt, is_running=True) == "running"


def test_equal_reasons_are_counted_and_success_is_none() -> None:
    assert say_attempts(["time limit", "node lost", "time limit", "done"]) == "time limit ×2, node lost"
    assert say_attempts(["done"]) == ""


def test_wait_is_from_the_submit_to_the_start_of_that_job() -> None:
    ledger = [
        {"event": "submitted", "job_id": "7", "time": NOW},
        {"event": "submitted", "job_id": "9", "time": NOW + 100},
    ]
    attempts = [{"job_id": "7", "began": NOW + 50}]
    assert queue_wait_s([], attempts, NOW) is None
    assert queue_wait_s(ledger[:1], attempts, NOW + 999) == 50
    assert queue_wait_s(ledger, attempts, NOW + 160) == 60, "the second job waits still"


def test_table_shows_earlier_attempts_and_the_line_of_sums(chain: Chain) -> None:
    first, second = (folder_of(chain, f"train-seed{seed}") for seed in (0, 1))
    append_json_line(first / "ledger.jsonl", {"event": "submitted", "job_id": "7", "time": NOW - 90})
    add_attempt(first, 1, outcome="yield", reason="time limit", seconds=1800, gpu=["A"])
    add_attempt(first, 2, outcome="done", seconds=1800, gpu=["A"])
    write_json(first / "DONE.json", {"outputs": {}})
    add_attempt(second, 1, outcome="killed", reason="signal SIGKILL", seconds=0)
    rows = describe_stages(chain.folder, chain.stages)
    table = write_table(rows).splitlines()
    assert "waited" in table[0]
    assert "earlier" in table[0]
    assert "1:30" in table[1]
    assert "time limit" in table[1]
    assert "killed (SIGKILL)" in table[2]
    assert rows[0]["gpu_hours"] == 2.0, "an hour on two GPUs"
    line = say_outlook(chain.folder, chain.stages, rows, NOW)
    assert line == "1 of 3 done, 2 pending; 2.0 GPU-hours used; end unknown: no stage like last has finished yet"
    add_attempt(folder_of(chain, "last"), 1, outcome="done", seconds=60)
    write_json(folder_of(chain, "last") / "DONE.json", {"outputs": {}})
    rows = describe_stages(chain.folder, chain.stages)
    clock = time.strftime("%a %H:%M", time.localtime(NOW + 3600))
    assert f"done {clock} at the earliest (in 1:00:00)" in say_outlook(chain.folder, chain.stages, rows, NOW)


class Receiver(http.server.BaseHTTPRequestHandler):
    got: ClassVar[list[dict[str, Any]]] = []

    def do_POST(self) -> None:
        Receiver.got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_arguments: object) -> None:
        pass


@pytest.fixture
def address() -> Iterator[str]:
    server = http.server.HTTPServer(("127.0.0.1", 0), Receiver)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    Receiver.got.clear()
    yield f"http://127.0.0.1:{server.server_port}/hook"
    server.shutdown()
    server.server_close()


def test_notification_is_the_last_stage_and_needs_no_gpu(tmp_path: Path) -> None:
    chain = CHAIN | {"report": True, "notify": {"command": ["echo", "a b"]}}
    (tmp_path / "chain.yaml").write_text(yaml.safe_dump(chain))
    stages = open_chain(tmp_path / "chain.yaml", [f"runs={tmp_path}"]).stages
    assert [stage.name for stage in stages][-2:] == ["report", "notify"]
    assert set(stages[-1].upstream) == {"train-seed0", "train-seed1", "last", "report"}
    assert "notify" not in stages[-2].upstream
    assert stages[-1].resources.gpus == 0
    with pytest.raises(ValueError, match="expected an address that begins with https"):
        open_chain(tmp_path / "chain.yaml", ["notify.url=file:///etc/passwd"])


@pytest.mark.slow
def test_end_of_a_chain_is_told_once_with_what_failed(tmp_path: Path, address: str) -> None:
    said = tmp_path / "said"
    code = f"import sys; open({str(said)!r}, 'a').write(sys.argv[1])"
    values = {
        "runs": str(tmp_path),
        "report": False,
        "budgets": {"min_free_gb": 0.001},
        "stages": {"good": {"command": ["true"]}, "bad": {"command": ["false"]}},
        "notify": {"command": ["{python}", "-c", code], "url": address},
    }
    values["notify"]["command"][0] = sys.executable  # type: ignore[index]
    path = tmp_path / "chain.yaml"
    path.write_text(yaml.safe_dump(values))
    for _ in range(2):
        command = [sys.executable, "-m", "tools.chain", "submit", str(path)]
        assert subprocess.run(command, cwd=PROJECT_ROOT, stdout=subprocess.DEVNULL, check=False).returncode == 1
    (message,) = Receiver.got
    assert (message["chain"], message["state"], message["counts"]) == ("chain", "failed", {"done": 1, "failed": 1})
    assert "bad" in message["failed"]
    assert said.read_text() == message["text"]

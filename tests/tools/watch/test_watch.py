"""The page of a running chain: what it shows, which requests it serves, and that it changes no file."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.making.browsing import open_browser
from tools.chain.plan.config import ChainConfig, OwnStage
from tools.chain.plan.make_plan import make_plan
from tools.chain.record.state import stage_as_dict
from tools.watch.__main__ import main
from tools.watch.snapshot import ChainWatcher

STAGE = """
import sys, time, pathlib
from pretrain.runtime.progress import Heartbeat
from pretrain.runtime.storage import append_json_line
out, gate = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
beat, step = Heartbeat(out, 1000), 0
while not gate.exists():
    step += 1
    append_json_line(out / "metrics.jsonl", {"step": step, "loss": 1 / step})
    beat.beat(step, now=True)
    time.sleep(0.1)
(out / "result.txt").write_text("done")
"""


def write_plan(folder: Path, names: list[str], **more: Any) -> Path:
    stages = {name: OwnStage(command=("true",)) for name in names}
    plan = make_plan(ChainConfig(name="c", stages=stages, report=False), [folder])
    folder.mkdir(parents=True, exist_ok=True)
    entries = [{**stage_as_dict(stage), "folder": stage.folder} for stage in plan]
    (folder / "chain.json").write_text(json.dumps({"name": "c", "stages": entries, "config": {}, **more}))
    for stage in plan:
        (folder / "stages" / stage.folder).mkdir(parents=True)
    return folder


@pytest.fixture
def serve() -> Iterator[Callable[[Path], str]]:
    running: list[subprocess.Popen[str]] = []

    def start(folder: Path) -> str:
        words = [sys.executable, "-m", "tools.watch", str(folder), "port=0"]
        process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        running.append(process)
        assert process.stdout is not None
        return process.stdout.readline().split(" at ")[1].split(" ")[0]

    yield start
    for process in running:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=20)


def get(url: str, **headers: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=20) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_snapshot_reads_ended_stages_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_plan(tmp_path / "c", [f"s{index}" for index in range(50)])
    for path in (folder / "stages").iterdir():
        (path / "DONE.json").write_text('{"outputs": {}}')
    watcher = ChainWatcher(folder)
    assert watcher.refresh()["sums"]["states"] == {"done": 50}
    read: list[Path] = []

    def record(path: Path) -> dict[str, Any]:
        read.append(path)
        return {}

    monkeypatch.setattr("tools.watch.snapshot.read_progress", record)
    watcher.refresh()
    assert read == []


@pytest.mark.parametrize(
    "content", ["", "[]", "{", '{"step": NaN}', '{"step": "x", "time": [], "total": {}}', "\x00\xff"]
)
def test_damaged_files_never_break_the_snapshot(tmp_path: Path, content: str) -> None:
    folder = write_plan(tmp_path / "c", ["one", "two"])
    for path in (folder / "stages").iterdir():
        (path / "attempts").mkdir()
        for name in ("progress.json", "metrics.jsonl", "attempts/0001.json"):
            (path / name).write_text(content)
    (folder / "report").mkdir()
    (folder / "report" / "summary.json").write_text(content)
    watcher = ChainWatcher(folder)
    json.dumps(watcher.refresh(), allow_nan=False)
    json.dumps(watcher.describe_stage(0), allow_nan=False)


def test_only_local_names_and_planned_stages_are_served(tmp_path: Path, serve: Callable[[Path], str]) -> None:
    (tmp_path / "secret.txt").write_text("secret")
    url = serve(write_plan(tmp_path / "c", ["one"]))
    assert get(url)[0] == 200
    assert get(url, Host="evil.example")[0] == 400
    assert get(url, Host="127.0.0.1.evil.example")[0] == 400
    for path in (
        "api/stage/1",
        "api/stage/-1",
        "api/stage/..%2f..%2fsecret.txt",
        "assets/..%2f..%2fsecret.txt",
        "secret.txt",
    ):
        status, text = get(url + path)
        assert status == 404, path
        assert "secret" not in text
    assert get(url, **{"X-Forwarded-Host": "evil.example"})[0] == 200


def test_watching_changes_no_file(tmp_path: Path, serve: Callable[[Path], str]) -> None:
    folder = write_plan(tmp_path / "c", ["one"])
    before = sorted((str(path), path.stat().st_mtime_ns) for path in folder.rglob("*"))
    url = serve(folder)
    for _ in range(3):
        assert get(url + "api/snapshot")[0] == 200
    assert sorted((str(path), path.stat().st_mtime_ns) for path in folder.rglob("*")) == before


def test_static_page_holds_its_data_and_escapes_names(tmp_path: Path) -> None:
    folder = write_plan(tmp_path / "c", ["one"], name="</script><script>document.title='taken'</script><!--<script>")
    assert main([str(folder), f"static={tmp_path / 'out'}"]) == 0
    page = (tmp_path / "out" / "index.html").read_text()
    held = page.split('id="held">')[1].split("</script>")[0]
    assert json.loads(held)["snapshot"]["name"].startswith("</script>")
    assert "<!--<script>" not in page


def test_a_port_in_use_is_an_error_without_a_traceback(tmp_path: Path, serve: Callable[[Path], str]) -> None:
    folder = write_plan(tmp_path / "c", ["one"])
    port = serve(folder).rsplit(":", 1)[1].strip("/")
    done = subprocess.run(
        [sys.executable, "-m", "tools.watch", str(folder), f"port={port}"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert f"port {port}" in done.stderr
    assert "Traceback" not in done.stderr


def wait_for(ready: Callable[[], Any], seconds: float = 60) -> Any:
    until = time.monotonic() + seconds
    while not (value := ready()):
        assert time.monotonic() < until, f"not ready after {seconds} s"
        time.sleep(0.2)
    return value


@pytest.mark.slow
@pytest.mark.xdist_group("browser")
def test_browser_shows_a_stage_start_its_curve_grow_a_kill_and_the_end(
    tmp_path: Path, serve: Callable[[Path], str]
) -> None:
    (tmp_path / "stage.py").write_text(STAGE)
    gate = tmp_path / "gate"
    command = ["{python}", str(tmp_path / "stage.py"), "{out}", str(gate)]
    evil = "<img src=x onerror=document.title='taken'>"
    stages = {"first": {"command": command, "outputs": ["result.txt"]}, evil: {"command": ["true"], "after": ["first"]}}
    (tmp_path / "live.yaml").write_text(
        yaml.safe_dump({"runs": str(tmp_path), "report": False, "stages": stages, "budgets": {"min_free_gb": 0.001}})
    )
    words = [sys.executable, "-m", "tools.chain", "submit", str(tmp_path / "live.yaml")]
    chain = subprocess.Popen(words, stdout=subprocess.DEVNULL)
    try:
        wait_for(lambda: list(tmp_path.glob("live/stages/first-*/metrics.jsonl")))
        url = serve(tmp_path / "live")
        with open_browser() as browser:
            browser.get(url)
            state = "return document.querySelector('[data-stage=first]')?.className || ''"
            wait_for(lambda: "running" in browser.execute_script(state))
            browser.execute_script("document.querySelector('[data-stage=first]').click()")
            points = "return Number(document.querySelector('#curves [data-name=loss]')?.dataset.last || 0)"
            first = wait_for(lambda: browser.execute_script(points))
            wait_for(lambda: browser.execute_script(points) > first)
            pids = [
                json.loads(path.read_text())["pid"] for path in tmp_path.glob("live/stages/first-*/attempts/*.json")
            ]
            os.kill(pids[0], signal.SIGKILL)
            rows = "return document.querySelectorAll('#attempts tr').length"
            wait_for(lambda: browser.execute_script(rows) >= 3, 120)
            gate.touch()
            chain.wait(120)
            wait_for(lambda: "done" in browser.execute_script(state))
            assert browser.title != "taken"
            assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
            requested = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
            urls = [e["params"]["request"]["url"] for e in requested if e["method"] == "Network.requestWillBeSent"]
            assert urls
            assert all(address.startswith((url, "data:", "blob:", "chrome:")) for address in urls), urls
    finally:
        gate.touch()
        chain.wait(120)

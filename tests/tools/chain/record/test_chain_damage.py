"""With any kind of damaged state, every command prints its table or an error sentence, and a submit repairs it."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pretrain.runtime.storage import append_json_line, read_json, write_json
from tools.chain.__main__ import main as run_chain
from tools.chain.plan.export import export_code
from tools.chain.record.attempts import claim_attempt, end_attempt, read_attempts
from tools.chain.record.state import clear_for_run, find_states, read_plan, read_spec, stage_folder
from tools.chain.run.gate import list_outputs
from tools.chain.submit import Chain, freeze, open_chain
from tools.report.stage_record import read_stage

JOB = {"backend": "local", "job_id": "7", "restart": 0, "gpu": [], "from_step": 0}
DAMAGE = {
    "empty": lambda _content: b"",
    "cut": lambda content: content[: len(content) // 2],
    "zeros": lambda content: b"\0" * len(content),
    "binary": lambda _content: b"\xff\xfe\x00\x80",
    "list": lambda _content: b"[1, 2]\n",
    "null": lambda _content: b"null\n",
    "number": lambda _content: b"3\n",
    "object": lambda _content: b"{}\n",
    "wrong types": lambda _content: (
        b'{"stages": [3], "outputs": [], "kind": 3, "step": "x", "total": 4, "outcome": 7, "code": 1, "event": 3}\n'
    ),
}
STATE = ("chain.json", "spec.json", "DONE.json", "FAILED.json", "progress.json", "attempts", "ledger.jsonl", "metrics")
TEXT = """
runs: {runs}
report: false
stages:
  train: {{command: [x]}}
  voc: {{command: [x, "{{stage:train}}"]}}
  after: {{command: [x], after: [voc], always: true}}
"""


@pytest.fixture(scope="module")
def code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The exported source, once for all tests."""
    folder = tmp_path_factory.mktemp("exported")
    export_code(folder)
    return folder / "code"


@pytest.fixture
def chain(tmp_path: Path, code: Path) -> Chain:
    """An unfinished chain: train done, voc failed, "after" killed; every kind of file exists."""
    path = tmp_path / "chain.yaml"
    (tmp_path / "chain").mkdir()
    (tmp_path / "chain" / "code").symlink_to(code)
    path.write_text(TEXT.format(runs=tmp_path))
    chain = open_chain(path)
    freeze(chain)
    for stage, outcome in zip(chain.stages, ("done", "error", None), strict=True):
        folder = stage_folder(chain.folder, stage.folder)
        write_json(folder / "progress.json", {"step": 1, "total": 2, "rate_per_s": 0.5, "eta_s": 2, "time": 1.0})
        write_json(folder / "metrics.json", {"metrics": {"top1": 1.0}})
        append_json_line(folder / "ledger.jsonl", {"event": "retry", "attempts": 0})
        attempt = claim_attempt(folder, JOB)
        assert attempt is not None
        if outcome:
            end_attempt(attempt, outcome=outcome)
        else:
            write_json(attempt, {**read_json(attempt), "born": 1})
    train, voc, _ = (stage_folder(chain.folder, stage.folder) for stage in chain.stages)
    write_json(train / "DONE.json", {"outputs": list_outputs(train), "metrics": None})
    write_json(voc / "FAILED.json", {"kind": "error", "message": "exit code 1", "tail": "ValueError: no class"})
    return chain


def find_files(chain: Chain, name: str) -> list[Path]:
    patterns = {"attempts": "stages/*/attempts/*.json", "metrics": "stages/*/metrics.json", "chain.json": "chain.json"}
    return sorted(chain.folder.glob(patterns.get(name, f"stages/*/{name}")))


def damage_all(chain: Chain, name: str, change: Callable[[bytes], bytes]) -> None:
    files = find_files(chain, name)
    assert files
    for path in files:
        path.write_bytes(change(path.read_bytes()))
        os.utime(path, (time.time() - 100, time.time() - 100))


@pytest.mark.slow
@pytest.mark.parametrize("kind", DAMAGE)
@pytest.mark.parametrize("name", STATE)
def test_every_command_answers_and_a_submit_writes_it_again(
    chain: Chain, name: str, kind: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")  # no Slurm: whether one is installed here does not matter
    damage_all(chain, name, DAMAGE[kind])
    for command in (["status"], ["status", "json=true"], ["plan"], ["cancel"], ["logs", "train"]):
        words = [command[0], str(chain.path), *command[1:]]
        try:
            run_chain(words)
        except ValueError as error:
            assert any(text in str(error) for text in (str(chain.folder), "no log")), "a sentence that names the place"
    assert "Traceback" not in capsys.readouterr().err
    freeze(chain)
    for stage in chain.stages:
        clear_for_run(chain.folder, stage, retry=True)
        assert read_spec(stage_folder(chain.folder, stage.folder))["name"] == stage.name
    assert read_plan(chain.folder)[1] == chain.stages
    states = find_states(chain.folder, chain.stages)
    assert states["train"] == ("pending" if name == "DONE.json" else "done"), "a damaged proof is none"
    assert states["after"] in ("lost", "pending")
    for stage in chain.stages:
        claimed = claim_attempt(stage_folder(chain.folder, stage.folder), JOB)
        assert claimed is not None
        assert claimed.name == "0002.json"


@pytest.mark.parametrize("kind", DAMAGE)
@pytest.mark.parametrize("name", STATE[1:])
def test_report_shows_a_stage_whatever_is_damaged(chain: Chain, name: str, kind: str) -> None:
    damage_all(chain, name, DAMAGE[kind])
    for folder in sorted((chain.folder / "stages").iterdir()):
        stage = read_stage(folder, {})
        assert stage.seconds >= 0
        assert stage.gpu_seconds >= 0
        assert list(stage.survived()) == []
        assert stage.state in ("done", "failed", "pending", "lost", "blocked")


@pytest.mark.parametrize(
    ("change", "state"),
    [
        ({}, "running"),
        ({"born": 1}, "lost"),
        ({"outcome": "yield"}, "pending"),
        ({"outcome": "killed"}, "pending"),
        ({"outcome": "stopped"}, "pending"),
    ],
)
def test_report_shows_the_state_that_the_chain_shows(
    chain: Chain, tmp_path: Path, change: dict[str, Any], state: str
) -> None:
    """A killed, lost or stopped stage is not "running"."""
    clear_for_run(chain.folder, chain.stages[1], retry=True)
    folder = stage_folder(chain.folder, chain.stages[1].folder)
    attempt = claim_attempt(folder, JOB | {"job_id": "8"})
    assert attempt is not None
    write_json(attempt, {**read_json(attempt), **change})
    assert read_stage(folder, {}).state == find_states(chain.folder, chain.stages)["voc"] == state


def test_report_shows_what_a_failed_stage_blocks(chain: Chain) -> None:
    (train,) = (stage_folder(chain.folder, stage.folder) for stage in chain.stages[:1])
    (train / "DONE.json").unlink()
    write_json(train / "FAILED.json", {"kind": "error", "message": "", "tail": ""})
    clear_for_run(chain.folder, chain.stages[1], retry=True)
    states = find_states(chain.folder, chain.stages)
    shown = {stage.name: read_stage(stage_folder(chain.folder, stage.folder), {}).state for stage in chain.stages}
    assert shown == states
    assert shown["voc"] == "blocked"


def test_retry_after_a_gap_in_the_numbers_counts_from_the_newest(chain: Chain) -> None:
    folder = stage_folder(chain.folder, chain.stages[1].folder)
    (folder / "attempts" / "0001.json").rename(folder / "attempts" / "0009.json")
    clear_for_run(chain.folder, chain.stages[1], retry=True)
    assert (folder / "failed-0009.json").exists()
    assert [entry["number"] for entry in read_attempts(folder)] == [9]

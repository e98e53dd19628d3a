"""A stage's state follows from its files alone, and the gate reads the same files."""

import os
import time
from pathlib import Path

import pytest

from pretrain.runtime.storage import append_json_line, read_json, write_json, write_text
from tools.chain.logs import find_logs
from tools.chain.plan.config import ChainConfig, OwnStage
from tools.chain.plan.export import digest_tree, export_code
from tools.chain.plan.make_plan import Stage, make_plan
from tools.chain.record.attempts import claim_attempt, end_attempt
from tools.chain.record.state import (
    clear_for_run,
    find_states,
    is_ready,
    read_plan,
    stage_as_dict,
    stage_folder,
    stage_from_dict,
)  # fmt: skip
from tools.chain.run.gate import digest_inputs, find_closed, list_outputs
from tools.chain.status import describe_stages, say_progress, write_table
from tools.chain.submit import open_chain, submit_lock

JOB = {"backend": "local", "job_id": "", "restart": 0, "gpu": [], "from_step": 0}
STAGES = {
    "train": OwnStage(command=("x",)),
    "voc": OwnStage(command=("x", "{stage:train}")),
    "table": OwnStage(command=("x", "{stage:voc}")),
    "report": OwnStage(command=("x",), after=("train", "voc", "table"), always=True),
}


@pytest.fixture
def plan() -> list[Stage]:
    return make_plan(ChainConfig(report=False, stages=STAGES), [Path()])


def folder_of(chain: Path, plan: list[Stage], name: str) -> Path:
    folder = stage_folder(chain, next(stage.folder for stage in plan if stage.name == name))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def finish(folder: Path) -> None:
    (folder / "weights.bin").write_bytes(b"1234")
    write_json(folder / "DONE.json", {"outputs": list_outputs(folder)})


def test_states_follow_files(tmp_path: Path, plan: list[Stage]) -> None:
    train, voc = folder_of(tmp_path, plan, "train"), folder_of(tmp_path, plan, "voc")
    assert set(find_states(tmp_path, plan).values()) == {"pending"}
    attempt = claim_attempt(train, JOB)
    assert attempt is not None
    assert find_states(tmp_path, plan)["train"] == "running"
    write_json(attempt, {**read_json(attempt), "born": 1})
    assert find_states(tmp_path, plan)["train"] == "lost"
    end_attempt(attempt, outcome="yield", to_step=3)
    states = find_states(tmp_path, plan)
    assert states["train"] == "pending"
    assert [stage.name for stage in plan if is_ready(stage, states)] == ["train"]
    finish(train)
    write_json(voc / "FAILED.json", {"kind": "error", "message": "exit code 1", "tail": "ValueError: no such class"})
    states = find_states(tmp_path, plan)
    assert states == {"train": "done", "voc": "failed", "table": "blocked", "report": "pending"}
    assert [stage.name for stage in plan if is_ready(stage, states)] == ["report"]
    clear_for_run(tmp_path, plan[1], retry=True)
    assert find_states(tmp_path, plan)["table"] == "pending"
    assert (voc / "failed-0000.json").exists(), "the verdict is kept"


def test_stage_that_runs_always_is_done_only_for_the_states_it_saw(tmp_path: Path, plan: list[Stage]) -> None:
    finish(folder_of(tmp_path, plan, "train"))
    seen = {"train": "done", "voc": "pending", "table": "pending"}
    path = folder_of(tmp_path, plan, "report") / "DONE.json"
    write_json(path, {"outputs": {}, "upstream_states": seen})
    assert find_states(tmp_path, plan)["report"] == "done"
    finish(folder_of(tmp_path, plan, "voc"))
    assert find_states(tmp_path, plan)["report"] == "pending"


def test_gate_names_what_is_missing_or_changed(tmp_path: Path, plan: list[Stage]) -> None:
    voc, train = plan[1], folder_of(tmp_path, plan, "train")
    assert "stage train is not done" in find_closed(tmp_path, voc, "")[0]
    finish(train)
    assert find_closed(tmp_path, voc, "") == []
    before = digest_inputs(tmp_path, voc)
    (train / "weights.bin").write_bytes(b"4321")
    assert "not as stage train left it" in find_closed(tmp_path, voc, "")[0]
    (train / "weights.bin").unlink()
    assert len(find_closed(tmp_path, voc, "")) == 1
    assert digest_inputs(tmp_path, voc) == before


def test_export_is_whole_and_a_changed_copy_closes_the_gate(tmp_path: Path, plan: list[Stage]) -> None:
    code = export_code(tmp_path)
    copy = tmp_path / "code" / code
    assert digest_tree(copy) == code
    assert export_code(tmp_path) == code
    assert not list((tmp_path / "code").glob(".partial-*"))
    (copy / "tools" / "make_digits.py").write_text("")
    assert "the exported code was changed" in find_closed(tmp_path, plan[0], code)[0]


def test_stage_survives_its_json(plan: list[Stage]) -> None:
    assert [stage_from_dict(stage_as_dict(stage)) for stage in plan] == plan


def test_status_shows_progress_and_the_last_error_line(tmp_path: Path, plan: list[Stage]) -> None:
    train, voc = folder_of(tmp_path, plan, "train"), folder_of(tmp_path, plan, "voc")
    claim_attempt(train, JOB)
    write_json(
        train / "progress.json",
        {"step": 30, "total": 60, "rate_per_s": 0.5, "eta_s": 3600, "time": time.time() + 1, "phase": "epoch 2"},
    )
    write_json(voc / "FAILED.json", {"kind": "error", "message": "exit code 1", "tail": "a\nValueError: no class\n"})
    rows = {row["stage"]: row for row in describe_stages(tmp_path, plan)}
    assert (rows["train"]["step"], rows["train"]["rate"], rows["train"]["eta"]) == ("30/60", "2 s each", "1:00:00")
    assert rows["train"]["note"] == "epoch 2"
    assert rows["voc"]["note"] == "error: ValueError: no class"
    table = write_table(list(rows.values())).splitlines()
    assert table[0].split() == ["stage", "state", "attempt", "step", "rate", "eta", "host", "note"]
    assert say_progress({"step": 3, "total": 4, "unit": "epochs", "phase": "linear"}) == "epochs 3/4 (75 %), linear"


def test_name_in_the_table_hides_nothing() -> None:
    table = write_table([{"stage": "voc\x1b[2K\r", "state": "failed", "note": "error: \u202egnp"}])
    assert table.splitlines()[1].split() == ["voc\\x1b[2K\\r", "failed", "error:", "\\u202egnp"]


def test_logs_follow_the_command_or_the_job_that_never_got_so_far(tmp_path: Path, plan: list[Stage]) -> None:
    voc, train = plan[1], folder_of(tmp_path, plan, "train")
    folder = folder_of(tmp_path, plan, "voc")
    assert find_logs(tmp_path, voc.folder, "pending") == []
    append_json_line(folder / "ledger.jsonl", {"event": "submitted", "job_id": "12_3"})
    job_log = train / "slurm" / "12_3_0_log.out"  # of an array: beside its first stage
    write_text(job_log, "module: command not found")
    write_text(job_log.with_name("12_2_0_log.out"), "of another seed")
    assert find_logs(tmp_path, voc.folder, "pending") == [job_log]
    write_text(folder / "log.txt", "step 1")
    os.utime(job_log, (1, 1))
    assert find_logs(tmp_path, voc.folder, "pending") == [folder / "log.txt"]
    write_text(folder / "log.runner.txt", "the gate is closed")
    os.utime(folder / "log.txt", (2, 2))
    assert find_logs(tmp_path, voc.folder, "pending") == [folder / "log.txt", folder / "log.runner.txt"]
    assert find_logs(tmp_path, voc.folder, "running") == [folder / "log.txt"]


def test_chain_that_may_not_be_written_says_so_and_can_still_be_planned(tmp_path: Path) -> None:
    path = tmp_path / "chain.yaml"
    path.write_text(f"runs: {tmp_path}/file/runs\nstages: {{a: {{command: [x]}}}}\n")
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="give runs=FOLDER to start a chain of your own"):
        submit_lock(open_chain(path))
    with pytest.raises(ValueError, match="nothing was submitted here"):
        read_plan(open_chain(path).folder)


@pytest.mark.parametrize("name", ["two words", "semi;colon", "quo'te", "line\nbreak", "ü", "../out", "ok-name_1"])
def test_chain_of_any_name_stays_in_its_own_folder(tmp_path: Path, name: str) -> None:
    path = tmp_path / "chain.yaml"
    path.write_text("stages: {a: {command: [x]}}\n")
    folder = open_chain(
        path, [f"name={name!r}" if "\n" not in name else 'name="line\\nbreak"', f"runs={tmp_path}"]
    ).folder
    assert folder.parent == tmp_path
    assert os.path.normpath(folder) == str(folder)
    assert (folder.name == name) == (name == "ok-name_1")

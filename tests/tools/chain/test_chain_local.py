"""A chain on this machine: real subprocesses, real signals, files as the only state."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from pretrain.runtime.machine import PROJECT_ROOT
from pretrain.runtime.stopping import EXIT_GATE, EXIT_YIELD
from pretrain.runtime.storage import read_json
from tools.chain.__main__ import main as run_chain
from tools.chain.local import LocalDriver
from tools.chain.record.state import find_states, read_plan, stage_folder
from tools.chain.run.gate import lack_of_space
from tools.chain.run.spare import RunnerStarter
from tools.chain.submit import freeze, open_chain
from tools.trials.counting import count_lost_steps, expect


def counting(*words: str, after: tuple[str, ...] = (), **values: Any) -> dict[str, Any]:
    inputs = [f"input={{stage:{name}}}/result.txt" for name in after]
    command = ["{python}", "-m", "tools.trials.counting", "{out}", *words, *inputs]
    return {"command": command, "outputs": ["result.txt"], **values}


class LocalChain:
    def __init__(self, folder: Path, stages: dict[str, Any], **values: Any) -> None:
        self.path = folder / "chain.yaml"
        self.values = {
            "runs": str(folder),
            "report": False,
            "stages": stages,
            "budgets": {"min_free_gb": 0.001},
            **values,
        }
        self.write()
        self.folder = folder / "chain"

    def write(self) -> None:
        self.path.write_text(yaml.safe_dump(self.values, sort_keys=False))

    def run(self, *words: str) -> int:
        command = [sys.executable, "-m", "tools.chain", *(words or ("submit",))]
        command.insert(4, str(self.path))
        return subprocess.run(command, cwd=PROJECT_ROOT, stdout=subprocess.DEVNULL, check=False).returncode

    def start(self) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-m", "tools.chain", "submit", str(self.path)]
        return subprocess.Popen(command, cwd=PROJECT_ROOT, stdout=subprocess.DEVNULL)

    def states(self) -> dict[str, str]:
        return find_states(self.folder, read_plan(self.folder)[1])

    def stage(self, name: str) -> Path:
        return next(
            stage_folder(self.folder, entry.folder) for entry in read_plan(self.folder)[1] if entry.name == name
        )

    def attempts(self, name: str) -> list[Any]:
        return [read_json(path)["outcome"] for path in sorted((self.stage(name) / "attempts").glob("*.json"))]

    def span(self, name: str) -> tuple[float, float]:
        (attempt,) = (read_json(path) for path in (self.stage(name) / "attempts").glob("*.json"))
        return attempt["began"], attempt["ended"]

    def wait_for_step(self, name: str, step: int) -> None:
        until = time.monotonic() + 120
        while time.monotonic() < until:
            try:
                if read_json(self.stage(name) / "progress.json")["step"] >= step:
                    return
            except (OSError, ValueError, StopIteration):
                pass
            time.sleep(0.05)
        raise AssertionError(f"{name} never reached step {step}")


@pytest.mark.slow
def test_chain_runs_in_order_and_a_second_submit_runs_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chain = LocalChain(tmp_path, {"train": counting("steps=7"), "after": counting("steps=3", after=("train",))})
    assert run_chain(["plan", str(chain.path)]) == 0
    assert not chain.folder.exists(), "a plan writes nothing"
    assert chain.run() == 0
    assert chain.states() == {"train": "done", "after": "done"}
    assert (chain.stage("after") / "result.txt").read_text() == expect(3, expect(7))
    done = read_json(chain.stage("train") / "DONE.json")
    assert set(done["outputs"]) == {"result.txt", "steps.txt"}
    assert chain.run() == 0
    assert chain.attempts("train") == ["done"]
    capsys.readouterr()
    assert run_chain(["status", str(chain.path), "json=true"]) == 0
    assert [row["state"] for row in json.loads(capsys.readouterr().out)] == ["done", "done"]


def test_wrong_words_are_sentences(tmp_path: Path) -> None:
    chain = LocalChain(tmp_path, {"train": counting("steps=7")})
    with pytest.raises(ValueError, match="expected one of plan, submit, status, resume, cancel, logs, report"):
        run_chain(["sumbit", str(chain.path)])
    with pytest.raises(ValueError, match="nothing was submitted here"):
        run_chain(["status", str(chain.path)])
    with pytest.raises(ValueError, match="no stage 'trian'; the stages are: train"):
        run_chain(["submit", str(chain.path), "retry=trian"])


def test_full_disk_is_seen_before_a_stage_starts(tmp_path: Path) -> None:
    assert lack_of_space(tmp_path, 0.0) == ""
    assert "make room, then resume the chain" in lack_of_space(tmp_path, 1e9)


@pytest.mark.slow
def test_stages_share_the_cpus_and_each_keeps_to_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three stages of one CPU on two: two run in parallel, the third waits; a stage that needs all CPUs runs alone."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    cores = sorted(os.sched_getaffinity(0))[:2]
    code = "import os, time; time.sleep(4); open('{out}/result.txt', 'w').write(os.environ['OMP_NUM_THREADS'])"
    stage = {"command": ["{python}", "-c", code], "outputs": ["result.txt"]}
    resources = {"default": {"cpus": 1}, "wide": {"cpus": 64}}
    chain = LocalChain(tmp_path, dict.fromkeys(("one", "two", "three", "wide"), stage), resources=resources)
    words = ["taskset", "--cpu-list", ",".join(map(str, cores)), sys.executable, "-m", "tools.chain", "submit"]
    subprocess.run([*words, str(chain.path)], cwd=PROJECT_ROOT, stdout=subprocess.DEVNULL, check=True)
    spans = {name: chain.span(name) for name in ("one", "two", "three", "wide")}

    def beside(name: str) -> int:
        began = spans[name][0]
        return sum(first <= began < last for first, last in spans.values())

    assert max(map(beside, spans)) == len(cores)
    assert beside("wide") == 1
    threads = [(chain.stage(name) / "result.txt").read_text() for name in ("one", "three", "wide")]
    assert threads == ["1", "1", str(len(cores))]


@pytest.mark.slow
def test_stages_share_the_gpus_and_each_sees_only_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver assigns the GPUs in CUDA_VISIBLE_DEVICES; these stages only print what they were assigned."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    code = (
        "import os, pathlib, time; time.sleep(3); say = os.environ.get; "
        "pathlib.Path('{out}', 'rank' + say('RANK', '0')).write_text(say('CUDA_VISIBLE_DEVICES'))"
    )
    stage = {"command": ["{python}", "-c", code], "outputs": ["rank0"]}
    chain = LocalChain(
        tmp_path, dict.fromkeys(("one", "two", "both"), stage), resources={"default": {"gpus": 1}, "both": {"gpus": 2}}
    )
    assert chain.run() == 0
    (one, two, both) = (chain.span(name) for name in ("one", "two", "both"))
    assert max(one[0], two[0]) < min(one[1], two[1]), "side by side"
    assert both[0] >= max(one[1], two[1]), "it waits for both GPUs"
    assert {(chain.stage(name) / "rank0").read_text() for name in ("one", "two")} == {"5", "7"}
    assert [(chain.stage("both") / f"rank{rank}").read_text() for rank in (0, 1)] == ["5,7", "5,7"]


@pytest.mark.slow
def test_driver_under_nohup_outlives_its_terminal(tmp_path: Path) -> None:
    chain = LocalChain(tmp_path, {"train": counting("steps=40", "sleep=0.05")})
    words = ["nohup", sys.executable, "-m", "tools.chain", "submit", str(chain.path)]
    driver = subprocess.Popen(words, cwd=PROJECT_ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    chain.wait_for_step("train", 3)
    driver.send_signal(signal.SIGHUP)
    assert driver.wait(timeout=120) == 0
    assert chain.attempts("train") == ["done"]


@pytest.mark.slow
def test_killed_driver_loses_nothing_and_repeats_no_finished_stage(tmp_path: Path) -> None:
    stages = {"first": counting("steps=5"), "train": counting("steps=80", "sleep=0.05", after=("first",))}
    chain = LocalChain(tmp_path, stages)
    driver = chain.start()
    chain.wait_for_step("train", 12)
    driver.kill()
    driver.wait()
    assert chain.run() == 0
    assert chain.attempts("first") == ["done"]
    assert chain.attempts("train")[-1] == "done"
    assert count_lost_steps(chain.stage("train") / "steps.txt") == 0
    assert (chain.stage("train") / "result.txt").read_text() == expect(80, expect(5))


@pytest.mark.slow
def test_ctrl_c_saves_and_the_same_command_goes_on(tmp_path: Path) -> None:
    chain = LocalChain(tmp_path, {"train": counting("steps=60", "every=50", "sleep=0.05")})
    driver = chain.start()
    chain.wait_for_step("train", 5)
    driver.send_signal(signal.SIGINT)
    assert driver.wait(timeout=120) == EXIT_YIELD
    assert chain.attempts("train") == ["stopped"]
    assert chain.run() == 0
    trace = (chain.stage("train") / "steps.txt").read_text().split()
    assert trace[-4:-2] != ["start", "0"]
    assert count_lost_steps(chain.stage("train") / "steps.txt") == 0


@pytest.mark.slow
def test_failed_stage_blocks_only_what_hangs_on_it_and_retry_mends_it(tmp_path: Path) -> None:
    stages = {
        "train": counting("steps=3"),
        "bad": counting("steps=3", f"needs={tmp_path / 'mended'}", after=("train",)),
        "after_bad": counting("steps=3", after=("bad",)),
        "good": counting("steps=3", "die=SIGKILL@2", after=("train",)),
        "final": counting("steps=1", always=True) | {"after": ["good", "after_bad"]},
    }
    chain = LocalChain(tmp_path, stages)
    assert chain.run() == 1
    assert chain.states() == {"train": "done", "bad": "failed", "after_bad": "blocked", "good": "done", "final": "done"}
    assert chain.attempts("good") == ["killed", "done"]
    assert "does not exist" in read_json(chain.stage("bad") / "FAILED.json")["tail"]
    (tmp_path / "mended").touch()
    assert chain.run() == 1, "a failed stage is left alone"
    assert chain.run("resume") == 0
    assert chain.attempts("good") == ["killed", "done"]
    assert len(chain.attempts("final")) == 2, "what runs always saw other states before"


@pytest.mark.slow
def test_changed_input_closes_the_gate(tmp_path: Path) -> None:
    chain = LocalChain(tmp_path, {"train": counting("steps=3")})
    assert chain.run() == 0
    (chain.stage("train") / "result.txt").write_text("another\n")
    chain.values["stages"]["after"] = counting("steps=3", after=("train",))
    chain.write()
    assert chain.run() == EXIT_GATE
    assert "differs from what stage train wrote" in (chain.stage("after") / "log.runner.txt").read_text()
    assert not (chain.stage("after") / "attempts").exists()


@pytest.mark.slow
def test_crash_loop_and_slices_end_as_the_budget_says(tmp_path: Path) -> None:
    stages = {"loop": counting("steps=9", "dies=SIGKILL@3"), "sliced": counting("steps=60", "sleep=0.1")}
    budgets = {"min_free_gb": 0.001, "same_step": 3}
    chain = LocalChain(tmp_path, stages, budgets=budgets, local={"slice_min": 3 / 60})
    assert chain.run() == 1
    assert chain.attempts("loop") == ["killed", "killed", "killed", "budget"]
    assert chain.attempts("sliced")[-1] == "done"
    assert "yield" in chain.attempts("sliced")
    assert count_lost_steps(chain.stage("sliced") / "steps.txt") == 0


@pytest.mark.slow
def test_second_driver_is_refused_and_cancel_stops_the_first(tmp_path: Path) -> None:
    chain = LocalChain(tmp_path, {"train": counting("steps=2000", "sleep=0.05")})
    driver = chain.start()
    chain.wait_for_step("train", 2)
    assert chain.run() == 2
    assert chain.run("cancel") == 0
    driver.wait(timeout=120)
    assert chain.states() == {"train": "pending"}
    assert list((chain.stage("train") / "checkpoints").iterdir())
    attempts = chain.attempts("train")
    assert chain.run() == EXIT_GATE, "a later submit leaves the cancelled stage alone"
    assert chain.attempts("train") == attempts


@pytest.mark.slow
@pytest.mark.parametrize("redirect", ["| head -1", "> /dev/full"])
def test_chain_whose_output_nobody_takes_runs_to_its_end(tmp_path: Path, redirect: str) -> None:
    chain = LocalChain(tmp_path, {"train": counting("steps=3"), "after": counting("steps=3", after=("train",))})
    script = f'set -o pipefail; "$0" -m tools.chain submit "$1" {redirect}'
    answer = subprocess.run(["bash", "-c", script, sys.executable, str(chain.path)], cwd=PROJECT_ROOT, check=False)
    assert answer.returncode == 0
    assert chain.states() == {"train": "done", "after": "done"}


@pytest.mark.slow
def test_ending_names_the_reason_of_every_failed_stage(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Also with a user's metrics.json that is not a result of this project."""
    code = "import sys; open(sys.argv[1] + '/metrics.json', 'w').write('[NaN]')"
    own = {"command": ["{python}", "-c", code, "{out}"]}
    chain = LocalChain(tmp_path, {"bad": counting("steps=3", f"needs={tmp_path / 'not-there'}"), "own": own})
    words = [sys.executable, "-m", "tools.chain", "submit", str(chain.path)]
    assert subprocess.run(words, cwd=PROJECT_ROOT, check=False).returncode == 1
    out = capfd.readouterr().out
    assert f"bad: failed (error: {tmp_path / 'not-there'} does not exist)" in out
    assert "error: error:" not in out
    assert chain.states() == {"bad": "failed", "own": "done"}


@pytest.mark.slow
def test_stage_whose_runner_never_reaches_an_attempt_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its runners are killed while they start, as by the out-of-memory killer; such starts are no attempts."""
    monkeypatch.setattr("tools.chain.local.FUTILE_STARTS", 1)
    chain = LocalChain(tmp_path, {"train": counting("steps=3")})
    opened = open_chain(chain.path)
    freeze(opened)
    starts = []

    def start(self: RunnerStarter, *_: object) -> "subprocess.Popen[bytes]":
        starts.append(self)
        return subprocess.Popen(["bash", "-c", "kill -9 $$"])

    monkeypatch.setattr(RunnerStarter, "start", start)
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        assert LocalDriver(opened).run() == EXIT_GATE
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert len(starts) == 2
    assert "train: not started" in capsys.readouterr().out

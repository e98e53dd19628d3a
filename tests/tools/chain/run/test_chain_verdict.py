"""One start of one stage with real processes: the command's exit and outputs determine the verdict."""

import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from pretrain.runtime.storage import read_json, write_json
from tools.chain.plan.config import ChainConfig, OwnStage
from tools.chain.plan.export import digest_environment
from tools.chain.plan.make_plan import make_plan
from tools.chain.record import attempts
from tools.chain.record.state import find_state_alone, read_done, read_failed, stage_as_dict, stage_folder
from tools.chain.record.stop_request import StopRequest
from tools.chain.run.launch import start_ranks, wait_for_ranks
from tools.chain.run.run_stage import fill_command, run_stage

JOB: dict[str, Any] = {"backend": "local", "job_id": "", "restart": 0, "gpu": []}
OUT_OF_MEMORY = "raise RuntimeError('CUDA out of memory. Tried to allocate 2.00 GiB')"


def prepare(chain: Path, code: str, outputs: tuple[str, ...] = (), **spec: Any) -> Path:
    """Write the spec of a stage that runs `code` with the folder as its argument."""
    own = OwnStage(command=("{python}", "-c", code, "{out}"), outputs=outputs)
    (stage,) = make_plan(ChainConfig(report=False, stages={"own": own}), [Path()])
    folder = stage_folder(chain, stage.folder)
    about = {"code": "", "commit": "", "environment": digest_environment()}
    budgets = {"attempts": 100, "same_step": 5, "min_free_gb": 0.0}
    write_json(folder / "spec.json", {**stage_as_dict(stage), **about, "budgets": budgets, **spec})
    return folder


def run(folder: Path) -> int:
    return run_stage(folder, JOB, StopRequest(), [{}])


def last_attempt(folder: Path) -> dict[str, Any]:
    return attempts.read_attempts(folder)[-1]


METRICS = ['{"a": NaN}', "[1, 2]", '{"a": 1}\n{"a": 2}\n', "", "null", '{"metrics": 3}', '{"metrics": {"a": NaN}}', "x"]


@pytest.mark.parametrize("text", METRICS)
def test_users_own_metrics_file_of_any_kind_does_not_stop_the_stage(tmp_path: Path, text: str) -> None:
    folder = prepare(tmp_path, f"import sys; open(sys.argv[1] + '/metrics.json', 'w').write({text!r})")
    assert run(folder) == 0
    done = read_done(folder)
    assert done is not None
    assert done["metrics"] is None
    assert "metrics.json" in done["outputs"]


@pytest.mark.slow
def test_worker_that_is_killed_means_run_again(tmp_path: Path) -> None:
    """A real DataLoader, whose worker sends itself SIGKILL, as the kernel would."""
    code = (
        "import os, signal\nfrom torch.utils.data import DataLoader\n"
        "class Images:\n  def __len__(self): return 2\n"
        "  def __getitem__(self, index): os.kill(os.getpid(), signal.SIGKILL)\n"
        "list(DataLoader(Images(), num_workers=1))\n"
    )
    folder = prepare(tmp_path, code)
    assert run(folder) == 75
    assert find_state_alone(folder) == "pending"
    assert (last_attempt(folder)["outcome"], last_attempt(folder)["oom"]) == ("killed", "worker")


@pytest.mark.parametrize("code", ["os.kill(os.getpid(), 9)", "sys.exit(137)"])
def test_command_that_is_killed_means_run_again(tmp_path: Path, code: str) -> None:
    folder = prepare(tmp_path, f"import os, sys; {code}")
    assert run(folder) == 75
    assert (last_attempt(folder)["outcome"], last_attempt(folder)["reason"]) == ("killed", "signal SIGKILL")


def test_gpu_out_of_memory_fails_with_the_words_to_add(tmp_path: Path) -> None:
    folder = prepare(tmp_path, OUT_OF_MEMORY, kind="detector")
    assert run(folder) == 1
    failed = read_failed(folder)
    assert failed is not None
    assert failed["kind"] == "oom"
    assert "add batch_rule=accumulate divisor=2" in failed["message"]
    assert (last_attempt(folder)["outcome"], last_attempt(folder)["oom"]) == ("oom", "gpu")


def test_gpu_out_of_memory_is_tried_once_with_less_where_the_chain_asks(tmp_path: Path) -> None:
    budgets = {"attempts": 100, "same_step": 5, "min_free_gb": 0.0, "retry_oom": True}
    folder = prepare(tmp_path, OUT_OF_MEMORY, kind="detector", budgets=budgets)
    assert fill_command(folder)[-1] == str(folder)
    assert run(folder) == 75
    assert fill_command(folder)[-2:] == ["batch_rule=accumulate", "divisor=2"]
    assert run(folder) == 1
    assert [entry["outcome"] for entry in attempts.read_attempts(folder)] == ["oom", "oom"]


def test_command_that_does_not_exist_fails_with_its_name(tmp_path: Path) -> None:
    folder = prepare(tmp_path, "")
    write_json(folder / "spec.json", {**read_json(folder / "spec.json"), "command": ["no-such-command"]})
    assert run(folder) == 1
    failed = read_failed(folder)
    assert failed is not None
    assert "no-such-command: cannot be started" in failed["tail"]


def test_leftovers_of_an_interrupted_write_are_swept_and_are_no_outputs(tmp_path: Path) -> None:
    code = "import os, sys; os.makedirs(sys.argv[1] + '/.partial-new'); open(sys.argv[1] + '/.partial-new/a', 'w')"
    folder = prepare(tmp_path, code)
    (folder / ".partial-old" / "below").mkdir(parents=True)
    (folder / ".partial-old" / "below" / "backbone.pkl").write_bytes(b"half")
    assert run(folder) == 0
    assert not (folder / ".partial-old").exists()
    done = read_done(folder)
    assert done is not None
    assert done["outputs"] == {}


def test_rank_that_was_killed_decides_before_those_that_failed_for_its_sake(tmp_path: Path) -> None:
    words = ["bash", "-c", "[ $RANK = 1 ] && kill -9 $$; sleep 0.3; exit 1"]
    ranks = start_ranks(words, [{"RANK": "0"}, {"RANK": "1"}, {"RANK": "2"}], tmp_path / "log.txt")
    assert wait_for_ranks(ranks, lambda: "") == -signal.SIGKILL


def test_error_of_one_rank_is_not_hidden_by_our_own_signals(tmp_path: Path) -> None:
    words = ["bash", "-c", "[ $RANK = 1 ] && exit 3; exec sleep 60"]
    ranks = start_ranks(words, [{"RANK": "0"}, {"RANK": "1"}], tmp_path / "log.txt")
    assert wait_for_ranks(ranks, lambda: "") == 3


def test_out_of_memory_on_another_rank_is_recognised(tmp_path: Path) -> None:
    code = f"import os, time\nif os.environ['RANK'] == '1': {OUT_OF_MEMORY}\ntime.sleep(60)"
    folder = prepare(tmp_path, code, kind="detector")
    assert run_stage(folder, JOB, StopRequest(), [{"RANK": "0"}, {"RANK": "1"}]) == 1
    assert last_attempt(folder)["oom"] == "gpu"


def test_command_ends_with_its_runner(tmp_path: Path) -> None:
    code = (
        "import os, sys, time; from pathlib import Path; from tools.chain.run.launch import start_ranks\n"
        f"ranks = start_ranks(['sleep', '60'], [{{}}], Path({str(tmp_path / 'log')!r}))\n"
        f"Path({str(tmp_path / 'pid')!r}).write_text(str(ranks[0].pid)); time.sleep(60)"
    )
    (runner,) = start_ranks([sys.executable, "-c", code], [{}], tmp_path / "runner.log")
    until = time.monotonic() + 20
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        assert time.monotonic() < until
        time.sleep(0.05)
    command = Path("/proc", (tmp_path / "pid").read_text())
    while "sleep" not in (command / "cmdline").read_text().split("\0")[0]:
        assert time.monotonic() < until
        time.sleep(0.05)
    runner.kill()
    runner.wait()
    while command.exists() and "\nState:\tZ" not in (command / "status").read_text():
        assert time.monotonic() < until
        time.sleep(0.05)


def test_heartbeat_ends_when_waiting_for_the_predecessor_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ValueError("no such attempt")

    folder = prepare(tmp_path, "")
    monkeypatch.setattr(attempts, "wait_for_predecessor", fail)
    with pytest.raises(ValueError, match="no such attempt"):
        run(folder)
    assert not [thread for thread in threading.enumerate() if isinstance(thread, attempts.Heartbeat)]


def test_damaged_spec_is_a_sentence(tmp_path: Path) -> None:
    folder = prepare(tmp_path, "")
    for content in (b"", b"[]", b"\xff", b"{}", b'{"code": 3}'):
        (folder / "spec.json").write_bytes(content)
        with pytest.raises(ValueError, match=r"spec\.json"):
            run(folder)
    assert [path.name for path in folder.iterdir()] == ["spec.json"]

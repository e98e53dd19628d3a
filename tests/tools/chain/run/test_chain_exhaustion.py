"""An out-of-memory failure is detected from the last error of a log, whichever library wrote it."""

from pathlib import Path

import pytest

from tools.chain.run import exhaustion
from tools.chain.run.exhaustion import count_kernel_kills, find_exhausted, find_retry_words

TRACEBACK = 'Traceback (most recent call last):\n  File "train.py", line 3, in <module>\n    step()\n'
LOGS = {
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity": "gpu",
    "torch.cuda.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 MiB": "gpu",
    "RuntimeError: CUDA out of memory. Tried to allocate 2 GiB\nIf reserved memory is >> allocated memory": "gpu",
    "RuntimeError: CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported": "gpu",
    "RuntimeError: CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`": "gpu",
    "MemoryError": "host",
    "numpy.core._exceptions._ArrayMemoryError: Unable to allocate 745. GiB for an array with shape (1,)": "host",
    "RuntimeError: [enforce fail at alloc_cpu.cpp:117] . DefaultCPUAllocator: can't allocate memory: you tried": "host",
    "OSError: [Errno 12] Cannot allocate memory": "host",
    "error: [Errno 12] Cannot allocate memory": "host",
    "terminate called after throwing an instance of 'std::bad_alloc'\n  what():  std::bad_alloc": "host",
    "slurmstepd: error: Detected 1 oom-kill event(s) in StepId=12.0. Some of your processes may have been": "host",
    "RuntimeError: DataLoader worker (pid 4711) is killed by signal: Killed. ": "worker",
    "RuntimeError: DataLoader worker (pid(s) 17, 18) exited unexpectedly": "worker",
    "RuntimeError: DataLoader worker (pid 9) is killed by signal: Bus error. It is possible that": "worker",
    "ValueError: no such class": "",
    "RuntimeError: mat1 and mat2 shapes cannot be multiplied": "",
}


@pytest.mark.parametrize("text", LOGS)
def test_last_error_says_what_ran_out(text: str) -> None:
    assert find_exhausted(f"12:00:00 step 3\n{TRACEBACK}{text}\n") == LOGS[text]


@pytest.mark.parametrize("text", [text for text, kind in LOGS.items() if kind])
def test_error_that_was_followed_by_another_does_not_count(text: str) -> None:
    assert (
        find_exhausted(f"{TRACEBACK}{text}\n\nDuring handling of the above exception\n{TRACEBACK}KeyError: 3\n") == ""
    )


def test_kernel_kills_are_counted_and_none_where_the_kernel_does_not_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exhaustion, "KERNEL_COUNTS", tmp_path / "vmstat")
    assert count_kernel_kills() == 0
    (tmp_path / "vmstat").write_text("pgfault 7\noom_kill 42\nswap_ra 0\n")
    assert count_kernel_kills() == 42


def test_one_automatic_try_only_where_the_chain_asks_for_it_and_words_are_known() -> None:
    asked = {"retry_oom": True}
    assert find_retry_words({"kind": "detector", "budgets": asked}) == ("batch_rule=accumulate", "divisor=2")
    assert find_retry_words({"kind": "detector", "budgets": {}}) == ()
    assert find_retry_words({"kind": "detector"}) == ()
    assert find_retry_words({"kind": "command", "budgets": asked}) == ()

"""A stop request sets a flag and does not interrupt a step."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from pretrain.runtime.stopping import STOP_SIGNALS, StopFlag


@pytest.fixture(autouse=True)
def keep_handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_signal_sets_the_flag_and_names_itself(number: signal.Signals) -> None:
    flag = StopFlag().install()
    assert not flag.is_set
    os.kill(os.getpid(), number)
    assert flag.is_set
    assert flag.reason == number.name


def test_first_reason_is_kept() -> None:
    flag = StopFlag()
    flag.ask("deadline")
    flag.ask("SIGTERM")
    assert flag.reason == "deadline"


def test_second_interrupt_raises_keyboard_interrupt() -> None:
    StopFlag().install()
    os.kill(os.getpid(), signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)


def test_worker_outlives_the_stop_signals() -> None:
    script = (
        "import os, signal; from pretrain.runtime.stopping import ignore_stop_signals, STOP_SIGNALS; "
        "ignore_stop_signals(); "
        "[os.kill(os.getpid(), number) for number in STOP_SIGNALS]; print('alive')"
    )
    assert (
        subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "alive\n"
    )


def test_process_with_such_workers_ends() -> None:
    script = (
        "import torch.utils.data as data; "
        "from pretrain.runtime.stopping import end_workers_at_exit, ignore_stop_signals; "
        "end_workers_at_exit(); loader = data.DataLoader(range(8), num_workers=1, persistent_workers=True, "
        "worker_init_fn=ignore_stop_signals); batches = iter(loader); print(next(batches))"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert "tensor([0])" in ended.stdout

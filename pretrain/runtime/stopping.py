"""Stop requests and exit codes: SIGTERM, SIGUSR2 or Ctrl-C set a flag that the training loop reads after each step.

Only the main process of a rank handles the flag. DataLoader workers inherit the handlers, and a scheduler signals every
process, so workers must ignore these signals (call `ignore_stop_signals` as or in their worker_init_fn).
"""

import atexit
import multiprocessing
import multiprocessing.util  # registers its exit handler before ours, so that ours runs first
import os
import signal
import threading
from types import FrameType

EXIT_DONE = 0
"""The stage is finished."""
EXIT_YIELD = 75
"""The stage saved its work and must be run again (EX_TEMPFAIL of sysexits.h)."""
EXIT_GATE = 78
"""The stage's inputs are missing or damaged (EX_CONFIG of sysexits.h)."""
EXIT_USER_ERROR = 2
"""Invalid arguments or input; standard error explains the mistake in one sentence."""

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT)
END_WORKER = signal.SIGHUP
"""Ends a worker immediately. At exit multiprocessing sends SIGTERM, which workers ignore, and would wait forever."""


class StopFlag:
    """Records a stop request; install it in the main process and read it after every step."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self.reason = ""

    def install(self) -> "StopFlag":
        """Install handlers for SIGTERM, SIGUSR2 and SIGINT; a second SIGINT raises KeyboardInterrupt."""
        for number in STOP_SIGNALS:
            signal.signal(number, self._remember)
        return self

    def ask(self, reason: str) -> None:
        """Set the flag without a signal, for example because a deadline is near; the first reason is kept."""
        self.reason = self.reason or reason
        self._event.set()

    @property
    def is_set(self) -> bool:
        """Whether this process received a stop request; use `distributed.any_rank` to agree across ranks."""
        return self._event.is_set()

    def _remember(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.is_set:
            raise KeyboardInterrupt
        self.ask(signal.Signals(number).name)


class YieldRequested(Exception):  # noqa: N818 (a request, not an error)
    """The work was saved after a stop request; the command exits with EXIT_YIELD."""


def ignore_stop_signals(_worker_id: int = 0) -> None:
    """Make a DataLoader worker ignore the stop signals; the main process ends it (`end_workers_at_exit`)."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.signal(END_WORKER, lambda *_: os._exit(0))


def end_workers_at_exit() -> None:
    """End workers that ignore SIGTERM before multiprocessing waits for them; call it before workers start."""
    atexit.unregister(_end_workers)
    atexit.register(_end_workers)


def _end_workers() -> None:
    for worker in multiprocessing.active_children():
        if worker.pid:
            os.kill(worker.pid, END_WORKER)

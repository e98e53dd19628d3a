"""Stop on request: SIGTERM, SIGUSR2 or Ctrl-C set a flag that the loop reads after each step.

The flag lives in the main process only. DataLoader workers must ignore these signals (`ignore_stop_signals` as, or in,
their worker_init_fn): they inherit the handlers, and a scheduler sends its signal to every process of the step.
"""

import atexit
import multiprocessing
import multiprocessing.util  # its own exit function must be registered before ours, which then runs first
import os
import signal
import threading
from types import FrameType

EXIT_DONE = 0
"""The stage is finished."""
EXIT_YIELD = 75
"""The stage saved its work and wants to be run again (EX_TEMPFAIL of sysexits.h)."""
EXIT_GATE = 78
"""The stage's inputs are not there or not intact (EX_CONFIG of sysexits.h)."""
EXIT_USER_ERROR = 2
"""The command was asked for something that cannot be done; one sentence on standard error says what."""

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT)
END_WORKER = signal.SIGHUP
"""Ends a worker at once. At exit multiprocessing would send SIGTERM, which workers ignore, and wait for ever."""


class StopFlag:
    """Remember that a stop was asked for; install it in the main process, read it after every step."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self.reason = ""

    def install(self) -> "StopFlag":
        """Catch SIGTERM, SIGUSR2 and SIGINT from now on; a second SIGINT interrupts at once."""
        for number in STOP_SIGNALS:
            signal.signal(number, self._remember)
        return self

    def ask(self, reason: str) -> None:
        """Set the flag by hand (a deadline that comes near)."""
        self.reason = self.reason or reason
        self._event.set()

    @property
    def is_set(self) -> bool:
        """Whether a stop was asked for in this process; ranks agree with `distributed.any_rank`."""
        return self._event.is_set()

    def _remember(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.is_set:
            raise KeyboardInterrupt
        self.ask(signal.Signals(number).name)


class YieldRequested(Exception):  # noqa: N818 (a request, no error)
    """The work was saved after a stop request; the command exits with EXIT_YIELD."""


def ignore_stop_signals(_worker_id: int = 0) -> None:
    """Let a DataLoader worker outlive the stop signals; the main process ends it (`end_workers_at_exit`)."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.signal(END_WORKER, lambda *_: os._exit(0))


def end_workers_at_exit() -> None:
    """End the children that ignore SIGTERM before multiprocessing waits for them; call it where workers start."""
    atexit.unregister(_end_workers)
    atexit.register(_end_workers)


def _end_workers() -> None:
    for worker in multiprocessing.active_children():
        if worker.pid:
            os.kill(worker.pid, END_WORKER)

"""Why a stage's command has to stop: a signal, a deadline, a person, or a newer attempt."""

import signal
import time
from dataclasses import dataclass
from types import FrameType

TIME_LIMIT = "time limit"
SUPERSEDED = "superseded"
"""The stop reason upon which nothing may be saved any more."""


@dataclass
class StopRequest:
    """Why the command has to stop: a signal, or a deadline."""

    deadline: float | None = None
    """By time.monotonic()."""
    reason: str = ""
    superseded: bool = False
    """A newer attempt has begun elsewhere, so this one must not touch the stage any more."""
    by_person: bool = False
    """Signals come from the driver, so a person stopped it: that does not count against the budgets."""

    def install(self) -> "StopRequest":
        """Catch SIGTERM and SIGUSR2; Ctrl-C is the driver's business."""
        for number in (signal.SIGTERM, signal.SIGUSR2):
            signal.signal(number, self._remember)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        return self

    def ask(self) -> str:
        """Return the reason, "" while there is none."""
        if not self.reason and self.deadline is not None and time.monotonic() >= self.deadline:
            self.reason = TIME_LIMIT
        return self.reason

    def supersede(self) -> None:
        """End without saving: the stage belongs to a newer attempt."""
        self.superseded, self.reason = True, SUPERSEDED

    def cancel(self) -> None:
        """Save and end, for a person asked for it."""
        self.reason, self.by_person = self.reason or "cancelled", True

    def _remember(self, number: int, _frame: FrameType | None) -> None:
        self.reason = self.reason or signal.Signals(number).name

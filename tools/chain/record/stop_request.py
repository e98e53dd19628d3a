"""Why a stage's command has to stop: a signal, a deadline, the user, or a newer attempt."""

import signal
import time
from dataclasses import dataclass
from types import FrameType

TIME_LIMIT = "time limit"
SUPERSEDED = "superseded"
"""The stop reason after which nothing may be written."""


@dataclass
class StopRequest:
    """Why the command has to stop: a signal, or a deadline."""

    deadline: float | None = None
    """By time.monotonic()."""
    reason: str = ""
    superseded: bool = False
    """A newer attempt has started elsewhere, so this one must not write to the stage any more."""
    by_person: bool = False
    """The user stopped it, through the driver or by `cancel`: such an attempt does not count against the budgets."""

    def install(self) -> "StopRequest":
        """Handle SIGTERM and SIGUSR2; ignore SIGINT, which the driver handles."""
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
        """Request a stop without saving: a newer attempt owns the stage."""
        self.superseded, self.reason = True, SUPERSEDED

    def cancel(self) -> None:
        """Request a stop on behalf of the user."""
        self.reason, self.by_person = self.reason or "cancelled", True

    def _remember(self, number: int, _frame: FrameType | None) -> None:
        self.reason = self.reason or signal.Signals(number).name

"""Keep one stage runner ready beside those that run: it has imported everything and starts the next stage at once."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

WAITING = "-"
"""In place of a stage's folder: the words come on standard input, when there is a stage to run."""


class RunnerStarter:
    """Start stage runners, each in a session of its own; the next one begins to import while another works."""

    def __init__(self) -> None:
        self._spare: subprocess.Popen[bytes] | None = None
        self._environment: dict[str, str] = {}

    def start(
        self, words: Sequence[str], environment: Mapping[str, str], own: Mapping[str, str], log: Path
    ) -> subprocess.Popen[bytes]:
        """Run tools.chain.run.run_stage with `words`.

        Args:
            words: its arguments.
            environment: by which Python finds the code; a spare that was started with another one is not used.
            own: further variables, of this stage alone.
            log: for its output.

        """
        spare, self._spare = self._spare, None
        if spare is not None and spare.stdin is not None and spare.poll() is None and self._environment == environment:
            message = json.dumps({"words": list(words), "environment": dict(own), "log": str(log)}) + "\n"
            with contextlib.suppress(OSError), spare.stdin as stream:
                stream.write(message.encode())
                return spare
        _end(spare)
        with log.open("ab") as stream:
            return _spawn(words, {**environment, **own}, subprocess.DEVNULL, stream.fileno())

    def prepare(self, environment: Mapping[str, str]) -> None:
        """Start the spare unless there is one."""
        if self._spare is None or self._spare.poll() is not None:
            _end(self._spare)
            words = [WAITING, f"driver={os.getpid()}"]
            self._environment = dict(environment)
            self._spare = _spawn(words, environment, subprocess.PIPE, subprocess.DEVNULL)

    def close(self) -> None:
        """End the spare."""
        _end(self._spare)
        self._spare = None


def take_words(arguments: Sequence[str]) -> list[str]:
    """Return the arguments; those of a spare once they come on standard input, [] when the driver ended before.

    The message's variables are set, and the output goes to its log from then on.
    """
    if list(arguments[:1]) != [WAITING]:
        return list(arguments)
    line = sys.stdin.buffer.readline()
    if not line.endswith(b"\n"):
        return []
    message = json.loads(line)
    os.environ.update(message["environment"])
    with Path(message["log"]).open("ab") as stream:
        for number in (1, 2):
            os.dup2(stream.fileno(), number)
    return list(message["words"])


def _spawn(words: Sequence[str], environment: Mapping[str, str], stdin: int, output: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "tools.chain.run.run_stage", *words],
        env={**os.environ, **environment},
        stdin=stdin,
        stdout=output,
        stderr=output,
        start_new_session=True,
    )


def _end(spare: subprocess.Popen[bytes] | None) -> None:
    if spare is not None:
        spare.kill()
        spare.wait()
        if spare.stdin is not None:
            with contextlib.suppress(OSError):
                spare.stdin.close()

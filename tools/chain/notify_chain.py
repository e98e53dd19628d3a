"""Report that a chain is done, failed or blocked: run a command, or POST to a URL.

  python -m tools.chain.notify_chain runs/digits [command="mail -s done me"] [url=https://…]

The last stage of a chain with `notify: {command: […], url: …}` calls it; it can be called at any time. The command
receives the message as its last argument; the URL receives JSON: text (the message), chain, state, counts, failed
(stage: reason).

Example: python -m tools.chain.notify_chain runs/digits url=https://hooks.example.org/1
"""

import json
import shlex
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pretrain.runtime.command_line import run_command, split_arguments
from pretrain.runtime.settings import read_settings
from tools.chain.plan.config import Notify
from tools.chain.record.state import find_states, read_plan
from tools.chain.status import describe_stages

TRIES = 3
PAUSE_S = 10.0
TIMEOUT_S = 30.0


@dataclass(frozen=True, kw_only=True)
class NotifySettings:
    """Where to send the message; by default as the chain file specifies."""

    command: str = ""
    """Command line, split as a shell does; the message is appended as one argument."""
    url: str = ""
    """URL that accepts a POST of JSON."""


def main(arguments: Sequence[str]) -> int:
    """Send a chain's message; raise ValueError if it cannot be delivered."""
    (folder,), overrides = split_arguments(arguments, ["CHAIN_FOLDER"])
    given = read_settings(NotifySettings, None, overrides)
    values, _ = read_plan(Path(folder))
    stored = values["config"].get("notify") or {}
    asked = Notify(command=tuple(shlex.split(given.command)), url=given.url)
    if not (asked.command or asked.url):
        asked = Notify(command=tuple(stored.get("command", ())), url=stored.get("url", ""))
    message = write_message(Path(folder))
    print(message["text"])
    if asked.command:
        _run([*asked.command, message["text"]])
    if asked.url:
        _post(asked.url, message)
    return 0


def write_message(folder: Path) -> dict[str, Any]:
    """Return a chain's message: text, state (done, failed or unfinished), counts, and the reason of each failure."""
    values, every = read_plan(folder)
    stages = [stage for stage in every if stage.kind != "notify"]
    states = find_states(folder, stages)
    counts = Counter(states.values())
    rows = {row["stage"]: row for row in describe_stages(folder, stages)}
    failed = {name: str(rows[name]["note"] or "") for name, state in states.items() if state == "failed"}
    state = "done" if counts["done"] == len(stages) else "failed" if failed else "unfinished"
    numbers = ", ".join(f"{count} {name}" for name, count in counts.items())
    lines = [f"chain {values['name']}: {state} ({numbers})", *(f"{name}: {text}" for name, text in failed.items())]
    return {
        "text": "\n".join([*lines, str(folder)]),
        "chain": values["name"],
        "state": state,
        "counts": dict(counts),
        "failed": failed,
    }


def _run(words: list[str]) -> None:
    answer = subprocess.run(words, check=False)
    if answer.returncode:
        raise ValueError(f"notify.command: {words[0]} ended with exit code {answer.returncode}")


def _post(url: str, message: dict[str, Any]) -> None:
    body = json.dumps(message, ensure_ascii=False).encode()
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})  # noqa: S310 (checked: http)
    for number in range(1, TRIES + 1):
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_S):  # noqa: S310 (checked: http)
                return
        except OSError as error:
            if number == TRIES:
                raise ValueError(f"notify.url: not delivered after {TRIES} tries ({error})") from error
        time.sleep(PAUSE_S)


if __name__ == "__main__":
    sys.exit(run_command(main, __doc__))

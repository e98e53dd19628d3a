"""Serve a web page of a chain: states, curves, attempts, logs, hours and the verdict so far.

  python -m tools.watch runs/digits                    then open the printed address
  python -m tools.watch runs/digits port=8080
  python -m tools.watch runs/digits static=OUT         write OUT/index.html once, where no port can be opened

The server only reads the chain's files. It listens on the loopback interface; to reach it from another machine use an
SSH tunnel: ssh -L 8765:127.0.0.1:8765 CLUSTER. host=ADDRESS and names=[NAME,…] make it reachable from other machines,
without a password.
"""

import contextlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pretrain.runtime.command_line import run_command, split_arguments
from pretrain.runtime.settings import read_settings


@dataclass(frozen=True, kw_only=True)
class WatchSettings:
    """How to serve the page."""

    port: int = 8765
    """TCP port; 0: any free port."""
    host: str = "127.0.0.1"
    """Address to listen on."""
    names: tuple[str, ...] = ()
    """Host names that requests may address besides those of the loopback interface."""
    static: str = ""
    """Write index.html into this folder instead of serving it; empty: serve."""


def main(arguments: Sequence[str]) -> int:
    """Serve the page until Ctrl-C, or write it with static=FOLDER."""
    words, overrides = split_arguments(arguments, ["CHAIN_FOLDER"])
    settings = read_settings(WatchSettings, None, overrides)
    folder = Path(words[0])
    if not (folder / "chain.json").is_file():
        raise ValueError(
            f"{folder}: contains no chain.json; expected the folder of a submitted chain, such as runs/digits"
        )
    if settings.static:
        print(f"written {write_static(folder, Path(settings.static))}")
        return 0
    serve(folder, settings)
    return 0


def write_static(folder: Path, out: Path) -> Path:
    """Write OUT/index.html: the snapshot, and the details of at most 100 stages (running and failed ones first)."""
    from pretrain.runtime.storage import write_text
    from tools.watch.page import write_static_page
    from tools.watch.snapshot import ChainWatcher

    watcher = ChainWatcher(folder)
    snapshot = watcher.refresh()
    chosen = [index for index, row in enumerate(snapshot["stages"]) if row["state"] in ("running", "failed")]
    chosen += [index for index, row in enumerate(snapshot["stages"]) if row["state"] == "done"]
    details = {index: watcher.describe_stage(index) for index in chosen[:100]}
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / "index.html", write_static_page(snapshot, details))
    return out / "index.html"


def serve(folder: Path, settings: WatchSettings) -> None:
    """Serve until Ctrl-C.

    Raises:
        ValueError: the port cannot be bound.

    """
    import socket

    import uvicorn

    from tools.watch.server import LOCAL_NAMES, build_app

    app = build_app(folder, [*LOCAL_NAMES, *settings.names])
    listener = socket.socket(socket.AF_INET6 if ":" in settings.host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
    except OSError as error:
        raise ValueError(
            f"port {settings.port} of {settings.host} cannot be used ({error.strerror}); set another port= (0: any)"
        ) from error
    listener.listen()
    port = listener.getsockname()[1]
    print(f"watching {folder} at http://{settings.host}:{port}/ (Ctrl-C stops the server, not the chain)", flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        uvicorn.Server(uvicorn.Config(app, log_level="warning", server_header=False)).run(sockets=[listener])


if __name__ == "__main__":
    sys.exit(run_command(main, __doc__))

"""Serve the page: three read-only addresses, stages by their number in the plan, so that no path comes from a request.

The chain's files are read by one background thread; requests get its last snapshot, so their number does not matter.
Only requests for this machine's own names are answered (against DNS rebinding), and the page may load nothing from
elsewhere (Content-Security-Policy).
"""

import gzip
import json
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tools.watch.page import PLOTLY_PATH, read_plotly, write_page
from tools.watch.snapshot import ChainWatcher

LOCAL_NAMES = ["127.0.0.1", "localhost", "[::1]"]
PAUSE_S = 2.0
"""Least pause between two readings of the files; at least nine times what a reading takes."""
IDLE_S = 60.0
"""Without a request for so long, the files are left alone."""
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class SnapshotThread(threading.Thread):
    """Keep the newest snapshot while somebody looks."""

    def __init__(self, watcher: ChainWatcher) -> None:
        super().__init__(daemon=True, name="snapshot")
        self.watcher = watcher
        self.lock = threading.Lock()
        self._body, self._error = b"", ""
        self._asked = time.monotonic()
        self._wake = threading.Event()
        self._read()

    def run(self) -> None:
        """Read, pause, again."""
        while True:
            began = time.monotonic()
            if began - self._asked < IDLE_S:
                self._read()
            else:
                self._wake.wait()
                self._wake.clear()
                continue
            time.sleep(max(PAUSE_S, 9 * (time.monotonic() - began)))

    def newest(self) -> tuple[bytes, str]:
        """Return the last snapshot as JSON text, and what went wrong with the newest reading ("" if nothing)."""
        self._asked = time.monotonic()
        self._wake.set()
        return self._body, self._error

    def _read(self) -> None:
        try:
            with self.lock:
                values = self.watcher.refresh()
            self._body, self._error = json.dumps(values, allow_nan=False).encode(), ""
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:  # damaged: show the last good one
            self._error = f"{type(error).__name__}: {error}"


def build_app(folder: Path, names: list[str] | None = None) -> Starlette:
    """Return the application for the chain in `folder`.

    Args:
        folder: a chain's folder, RUNS/NAME.
        names: host names that requests may be addressed to; by default those of the loopback device.

    Raises:
        ValueError: nothing was submitted there.

    """
    watcher = ChainWatcher(folder)
    watcher.refresh()
    thread = SnapshotThread(watcher)
    thread.start()
    plotly = gzip.compress(read_plotly().encode(), 6)

    async def page(_request: Request) -> Response:
        return Response(write_page(live=True), media_type="text/html", headers=HEADERS)

    async def script(request: Request) -> Response:
        name = request.path_params["name"]
        if name == PLOTLY_PATH:
            headers = {**HEADERS, "Content-Encoding": "gzip", "Cache-Control": "max-age=86400"}
            return Response(plotly, media_type="text/javascript", headers=headers)
        if name in ("watch.js", "watch.css"):
            kind = "text/javascript" if name.endswith("js") else "text/css"
            return Response((Path(__file__).parent / "page" / name).read_text(), media_type=kind, headers=HEADERS)
        return Response("not found", status_code=404, headers=HEADERS)

    async def snapshot(_request: Request) -> Response:
        body, error = thread.newest()
        headers = {**HEADERS, "X-Error": error.encode("ascii", "replace").decode()[:200].replace("\n", " ")}
        return Response(body, media_type="application/json", headers=headers)

    routes = [
        Route("/", page),
        Route("/assets/{name}", script),
        Route("/api/snapshot", snapshot),
        Route("/api/stage/{index:int}", _stage_route(thread)),
    ]
    return Starlette(
        routes=routes,
        middleware=[
            Middleware(TrustedHostMiddleware, allowed_hosts=names or LOCAL_NAMES, www_redirect=False),
            Middleware(GZipMiddleware, minimum_size=2000),
        ],
    )


def _stage_route(thread: SnapshotThread) -> Callable[[Request], Awaitable[Response]]:
    def read(index: int, search: str) -> Any:
        with thread.lock:
            return thread.watcher.describe_stage(index, search)

    async def stage(request: Request) -> Response:
        from anyio import to_thread  # starlette's own; a slow disk must not stop the other requests

        try:
            values = await to_thread.run_sync(
                read, request.path_params["index"], request.query_params.get("search", "")
            )
        except IndexError:
            return JSONResponse({"error": "no such stage in the plan"}, status_code=404, headers=HEADERS)
        return JSONResponse(values, headers=HEADERS)

    return stage

"""Serve the page, its assets, the snapshot and the stages; all routes are read-only.

Stages are addressed by their index in the plan, so no file path comes from a request. One background thread reads the
chain's files; requests get its last snapshot, so the load on the disk does not depend on their number. Requests for
other host names are rejected (DNS rebinding), and the page may not load anything from elsewhere
(Content-Security-Policy).
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
"""Minimum pause between two reads of the files, in seconds; the pause is at least nine times as long as a read."""
IDLE_S = 60.0
"""Seconds without a request after which reading pauses."""
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
    """Refresh the snapshot while requests arrive."""

    def __init__(self, watcher: ChainWatcher) -> None:
        super().__init__(daemon=True, name="snapshot")
        self.watcher = watcher
        self.lock = threading.Lock()
        self._body, self._error = b"", ""
        self._asked = time.monotonic()
        self._wake = threading.Event()
        self._read()

    def run(self) -> None:
        """Read and pause alternately; wait for a request after IDLE_S."""
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
        """Return the last good snapshot as JSON, and the error of the latest read ("" if it succeeded)."""
        self._asked = time.monotonic()
        self._wake.set()
        return self._body, self._error

    def _read(self) -> None:
        try:
            with self.lock:
                values = self.watcher.refresh()
            self._body, self._error = json.dumps(values, allow_nan=False).encode(), ""
        except (
            OSError,
            ValueError,
            KeyError,
            TypeError,
            AttributeError,
        ) as error:  # damaged file: keep the last good snapshot
            self._error = f"{type(error).__name__}: {error}"


def build_app(folder: Path, names: list[str] | None = None) -> Starlette:
    """Return the application for the chain in `folder`.

    Args:
        folder: a chain's folder, RUNS/NAME.
        names: host names that requests may address; by default those of the loopback interface.

    Raises:
        ValueError: the folder holds no submitted chain.

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
        from anyio import to_thread  # a dependency of starlette; a slow disk must not block other requests

        try:
            values = await to_thread.run_sync(
                read, request.path_params["index"], request.query_params.get("search", "")
            )
        except IndexError:
            return JSONResponse({"error": "the plan has no stage of this index"}, status_code=404, headers=HEADERS)
        return JSONResponse(values, headers=HEADERS)

    return stage

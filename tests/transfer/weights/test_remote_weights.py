"""Fetching checkpoints from addresses, served on loopback."""

import hashlib
import http.server
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import huggingface_hub.constants
import pytest

from pretrain.runtime.machine import PROJECT_ROOT
from transfer.weights.sources.remote_weights import cache_folder, fetch_weights, is_remote
from transfer.weights.sources.zoo import ZOO, PublicCheckpoint, render_zoo

DATA = bytes(range(256)) * 4096  # 1 MiB


class Handler(http.server.BaseHTTPRequestHandler):
    """Serve DATA, cut off after `cut` bytes if set; record the requested ranges."""

    cut: ClassVar[int] = 0
    ranges: ClassVar[list[str]] = []

    def do_HEAD(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(DATA)))
        self.end_headers()

    def do_GET(self) -> None:
        wanted = self.headers.get("Range", "")
        Handler.ranges.append(wanted)
        if self.path != "/w.pth":
            self.send_error(404)
            return
        start = int(re.findall(r"\d+", wanted)[0]) if wanted else 0
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Length", str(len(DATA) - start))
        if wanted:
            self.send_header("Content-Range", f"bytes {start}-{len(DATA) - 1}/{len(DATA)}")
        self.end_headers()
        self.wfile.write(DATA[start : Handler.cut or None])

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("MOCHI_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    Handler.cut, Handler.ranges = 0, []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/w.pth"
    server.shutdown()
    thread.join()
    server.server_close()


def digest(kind: str = "sha256") -> str:
    return hashlib.new(kind, DATA).hexdigest()


def test_a_file_is_fetched_once_into_the_cache_and_checked(address: str) -> None:
    for fragment in ("", f"#sha256={digest()[:12]}"):
        path = fetch_weights(address + fragment)
        assert path.read_bytes() == DATA
        assert path.is_relative_to(cache_folder())
    assert len(Handler.ranges) == 1
    assert [found.suffix for found in path.parent.iterdir() if found.suffix == ".partial"] == []


def test_a_file_of_another_digest_is_not_kept(address: str) -> None:
    with pytest.raises(ValueError, match=r"its sha256 begins with .*, expected 00000000"):
        fetch_weights(f"{address}#sha256=00000000")
    assert [path for path in cache_folder().rglob("*") if path.is_file() and path.suffix != ".lock"] == []


def test_an_interrupted_download_is_resumed(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "DOWNLOAD_CHUNK_SIZE", 65536)  # it writes whole chunks, of 10 MB
    Handler.cut = 300_000  # of the whole file: later ranges get nothing
    with pytest.raises(ValueError, match=r"cannot be fetched .*Run again to resume.*put it at "):
        fetch_weights(address)
    (partial,) = cache_folder().rglob("*.partial")
    held = partial.stat().st_size
    assert 0 < held < len(DATA)
    Handler.cut, Handler.ranges = 0, []
    assert fetch_weights(f"{address}#sha256={digest()[:16]}").read_bytes() == DATA
    assert Handler.ranges == [f"bytes={held}-"]


def test_offline_error_names_the_path_where_a_file_is_then_accepted(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ValueError, match="HF_HUB_OFFLINE is set") as caught:
        fetch_weights(address)
    place = Path(re.findall(r"put it at (\S+)", str(caught.value))[0])
    place.write_bytes(DATA)
    assert fetch_weights(address) == place
    assert Handler.ranges == []


def test_a_missing_remote_file_is_explained(address: str) -> None:
    with pytest.raises(ValueError, match="cannot be fetched"):
        fetch_weights(address.replace("w.pth", "other.pth"))


def test_a_name_of_the_zoo_is_its_address_and_digest(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = PublicCheckpoint(url=address, digest=f"md5:{digest('md5')[:8]}", licence="x", source="y")
    monkeypatch.setitem(ZOO, "moco-v2-200ep", entry)
    assert fetch_weights("zoo:moco-v2-200ep").read_bytes() == DATA
    with pytest.raises(ValueError, match=r"zoo:moco-v2-20ep: unknown \(did you mean moco-v2-200ep"):
        fetch_weights("zoo:moco-v2-20ep")


def test_names_that_cannot_be_fetched_are_refused() -> None:
    for source, sentence in (
        ("http://example.org/w.pth", "by https only"),
        ("https://example.org/", "path ends in a file name"),
        ("https://example.org/w.pth#sha256=zz", "expected sha256= and at least 8"),
        ("hf://owner", "expected hf://OWNER/NAME"),
    ):
        with pytest.raises(ValueError, match=sentence):
            fetch_weights(source)
    assert not is_remote("runs/encoder.pt")
    assert fetch_weights("runs/encoder.pt") == Path("runs/encoder.pt")


@pytest.mark.parametrize("name", ZOO)
def test_an_entry_of_the_zoo_is_whole(name: str) -> None:
    entry = ZOO[name]
    assert entry.url.startswith("https://")
    assert entry.licence and entry.source
    assert not entry.digest or re.fullmatch(r"(sha256|md5):[0-9a-f]{8,64}", entry.digest)


def test_the_documentations_table_of_checkpoints_is_the_codes() -> None:
    assert render_zoo() in (PROJECT_ROOT / "docs" / "converting.md").read_text()

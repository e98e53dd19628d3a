"""Small archives over loopback: digests, resume, merging VOC2007's two archives, malicious members."""

import hashlib
import io
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pretrain.runtime.command_line import run_command
from tools.data import archives as archives_module
from tools.data import fetch_data
from tools.data.archives import Archive, download, unpack
from tools.data.fetch_data import SETS, FetchSettings, fetch


class Server:
    """Serve files, truncating responses after `cut` bytes, with or without range requests; record the requests."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.cut, self.ranges = 0, True
        self.asked: list[tuple[str, str]] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                name, wanted = self.path.rpartition("/")[2], self.headers.get("Range", "")
                server.asked.append((name, wanted))
                if name not in server.files:
                    self.send_error(404)
                    return
                data, begin = server.files[name], 0
                if wanted and server.ranges:
                    begin = int(wanted.removeprefix("bytes=").removesuffix("-"))
                self.send_response(206 if begin else 200)
                self.send_header("Content-Length", str(len(data) - begin))
                self.end_headers()
                self.wfile.write(data[begin : begin + server.cut] if server.cut else data[begin:])

            def log_message(self, *_words: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/files"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(archives_module, "PAUSE_S", 0.0)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    running = Server()
    yield running
    running.http.shutdown()
    running.http.server_close()


def make_tar(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return stream.getvalue()


def make_zip(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return stream.getvalue()


def publish(server: Server, archive: Archive, data: bytes) -> Archive:
    """Serve `data` under the archive's name; return the archive with its size and digest."""
    server.files[archive.name] = data
    algorithm = archive.digest.partition(":")[0]
    digest = f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"
    return replace(archive, size_bytes=len(data), digest=digest)


def small(server: Server, what: str) -> tuple[Archive, ...]:
    """Return archives of the form of VOC's or COCO's, with small content, served."""
    if what == "voc":
        contents = [
            {f"VOCdevkit/VOC2007/{kind}/{part}.x": f"{kind} {part}".encode() for kind in ("JPEGImages", "Annotations")}
            | {f"VOCdevkit/VOC2007/ImageSets/Main/{part}.txt": b"1", "VOCdevkit/VOC2007/shared.txt": b"the same"}
            for part in ("trainval", "test")
        ]
        contents.append({"VOCdevkit/VOC2012/JPEGImages/a.jpg": b"2012" * 5000})
        made = [make_tar(files) for files in contents]
    else:
        made = [
            make_zip({"annotations/instances_val2017.json": b"{}"}),
            make_zip({"val2017/1.jpg": b"v"}),
            make_zip({"train2017/1.jpg": b"t" * 90_000}),
        ]
    return tuple(publish(server, archive, data) for archive, data in zip(SETS[what], made, strict=True))


def list_files(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file() and ".fetched" not in path.parts}


def test_both_halves_of_voc2007_end_in_one_folder(server: Server, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setitem(fetch_data.SETS, "voc", small(server, "voc"))
    words = ["voc", str(tmp_path), f"mirror={server.url}"]
    assert run_command(fetch_data.main, "", words) == 0
    assert list_files(tmp_path) == {
        *(f"VOC2007/{kind}/{part}.x" for kind in ("JPEGImages", "Annotations") for part in ("trainval", "test")),
        *(f"VOC2007/ImageSets/Main/{part}.txt" for part in ("trainval", "test")),
        "VOC2007/shared.txt",
        "VOC2012/JPEGImages/a.jpg",
    }
    asked = len(server.asked)
    assert run_command(fetch_data.main, "", words) == 0
    assert len(server.asked) == asked, "complete archives are not downloaded again"
    assert "voc is complete" in capsys.readouterr().out


def test_coco_is_written_where_the_protocols_read_it(server: Server, tmp_path: Path) -> None:
    fetch(small(server, "coco"), tmp_path, FetchSettings(mirror=server.url, keep=True))
    found = {name for name in list_files(tmp_path) if not name.startswith(".archives")}
    assert found == {"coco/annotations/instances_val2017.json", "coco/val2017/1.jpg", "coco/train2017/1.jpg"}
    assert len(list((tmp_path / ".archives").iterdir())) == 3, "keep=true"


@pytest.mark.parametrize("ranges", [True, False])
def test_a_broken_connection_is_resumed(server: Server, tmp_path: Path, ranges: bool) -> None:
    archive = small(server, "coco")[2]
    server.cut, server.ranges = 40_000, ranges
    if ranges:
        path = download(archive, f"{server.url}/{archive.name}", tmp_path)
        assert [wanted for _, wanted in server.asked] == ["", "bytes=40000-", "bytes=80000-"]
        assert path.read_bytes() == server.files[archive.name]
    else:
        with pytest.raises(OSError, match="run the same command again later"):
            download(archive, f"{server.url}/{archive.name}", tmp_path)
        server.cut = 0
        assert download(archive, f"{server.url}/{archive.name}", tmp_path).stat().st_size == archive.size_bytes


def test_content_with_another_digest_is_not_unpacked(server: Server, tmp_path: Path) -> None:
    archives = small(server, "coco")
    data = bytearray(server.files[archives[0].name])
    data[40] ^= 1
    server.files[archives[0].name] = bytes(data)
    with pytest.raises(ValueError, match=r"expected \d+ bytes with 1?.*url_checksums/coco\.txt.*another mirror"):
        fetch(archives, tmp_path, FetchSettings(mirror=server.url))
    assert not list_files(tmp_path)
    server.files[archives[0].name] += b"longer"
    with pytest.raises(ValueError, match="sends more than the published"):
        fetch(archives, tmp_path, FetchSettings(mirror=server.url))


def test_a_missing_file_names_the_mirror_option(server: Server, tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"404.*mirror=URL"):
        fetch(SETS["voc"][:1], tmp_path, FetchSettings(mirror=server.url))


@pytest.mark.parametrize("name", ["../outside", "/etc/outside", "a/../../outside", "VOCdevkit/../../outside"])
@pytest.mark.parametrize("make", [make_tar, make_zip])
def test_members_outside_the_root_are_refused(server: Server, tmp_path: Path, name: str, make) -> None:
    root = tmp_path / "a" / "root"
    archive = publish(server, SETS["voc"][0], make({name: b"x"}))
    with pytest.raises(ValueError, match="would be written outside"):
        fetch([archive], root, FetchSettings(mirror=server.url))
    assert not list(tmp_path.rglob("outside*"))


def test_links_are_refused_and_own_files_never_overwritten(server: Server, tmp_path: Path) -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        link = tarfile.TarInfo("VOCdevkit/VOC2007/link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    path = tmp_path / "x.tar"
    path.write_bytes(stream.getvalue())
    with pytest.raises(ValueError, match="is a link or a device"):
        unpack(SETS["voc"][0], path, tmp_path / "root")
    mine = tmp_path / "root" / "VOC2007" / "shared.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    with pytest.raises(ValueError, match=r"shared\.txt: already exists with different content"):
        fetch(small(server, "voc"), tmp_path / "root", FetchSettings(mirror=server.url))
    assert mine.read_text() == "mine"


def test_the_class_list_is_the_one_that_pretraining_uses(tmp_path: Path) -> None:
    assert run_command(fetch_data.main, "", ["in100-list", str(tmp_path)]) == 0
    from pretrain.input.images import CLASS_LISTS

    assert (tmp_path / "imagenet100.txt").read_text() == CLASS_LISTS["imagenet100"].read_text()
    assert run_command(fetch_data.main, "", ["imagenet", str(tmp_path)]) == 2


def test_every_archive_names_the_public_file_that_confirms_it() -> None:
    from torchvision.datasets import voc

    published = {entry["url"]: entry["md5"] for entry in voc.DATASET_YEAR_DICT.values()}
    for archive in SETS["voc"]:
        assert archive.digest == f"md5:{published[archive.url]}"
    assert all(archive.source and archive.size_bytes > 1e8 for archives in SETS.values() for archive in archives)

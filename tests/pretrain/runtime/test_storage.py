"""Files are written atomically, and damaged files are reported."""

import errno
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrain.runtime.storage import (
    append_json_line,
    digest_file,
    digest_path,
    has_digest,
    make_file_name,
    open_whole,
    read_json,
    read_json_lines,
    read_json_object,
    sweep_temporary_files,
    write_digest,
    write_json,
    write_text,
)


def test_interrupted_write_keeps_the_old_file_and_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(OSError, match="No space"), open_whole(path) as stream:
        stream.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_full_disk_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    script = (
        "import resource, signal, sys; from pretrain.runtime.storage import write_whole; "
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)); "
        "write_whole(sys.argv[1], lambda stream: stream.write(b'x' * int(sys.argv[2])))"
    )
    subprocess.run([sys.executable, "-c", script, str(path), "100"], check=True)
    late = subprocess.run(
        [sys.executable, "-c", script, str(path), "10000"], capture_output=True, text=True, check=False
    )
    assert "File too large" in late.stderr
    assert path.read_bytes() == b"x" * 100
    assert list(tmp_path.iterdir()) == [path]


def test_file_has_its_name_only_after_the_block(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.bin"
    with open_whole(path) as stream:
        stream.write(b"x" * 10)
        assert not path.exists()
    assert path.read_bytes() == b"x" * 10


def test_json_with_nan_is_refused_and_nothing_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    assert not (tmp_path / "a.json").exists()


def test_broken_json_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(ValueError, match=r"a\.json: not valid JSON"):
        read_json(tmp_path / "a.json")


def test_incomplete_last_line_is_skipped(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    assert read_json_lines(path) == []
    append_json_line(path, {"step": 1})
    append_json_line(path, {"step": 2})
    with path.open("a") as stream:
        stream.write('{"step": 3, "lo')
    assert read_json_lines(path) == [{"step": 1}, {"step": 2}]


def test_incomplete_inner_line_is_skipped_and_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"a": 1}\n{"b\n{"c": 2}\n\xff\n{"d": 3}\n')
    assert read_json_lines(path) == [{"a": 1}, {"c": 2}, {"d": 3}]
    assert "line 2" in caplog.text
    assert "line 4" in caplog.text


def test_line_after_an_incomplete_one_is_readable(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"step": 1}\n{"st')
    append_json_line(path, {"step": 2})
    append_json_line(path, {"step": 3})
    assert read_json_lines(path) == [{"step": 1}, {"step": 2}, {"step": 3}]


@given(st.text(), st.text(alphabet="\u0085\u2028\u2029\x0b\x0c\x1c\x1d\x1e\r\n"))
@settings(max_examples=50, deadline=None)
def test_any_text_survives_a_json_line(text: str, ends: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.jsonl")
        for value in (text, ends, text + ends):
            append_json_line(path, {"name": value, value: 1})
        assert read_json_lines(path) == [{"name": value, value: 1} for value in (text, ends, text + ends)]
        assert len(path.read_text(encoding="utf-8").splitlines()) == 3, "readers may split at every line separator"


def test_file_name_that_is_not_utf_8_survives_json(tmp_path: Path) -> None:
    name = os.fsdecode(b"\xff-image.png")
    write_json(tmp_path / "a.json", {"path": name})
    assert read_json(tmp_path / "a.json") == {"path": name}
    write_text(tmp_path / "a.txt", name)
    assert (tmp_path / "a.txt").read_text() == "\\udcff-image.png"


def test_longest_name_of_the_file_system_can_be_written(tmp_path: Path) -> None:
    path = tmp_path / ("é" * 125 + ".json")
    write_json(path, {"a": 1})
    assert read_json(path) == {"a": 1}


@pytest.mark.parametrize("mask", [0o022, 0o002, 0o077])
def test_file_has_the_mode_of_the_umask(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        write_text(tmp_path / "a.txt", "x")
    finally:
        os.umask(before)
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == 0o666 & ~mask


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP])
def test_file_system_without_fsync_raises_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(_handle: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    write_text(tmp_path / "a.txt", "x")
    assert (tmp_path / "a.txt").read_text() == "x"


def test_write_error_at_fsync_is_raised_and_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_handle: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    write_text(tmp_path / "a.txt", "old")
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="Input/output"):
        write_text(tmp_path / "a.txt", "new")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a.txt", "old")]


def test_file_that_another_machine_has_just_replaced_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, left = tmp_path / "a.json", [errno.ESTALE] * 3
    write_json(path, {"a": 1})
    real = Path.read_bytes

    def read_bytes(self: Path) -> bytes:
        if left:
            raise OSError(left.pop(), "Stale file handle")
        return real(self)

    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    assert read_json(path) == {"a": 1}


DAMAGED = (b"", b"{", b"\0" * 64, b"\xff\xfe", b'{"a": 1', b"[" * 100_000, b"1" * 5000)


@pytest.mark.parametrize("content", DAMAGED)
def test_damaged_json_error_names_the_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.json: not valid JSON"):
        read_json(tmp_path / "a.json")


@pytest.mark.parametrize("value", [None, [], "text", 3, {"b": 1}, {"a": "1"}, {"a": None}])
def test_json_of_another_type_error_names_the_file(tmp_path: Path, value: object) -> None:
    write_json(tmp_path / "a.json", value)
    with pytest.raises(ValueError, match=r"a\.json: expected"):
        read_json_object(tmp_path / "a.json", {"a": int})


@pytest.mark.parametrize("note", [b"", b"\n", b"\xff\xfe\0", b"nonsense  a.bin\n", None])
def test_damaged_or_missing_digest_matches_nothing(tmp_path: Path, note: bytes | None) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"x")
    write_digest(path)
    assert has_digest(path)
    digest_path(path).unlink()
    if note is not None:
        digest_path(path).write_bytes(note)
    assert not has_digest(path)


def test_digest_is_sha256(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert (
        digest_file(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )  # FIPS 180-2


def test_sweep_removes_temporary_files_and_folders_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / ".partial-x.pt.abc").write_bytes(b"")
    (tmp_path / ".partial-folder" / "below").mkdir(parents=True)
    (tmp_path / ".partial-folder" / "below" / "backbone.pkl").write_bytes(b"half")
    (tmp_path / ".partial-link").symlink_to(tmp_path)
    (tmp_path / "x.pt").write_bytes(b"")
    assert sweep_temporary_files(tmp_path) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["x.pt"]


@pytest.mark.parametrize("name", ["000042", "2007_000027", "aeroplane", "Straße 7", "a.b-c"])
def test_a_plain_name_from_data_is_its_file_name(name: str) -> None:
    assert make_file_name(name) == name


@given(st.text(max_size=300), st.text(max_size=300))
def test_names_from_data_stay_in_the_folder_and_do_not_collide(
    tmp_path_factory: pytest.TempPathFactory, first: str, second: str
) -> None:
    folder = tmp_path_factory.getbasetemp()
    names = [make_file_name(text) for text in (first, second)]
    for name in names:
        assert (folder / f"{name}.png").resolve().parent == folder.resolve()
        assert len(f".partial-{name}.png.12345678".encode()) < 256
    assert (names[0] == names[1]) == (first == second)


@pytest.mark.parametrize("name", ["../../outside", "/etc/x", "..", "", "a\0b", "x" * 4000, "a/b", ".hidden", "\x1b[2J"])
def test_a_path_from_data_is_written_inside(tmp_path: Path, name: str) -> None:
    path = tmp_path / "run" / f"{make_file_name(name)}.txt"
    write_text(path, "inside")
    assert [entry for entry in tmp_path.rglob("*") if entry.is_file()] == [path]

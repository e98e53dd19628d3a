"""Files appear whole or not at all."""

import errno
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pretrain.runtime.storage import (
    append_json_line,
    digest_file,
    make_file_name,
    open_whole,
    read_json,
    read_json_lines,
    sweep_temporary_files,
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


def test_last_line_cut_by_a_crash_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    assert read_json_lines(path) == []
    append_json_line(path, {"step": 1})
    append_json_line(path, {"step": 2})
    with path.open("a") as stream:
        stream.write('{"step": 3, "lo')
    assert read_json_lines(path) == [{"step": 1}, {"step": 2}]


def test_broken_line_in_the_middle_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": 1}\n{"b\n{"c": 2}\n')
    with pytest.raises(ValueError, match="line 2"):
        read_json_lines(path)


def test_digest_is_sha256(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert (
        digest_file(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )  # FIPS 180-2


def test_sweep_removes_only_temporary_files(tmp_path: Path) -> None:
    (tmp_path / ".partial-x.pt.abc").write_bytes(b"")
    (tmp_path / "x.pt").write_bytes(b"")
    assert sweep_temporary_files(tmp_path) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["x.pt"]


@pytest.mark.parametrize("name", ["000042", "2007_000027", "aeroplane", "Straße 7", "a.b-c"])
def test_a_plain_name_from_data_is_its_file_name(name: str) -> None:
    assert make_file_name(name) == name


@given(st.text(max_size=300), st.text(max_size=300))
def test_no_name_from_data_leaves_its_folder_or_meets_another(
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

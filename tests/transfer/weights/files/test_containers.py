import io
import os
import pickle
import struct
import warnings
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from transfer.weights.files.containers import describe_container, read_tree

TREE = {"state_dict": {"a.weight": torch.arange(6.0).reshape(2, 3), "n": torch.tensor(3)}, "epoch": 4}


def assert_tree(tree: Any) -> None:
    assert tree["epoch"] == 4
    assert all(torch.equal(tensor, tree["state_dict"][name]) for name, tensor in TREE["state_dict"].items())


def save(path: Path, tree: Any = TREE, **options: Any) -> Path:
    torch.save(tree, path, **options)
    return path


def test_torchs_zip_archive_and_its_older_stream_are_read(tmp_path: Path) -> None:
    new = save(tmp_path / "new.pt")
    old = save(tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert_tree(read_tree(new))
    assert_tree(read_tree(old))
    assert describe_container(new) == "torch zip archive"
    assert describe_container(old) == "torch stream (before 1.6)"


def test_a_file_that_is_no_checkpoint_is_refused_by_its_first_bytes(tmp_path: Path) -> None:
    (tmp_path / "x.pt").write_text("<html>not found</html>")
    with pytest.raises(ValueError, match=r"not a checkpoint: it begins with b'<html>no'"):
        read_tree(tmp_path / "x.pt")
    (tmp_path / "x.pt").write_bytes(b"")
    with pytest.raises(ValueError, match="it begins with b''"):
        read_tree(tmp_path / "x.pt")
    with pytest.raises(ValueError, match="no such file"):
        read_tree(tmp_path / "y.pt")


class Evil:
    def __init__(self, call: Any, *arguments: Any) -> None:
        self.made = (call, arguments)

    def __reduce__(self) -> Any:
        return self.made


@pytest.mark.parametrize("trust_pickle", [False, True])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_malicious_torch_file_runs_nothing_even_when_trusted(
    zipped: bool, trust_pickle: bool, tmp_path: Path
) -> None:
    mark = tmp_path / "ran"
    evil = {**TREE, "x": Evil(os.system, f"touch {mark}"), "y": Evil(exec, f"open({str(mark)!r}, 'w')")}
    path = save(tmp_path / "evil.pt", evil, _use_new_zipfile_serialization=zipped)
    if trust_pickle:
        try:
            assert_tree(read_tree(path, trust_pickle=True))
        except ValueError as error:
            assert "blocked" in str(error) or "cannot read it safely" in str(error)
    else:
        with pytest.raises(ValueError, match=r"names .*exec.*system.*can run any code.*trust_pickle=true"):
            read_tree(path)
    assert not mark.exists()


@pytest.mark.parametrize("call", [bytearray, torch.Tensor])
def test_a_call_that_only_allocates_is_refused_too(call: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="can run any code"):
        read_tree(save(tmp_path / "x.pt", {"x": Evil(call, 10**11)}))


def test_integers_of_any_length_are_read(tmp_path: Path) -> None:
    assert read_tree(save(tmp_path / "x.pt", {**TREE, "n": 9**999}))["n"] == 9**999


def test_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "bomb.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({}))
        archive.writestr("archive/data/0", b"\0" * 50_000_000)
    assert path.stat().st_size < 100_000
    with pytest.raises(ValueError, match=r"is compressed \(\d+ bytes unpack to \d+\); torch.save never compresses"):
        read_tree(path)


def test_entries_that_declare_more_than_the_file_has_are_refused(tmp_path: Path) -> None:
    data = bytearray(save(tmp_path / "x.pt").read_bytes())
    entry = data.index(b"PK\x01\x02")  # the central directory's first entry: sizes at +20 and +24
    struct.pack_into("<II", data, entry + 20, 2**31, 2**31)
    (tmp_path / "x.pt").write_bytes(data)
    with pytest.raises(ValueError, match=r"its entries declare 2147|damaged or cut short"):
        read_tree(tmp_path / "x.pt")


def test_tensors_that_declare_more_than_the_file_has_are_refused(tmp_path: Path) -> None:
    old = save(tmp_path / "old.pt", {"a": torch.zeros(255)}, _use_new_zipfile_serialization=False)
    data = old.read_bytes()
    old.write_bytes(data.replace(b"K\xff", b"J\x00\x00\x00\x7f"))
    with pytest.raises(ValueError, match=r"its tensors declare 8522825728 bytes, but the file has \d+"):
        read_tree(old)


def test_a_foreign_zip_archive_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.pt", "w") as archive:
        archive.writestr("photo.jpg", b"x")
    with pytest.raises(ValueError, match=r"not of torch\.save's weights"):
        read_tree(tmp_path / "x.pt")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # TorchScript itself
        torch.jit.script(torch.nn.Linear(2, 2)).save(str(tmp_path / "script.pt"))
    with pytest.raises(ValueError, match="TorchScript"):
        read_tree(tmp_path / "script.pt")


@pytest.mark.parametrize("length", [10 * 2**30, 2**62, 200])
def test_a_safetensors_header_larger_than_the_file_is_refused(length: int, tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(struct.pack("<Q", length) + b'{"a":{}}')
    with pytest.raises(ValueError, match=f"its header declares {length} bytes, but the file has 16"):
        read_tree(tmp_path / "x.safetensors")


def test_a_safetensors_header_that_lies_about_its_data_is_refused(tmp_path: Path) -> None:
    header = b'{"a":{"dtype":"F32","shape":[1000000000],"data_offsets":[0,4000000000]}}'
    (tmp_path / "x.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + b"\0" * 8)
    with pytest.raises(ValueError, match="header and data do not agree"):
        read_tree(tmp_path / "x.safetensors")


@pytest.mark.parametrize("kind", ["zip", "stream", "safetensors"])
def test_a_file_cut_anywhere_is_refused_with_a_sentence(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "x"
    if kind == "safetensors":
        save_file(dict(TREE["state_dict"]), path)
    else:
        save(path, _use_new_zipfile_serialization=kind == "zip")
    data = path.read_bytes()
    for length in range(0, len(data) - 1, max(1, len(data) // 60)):
        path.write_bytes(data[:length])
        with pytest.raises(ValueError, match=r"x: (refused, because|not a checkpoint)"):
            read_tree(path)


@pytest.mark.parametrize("value", [0x00, 0x80, 0xFF])
def test_any_byte_of_the_zip_directory_may_be_damaged(value: int, tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    save(path)
    data = path.read_bytes()
    for place in [*range(60), *range(data.index(b"PK\x01\x02"), len(data))]:
        path.write_bytes(data[:place] + bytes([value]) + data[place + 1 :])
        try:
            read_tree(path)
        except ValueError as error:
            assert str(error).startswith(f"{path}: ")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data(), st.booleans())
def test_damaged_bytes_raise_sentences_only(tmp_path: Path, data: Any, zipped: bool) -> None:
    stream = io.BytesIO()
    torch.save(TREE, stream, _use_new_zipfile_serialization=zipped)
    damaged = bytearray(stream.getvalue())
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    (tmp_path / "x.pt").write_bytes(damaged)
    try:
        read_tree(tmp_path / "x.pt")
    except ValueError as error:
        assert str(error).startswith(f"{tmp_path / 'x.pt'}: ")

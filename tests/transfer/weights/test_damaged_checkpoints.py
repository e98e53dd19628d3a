"""Files whose bytes are not those that were written, and files that nest without end."""

import io
import json
import struct
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from transfer.weights.files.containers import read_tree

WEIGHTS = torch.arange(64.0)


def save(path: Path, tree: Any, **options: Any) -> Path:
    torch.save(tree, path, **options)
    return path


def rewrite(path: Path, change: Callable[[str, bytes], list[tuple[str, bytes]]]) -> Path:
    """Write the archive anew, each entry as `change` gives it, with checksums that fit."""
    with zipfile.ZipFile(path) as archive:
        entries = [(name, archive.read(name)) for name in archive.namelist()]
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w") as archive:
        warnings.simplefilter("ignore", UserWarning)  # duplicate names
        for entry in entries:
            for name, data in change(*entry):
                archive.writestr(name, data)
    return path


def refused(path: Path, sentence: str, **options: Any) -> None:
    with pytest.raises(ValueError, match=sentence):
        read_tree(path, **options)


def test_a_zip_entry_of_another_size_than_its_tensor_is_refused(tmp_path: Path) -> None:
    for length in (0, 4, 252, 260):
        path = save(tmp_path / "x.pt", {"a": WEIGHTS, "b": torch.ones(300)})
        rewrite(path, lambda name, data, n=length: [(name, (data * 2)[:n] if name.endswith("data/0") else data)])
        refused(path, rf"its entry data/0 has {length} bytes, its tensors declare 256: damaged")


def test_a_missing_zip_entry_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "x.pt", {"a": WEIGHTS})
    refused(
        rewrite(path, lambda name, data: [] if name.endswith("data/0") else [(name, data)]), "lacks the entry data/0"
    )


@pytest.mark.parametrize("change", [str, str.upper])
def test_a_duplicated_zip_entry_is_refused(change: Callable[[str], str], tmp_path: Path) -> None:
    path = save(tmp_path / "x.pt", {"a": WEIGHTS})

    def twice(name: str, data: bytes) -> list[tuple[str, bytes]]:
        folder, _, rest = name.partition("/")
        return [(name, data), (f"{folder}/{change(rest)}", bytes(len(data)))] if "/data/" in name else [(name, data)]

    refused(rewrite(path, twice), "holds the entry data/0 twice")


def test_two_archives_in_one_file_are_refused(tmp_path: Path) -> None:
    first = save(tmp_path / "x.pt", {"a": WEIGHTS}).read_bytes()
    second = save(tmp_path / "x.pt", {"a": -WEIGHTS}).read_bytes()
    (tmp_path / "x.pt").write_bytes(first + second)
    refused(tmp_path / "x.pt", "refused, because")


def test_any_flipped_bit_of_a_zip_archives_data_is_refused_by_its_checksum(tmp_path: Path) -> None:
    data = save(tmp_path / "x.pt", {"a": WEIGHTS}).read_bytes()
    start = data.index(WEIGHTS.numpy().tobytes())
    for place in range(start, start + 256, 17):
        (tmp_path / "x.pt").write_bytes(data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :])
        refused(tmp_path / "x.pt", r"its entry \S+/data/0 differs from its checksum")


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_damaged_zip_archive_gives_the_written_values_or_a_refusal(tmp_path: Path, data: Any) -> None:
    tree = {"a": WEIGHTS, "b": torch.arange(9).view(3, 3)}
    written = save(tmp_path / "y.pt", tree).read_bytes()
    damaged = bytearray(written)
    place = data.draw(st.integers(0, len(damaged) - 1))
    damaged[place] ^= 1 << data.draw(st.integers(0, 7))
    (tmp_path / "x.pt").write_bytes(damaged)
    try:
        read = read_tree(tmp_path / "x.pt")
    except ValueError:
        return
    assert all(torch.equal(read[name], tensor) for name, tensor in tree.items())


def test_an_older_stream_whose_storages_do_not_fit_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "x.pt", {"a": WEIGHTS}, _use_new_zipfile_serialization=False)
    data = path.read_bytes()
    for changed, sentence in (
        (data + b"\0" * 8, "8 bytes follow its last storage"),
        (data[:-4], "cut short"),
        (data[: -256 - 8] + struct.pack("<q", 63) + data[-256:], "has 63 elements"),
    ):
        path.write_bytes(changed)
        refused(path, sentence)
    key = next(
        iter(torch.load(io.BytesIO(data), weights_only=True).values())
    ).untyped_storage  # it is read by torch too
    assert key
    path.write_bytes(data.replace(b"]q\x00X", b"]q\x00(X", 1))
    refused(path, "refused, because")


def safetensors(path: Path, header: str, data: bytes) -> Path:
    path.write_bytes(struct.pack("<Q", len(header)) + header.encode() + data)
    return path


def test_safetensors_that_read_bytes_twice_leave_bytes_out_or_repeat_a_name_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"a": torch.ones(2), "b": torch.zeros(2)}, path)
    assert sorted(read_tree(path)) == ["a", "b"]

    def entry(start: int, end: int) -> dict[str, Any]:
        return {"dtype": "F32", "shape": [2], "data_offsets": [start, end]}

    data = bytes(16)
    refused(safetensors(path, json.dumps({"a": entry(0, 8), "b": entry(0, 8)}), data), "do not agree")
    refused(safetensors(path, json.dumps({"a": entry(0, 8), "b": entry(4, 12)}), data), "do not agree")
    refused(safetensors(path, json.dumps({"a": entry(0, 8)}), data), "do not agree")
    refused(safetensors(path, json.dumps({"a": entry(0, 8), "b": entry(8, 16)}), data + b"x"), "do not agree")
    refused(safetensors(path, json.dumps({"a": entry(0, 8), "b": entry(8, 16)}), data[:-1]), "do not agree")
    one = json.dumps(entry(0, 8))
    refused(safetensors(path, f'{{"a":{one},"a":{one}}}', data[:8]), "the name a stands there twice")


class Rebuilt:
    """Pickle as a tensor of a storage, with a shape, strides and an offset of our choice."""

    def __init__(self, offset: Any, shape: Any, strides: Any) -> None:
        self.words = (WEIGHTS.untyped_storage(), offset, shape, strides)

    def __reduce__(self) -> Any:
        typed = torch.storage.TypedStorage(wrap_storage=self.words[0], dtype=torch.float32, _internal=True)
        return torch._utils._rebuild_tensor_v2, (typed, *self.words[1:], False, OrderedDict())


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    ("offset", "shape", "strides"),
    [
        (0, (65,), (1,)),
        (60, (5,), (1,)),
        (0, (8, 8), (9, 1)),
        (0, (2**40,), (1,)),
        (0, (2**40,), (0,)),
        (0, (2**61, 2**61), (0, 0)),
        (-1, (4,), (1,)),
        (0, (-4,), (1,)),
        (0, (4,), (-1,)),
        (0, (4, 4), (1,)),
        (0, (1,) * 100, (1,) * 100),
        (0, ("4",), (1,)),
        (0, 4, 1),
        (0.5, (4,), (1,)),
    ],
)
def test_a_view_beyond_its_storage_or_of_absurd_shape_is_refused(
    offset: Any, shape: Any, strides: Any, zipped: bool, tmp_path: Path
) -> None:
    path = save(tmp_path / "x.pt", {"a": Rebuilt(offset, shape, strides)}, _use_new_zipfile_serialization=zipped)
    refused(path, "a tensor in it declares the shape")


def test_views_of_every_kind_are_read_as_torch_reads_them(tmp_path: Path) -> None:
    base = torch.randn(4, 6)
    tree = {
        "t": base.t(),
        "slice": base[1:3, ::2],
        "expanded": torch.ones(1).expand(5),
        "scalar": torch.tensor(3),
        "empty": torch.empty(0, 3),
        "parameter": torch.nn.Parameter(base.clone()),
        **{
            str(t): torch.ones(3, dtype=t)
            for t in (torch.float16, torch.bfloat16, torch.int32, torch.bool, torch.uint8)
        },
        "uint16": torch.ones(3, dtype=torch.uint16),
        "complex": torch.ones(2, dtype=torch.complex64),
    }
    for zipped in (True, False):
        if not zipped:
            del tree["uint16"]  # torch writes it in zip archives only
        path = save(tmp_path / "x.pt", tree, _use_new_zipfile_serialization=zipped)
        read = read_tree(path)
        assert read.keys() == tree.keys()
        for name, tensor in tree.items():
            assert (read[name].dtype, read[name].shape) == (tensor.dtype, tensor.shape)
            assert torch.equal(read[name], tensor)


def nest(kind: Callable[[Any], Any], depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = kind(value)
    return value


def pickled(opcodes: bytes) -> dict[str, bytes]:
    return {"archive/data.pkl": b"\x80\x02}U\x01a" + opcodes + b"s.", "archive/version": b"3"}


def zip_of(path: Path, entries: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return path


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    ("opcodes", "sentence"),
    [
        (b"K\x01" + b"\x85" * 100_000, "nested more than 32 deep"),  # (((1,),),)…
        (b"K\x01" + b"\x85" * 100_000 + b"q\x00" + b"}h\x00K\x01s\x86", "a key that is a tuple"),
        (b"K\x01" + b"2\x86" * 60 + b"q\x00}h\x00K\x01s\x86", "a key that is a tuple"),  # t = (t, t), 60 times
        (b"(" * 10_000, "damaged"),
        (b"]" * 1000, "a key that is a list"),
    ],
)
def test_nested_values_and_keys_are_refused_at_once(
    opcodes: bytes, sentence: str, zipped: bool, tmp_path: Path
) -> None:
    path = tmp_path / "x.pt"
    if zipped:
        zip_of(path, pickled(opcodes))
    else:
        path.write_bytes(pickled(opcodes)["archive/data.pkl"])
    refused(path, sentence)
    refused(path, sentence, trust_pickle=True)

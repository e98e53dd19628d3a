import contextlib
import io
import os
import pickle
import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transfer.weights.files.array_pickle import UnsafePickleError, read_arrays, write_arrays


def read(data: bytes) -> Any:
    return read_arrays(io.BytesIO(data), len(data))


def write(value: dict[str, Any]) -> bytes:
    stream = io.BytesIO()
    write_arrays(stream, value)
    return stream.getvalue()


ARRAYS = {
    "model": {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "n": np.array(7, dtype=np.int64)},
    "__author__": "me",
    "matching_heuristics": True,
}


def assert_same(ours: Any, theirs: Any) -> None:
    assert ours.keys() == theirs.keys()
    for key, value in ours.items():
        if isinstance(value, dict):
            assert_same(value, theirs[key])
        elif isinstance(value, np.ndarray):
            assert (value.dtype, value.shape) == (theirs[key].dtype, theirs[key].shape)
            assert value.tobytes() == theirs[key].tobytes()
        else:
            assert value == theirs[key]


def test_what_is_written_is_read_back_by_us_and_by_pickle_itself() -> None:
    data = write(ARRAYS)
    assert_same(ARRAYS, read(data))
    assert_same(ARRAYS, pickle.loads(data, encoding="latin1"))


def test_the_same_value_gives_the_same_bytes_whatever_objects_it_is_made_of() -> None:
    key = "".join(["mo", "del"])
    copy = {
        key: {name: array.copy() for name, array in ARRAYS["model"].items()},
        "__author__": "".join("me"),
        "matching_heuristics": True,
    }
    assert write(copy) == write(ARRAYS)
    assert write({"model": {"a": np.asfortranarray(ARRAYS["model"]["a"])}}) == write(
        {"model": {"a": ARRAYS["model"]["a"]}}
    )


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_pickles_of_every_protocol_are_read(protocol: int) -> None:
    value = {
        "model": {**ARRAYS["model"], "f": np.asfortranarray(np.arange(6.0).reshape(2, 3))},
        "scalar": np.float32(2),
    }
    got = read(pickle.dumps(value, protocol))
    assert_same(value["model"], got["model"])
    assert got["scalar"] == 2


class Evil:
    def __init__(self, call: Any, *arguments: Any) -> None:
        self.made = (call, arguments)

    def __reduce__(self) -> Any:
        return self.made


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_pickle_that_runs_code_is_refused_and_runs_nothing(protocol: int, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    for call in (Evil(os.system, f"touch {mark}"), Evil(eval, f"open({str(mark)!r}, 'w')"), Evil(np.load, str(mark))):
        with pytest.raises(UnsafePickleError, match=r"it names .*, and a file of arrays needs no such thing"):
            read(pickle.dumps({"model": call}, protocol))
    assert not mark.exists()


def test_declared_sizes_beyond_the_file_are_refused_before_anything_is_allocated() -> None:
    huge = pickle.PROTO + b"\x04" + pickle.BINBYTES8 + struct.pack("<Q", 10 * 2**30) + b"x"
    with pytest.raises(UnsafePickleError, match="cut short"):
        read(huge)
    with pytest.raises(UnsafePickleError, match="memo index 2000000000"):
        read(b"\x80\x02}r" + struct.pack("<I", 2_000_000_000) + b".")
    shape = write({"a": np.zeros(3, np.float32)}).replace(b"J\x03\x00\x00\x00tc", b"J\x00\x00\x00\x40tc", 1)
    with pytest.raises(UnsafePickleError, match=r"declares float32 \(1073741824,\) but has 12 bytes"):
        read(shape)


def test_object_arrays_and_old_opcodes_are_refused() -> None:
    with pytest.raises(UnsafePickleError):
        read(pickle.dumps({"a": np.array([{}, None], dtype=object)}))
    with pytest.raises(UnsafePickleError, match="opcode INST"):
        read(b"(i__main__\nX\n.")
    nested: Any = 1
    for _ in range(40):
        nested = [nested]
    with pytest.raises(UnsafePickleError, match="32 deep"):
        read(pickle.dumps({"a": nested}))


def test_lists_that_repeat_each_other_do_not_unfold() -> None:
    nested: Any = [np.ones(3, np.float32)]
    for _ in range(25):
        nested = [nested] * 10  # 10 to the 25th arrays, if each place were built anew
    value = read(pickle.dumps({"a": nested, "b": nested}))
    assert value["a"] is value["b"]
    assert value["a"][0] is value["a"][9]


def test_an_array_that_is_named_often_takes_its_room_once() -> None:
    array = np.ones(100_000, np.float32)
    value = read(pickle.dumps({f"name{number}": array for number in range(100)}))
    assert len({id(tensor) for tensor in value.values()}) == 1


def test_a_list_that_holds_itself_is_refused() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(UnsafePickleError, match="32 deep"):
        read(pickle.dumps({"a": loop}))


def test_a_cut_pickle_is_refused_at_every_length() -> None:
    data = write(ARRAYS)
    for length in range(len(data)):
        with pytest.raises(UnsafePickleError):
            read(data[:length])


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damaged_bytes_never_raise_anything_but_the_refusal(data: Any) -> None:
    damaged = bytearray(write(ARRAYS))
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    before = set(sys.modules)
    with contextlib.suppress(UnsafePickleError):
        read(bytes(damaged))
    assert set(sys.modules) == before


def test_text_with_a_bad_escape_is_refused() -> None:
    with pytest.raises(UnsafePickleError, match="no pickle"):
        read(b"S'\\u'\n.")

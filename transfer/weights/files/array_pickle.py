"""Pickles of arrays without trust: read by pickle_machine.py, written in bytes that never change.

A pickle is a program. Here it never names a function that runs: every name stands for an inert object of ours, and what
the file declares (sizes, memo indices) is compared with the bytes it has before anything is allocated.
"""

import math
import pickle
import re
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np

from transfer.weights.files.pickle_machine import Build, Instance, PickleMachine, StandIn, UnsafePickleError, check_key

__all__ = ["ARRAY_TABLE", "UnsafePickleError", "finish_values", "name_some", "read_arrays", "write_arrays"]

_RECONSTRUCT = {"numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct"}
_FROM_BUFFER = {"numpy.core.numeric._frombuffer", "numpy._core.numeric._frombuffer"}
_SCALAR = {"numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar"}


class _Type(Instance):
    """numpy.dtype("f4") and its state (version, byte order, …)."""


class _Array(Instance):
    """numpy's _reconstruct and its state (version, shape, dtype, Fortran order, bytes)."""


class _Buffer(Instance):
    """numpy's _frombuffer(bytes, dtype, shape, order), as protocol 5 has it."""


class _Scalar(Instance):
    """numpy's scalar(dtype, bytes)."""


def _make(kind: type[Instance]) -> Build:
    return lambda *arguments: kind(kind.__name__, arguments)


def _encode(text: str, encoding: str) -> bytes:
    return text.encode("latin1" if encoding in ("latin1", "latin-1") else "ascii")


def _make_dict(items: Any = (), *_: Any) -> dict[Any, Any]:
    pairs = items.items() if isinstance(items, dict) else items
    return {check_key(key): value for key, value in pairs}


ARRAY_TABLE: Mapping[str, Build] = {
    **dict.fromkeys(_RECONSTRUCT, _make(_Array)),
    **dict.fromkeys(_FROM_BUFFER, _make(_Buffer)),
    **dict.fromkeys(_SCALAR, _make(_Scalar)),
    "numpy.dtype": _make(_Type),
    "_codecs.encode": _encode,
    "collections.OrderedDict": _make_dict,
}
"""What a pickle of arrays may call."""


def read_arrays(stream: BinaryIO, size: int, finish: Callable[[np.ndarray], Any] = lambda array: array) -> Any:
    """Return the pickled value, built of dict, list, tuple, str, numbers and NumPy arrays; runs nothing of the file.

    Args:
        stream: of the pickle.
        size: its bytes.
        finish: what to make of each array.

    Raises:
        UnsafePickleError: it needs more than arrays, is cut short, or an array's shape does not fit its bytes.

    """
    machine = PickleMachine(ARRAY_TABLE)
    value = machine.load(stream, size)
    if machine.unknown:
        raise UnsafePickleError(f"it names {name_some(machine.unknown)}, and a file of arrays needs no such thing")
    return finish_values(value, finish)


def finish_values(value: Any, finish: Callable[[np.ndarray], Any]) -> Any:
    """Return what a `PickleMachine` with `ARRAY_TABLE` built, with finished arrays and dictionaries for stand-ins."""
    return _Resolver(finish).resolve(value)


def name_some(names: set[str], shown: int = 6) -> str:
    """Return the first few names, sorted."""
    return ", ".join(sorted(names)[:shown])


class _Resolver:
    """Turn inert objects into arrays, each object once: a small file whose lists repeat each other stays small."""

    def __init__(self, finish: Callable[[np.ndarray], Any]) -> None:
        self.finish = finish
        self.known: dict[int, Any] = {}
        """By id; the unpickled value keeps all of them alive."""

    def resolve(self, value: Any, level: int = 0) -> Any:
        """Return `value` with arrays in place of inert objects; repeated parts stay the same object."""
        if level > 32:
            raise UnsafePickleError("its values are nested more than 32 deep")
        if not isinstance(value, Mapping | list | tuple | Instance):
            return value
        if id(value) not in self.known:
            self.known[id(value)] = self._build(value, level)
        return self.known[id(value)]

    def _build(self, value: Any, level: int) -> Any:
        if isinstance(value, Mapping):
            return {key: self.resolve(item, level + 1) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(self.resolve(item, level + 1) for item in value)
        if isinstance(value, StandIn):
            content = value.content()
            return self.resolve(content, level + 1) if content else value
        state = _describe_array(value)
        return None if state is None else self.finish(_build_array(state))


def _describe_array(value: Instance) -> Any:
    """Return (version, shape, dtype, Fortran order, bytes), as numpy's own state of an array; None: it is no array."""
    if isinstance(value, _Array):
        return value.state
    if isinstance(value, _Buffer) and len(value.arguments) == 4:
        data, kind, shape, order = value.arguments
        return (1, shape, kind, order == "F", data)
    if isinstance(value, _Scalar) and len(value.arguments) == 2:
        return (1, (), value.arguments[0], False, value.arguments[1])
    return None


def _build_array(state: Any) -> np.ndarray:
    try:
        _, shape, kind, fortran, data = state
        if not re.fullmatch(r"[<>=|]?[a-zA-Z]\d{0,2}", kind.arguments[0]):
            raise UnsafePickleError(f"an array in it is of dtype {kind.arguments[0]!r:.40}")
        dtype = np.dtype(kind.arguments[0]).newbyteorder(kind.state[1] if kind.state else "=")
        data = data.encode("latin1") if isinstance(data, str) else data
        fits = all(isinstance(n, int) and n >= 0 for n in shape) and math.prod(shape) * dtype.itemsize == len(data)
        if dtype.kind not in "biufc" or not fits:
            raise UnsafePickleError(f"an array in it declares {dtype} {shape!s:.100} but has {len(data)} bytes")
        native = np.frombuffer(bytearray(data), dtype).astype(dtype.newbyteorder("="), copy=False)
        return native.reshape(shape, order="F" if fortran else "C")
    except UnsafePickleError:
        raise
    except Exception as error:  # the state of a hostile file may be anything
        raise UnsafePickleError(f"an array in it is damaged ({error})") from error


@dataclass
class _Writer:
    stream: BinaryIO

    def put(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.stream.write(piece)

    def text(self, value: str) -> None:
        data = value.encode()
        self.put(pickle.BINUNICODE, struct.pack("<I", len(data)), data)

    def name(self, module: str, name: str) -> None:
        self.put(pickle.GLOBAL, f"{module}\n{name}\n".encode("ascii"))

    def number(self, value: int) -> None:
        self.put(pickle.BININT, struct.pack("<i", value))

    def array(self, value: np.ndarray) -> None:
        """Write `value` (little-endian, C order) as numpy's own reduction, by the names of NumPy 1 and 2 alike."""
        self.name("numpy.core.multiarray", "_reconstruct")
        self.name("numpy", "ndarray")
        self.number(0)
        self.put(pickle.TUPLE1, pickle.SHORT_BINBYTES, b"\x01b", pickle.TUPLE3, pickle.REDUCE)
        self.put(pickle.MARK)
        self.number(1)
        self.put(pickle.MARK)
        for length in value.shape:
            self.number(length)
        self.put(pickle.TUPLE)
        self.name("numpy", "dtype")
        self.text(value.dtype.str[1:])
        self.put(pickle.NEWFALSE, pickle.NEWTRUE, pickle.TUPLE3, pickle.REDUCE, pickle.MARK)
        self.number(3)
        self.text("<")
        self.put(pickle.NONE * 3)
        self.number(-1)
        self.number(-1)
        self.number(0)
        self.put(pickle.TUPLE, pickle.BUILD, pickle.NEWFALSE)
        data = value.tobytes()
        self.put(pickle.BINBYTES, struct.pack("<I", len(data)), data, pickle.TUPLE, pickle.BUILD)


def write_arrays(stream: BinaryIO, value: Mapping[str, Any]) -> None:
    """Write nested dictionaries of str, bool and arrays as a pickle of protocol 3; same value, same bytes.

    Python's pickler writes other bytes when two strings are one object, and other names under NumPy 2; this does not.
    Arrays: float32 or int64, any shape, below 4 GiB each.
    """
    writer = _Writer(stream)
    writer.put(pickle.PROTO, b"\x03")
    _write_mapping(writer, value)
    writer.put(pickle.STOP)


def _write_mapping(writer: _Writer, value: Mapping[str, Any]) -> None:
    writer.put(pickle.EMPTY_DICT, pickle.MARK)
    for key, item in value.items():
        writer.text(key)
        if isinstance(item, Mapping):
            _write_mapping(writer, item)
        elif isinstance(item, bool):
            writer.put(pickle.NEWTRUE if item else pickle.NEWFALSE)
        elif isinstance(item, str):
            writer.text(item)
        else:
            writer.array(np.ascontiguousarray(item, np.dtype(item.dtype).newbyteorder("<")).reshape(item.shape))
    writer.put(pickle.SETITEMS)

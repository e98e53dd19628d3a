"""Pickles without trust: look through the opcodes first, read arrays only, write arrays in bytes that never change.

A pickle is a program. Here it never names a function that runs: every name stands for an inert object of ours, and what
the file declares (sizes, memo indices) is compared with the bytes it has before anything is allocated.
"""

import math
import pickle
import pickletools
import struct
import warnings
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np

MAX_OPCODES = 5_000_000
"""More than any checkpoint of ours by a factor of 100; a ResNet-152 with optimizer has about 40,000."""

_RECONSTRUCT = {"numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct"}
_FROM_BUFFER = {"numpy.core.numeric._frombuffer", "numpy._core.numeric._frombuffer"}
_SCALAR = {"numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar"}


class UnsafePickleError(ValueError):
    """The pickle asks for more than tensors and plain values; the text says for what."""


class BoundedReader:
    """Read `size` bytes of a stream; never ask the stream for more than is left, whatever a file declares."""

    def __init__(self, stream: BinaryIO, size: int) -> None:
        self._stream, self.left = stream, size

    def read(self, count: int = -1) -> bytes:
        """Return at most `count` bytes (all that is left when negative)."""
        data = self._stream.read(min(count, self.left) if count >= 0 else self.left)
        self.left -= len(data)
        return data

    def readline(self) -> bytes:
        """Return one line of at most 64 KiB, newline included."""
        data = self._stream.readline(min(self.left, 65536))
        self.left -= len(data)
        return data


def check_pickle(stream: BinaryIO, size: int) -> set[str]:
    """Walk through one pickle without running it; return the names ("module.name") that it mentions by GLOBAL.

    Leaves the stream behind the pickle's end. STACK_GLOBAL's names come from strings and are judged when read.

    Raises:
        UnsafePickleError: cut short, a declared size beyond the file's end, a memo index or length out of all reason.

    """
    names: set[str] = set()
    reader = BoundedReader(stream, size)
    try:
        # A text with a bad escape is no pickle of weights: Python would only warn of it.
        with warnings.catch_warnings(action="error"):
            for count, (opcode, argument, _) in enumerate(pickletools.genops(reader)):  # type: ignore[arg-type]
                names |= _check_opcode(opcode.name, argument, count)
    except UnsafePickleError:
        raise
    except (ValueError, OverflowError, MemoryError, UnicodeError, EOFError, Warning) as error:
        raise UnsafePickleError(f"it is cut short or no pickle ({error})") from error
    return names


def _check_opcode(name: str, argument: object, count: int) -> set[str]:
    """Return the class that an opcode names, if it does; UnsafePickleError where no writer of weights would use it."""
    if name in ("INST", "OBJ", "EXT1", "EXT2", "EXT4", "PERSID"):
        raise UnsafePickleError(f"it uses the pickle opcode {name}, which no writer of weights needs")
    if name in ("LONG_BINPUT", "PUT") and int(str(argument or 0)) > MAX_OPCODES:
        raise UnsafePickleError(f"it declares the memo index {argument}")
    if count > MAX_OPCODES:
        raise UnsafePickleError(f"it has more than {MAX_OPCODES} pickle opcodes")
    return {str(argument).replace(" ", ".")} if name == "GLOBAL" else set()


@dataclass
class _Inert:
    """Stand for a call whose function is not run; remembers the arguments and the state."""

    arguments: tuple[Any, ...] = ()
    state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Type(_Inert):
    """numpy.dtype("f4") and its state (version, byte order, …)."""


class _Array(_Inert):
    """numpy's _reconstruct and its state (version, shape, dtype, Fortran order, bytes)."""


class _Buffer(_Inert):
    """numpy's _frombuffer(bytes, dtype, shape, order), as protocol 5 has it."""


class _Scalar(_Inert):
    """numpy's scalar(dtype, bytes)."""


def _make(kind: type[_Inert]) -> Any:
    return lambda *arguments: kind(arguments)


def _encode(text: str, encoding: str) -> bytes:
    return text.encode("latin1" if encoding in ("latin1", "latin-1") else "ascii")


class _ArraysUnpickler(pickle.Unpickler):
    """Know arrays, dtypes, scalars, bytes and OrderedDict; refuse every other name."""

    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}"
        if full in _RECONSTRUCT:
            return _make(_Array)
        if full in _FROM_BUFFER:
            return _make(_Buffer)
        if full in _SCALAR:
            return _make(_Scalar)
        known = {
            "numpy.dtype": _make(_Type),
            "numpy.ndarray": "numpy.ndarray",
            "_codecs.encode": _encode,
            "collections.OrderedDict": OrderedDict,
        }
        if full not in known:
            raise UnsafePickleError(f"it names {full}, and a file of arrays needs no such thing")
        return known[full]


def read_arrays(stream: BinaryIO, size: int, finish: Callable[[np.ndarray], Any] = lambda array: array) -> Any:
    """Return the pickled value, built of dict, list, tuple, str, numbers and NumPy arrays; runs nothing of the file.

    Args:
        stream: of the pickle.
        size: its bytes.
        finish: what to make of each array.

    Raises:
        UnsafePickleError: it needs more than arrays, is cut short, or an array's shape does not fit its bytes.

    """
    start = stream.tell()
    check_pickle(stream, size)
    stream.seek(start)
    try:
        value = _ArraysUnpickler(stream, encoding="latin1").load()
    except UnsafePickleError:
        raise
    except Exception as error:  # a hostile file may break any of the unpickler's assumptions
        raise UnsafePickleError(f"it is damaged ({type(error).__name__}: {error})") from error
    return _Resolver(finish).resolve(value)


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
        if not isinstance(value, Mapping | list | tuple | _Inert):
            return value
        if id(value) not in self.known:
            self.known[id(value)] = self._build(value, level)
        return self.known[id(value)]

    def _build(self, value: Any, level: int) -> Any:
        if isinstance(value, Mapping):
            return {key: self.resolve(item, level + 1) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(self.resolve(item, level + 1) for item in value)
        if isinstance(value, _Array):
            return self.finish(_build_array(value.state))
        if isinstance(value, _Buffer) and len(value.arguments) == 4:
            data, kind, shape, order = value.arguments
            return self.finish(_build_array((1, shape, kind, order == "F", data)))
        if isinstance(value, _Scalar) and len(value.arguments) == 2:
            return self.finish(_build_array((1, (), value.arguments[0], False, value.arguments[1])))
        return None


def _build_array(state: Any) -> np.ndarray:
    try:
        _, shape, kind, fortran, data = state
        dtype = np.dtype(kind.arguments[0]).newbyteorder(kind.state[1] if kind.state else "=")
        data = data.encode("latin1") if isinstance(data, str) else data
        fits = all(isinstance(n, int) and n >= 0 for n in shape) and math.prod(shape) * dtype.itemsize == len(data)
    except (TypeError, ValueError, AttributeError, IndexError, UnicodeError) as error:
        raise UnsafePickleError(f"an array in it is damaged ({error})") from error
    if dtype.kind not in "biufc" or not fits:
        raise UnsafePickleError(f"an array in it declares {dtype} {shape} but has {len(data)} bytes")
    native = np.frombuffer(bytearray(data), dtype).astype(dtype.newbyteorder("="), copy=False)
    return native.reshape(shape, order="F" if fortran else "C")


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

"""Build the tensors of a torch file from its bytes: each view within its storage, each storage within the file.

torch.load reads a storage from wherever its entry begins, however short the entry is, and a view may reach beyond its
storage: both give numbers that the file does not hold.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from transfer.weights.files.array_pickle import ARRAY_TABLE
from transfer.weights.files.pickle_machine import Build, Instance, Name, UnsafePickleError, check_key

_MAX_ELEMENTS = 2**31
"""Of one tensor; a view with stride 0 may have more elements than its storage."""
_MAX_DIMENSIONS = 16

_DTYPES = {
    "Double": torch.float64,
    "Float": torch.float32,
    "Half": torch.float16,
    "BFloat16": torch.bfloat16,
    "Long": torch.int64,
    "Int": torch.int32,
    "Short": torch.int16,
    "Char": torch.int8,
    "Byte": torch.uint8,
    "Bool": torch.bool,
    "ComplexFloat": torch.complex64,
    "ComplexDouble": torch.complex128,
    "Untyped": torch.uint8,
}
"""Storage classes, torch.FloatStorage and so on; torch.storage.UntypedStorage counts bytes."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where the bytes of a storage lie in the file."""

    start: int
    size: int


@dataclass(kw_only=True)
class Storage:
    """One storage as the pickle declares it."""

    key: str
    dtype: torch.dtype
    count: int
    """Elements."""
    data: Tensor = field(default_factory=lambda: torch.empty(0))
    """(count,); of a stream it is filled after the pickle, in place."""

    def size(self) -> int:
        """Return the bytes that the elements take."""
        return self.count * self.dtype.itemsize


class Storages:
    """The storages of one file; `places` is None for the older stream, which has them behind the pickle."""

    def __init__(self, path: Path, places: dict[str, Place] | None) -> None:
        self.path, self.places = path, places
        self.size = path.stat().st_size
        self.known: dict[str, Storage] = {}
        self.declared = 0
        """Bytes of all of them."""
        self._bytes: Any = None

    def declare(self, pid: Any) -> Any:
        """Return the storage of a persistent id: ("storage", class, key, device, elements) and, if old, a view.

        Raises:
            UnsafePickleError: another kind of id, or the file does not hold as many bytes.

        """
        if not isinstance(pid, tuple) or len(pid) < 5 or pid[0] != "storage" or not isinstance(pid[1], Name):
            raise UnsafePickleError("it refers to something beside it that is no storage of a tensor")
        key, count = str(pid[2]), pid[4]
        dtype = _DTYPES.get(pid[1].text.rpartition(".")[2].removesuffix("Storage"))
        if dtype is None or not pid[1].text.startswith("torch."):
            raise UnsafePickleError(
                f"it declares a storage of the class {pid[1].text:.60}, which holds no plain numbers"
            )
        if not isinstance(count, int) or count < 0 or (len(pid) > 5 and pid[5] is not None):
            raise UnsafePickleError(f"it declares a storage of {count!r:.40} elements, or a view of one")
        storage = Storage(key=key, dtype=dtype, count=count)
        if (known := self.known.get(key)) is not None:
            if (known.dtype, known.count) != (dtype, count):
                raise UnsafePickleError(f"it declares the storage {key} twice, differently")
            return known
        self.known[key] = storage
        self.declared += storage.size()
        if self.declared > self.size:
            raise UnsafePickleError(
                f"its tensors declare {self.declared} bytes, but the file has {self.size}: cut short or hostile"
            )
        storage.data = self._read(storage) if self.places is not None else torch.empty(count, dtype=dtype)
        return storage

    def read_legacy(self, stream: BinaryIO, keys: Any, size: int) -> None:
        """Fill the storages from the stream: for each key the number of elements (8 bytes), then the elements.

        Raises:
            UnsafePickleError: a storage is missing or there twice, of another size, or bytes are left.

        """
        if not isinstance(keys, list) or sorted(map(str, keys)) != sorted(self.known):
            raise UnsafePickleError("the list of its storages is not that of its tensors: damaged")
        for key in map(str, keys):
            storage = self.known[key]
            count = int.from_bytes(stream.read(8), "little")
            if count != storage.count or size - stream.tell() < storage.size():
                raise UnsafePickleError(
                    f"its storage {key:.40} has {count} elements in {size - stream.tell()} bytes, declared are "
                    f"{storage.count}: cut short or damaged"
                )
            if storage.count:
                storage.data.copy_(self._view(stream.tell(), storage))
            stream.seek(storage.size(), 1)
        if (left := size - stream.tell()) != 0:
            raise UnsafePickleError(f"{left} bytes follow its last storage: damaged, or two files in one")

    def _read(self, storage: Storage) -> Tensor:
        place = (self.places or {}).get(storage.key)
        if place is None:
            raise UnsafePickleError(f"its zip archive lacks the entry data/{storage.key:.60}: damaged")
        if place.size != storage.size():
            raise UnsafePickleError(
                f"its entry data/{storage.key} has {place.size} bytes, its tensors declare {storage.size()}: damaged"
            )
        return self._view(place.start, storage)

    def _view(self, start: int, storage: Storage) -> Tensor:
        """Return the file's bytes as (count,); a copy where they are not aligned."""
        if not storage.count:
            return torch.empty(0, dtype=storage.dtype)
        if self._bytes is None:
            self._bytes = np.memmap(self.path, mode="c")
        piece = self._bytes[start : start + storage.size()]
        if start % storage.dtype.itemsize:
            piece = piece.copy()
        return torch.from_numpy(piece).view(storage.dtype)


def _rebuild(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> Tensor:
    """Return a view of a storage; what torch._utils._rebuild_tensor_v2 does, within the storage's bounds."""
    if not isinstance(storage, Storage):
        raise UnsafePickleError("a tensor in it has no storage")
    return _view_storage(storage, storage.data, offset, shape, strides)


def _rebuild_typed(
    storage: Any, offset: Any, shape: Any, strides: Any, _grad: Any, _hooks: Any, dtype: Any, *_: Any
) -> Tensor:
    """Return a view of an untyped storage under a dtype; what torch._utils._rebuild_tensor_v3 does."""
    found = getattr(torch, dtype.text.rpartition(".")[2], None) if isinstance(dtype, Name) else None
    if not isinstance(storage, Storage) or not isinstance(found, torch.dtype) or storage.size() % found.itemsize:
        raise UnsafePickleError("a tensor in it has no storage, or a dtype that does not fit it")
    return _view_storage(storage, storage.data.view(found), offset, shape, strides)


def _view_storage(storage: Storage, data: Tensor, offset: Any, shape: Any, strides: Any) -> Tensor:
    numbers = [offset, *shape, *strides] if isinstance(shape, tuple) and isinstance(strides, tuple) else [None]
    if not all(isinstance(n, int) and 0 <= n < 2**62 for n in numbers) or len(shape) != len(strides):
        raise UnsafePickleError(f"a tensor in it declares the shape {shape!s:.100} with the strides {strides!s:.100}")
    count, last = 1, offset
    for length, stride in zip(shape, strides, strict=True):
        count, last = count * length, last + max(length - 1, 0) * stride
    if len(shape) > _MAX_DIMENSIONS or count > _MAX_ELEMENTS or (count and last >= len(data)):
        raise UnsafePickleError(
            f"a tensor in it declares the shape {shape!s:.100} at {offset}, but its storage {storage.key:.40} has "
            f"{len(data)} elements"
        )
    return torch.as_strided(data, shape, strides, offset) if count else torch.empty(shape, dtype=data.dtype)


def _take_data(data: Any, *_: Any) -> Any:
    return data


def _make_device(*words: Any) -> Any:
    try:
        return torch.device(*words)
    except (RuntimeError, TypeError, ValueError):
        return None


TORCH_TABLE: dict[str, Build] = {
    **ARRAY_TABLE,
    "torch._utils._rebuild_tensor": _rebuild,
    "torch._utils._rebuild_tensor_v2": _rebuild,
    "torch._utils._rebuild_tensor_v3": _rebuild_typed,
    "torch._utils._rebuild_parameter": _take_data,
    "torch._utils._rebuild_parameter_with_state": _take_data,
    "torch.nn.parameter.Parameter": _take_data,
    "torch.Size": lambda shape=(): tuple(shape),
    "torch.device": _make_device,
    "torch.serialization._get_layout": lambda *words: Instance("torch.layout", words),
    **dict.fromkeys(("__builtin__.set", "builtins.set"), lambda items=(): set(map(check_key, items))),
    **dict.fromkeys(("__builtin__.complex", "builtins.complex"), complex),
    "collections.Counter": ARRAY_TABLE["collections.OrderedDict"],
    "collections.defaultdict": lambda *_: {},
}
"""What a torch file may call without trust; every other name is inert."""

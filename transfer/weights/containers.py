"""Open a checkpoint of any container format as a tree of dictionaries with tensors; nothing in it is run.

Told by content, not by name: torch's zip archives and the older stream of pickles, safetensors, Detectron2's pickles of
arrays. Before torch allocates anything, every size that the file declares is compared with the bytes that it has.
"""

import io
import json
import pickle
import warnings
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from transfer.weights.array_pickle import UnsafePickleError, check_pickle, read_arrays

MAX_HEADER_BYTES = 100_000_000
"""What the safetensors library allows too; the header of a ResNet-152 has 0.1 MB."""

_LEGACY_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""The first pickle of torch.save before 1.6: torch/serialization.py, MAGIC_NUMBER."""

_SAFE_NAMES = {
    "collections.OrderedDict",
    "collections.Counter",
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_parameter",
    "torch.nn.parameter.Parameter",
    "torch.Size",
    "torch.device",
    "torch.serialization._get_layout",
    "torch.storage.UntypedStorage",
    "_codecs.encode",
    "__builtin__.set",
    "builtins.set",
    "__builtin__.complex",
    "builtins.complex",
}
_SAFE_DTYPES = {
    f"torch.{name}" for name in ("float16", "float32", "float64", "bfloat16", "int32", "int64", "uint8", "bool")
}

RESAVE = (
    'Re-save it where it was made: `torch.save({"state_dict": model.state_dict(), "epoch": epoch}, file)`; or, if you '
    "trust it, add trust_pickle=true: what it names is then replaced by empty stand-ins and still not run"
)


def read_tree(path: str | Path, *, trust_pickle: bool = False) -> dict[str, Any]:
    """Return the top-level dictionary of the checkpoint; arrays come as tensors, on the CPU.

    Args:
        path: the file.
        trust_pickle: let a torch file name classes beyond tensors and plain values (argparse.Namespace, …). They are
            replaced by empty stand-ins.

    Raises:
        ValueError: not a checkpoint, damaged, hostile, or it needs `trust_pickle`; the text says which.

    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: no such file; give the checkpoint's path")
    with path.open("rb") as stream:
        head = stream.read(16)
    try:
        tree = _reader_of(path, head)(path, trust_pickle)
    except UnsafePickleError as error:
        raise ValueError(f"{path}: refused, because {error}") from error
    if not isinstance(tree, dict):
        raise ValueError(  # noqa: TRY004 (a user's mistake, not a programmer's)
            f"{path}: holds a {type(tree).__name__}, expected a dictionary. {RESAVE}"
        )
    return tree


def describe_container(path: str | Path) -> str:
    """Return the container format in words."""
    with Path(path).open("rb") as stream:
        head = stream.read(16)
    return {
        _read_zip: "torch zip archive",
        _read_legacy: "torch stream (before 1.6)",
        _read_safetensors: "safetensors",
        _read_pickle: "pickle of arrays",
    }[_reader_of(Path(path), head)]


def _reader_of(path: Path, head: bytes) -> Any:
    if head.startswith(b"PK\x03\x04"):
        return _read_zip
    if head.startswith(_LEGACY_MAGIC[:15]):
        return _read_legacy
    if head[8:9] == b"{":
        return _read_safetensors
    if head[:1] == b"\x80":
        return _read_pickle
    raise ValueError(
        f"{path}: not a checkpoint: it begins with {head[:8]!r}, which is none of torch's zip archive, torch's older "
        "stream, safetensors or a pickle; give the file that torch.save wrote"
    )


def _read_zip(path: Path, trust_pickle: bool) -> Any:
    size = path.stat().st_size
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            pickles = [entry for entry in entries if entry.filename.endswith("/data.pkl")]
            if len(pickles) != 1 or any(entry.filename.endswith("/constants.pkl") for entry in entries):
                raise UnsafePickleError(
                    "it is a zip archive but not of torch.save's weights (TorchScript, or no data.pkl)"
                )
            _check_entries(entries, size)
            data = archive.read(pickles[0])
            names = check_pickle(io.BytesIO(data), len(data))
            unknown = _survey(io.BytesIO(data), names, size, trust_pickle)
    except UnsafePickleError:
        raise
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, ValueError, OSError) as error:
        raise UnsafePickleError(f"its zip archive is damaged or cut short ({error})") from error
    return _load(path, unknown, mmap=True)


def _check_entries(entries: list[zipfile.ZipInfo], size: int) -> None:
    """Refuse compression and sizes beyond the file's own: torch.save stores, so only a bomb compresses."""
    for entry in entries:
        if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
            raise UnsafePickleError(
                f"its entry {entry.filename} is compressed ({entry.compress_size} bytes unpack to {entry.file_size}); "
                "torch.save never compresses"
            )
    if (declared := sum(entry.file_size for entry in entries)) > size:
        raise UnsafePickleError(f"its entries declare {declared} bytes, but the file has {size}")


def _read_legacy(path: Path, trust_pickle: bool) -> Any:
    size = path.stat().st_size
    with path.open("rb") as stream:
        for _ in range(3):  # the magic number, the protocol, the machine
            check_pickle(stream, size - stream.tell())
        start = stream.tell()
        names = check_pickle(stream, size - start)
        stream.seek(start)
        unknown = _survey(stream, names, size, trust_pickle)
    return _load(path, unknown, mmap=False)


class _StandIn:
    """Take the place of a class or function of the file; takes any arguments, keeps nothing, does nothing."""

    def __init__(self, *_arguments: Any, **_options: Any) -> None: ...

    def __new__(cls, *_arguments: Any, **_options: Any) -> "_StandIn":
        return super().__new__(cls)

    def __setstate__(self, _state: Any) -> None: ...

    def __setitem__(self, _key: Any, _value: Any) -> None: ...

    def append(self, _value: Any) -> None:
        """Accept a list's items."""

    def extend(self, _values: Any) -> None:
        """Accept a list's items."""


class _SurveyUnpickler(pickle.Unpickler):
    """Build nothing but plain values; collect the storages that the pickle declares: key → bytes."""

    def __init__(self, stream: Any) -> None:
        super().__init__(stream, encoding="latin1")
        self.storages: dict[str, int] = {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        return type(name, (_StandIn,), {"__module__": module})

    def persistent_load(self, pid: Any) -> Any:
        kind, key, count = pid[1], pid[2], pid[4]
        if not isinstance(count, int) or count < 0:
            raise UnsafePickleError(f"it declares a storage of {count!r} elements")
        self.storages[str(key)] = count * _bytes_per_element(getattr(kind, "__name__", ""))
        return _StandIn()


def _bytes_per_element(storage: str) -> int:
    sizes = {"Double": 8, "Long": 8, "Float": 4, "Int": 4, "Half": 2, "BFloat16": 2, "Short": 2}
    return sizes.get(storage.removesuffix("Storage"), 1)


def _survey(stream: BinaryIO, names: set[str], size: int, trust_pickle: bool) -> list[str]:
    """Return the names to replace by stand-ins (only with `trust_pickle`); refuse declared storages beyond `size`."""
    unknown = sorted(name for name in names if not _is_safe(name))
    if unknown and not trust_pickle:
        raise UnsafePickleError(
            f"its pickle names {', '.join(unknown[:6])}, and unpickling such things can run any code. {RESAVE}"
        )
    unpickler = _SurveyUnpickler(stream)
    try:
        unpickler.load()
    except UnsafePickleError:
        raise
    except Exception as error:  # a hostile file may break any of the unpickler's assumptions
        raise UnsafePickleError(f"its pickle is damaged ({type(error).__name__}: {error})") from error
    if (declared := sum(unpickler.storages.values())) > size:
        raise UnsafePickleError(f"its tensors declare {declared} bytes, but the file has {size}: cut short or hostile")
    return unknown


def _is_safe(name: str) -> bool:
    storage = name.startswith("torch.") and name.endswith("Storage") and name.count(".") == 1
    return name in _SAFE_NAMES or name in _SAFE_DTYPES or storage


def _load(path: Path, unknown: list[str], *, mmap: bool) -> Any:
    stand_ins: list[Any] = [(type(name.rpartition(".")[2], (_StandIn,), {}), name) for name in unknown]
    try:
        with torch.serialization.safe_globals(stand_ins), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's remarks about old formats
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except OSError:
        raise
    except Exception as error:  # torch raises RuntimeError, UnpicklingError, KeyError, EOFError… on damaged files
        # torch puts advice before its reason: to load without weights_only, which runs the file's code.
        reason = str(error).rpartition("WeightsUnpickler error: ")[2].strip().partition("\n")[0] or type(error).__name__
        raise UnsafePickleError(f"torch cannot read it safely ({reason}). {RESAVE}") from error


def _read_safetensors(path: Path, _trust_pickle: bool) -> dict[str, Any]:
    size = path.stat().st_size
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if length > min(size - 8, MAX_HEADER_BYTES):
            raise UnsafePickleError(f"its header declares {length} bytes, but the file has {size}")
        try:
            json.loads(stream.read(length))
            return dict(load_file(path))
        except (SafetensorError, ValueError, RecursionError) as error:
            raise UnsafePickleError(f"its safetensors header and data do not agree ({error})") from error


def _read_pickle(path: Path, _trust_pickle: bool) -> Any:
    with path.open("rb") as stream:
        return read_arrays(stream, path.stat().st_size, torch.from_numpy)

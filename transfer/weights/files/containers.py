"""Open a checkpoint of any container format as a tree of dictionaries with tensors; nothing in it is run.

The format is detected from the file's leading bytes, not its suffix: torch's zip archives and the older stream of
pickles, safetensors, Detectron2's pickles of arrays. Tensors are views of the mapped file; every size that the file
declares is compared with the bytes that it has.
"""

import io
import json
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from pretrain.runtime.storage import digest_file
from transfer.weights.files.array_pickle import finish_values, name_some, read_arrays
from transfer.weights.files.distributed_checkpoint import digest_folder, is_distributed, read_folder
from transfer.weights.files.pickle_machine import PickleMachine, UnsafePickleError
from transfer.weights.files.torch_storages import TORCH_TABLE, Place, Storages

MAX_HEADER_BYTES = 100_000_000
"""What the safetensors library allows too; the header of a ResNet-152 has 0.1 MB."""

_LEGACY_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""The first pickle of torch.save before 1.6: torch/serialization.py, MAGIC_NUMBER."""

RESAVE = (
    'Re-save it where it was made: `torch.save({"state_dict": model.state_dict(), "epoch": epoch}, file)`; or, if you '
    "trust it, add trust_pickle=true: objects of these classes are then read as plain dictionaries, and still not run"
)


def read_tree(path: str | Path, *, trust_pickle: bool = False) -> dict[str, Any]:
    """Return the top-level dictionary of the checkpoint; arrays come as tensors, on the CPU.

    Args:
        path: the file.
        trust_pickle: let a torch file name classes beyond tensors and plain values (argparse.Namespace, …). Their
            objects are read as dictionaries of what they hold.

    Raises:
        ValueError: not a checkpoint, damaged, hostile, or it needs `trust_pickle`; the text says which.

    """
    path = Path(path)
    try:
        tree = _open(path)(path, trust_pickle)
    except UnsafePickleError as error:
        raise ValueError(f"{path}: refused, because {error}") from error
    if not isinstance(tree, dict):
        raise ValueError(  # noqa: TRY004 (a user's mistake, not a programmer's)
            f"{path}: holds a {type(tree).__name__}, expected a dictionary. {RESAVE}"
        )
    return tree


def describe_container(path: str | Path) -> str:
    """Return the container format in words."""
    return {
        _read_zip: "torch zip archive",
        _read_legacy: "torch stream (before 1.6)",
        _read_safetensors: "safetensors",
        _read_pickle: "pickle of arrays",
        _read_distributed: "torch.distributed.checkpoint folder",
    }[_open(Path(path))]


def digest_checkpoint(path: str | Path) -> str:
    """Return the SHA-256 of a checkpoint's bytes, a folder's over all of its files."""
    return digest_folder(Path(path)) if Path(path).is_dir() else digest_file(path)


def _open(path: Path) -> Any:
    if path.is_dir():
        if is_distributed(path):
            return _read_distributed
        names = ", ".join(sorted(entry.name for entry in path.iterdir())[:6]) or "nothing"
        raise ValueError(f"{path}: a folder without .metadata, so no torch.distributed.checkpoint; it holds {names}")
    if not path.is_file():
        raise ValueError(f"{path}: no such file; give the checkpoint's path")
    with path.open("rb") as stream:
        return _reader_of(path, stream.read(16))


def _read_distributed(path: Path, _trust_pickle: bool) -> Any:
    try:
        return read_folder(path)
    except UnsafePickleError:
        raise
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


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
    try:
        with zipfile.ZipFile(path) as archive:
            root = _check_entries(archive, path.stat().st_size)
            data = archive.read(f"{root}/data.pkl")
            places = _find_places(archive, path, f"{root}/data/")
            if f"{root}/byteorder" in archive.namelist() and archive.read(f"{root}/byteorder") != b"little":
                raise UnsafePickleError("it was written on a big-endian machine; re-save it on a little-endian one")
    except UnsafePickleError:
        raise
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, ValueError, OSError) as error:
        raise UnsafePickleError(f"its zip archive is damaged or cut short ({error})") from error
    storages = Storages(path, places)
    return _run_pickle(io.BytesIO(data), len(data), storages, trust_pickle)


def _check_entries(archive: zipfile.ZipFile, size: int) -> str:
    """Return the archive's folder, after every entry has been read once and compared with its checksum.

    Refuse what torch and Python may read differently: entries of one name, several archives in one file. Refuse
    compression and sizes beyond the file's own: torch.save stores, so only a bomb compresses.
    """
    entries = archive.infolist()
    folders = {entry.filename.partition("/")[0] for entry in entries}
    names = [entry.filename.partition("/")[2] for entry in entries]
    if len(folders) != 1 or "data.pkl" not in names or "constants.pkl" in names:
        raise UnsafePickleError("it is a zip archive but not of torch.save's weights (TorchScript, or no data.pkl)")
    repeated, times = Counter(name.lower() for name in names).most_common(1)[0]  # torch ignores the case of letters
    if times > 1:
        raise UnsafePickleError(f"its zip archive holds the entry {repeated} twice, and readers differ in which counts")
    for entry in entries:
        if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
            raise UnsafePickleError(
                f"its entry {entry.filename} is compressed ({entry.compress_size} bytes unpack to {entry.file_size}); "
                "torch.save never compresses"
            )
    if (declared := sum(entry.file_size for entry in entries)) > size:
        raise UnsafePickleError(f"its entries declare {declared} bytes, but the file has {size}")
    if min(entry.header_offset for entry in entries) != 0:
        raise UnsafePickleError("its zip archive does not begin where the file begins: something was put before it")
    if damaged := archive.testzip():
        raise UnsafePickleError(f"its entry {damaged} differs from its checksum: the file is damaged; copy it again")
    return folders.pop()


def _find_places(archive: zipfile.ZipFile, path: Path, folder: str) -> dict[str, Place]:
    """Return key → where the bytes of that storage lie; a local header has 30 bytes, the name and an extra field."""
    places = {}
    with path.open("rb") as stream:
        for entry in archive.infolist():
            if entry.filename.startswith(folder):
                stream.seek(entry.header_offset + 26)
                name, extra = (int.from_bytes(stream.read(2), "little") for _ in range(2))
                start = entry.header_offset + 30 + name + extra
                places[entry.filename.removeprefix(folder)] = Place(start=start, size=entry.file_size)
    return places


def _read_legacy(path: Path, trust_pickle: bool) -> Any:
    """Read magic number, protocol, machine, value, list of storage keys; then each storage: its count and its bytes."""
    size = path.stat().st_size
    storages = Storages(path, None)
    with path.open("rb") as stream:
        _, _, machine = (PickleMachine({}).load(stream, size - stream.tell()) for _ in range(3))
        if isinstance(machine, dict) and machine.get("little_endian") is False:
            raise UnsafePickleError("it was written on a big-endian machine; re-save it on a little-endian one")
        tree = _run_pickle(stream, size - stream.tell(), storages, trust_pickle)
        keys = PickleMachine({}).load(stream, size - stream.tell())
        storages.read_legacy(stream, keys, size)
    return tree


def _run_pickle(stream: BinaryIO, size: int, storages: Storages, trust_pickle: bool) -> Any:
    machine = PickleMachine(TORCH_TABLE, storages.declare)
    value = machine.load(stream, size)
    if machine.unknown and not trust_pickle:
        raise UnsafePickleError(
            f"its pickle names {name_some(machine.unknown)}, and unpickling such things can run any code. {RESAVE}"
        )
    return finish_values(value, torch.from_numpy)


def _read_safetensors(path: Path, _trust_pickle: bool) -> dict[str, Any]:
    size = path.stat().st_size
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if length > min(size - 8, MAX_HEADER_BYTES):
            raise UnsafePickleError(f"its header declares {length} bytes, but the file has {size}")
        try:
            json.loads(stream.read(length), object_pairs_hook=_refuse_repeated)
            return dict(load_file(path))
        except (SafetensorError, ValueError, RecursionError) as error:
            raise UnsafePickleError(f"its safetensors header and data do not agree ({error})") from error


def _refuse_repeated(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    if len(set(names)) < len(names):
        raise ValueError(f"the name {max(names, key=names.count)} stands there twice")
    return dict(pairs)


def _read_pickle(path: Path, _trust_pickle: bool) -> Any:
    with path.open("rb") as stream:
        return read_arrays(stream, path.stat().st_size, torch.from_numpy)

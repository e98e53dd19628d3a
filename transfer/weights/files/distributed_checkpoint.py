"""Read the tensors of a torch.distributed.checkpoint folder, as FSDP writes it, on one process.

Its .metadata is a pickle that torch unpickles freely, and values beside tensors are too: the names in .metadata are
compared with a list first, and only tensors are read.
"""

import hashlib
import re
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pretrain.runtime.storage import digest_file
from transfer.weights.files.pickle_machine import PickleMachine, UnsafePickleError

METADATA = ".metadata"
_ALLOWED = re.compile(
    r"torch\.distributed\.checkpoint\.(metadata|filesystem)\.\w+|torch\.(Size|float\w+|bfloat16|u?int\d+|bool|strided)|"
    r"torch\.serialization\._get_layout|collections\.OrderedDict|pathlib\.(Pure)?(Posix|Windows)?Path"
)


def is_distributed(folder: Path) -> bool:
    """Return whether a folder is a torch.distributed.checkpoint."""
    return (folder / METADATA).is_file()


def read_folder(folder: Path) -> dict[str, Any]:
    """Return the tensors of the folder in the dictionaries in which they were saved.

    Raises:
        UnsafePickleError: .metadata names other classes, or tensors declare more than the folder's files hold.
        ValueError: torch cannot read it.

    """
    path = folder / METADATA
    machine = PickleMachine({})
    with path.open("rb") as stream:
        machine.load(stream, path.stat().st_size)
    if strange := sorted(name for name in machine.named if not _ALLOWED.fullmatch(name)):
        raise UnsafePickleError(f"its {METADATA} names {', '.join(strange[:6])}, which no checkpoint of tensors needs")
    from torch.distributed.checkpoint.filesystem import FileSystemReader  # heavy, and needed for folders alone
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata
    from torch.distributed.checkpoint.state_dict_loader import load

    try:
        reader = FileSystemReader(folder)
        metadata = reader.read_metadata()
        found = {name: e for name, e in metadata.state_dict_metadata.items() if isinstance(e, TensorStorageMetadata)}
        _check_size(folder, sum(entry.size.numel() * entry.properties.dtype.itemsize for entry in found.values()))
        state: dict[str, Any] = {
            name: torch.empty(entry.size, dtype=entry.properties.dtype) for name, entry in found.items()
        }
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # that there is one process
            load(state, storage_reader=reader, no_dist=True)
    except UnsafePickleError:
        raise
    except Exception as error:  # damaged files raise whatever their bytes lead to
        raise ValueError(
            f"torch cannot read it ({type(error).__name__}: {str(error).partition(chr(10))[0]}); it may be cut short. "
            "Turn it into one file where it was made: python -m torch.distributed.checkpoint.format_utils dcp_to_torch"
        ) from error
    return _nest(state, metadata.planner_data or {})


def digest_folder(folder: Path) -> str:
    """Return the SHA-256 over the names and digests of the folder's files."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            digest.update(f"{path.relative_to(folder)} {digest_file(path)}\n".encode())
    return digest.hexdigest()


def _check_size(folder: Path, declared: int) -> None:
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    if declared > size:
        raise UnsafePickleError(
            f"its tensors declare {declared} bytes, but its files have {size}: cut short or hostile"
        )


def _nest(state: dict[str, Tensor], paths: Any) -> dict[str, Any]:
    """Return the tensors at the paths that the planner flattened; a name without a path stays at the top."""
    tree: dict[str, Any] = {}
    for name, tensor in state.items():
        path = paths.get(name) or (name,)
        place = tree
        for key in path[:-1]:
            place = place.setdefault(str(key), {})
        place[str(path[-1])] = tensor
    return tree

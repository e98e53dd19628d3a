"""Data set entries in one byte array, shared by the ranks of a machine and not copied by loader workers.

A list of a hundred thousand dicts takes gigabytes in every rank, and forked workers copy the pages they read, because
reading changes reference counts. Here the entries are pickled into one array, or into a file that all ranks of a
machine memory-map; only the requested entry becomes a dict.
"""

import pickle
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar, overload

import numpy as np
import numpy.typing as npt
import torch.distributed as torch_distributed

from pretrain.runtime import distributed

Entry = dict[str, Any]
IntArray = npt.NDArray[np.int64]
Facts = TypeVar("Facts")


class PackedEntries(Sequence[Entry]):
    """A sequence of entries; each access creates a new dict."""

    def __init__(self, data: npt.NDArray[np.uint8], starts: IntArray, ends: IntArray) -> None:
        """Take concatenated pickles (bytes,) with the start and end of each (n,)."""
        self._data, self._starts, self._ends = data, starts, ends

    def __len__(self) -> int:
        """Return the number of entries."""
        return len(self._ends)

    @overload
    def __getitem__(self, index: int) -> Entry: ...
    @overload
    def __getitem__(self, index: slice) -> "PackedEntries": ...
    def __getitem__(self, index: int | slice) -> "Entry | PackedEntries":
        """Return one entry, or the packed entries of a slice."""
        if isinstance(index, slice):
            return self.select(range(*index.indices(len(self))))
        entry: Entry = pickle.loads(self._data[self._starts[index] : self._ends[index]].data)  # noqa: S301  written by pack_entries
        return entry

    def select(self, indices: Sequence[int]) -> "PackedEntries":
        """Return the entries at `indices` without copying their bytes."""
        rows = np.array(indices, dtype=np.int64)
        return PackedEntries(self._data, self._starts[rows], self._ends[rows])

    def __iter__(self) -> Iterator[Entry]:
        """Yield all entries."""
        return (self[position] for position in range(len(self)))


def pack_entries(entries: Iterable[Entry]) -> PackedEntries:
    """Pack `entries` in memory."""
    pieces = [pickle.dumps(entry, protocol=5) for entry in entries]
    bounds = np.cumsum([0, *map(len, pieces)], dtype=np.int64)
    return PackedEntries(np.frombuffer(b"".join(pieces), dtype=np.uint8), bounds[:-1], bounds[1:])


def read_on_node(read: Callable[[], tuple[list[Entry], Facts]]) -> tuple[Sequence[Entry], Facts]:
    """Return the result of `read()`, which one rank per machine calls; the machine's other ranks share its entries.

    All ranks call it. An exception of `read` on any machine is raised on all ranks.
    """
    if distributed.world_size() == 1:
        return read()
    own = _read_into_file(read) if distributed.local_rank() == 0 else None
    gathered: list[Any] = [None] * distributed.world_size()
    torch_distributed.all_gather_object(gathered, own)
    path, bounds, facts = gathered[distributed.rank() - distributed.local_rank()]
    failed = [answer[2] for answer in gathered if answer is not None and answer[0] is None]
    data = np.memmap(path, dtype=np.uint8, mode="r") if path and not failed else np.empty(0, dtype=np.uint8)
    distributed.barrier()  # all ranks have mapped the file, so it can be unlinked
    if own is not None and path is not None:
        Path(path).unlink()
    if failed:
        raise failed[0]
    return PackedEntries(data, *bounds), facts


def _read_into_file(read: Callable[[], tuple[list[Entry], Facts]]) -> tuple[str | None, Any, Any]:
    """Return (file of the packed entries, their starts and ends, facts), or (None, None, exception)."""
    try:
        entries, facts = read()
        packed = pack_entries(entries)
        with tempfile.NamedTemporaryFile(prefix="mochi-entries-", delete=False) as stream:
            stream.write(packed._data.data)
    except Exception as error:  # read_on_node raises it on all ranks
        return None, None, error
    return stream.name, (packed._starts, packed._ends), facts

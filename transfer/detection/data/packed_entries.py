"""Data set entries as one block of bytes: shared by the ranks of a machine, and not copied into loader workers.

A list of a hundred thousand dicts takes gigabytes in every rank, and every worker copies what it touches, for reading
changes reference counts. Here the entries are pickled one after the other into an array, or into a file that all ranks
of a machine map into memory; only the entry that is asked for becomes a dict.
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
    """Entries, in order; each access makes a new dict."""

    def __init__(self, data: npt.NDArray[np.uint8], starts: IntArray, ends: IntArray) -> None:
        """Take pickles, and where each starts and ends."""
        self._data, self._starts, self._ends = data, starts, ends

    def __len__(self) -> int:
        """Return how many entries there are."""
        return len(self._ends)

    @overload
    def __getitem__(self, index: int) -> Entry: ...
    @overload
    def __getitem__(self, index: slice) -> "PackedEntries": ...
    def __getitem__(self, index: int | slice) -> "Entry | PackedEntries":
        """Return one entry, or the packed ones of a slice."""
        if isinstance(index, slice):
            return self.select(range(*index.indices(len(self))))
        piece = self._data[self._starts[index] : self._ends[index]].tobytes()
        entry: Entry = pickle.loads(piece)  # noqa: S301  of our own making
        return entry

    def select(self, indices: Sequence[int]) -> "PackedEntries":
        """Return the entries at `indices`; their bytes are not copied."""
        rows = np.array(indices, dtype=np.int64)
        return PackedEntries(self._data, self._starts[rows], self._ends[rows])

    def __iter__(self) -> Iterator[Entry]:
        """Yield all entries."""
        return (self[position] for position in range(len(self)))


def pack_entries(entries: Iterable[Entry]) -> PackedEntries:
    """Return `entries` packed in memory."""
    pieces = [pickle.dumps(entry, protocol=5) for entry in entries]
    bounds = np.cumsum([0, *map(len, pieces)], dtype=np.int64)
    return PackedEntries(np.frombuffer(b"".join(pieces), dtype=np.uint8), bounds[:-1], bounds[1:])


def read_on_node(read: Callable[[], tuple[list[Entry], Facts]]) -> tuple[Sequence[Entry], Facts]:
    """Return what `read()` returns; of several ranks, one on each machine reads, and the others share its entries.

    Every rank calls it. What `read` raises on one machine is raised on every rank.
    """
    if distributed.world_size() == 1:
        return read()
    own = _read_into_file(read) if distributed.local_rank() == 0 else None
    told: list[Any] = [None] * distributed.world_size()
    torch_distributed.all_gather_object(told, own)
    path, bounds, facts = told[distributed.rank() - distributed.local_rank()]
    failed = [answer[2] for answer in told if answer is not None and answer[0] is None]
    data = np.memmap(path, dtype=np.uint8, mode="r") if path and not failed else np.empty(0, dtype=np.uint8)
    distributed.barrier()  # all have mapped it: it stays readable without a name
    if own is not None and path is not None:
        Path(path).unlink()
    if failed:
        raise failed[0]
    return PackedEntries(data, *bounds), facts


def _read_into_file(read: Callable[[], tuple[list[Entry], Facts]]) -> tuple[str | None, Any, Any]:
    """Return (file of the packed entries, their starts and ends, facts), or (None, None, what was raised)."""
    try:
        entries, facts = read()
        packed = pack_entries(entries)
        with tempfile.NamedTemporaryFile(prefix="mochi-entries-", delete=False) as stream:
            stream.write(packed._data.tobytes())
    except Exception as error:  # raised by read_on_node on every rank
        return None, None, error
    return stream.name, (packed._starts, packed._ends), facts

"""Features of a split on disk, one file per rank, so that no process holds all of them.

Layout: FOLDER/<split>/rows-<rank>-of-<ranks>.f32 (float32, row-major; each rank writes its own) and
FOLDER/<split>/table.json (written last, by the main rank: what the features depend on, width, rows of each file).
Shapes: n images, D features.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, BinaryIO, Protocol, overload

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pretrain.runtime.storage import open_whole, read_json, write_json

TABLE_NAME = "table.json"
FLOAT32_BYTES = 4


class Rows(Protocol):
    """Rows of features (n, D): a tensor, or a table on disk."""

    def __len__(self) -> int:
        """Return n."""

    @overload
    def __getitem__(self, rows: slice) -> Tensor: ...
    @overload
    def __getitem__(self, rows: Tensor) -> Tensor: ...


class FeatureTable:
    """The rows (n, D) of a split, indexed by a slice (read from the files) or by a tensor of row numbers."""

    def __init__(self, folder: Path, width: int, files: list[tuple[str, int]]) -> None:
        """Open the files [(name, rows), …] in `folder`, in the order of the rows."""
        self.folder, self.width = folder, width
        self._files = [(name, rows) for name, rows in files if rows]
        self._ends = np.cumsum([rows for _, rows in self._files], dtype=np.int64)
        self._maps: dict[int, npt.NDArray[np.float32]] = {}

    def __len__(self) -> int:
        """Return n."""
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, rows: slice | Tensor) -> Tensor:
        """Return the rows (m, D) as a new tensor on the CPU."""
        if isinstance(rows, Tensor):
            return self._pick(rows.numpy())
        begin, end, step = rows.indices(len(self))
        assert step == 1, "a slice of a FeatureTable needs step 1"
        parts = [np.empty((0, self.width), np.float32)]
        for number, (name, count) in enumerate(self._files):
            first = int(self._ends[number]) - count
            low, high = max(begin, first), min(end, first + count)
            if low < high:
                # Read instead of mapped: mapped pages would count as memory of this process.
                offset, size = (low - first) * self.width * FLOAT32_BYTES, (high - low) * self.width
                part = np.fromfile(self.folder / name, np.float32, size, offset=offset)
                parts.append(part.reshape(-1, self.width))
        return torch.from_numpy(parts[1] if len(parts) == 2 else np.concatenate(parts))

    def _pick(self, rows: npt.NDArray[np.int64]) -> Tensor:
        found = np.empty((len(rows), self.width), np.float32)
        places = np.searchsorted(self._ends, rows, side="right")
        for number in np.unique(places):
            name, count = self._files[number]
            if number not in self._maps:
                path = self.folder / name
                self._maps[number] = np.memmap(path, np.float32, "r", shape=(count, self.width))
            here = places == number
            found[here] = self._maps[number][rows[here] - (self._ends[number] - count)]
        return torch.from_numpy(found)


def read_table(folder: Path, of: Mapping[str, Any]) -> FeatureTable | None:
    """Return the complete table in `folder` of features that depend on `of`; None if there is none."""
    if not (folder / TABLE_NAME).is_file():
        return None
    content = read_json(folder / TABLE_NAME)
    if not isinstance(content, dict) or content.get("of") != dict(of):
        return None
    files, width = [(str(name), int(rows)) for name, rows in content["files"]], int(content["width"])
    if all(_has_size(folder / name, rows * width * FLOAT32_BYTES) for name, rows in files):
        return FeatureTable(folder, width, files)
    return None


def open_rows(folder: Path, rank: int, ranks: int) -> AbstractContextManager[BinaryIO]:
    """Open the file of rank `rank` for float32 rows; it is renamed into place when the block ends."""
    return open_whole(folder / _file_name(rank, ranks))


def finish_table(folder: Path, of: Mapping[str, Any], width: int, rows: list[int]) -> None:
    """Write table.json, where rank r wrote `rows[r]` rows, and delete files written with another number of ranks."""
    names = [_file_name(rank, len(rows)) for rank in range(len(rows))]
    for path in folder.glob("rows-*.f32"):
        if path.name not in names:
            path.unlink(missing_ok=True)
    files = [list(entry) for entry in zip(names, rows, strict=True)]
    write_json(folder / TABLE_NAME, {"of": dict(of), "width": width, "files": files})


def _file_name(rank: int, ranks: int) -> str:
    return f"rows-{rank:05d}-of-{ranks:05d}.f32"


def _has_size(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size
